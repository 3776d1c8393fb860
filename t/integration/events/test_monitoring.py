"""Events of real workers, merged into a picture of the cluster."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Consumer, Queue

from celery import Celery
from celery.events import get_exchange
from t.harness.worker import PATIENCE_S, WorkerProcess


class Monitor:
    """Captures events in a thread, into a list and a state; needs a worker that beats."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.events: list[dict[str, Any]] = []
        self.state = app.events.State()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ready = threading.Event()

    def __enter__(self) -> Monitor:
        self._thread.start()
        assert self.ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *exc: object) -> None:
        self._receiver.should_stop = True
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        # One capture from start to end: the queue is deleted with its consumer, and what is
        # sent until the next one declares it again is lost.
        with self.app.connection_for_read() as connection:
            self._receiver = self.app.events.Receiver(connection, handlers={"*": self._on_event})
            self._receiver.capture()

    def _on_event(self, event: dict[str, Any]) -> None:
        with self._news:
            self.events.append(dict(event))
            self.state.event(event)
            self._news.notify_all()
        # Some brokers lose what is sent before they are first listened to.
        self.ready.set()

    def wait_for(self, claim: Callable[[], Any], what: str) -> Any:
        """Wait until an event makes *claim* true."""
        with self._news:
            found = self._news.wait_for(claim, PATIENCE_S)
        assert found, f"{what}; saw {[event['type'] for event in self.events]}"
        return found

    def of_task(self, task_id: str) -> list[str]:
        """Return the types of a task's events, in the order they came."""
        return [event["type"] for event in self.events if event.get("uuid") == task_id]


PROJECT = """
from celery import Celery
app = Celery("proj")
app.conf.update(broker_url={broker!r}, result_backend="file://{results}")

@app.task
def add(x, y):
    return x + y

@app.task
def fail():
    raise ValueError("boom")
"""


class Cluster:
    """A project on a broker, its client, its monitor."""

    def __init__(self, folder: Path, broker: str) -> None:
        (folder / "results").mkdir()
        results = folder / "results"
        (folder / "proj.py").write_text(PROJECT.format(broker=broker, results=results))
        self.folder = folder
        self.app = Celery("client", set_as_current=False)
        self.app.conf.update(
            broker_url=broker, result_backend=f"file://{results}", task_send_sent_event=True
        )

    def worker(self, *options: str) -> WorkerProcess:
        return WorkerProcess(*options, conf={}, app="proj", cwd=self.folder)

    def monitor(self) -> Monitor:
        return Monitor(self.app)


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


def test_the_life_of_a_task_is_told(cluster: Cluster) -> None:
    """B-EVT-001, B-EVT-005: sent, received, started, succeeded or failed, with their fields."""
    with cluster.worker("-n", "w1@lab", "-c", "1", "-E"), cluster.monitor() as monitor:
        good = cluster.app.send_task("proj.add", (20, 22))
        bad = cluster.app.send_task("proj.fail")
        tasks = monitor.state.tasks
        monitor.wait_for(
            lambda: all(r.id in tasks and tasks[r.id].ready for r in (good, bad)),
            "both tasks should end",
        )
        monitor.wait_for(lambda: "task-sent" in monitor.of_task(bad.id), "task-sent")

    assert sorted(monitor.of_task(good.id)) == [
        "task-received",
        "task-sent",
        "task-started",
        "task-succeeded",
    ]
    done, failed = tasks[good.id], tasks[bad.id]
    assert (done.state, done.name, done.result) == ("SUCCESS", "proj.add", "42")
    assert done.runtime > 0
    assert done.worker.hostname == "w1@lab"
    assert done.routing_key == "celery"
    assert (failed.state, failed.exception) == ("FAILURE", "ValueError('boom')")
    assert "boom" in failed.traceback
    assert monitor.state.task_types() == ["proj.add", "proj.fail"]


def test_a_worker_shows_itself_and_says_good_bye(cluster: Cluster) -> None:
    """B-EVT-006, B-EVT-007, B-EVT-010: heartbeats without -E, at once on wakeup; offline."""
    with cluster.worker("-n", "w1@lab", "-P", "solo") as worker, cluster.monitor() as monitor:
        workers = monitor.state.workers
        monitor.wait_for(lambda: "w1@lab" in workers and workers["w1@lab"].alive, "a heartbeat")
        heartbeat = next(e for e in monitor.events if e["type"] == "worker-heartbeat")
        assert heartbeat["freq"] == 2.0
        assert heartbeat["sw_ident"] == "py-celery"
        assert {"active", "processed", "loadavg", "sw_ver", "sw_sys", "local_received"} <= set(
            heartbeat
        )
        # B-EVT-003: pid is that of the main process.
        assert heartbeat["pid"] == worker.pid

        result = cluster.app.send_task("proj.add", (1, 2))
        assert result.get(timeout=PATIENCE_S) == 3
        assert worker.stop() == 0
        monitor.wait_for(lambda: not workers["w1@lab"].alive, "worker-offline")
        assert [t for t in monitor.of_task(result.id) if t != "task-sent"] == []


def test_task_events_are_switched_on_and_off(cluster: Cluster) -> None:
    """B-EVT-007, B-EVT-027: only after enable_events."""
    with cluster.worker("-n", "w1@lab", "-P", "solo"), cluster.monitor() as monitor:
        control = cluster.app.control
        how: dict[str, Any] = {"reply": True, "timeout": PATIENCE_S, "limit": 1}
        assert control.enable_events(**how) == [{"w1@lab": {"ok": "task events enabled"}}]
        seen = cluster.app.send_task("proj.add", (1, 2))
        monitor.wait_for(lambda: "task-succeeded" in monitor.of_task(seen.id), "task events")

        assert control.disable_events(**how) == [{"w1@lab": {"ok": "task events disabled"}}]
        unseen = cluster.app.send_task("proj.add", (1, 2))
        assert unseen.get(timeout=PATIENCE_S) == 3
        control.heartbeat()
        count = len(monitor.events)
        monitor.wait_for(lambda: len(monitor.events) > count, "another event")
    assert "task-succeeded" not in monitor.of_task(unseen.id)


def _run_one_task(cluster: Cluster) -> None:
    with cluster.worker("-n", "w1@lab", "-c", "1", "-E"):
        cluster.app.conf.task_send_sent_event = False
        cluster.app.send_task("proj.add", (1, 2)).get(timeout=PATIENCE_S)


def test_task_events_of_a_pool_worker_travel_in_lists(cluster: Cluster) -> None:
    """B-EVT-008: routing key task.multi, body a list, header hostname."""
    found: list[Any] = []
    with cluster.app.connection_for_read() as connection:
        exchange = get_exchange(connection, cluster.app.conf.event_exchange)
        queue = Queue("lists", exchange, routing_key="task.#", auto_delete=True)

        def on_message(message: Any) -> None:
            found.append((message.delivery_info["routing_key"], message.decode(), message.headers))

        with Consumer(connection.channel(), [queue], on_message=on_message, no_ack=True):
            # Redis subscribes when it is first listened to.
            with contextlib.suppress(socket.timeout):
                connection.drain_events(timeout=0.1)
            _run_one_task(cluster)
            while sum(len(body) for _, body, _ in found if isinstance(body, list)) < 3:
                connection.drain_events(timeout=PATIENCE_S)

    batches = [(body, headers) for key, body, headers in found if key == "task.multi"]
    assert [event["type"] for body, _ in batches for event in body] == [
        "task-received",
        "task-started",
        "task-succeeded",
    ]
    assert all(headers["hostname"] == "w1@lab" for _, headers in batches)
