"""Remote control of real workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celery import Celery
from t.harness.servers import RedisServer
from t.harness.worker import PATIENCE_S, WorkerProcess, eventually

PROJECT = """
import os, time
from celery import Celery
from t.harness.servers import RedisServer
app = Celery("proj")
app.conf.update(broker_url={broker!r}, result_backend="file://{results}", {more})

@app.task
def add(x, y):
    return x + y

@app.task
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.05)
"""


class Cluster:
    def __init__(self, folder: Path, broker: str) -> None:
        self.folder, self.broker, self.results = folder, broker, folder / "results"
        self.results.mkdir()
        self.app = Celery("client", set_as_current=False)
        self.app.conf.update(broker_url=broker, result_backend=f"file://{self.results}")

    def worker(self, *options: str, **conf: Any) -> WorkerProcess:
        more = ", ".join(f"{name}={value!r}" for name, value in conf.items())
        text = PROJECT.format(broker=self.broker, results=self.results, more=more)
        (self.folder / "proj.py").write_text(text)
        return WorkerProcess(*options, conf={}, app="proj", cwd=self.folder)

    def ask(self, command: str, **options: Any) -> Any:
        """Send a command and wait for one reply."""
        options = {"reply": True, "timeout": PATIENCE_S, "limit": 1, **options}
        return self.app.control.broadcast(command, **options)

    def adds(self) -> bool:
        return bool(self.app.send_task("proj.add", (1, 2)).get(timeout=PATIENCE_S) == 3)


@pytest.fixture(
    params=[
        pytest.param("redis_url", marks=pytest.mark.redis),
        pytest.param("amqp_url", marks=pytest.mark.rabbitmq),
    ]
)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, request.getfixturevalue(request.param))
    yield cluster
    cluster.app.close()


def test_waiting_ends_with_the_last_reply_that_is_expected(cluster: Cluster) -> None:
    """B-EVT-020: limit ends the wait early; with destination it is the number of those."""
    with (
        cluster.worker("-n", "w1@lab", "-P", "solo"),
        cluster.worker("-n", "w2@lab", "-P", "solo"),
    ):
        begun = time.monotonic()
        both = cluster.app.control.ping(timeout=PATIENCE_S, destination=["w1@lab", "w2@lab"])
        one = cluster.app.control.ping(timeout=PATIENCE_S, limit=1)
        assert time.monotonic() - begun < PATIENCE_S / 2
        assert {node for reply in both for node in reply} == {"w1@lab", "w2@lab"}
        assert one  # a broker may bring more than one at a time

        by_pattern = cluster.app.control.inspect(pattern="*2@lab", matcher="glob", limit=1)
        assert by_pattern.ping() == {"w2@lab": {"ok": "pong"}}


@pytest.mark.parametrize(
    ("options", "command", "word"),
    [([], "enable_events", "enabled"), (["-E"], "disable_events", "disabled")],
)
def test_events_stay_switched_when_the_broker_comes_back(
    request: pytest.FixtureRequest, cluster: Cluster, options: list[str], command: str, word: str
) -> None:
    """B-EVT-007, B-EVT-027: what remote control has set is not lost with the connection."""
    kind = "redis" if cluster.broker.startswith("redis") else "rabbitmq"
    server = request.getfixturevalue(f"{kind}_server")
    with cluster.worker("-n", "w1@lab", "-P", "solo", *options) as worker:
        (first,) = cluster.ask(command)
        server.disconnect_clients()
        worker.wait_for("Connected to", times=2)
        # The client's own connections were closed too.
        cluster.app.pool.force_close_all(close_pool=False)
        (again,) = eventually(lambda: cluster.ask(command, timeout=2.0))

    assert first == {"w1@lab": {"ok": f"task events {word}"}}
    assert again == {"w1@lab": {"ok": f"task events already {word}"}}


def test_a_solo_worker_answers_between_tasks_only(cluster: Cluster, tmp_path: Path) -> None:
    """B-EVT-034."""
    gate = tmp_path / "gate"
    with cluster.worker("-n", "w1@lab", "-P", "solo") as worker:
        running = cluster.app.send_task("proj.wait_for", (str(gate),))
        worker.wait_for(rf"{running.id}\] received")
        assert cluster.ask("ping", timeout=1.0) == []
        gate.touch()
        assert running.get(timeout=PATIENCE_S) is None
        assert {"w1@lab": {"ok": "pong"}} in cluster.ask("ping")


def test_a_worker_without_remote_control_obeys_nobody(cluster: Cluster) -> None:
    """B-EVT-032: worker_enable_remote_control=False disables all."""
    with cluster.worker("-P", "solo", worker_enable_remote_control=False):
        assert cluster.app.control.ping(timeout=0.5) == []
        assert cluster.adds()


def test_queues_are_added_and_left_while_running(cluster: Cluster) -> None:
    """B-ROUT-025: the answer to leaving a queue that is not consumed is the same."""
    with cluster.worker("-n", "w1@lab", "-P", "solo") as worker:
        cluster.ask("add_consumer", arguments={"queue": "extra"})
        worker.wait_for("Started consuming from extra")
        (queues,) = cluster.ask("active_queues")
        assert {queue["name"] for queue in queues["w1@lab"]} == {"celery", "extra"}
        result = cluster.app.send_task("proj.add", (1, 2), queue="extra")
        assert result.get(timeout=PATIENCE_S) == 3

        cluster.ask("cancel_consumer", arguments={"queue": "extra"})
        worker.wait_for("Canceling queue extra")
        (left,) = cluster.ask("cancel_consumer", arguments={"queue": "extra"})
        assert left == {"w1@lab": {"ok": "no longer consuming from extra"}}
        assert cluster.adds()
        for number in range(5):
            cluster.ask("add_consumer", arguments={"queue": f"brief{number}"})
            cluster.ask("cancel_consumer", arguments={"queue": f"brief{number}"})
        assert cluster.adds()
        assert not worker.count("Connection to broker lost")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_pools_grow_and_shrink(cluster: Cluster, pool: str) -> None:
    with cluster.worker("-n", "w1@lab", "-P", pool, "-c", "1"):
        (reply,) = cluster.ask("pool_grow", arguments={"n": 2})
        if pool == "threads":
            # A pool of threads keeps its size; it says so and works on.
            assert "'thread' cannot change its size" in reply["w1@lab"]["error"]
            assert cluster.adds()
            return
        assert reply == {"w1@lab": {"ok": "pool will grow"}}
        (stats,) = cluster.ask("stats")
        assert len(stats["w1@lab"]["pool"]["processes"]) == 3
        assert cluster.ask("pool_shrink", arguments={"n": 2})[0]["w1@lab"]["ok"]
        assert cluster.adds()


def test_a_restarted_pool_works_on(cluster: Cluster) -> None:
    """B-EVT-030: pool_restart with worker_pool_restarts."""
    with cluster.worker("-n", "w1@lab", "-c", "1", worker_pool_restarts=True):
        assert cluster.adds()
        before = cluster.ask("stats")[0]["w1@lab"]["pool"]["processes"]
        assert cluster.ask("pool_restart") == [{"w1@lab": {"ok": "reload started"}}]
        assert cluster.adds()
        after = cluster.ask("stats")[0]["w1@lab"]["pool"]["processes"]
        assert set(before).isdisjoint(after)


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "threads"])
def test_every_pool_obeys(cluster: Cluster, pool: str) -> None:
    """B-EVT-019: the mailbox of workers whose loop is not the event loop."""
    if pool in ("gevent", "eventlet"):
        pytest.importorskip(pool)
    with cluster.worker("-n", "w1@lab", "-P", pool, "-c", "2") as worker:
        assert cluster.ask("ping") == [{"w1@lab": {"ok": "pong"}}]
        assert cluster.adds()
        cluster.app.control.shutdown()
        assert worker.wait() == 0


@pytest.mark.redis
def test_a_command_fails_soon_while_the_broker_is_away() -> None:
    """A connection of the pool may be dead; the caller is told rather than kept for ever."""
    with RedisServer() as server, Celery("client", broker=server.url) as app:
        app.control.revoke("some-id")
        server.kill()
        outcome: Future[Any] = Future()

        def revoke() -> None:
            try:
                outcome.set_result(app.control.revoke("some-id"))
            except Exception as exc:
                outcome.set_exception(exc)

        threading.Thread(target=revoke, daemon=True).start()
        with pytest.raises(OperationalError):
            outcome.result(timeout=2 * PATIENCE_S)
        server.start()
        assert app.control.revoke("some-id", reply=True, timeout=0.1) == []
