"""Abortable tasks, moving messages, the remote debugger."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection

from celery import states
from celery.contrib import migrate, rdb
from celery.contrib.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from celery.contrib.testing.app import TestApp, setup_default_app

FAST = {"polling_interval": 0.001}


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[Any]:
    app = TestApp(config={"broker_transport_options": FAST})
    app.conf.task_default_queue = f"contrib-{request.node.name}"
    with setup_default_app(app):
        yield app


# -- abortable tasks


def test_a_task_sees_that_it_shall_stop(app: Any) -> None:
    """B-TEST-011: abort() stores ABORTED; is_aborted() in the task sees it."""

    @app.task(base=AbortableTask, bind=True, name="long")
    def long(self: Any) -> bool:
        return bool(self.is_aborted())

    result = long.AsyncResult("id-1")
    assert isinstance(result, AbortableAsyncResult)
    assert not result.is_aborted()

    result.abort()

    assert result.is_aborted()
    assert AbortableAsyncResult("id-1", app=app).state == ABORTED
    long.push_request(id="id-1", called_directly=False)
    try:
        assert long.is_aborted()
        assert not long.is_aborted(task_id="id-2")
    finally:
        long.pop_request()

    # The result of a task that goes on to its end replaces the wish.
    app.backend.mark_as_done("id-1", 7)
    assert (result.state, result.result) == (states.SUCCESS, 7)


# -- moving messages


def queued(connection: Any, queue: str) -> list[Any]:
    found = []
    simple = connection.SimpleQueue(queue)
    while len(simple):
        message = simple.get(block=False)
        message.ack()
        found.append((message.headers["task"], message.headers["id"]))
    return found


@pytest.fixture
def connection(app: Any) -> Iterator[Any]:
    with app.connection_for_write() as connection:
        yield connection


def test_tasks_are_moved_by_predicate(app: Any, connection: Any) -> None:
    """B-TEST-013: move(predicate, …)."""
    for i in range(3):
        app.send_task("proj.add", task_id=f"id-{i}")
    seen: list[str] = []

    state = migrate.move(
        lambda body, message: "elsewhere" if body["id"] == "id-1" else None,
        connection=connection,
        app=app,
        timeout=0.01,
        callback=lambda state, body, message: seen.append(body["id"]),
    )

    assert state.filtered == 1
    assert seen == ["id-1"]
    assert queued(connection, "elsewhere") == [("proj.add", "id-1")]


def test_tasks_are_moved_by_id_and_by_name(app: Any, connection: Any) -> None:
    """B-TEST-013: move_by_id, move_by_taskmap."""
    how = {"connection": connection, "app": app, "timeout": 0.01}

    app.send_task("b", task_id="2")
    migrate.move_task_by_id("2", "by-id", **how)
    app.send_task("c", task_id="3")
    migrate.move_by_taskmap({"c": "by-name"}, **how)
    app.send_task("a", task_id="1")
    migrate.move_direct_by_id("1", "w1@h", **how)

    assert queued(connection, "by-id") == [("b", "2")]
    assert queued(connection, "by-name") == [("c", "3")]
    assert queued(connection, "w1@h.dq2") == [("a", "1")]


def test_all_tasks_of_a_broker_are_moved_to_another(app: Any) -> None:
    """B-CLI-031: moves messages between brokers, acknowledging at the source."""
    app.send_task("proj.add", args=(1, 2), task_id="m-1", priority=3)
    source = Connection("memory://", transport_options=FAST)
    dest = Connection("memory://", transport_options=FAST)
    queue = app.conf.task_default_queue

    state = migrate.migrate_tasks(
        source, dest, app=app, queues=f"{queue}:renamed", timeout=0.01, ack_messages=True
    )

    assert state.count == 1
    message = dest.SimpleQueue("renamed").get(block=False)
    assert message.payload[0] == [1, 2]
    assert message.headers["id"] == "m-1"
    assert message.properties["priority"] == 3
    assert queued(source, queue) == []


def test_filtering_is_limited(app: Any, connection: Any) -> None:
    for i in range(4):
        app.send_task("proj.add", task_id=f"id-{i}")
        app.send_task("proj.mul", task_id=f"other-{i}")
    seen: list[str] = []

    state = migrate.start_filter(
        app,
        connection,
        lambda body, message: seen.append(body["id"]),
        tasks="proj.add",
        limit=2,
        timeout=0.01,
    )

    assert len(seen) <= 2
    assert all(each.startswith("id-") for each in seen)
    assert state.total_apx == 8
    assert state.strtotal == "8"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("a,b:c", {"a": "a", "b": "c"}),
        (["a:b"], {"a": "b"}),
        ({"x": "y"}, {"x": "y"}),
        (None, {}),
    ],
)
def test_queues_may_be_renamed(given: Any, names: dict[str, str]) -> None:
    assert migrate.prepare_queues(given) == names


# -- the debugger


def test_somebody_can_debug_over_a_socket() -> None:
    """B-TEST-012: telnet debugger on a free port, told on the way; the program goes on after."""
    out = io.StringIO()
    told = threading.Event()
    out.write = _noting(out.write, told)  # type: ignore[method-assign]
    results: list[Any] = []

    def program() -> None:
        with rdb.Rdb(port=20000, out=out) as debugger:
            results.append(debugger.port)
            x = 41
            debugger.set_trace()
            x += 1
            results.append(x)

    thread = threading.Thread(target=program, daemon=True)
    thread.start()
    assert told.wait(10)
    port = int(out.getvalue().split("telnet 127.0.0.1 ")[1].split(".")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.settimeout(10)
        stream = client.makefile("rw")
        stream.write("p x\ncontinue\n")
        stream.flush()
        answer = stream.read()
    thread.join(10)

    assert "41" in answer
    assert results == [port, 42]
    assert "Please telnet" in out.getvalue()
    assert "ended" in out.getvalue()


def _noting(write: Any, event: threading.Event) -> Any:
    def noted(text: str) -> int:
        written: int = write(text)
        if "Waiting for client" in text:
            event.set()
        return written

    return noted


def test_a_port_in_use_is_passed_over() -> None:
    """B-TEST-012: searching upwards for a free one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        debugger = rdb.Rdb.__new__(rdb.Rdb)
        debugger.ident, debugger.host, debugger.port = "Rdb", "127.0.0.1", port

        found, free = debugger.get_avail_port("127.0.0.1", port)
        found.close()
        assert free > port
        with pytest.raises(RuntimeError, match="CELERY_RDB_PORT"):
            debugger.get_avail_port("127.0.0.1", port, search_limit=1)
