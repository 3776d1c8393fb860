"""What workers answer to orchestrators, with their broker there and gone."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import pytest

from t.harness.servers import RedisServer
from t.harness.worker import ROOT, WorkerProcess, eventually
from t.integration.worker.conftest import Project

pytestmark = pytest.mark.redis


def ask(worker: WorkerProcess, path: str) -> tuple[int, str]:
    """Return status and text of an answer."""
    address = worker.wait_for(r"Health checks at (http://\S+)").group(1)
    try:
        with urllib.request.urlopen(f"{address}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def status(worker: WorkerProcess, path: str) -> int:
    return ask(worker, path)[0]


def metric(worker: WorkerProcess, line: str) -> float:
    """Return the value of one line of the metrics, 0 when it is not there."""
    code, text = ask(worker, "/metrics")
    assert code == 200, text
    values = [float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line)]
    return values[0] if values else 0.0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_a_worker_of_any_pool_says_that_it_is_well(on_redis: Project, pool: str) -> None:
    if pool in ("gevent", "eventlet"):
        pytest.importorskip(pool)
    worker = on_redis.worker("-P", pool, "-c", "2", "--health", "127.0.0.1:0")

    assert ask(worker, "/live")[0] == 200
    # A pool process that starts slowly is killed and made anew: not ready for a moment.
    eventually(lambda: status(worker, "/ready") == 200)
    assert json.loads(ask(worker, "/ready")[1])["ready"] is True
    assert status(worker, "/nothing") == 404
    assert status(worker, "/live?max_age=soon") == 400
    on_redis.send("add", 1, 2).get(timeout=60)
    assert metric(worker, 'celery_tasks_total{name="add",state="started"}') == 1
    eventually(lambda: metric(worker, 'celery_tasks_total{name="add",state="succeeded"}') == 1)
    assert metric(worker, 'celery_task_wait_seconds_count{name="add"}') == 1
    assert metric(worker, "celery_worker_pool_size") == (1 if pool == "solo" else 2)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_without_its_broker_a_worker_is_alive_but_not_ready(
    make_project: Callable[[str], Project], pool: str
) -> None:
    with RedisServer() as redis:
        project = make_project(redis.url)
        worker = project.worker("-P", pool, "-c", "1", "--health", "127.0.0.1:0")
        redis.stop()
        eventually(lambda: status(worker, "/ready") == 503)
        assert "no connection to the broker" in ask(worker, "/ready")[1]
        # Longer than the patience given here: attempts to connect count as signs of life.
        worker.wait_for("Cannot connect to", times=3)
        eventually(lambda: status(worker, "/live?max_age=5") == 200)
        assert metric(worker, "celery_worker_ready") == 0

        redis.start()
        eventually(lambda: status(worker, "/ready") == 200)
        assert metric(worker, "celery_worker_reconnects_total") == 1
        eventually(lambda: status(worker, "/live?max_age=2") == 200)
        project.reconnect()
        assert project.send("add", 1, 2).get(timeout=60) == 3


def test_a_stopping_worker_is_alive_but_not_ready(on_redis: Project) -> None:
    worker = on_redis.worker("-c", "1", "--health", "127.0.0.1:0")
    gate = on_redis.gate()
    on_redis.send("gated", str(on_redis.journal), "a", str(gate))
    on_redis.journal.wait_for("begin a")
    # The process that runs the task writes before the worker is told.
    eventually(lambda: metric(worker, "celery_worker_active_tasks") == 1)

    worker.signal(SIGTERM)
    eventually(lambda: status(worker, "/ready") == 503)
    assert status(worker, "/live") == 200
    gate.touch()
    assert worker.wait() == 0


def test_a_loop_that_stands_still_is_noticed(on_redis: Project) -> None:
    """A remote command that takes long blocks the loop; a long task of the pool solo may."""
    worker = on_redis.worker("-c", "1", "--health", "127.0.0.1:0")
    eventually(lambda: status(worker, "/live?max_age=2") == 200)
    gate = on_redis.gate()
    on_redis.app.control.broadcast("wait_for_file", arguments={"path": str(gate)})
    eventually(lambda: status(worker, "/live?max_age=2") == 503)
    assert "has not turned" in ask(worker, "/live?max_age=2")[1]
    assert status(worker, "/live") == 200
    gate.touch()
    eventually(lambda: status(worker, "/live?max_age=2") == 200)

    solo = on_redis.worker("-n", "solo@lab", "-P", "solo", "-Q", "solo", "--health", "127.0.0.1:0")
    gate.unlink()
    on_redis.send("gated", str(on_redis.journal), "b", str(gate), queue="solo")
    on_redis.journal.wait_for("begin b")
    eventually(lambda: metric(solo, "celery_worker_active_tasks") == 1)
    assert status(solo, "/live?max_age=0") == 200
    gate.touch()


def test_processes_of_the_pool_do_not_keep_the_port(on_redis: Project) -> None:
    worker = on_redis.worker("-c", "1", "--health", "127.0.0.1:0")
    port = int(worker.wait_for(r"Health checks at http://[\d.]+:(\d+)").group(1))
    (child,) = worker.children()
    listening = sockets_of(worker.pid)[port]
    assert listening not in sockets_of(child).values()

    assert worker.stop() == 0
    with socket.create_server(("127.0.0.1", port)):
        pass


def sockets_of(pid: int) -> dict[int, str]:
    """Return the inodes of the sockets a process listens with, by port."""
    mine = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    found = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in mine:
            found[int(fields[1].rpartition(":")[2], 16)] = fields[9]
    return found


def test_an_address_that_is_taken_ends_the_worker_with_a_reason(on_redis: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        worker = on_redis.unstarted("-P", "solo", conf={"worker_health_address": address})
        worker.launch()
        assert worker.wait() == 1
    assert f"Cannot answer health checks at {address}" in worker.text()
    assert "Traceback" not in worker.text()


def test_without_prometheus_client_only_the_metrics_are_missing(
    on_redis: Project, tmp_path: Path
) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not here')")
    worker = on_redis.worker(
        "-P", "solo", "--health", "127.0.0.1:0",
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    code, text = ask(worker, "/metrics")
    assert code == 501
    assert 'pip install "celery[prometheus]"' in text
    assert status(worker, "/ready") == 200
