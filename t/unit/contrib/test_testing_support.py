"""Support for the tests of projects: apps, traps, workers, messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery import _state
from celery.app import shared_task
from celery.contrib.testing import tasks as testing_tasks
from celery.contrib.testing.app import TestApp, setup_default_app
from celery.contrib.testing.manager import Manager, Sentinel
from celery.contrib.testing.mocks import (
    ContextMock,
    TaskMessage,
    TaskMessage1,
    task_message_from_sig,
)
from celery.contrib.testing.worker import TestWorkController, start_worker
from celery.worker.request import Request

FAST = {"broker_transport_options": {"polling_interval": 0.001}}


@pytest.fixture
def app() -> Iterator[Any]:
    app = TestApp(config=FAST)
    with setup_default_app(app):
        yield app


def test_a_test_app_keeps_everything_in_memory() -> None:
    """B-TEST-003, B-TEST-009: celery.tests, memory broker and store, json, UTC, no hijacking."""
    current = _state._tls.current_app
    app = TestApp()

    assert app.main == "celery.tests"
    assert app.conf.broker_url.startswith("memory://")
    assert app.conf.result_backend == "cache+memory://"
    assert app.conf.broker_heartbeat == 0
    assert app.conf.accept_content == {"json"}
    assert app.conf.timezone == "UTC"
    assert not app.conf.worker_hijack_root_logger
    assert not app.conf.task_always_eager
    assert _state._tls.current_app is current


def test_settings_and_urls_of_a_test_win() -> None:
    app = TestApp(name="mine", config={"timezone": "Europe/Oslo"}, broker="redis://")

    assert (app.main, app.conf.timezone, app.conf.broker_url) == (
        "mine",
        "Europe/Oslo",
        "redis://",
    )


def test_a_trap_catches_the_use_of_the_current_app(app: Any) -> None:
    """B-TEST-007: touching the default/current app raises."""
    seen: list[Any] = []

    def in_another_thread() -> None:
        try:
            seen.append(_state.get_current_app().conf)
        except RuntimeError as exc:
            seen.append(str(exc))

    with setup_default_app(app, use_trap=True):
        trap = _state.get_current_app()
        with pytest.raises(RuntimeError, match="Test depends on current_app"):
            trap.tasks
        thread = threading.Thread(target=in_another_thread)
        thread.start()
        thread.join(5)
        app.set_current()
        assert _state.get_current_app() is app

    assert seen == ["Test depends on current_app"]


def test_nothing_is_left_behind() -> None:
    current, default = _state._tls.current_app, _state.default_app
    finalizers, apps = set(_state._on_app_finalizers), set(_state._apps)

    app = TestApp()
    with setup_default_app(app):
        app.set_current()
        app.set_default()
        shared_task(lambda: None, name="left.behind")
        TestApp()

    assert (_state._tls.current_app, _state.default_app) == (current, default)
    assert set(_state._on_app_finalizers) == finalizers
    assert set(_state._apps) <= apps | {app}


def test_a_worker_runs_in_a_thread(app: Any) -> None:
    """B-TEST-004, B-TEST-008: TestWorkController, solo pool, concurrency 1, node gen<PID>@…."""
    assert testing_tasks.ping.name == "celery.ping"

    @app.task(name="double")
    def double(n: int) -> int:
        return 2 * n

    with start_worker(app, shutdown_timeout=20) as worker:
        assert isinstance(worker, TestWorkController)
        assert worker.hostname.startswith("gen")
        assert worker.concurrency == 1
        assert "solo" in worker.pool_cls.__module__
        assert double.delay(21).get(timeout=10) == 42


def test_a_worker_without_ping_task_is_refused(app: Any) -> None:
    """B-TEST-008: the ping check needs celery.contrib.testing.tasks to be imported."""
    app.finalize()
    app.tasks.pop("celery.ping", None)

    with (
        pytest.raises(RuntimeError, match=r"celery\.contrib\.testing\.tasks"),
        start_worker(app),
    ):
        pass


def test_a_worker_that_cannot_start_says_so(app: Any) -> None:
    with (
        pytest.raises(Exception, match="nosuchpool"),
        start_worker(app, pool="nosuchpool", perform_ping_check=False),
    ):
        pass


def test_messages_look_like_those_of_a_broker(app: Any) -> None:
    """B-TEST-010: TaskMessage etc. build messages for unit tests."""

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    request = Request(TaskMessage("add", "id-1", (1, 2), {"z": 3}), app=app, task=add)
    assert (request.id, request.name) == ("id-1", "add")
    assert list(request.args) == [1, 2]
    assert request.kwargs == {"z": 3}

    old = TaskMessage1("add", "id-2", (1,), {"y": 2})
    assert old.payload["id"] == "id-2"
    assert old.headers == {}

    from_sig = task_message_from_sig(app, add.s(5, 6))
    assert from_sig.payload[0] == [5, 6]
    assert from_sig.headers["task"] == "add"


def test_a_context_mock_is_its_own_context() -> None:
    mock = ContextMock()

    def fail_inside() -> None:
        with mock as inner:
            assert inner is mock
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()


class Clock:
    """Counts the naps instead of taking them."""

    def __init__(self) -> None:
        self.naps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = Clock()
    monkeypatch.setattr("celery.contrib.testing.manager.time.sleep", clock.sleep)
    return clock.naps


def test_a_manager_waits_until_something_works(app: Any, naps: list[float]) -> None:
    """B-TEST-010: Manager helps integration tests."""
    tries = iter([KeyError(), KeyError(), 42])
    manager = Manager(app)

    def fun() -> int:
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        return found

    assert manager.wait_for(fun, KeyError) == 42
    assert naps == [0.1, 0.6]


def test_a_manager_gives_up_in_the_end(app: Any, naps: list[float]) -> None:
    def never() -> None:
        raise KeyError("never")

    with pytest.raises(KeyError):
        Manager(app).wait_for(never, KeyError, max_retries=3)
    assert len(naps) == 3

    with pytest.raises(AssertionError, match="Should not have happened"):
        Manager(app).ensure_not_for_a_while(lambda: None, KeyError, max_retries=2)
    Manager(app).ensure_not_for_a_while(never, KeyError, max_retries=2)


def test_a_manager_knows_what_workers_have(app: Any) -> None:
    manager = Manager(app)
    manager.query_tasks = lambda ids, **_: iter(  # type: ignore[method-assign]
        [("w@h", {"a": ["active", {}], "b": ["reserved", {}]})]
    )

    assert manager.query_task_states(["a", "b"]) == {"active": {"a"}, "reserved": {"b"}}
    assert manager.is_accepted(["a"])
    assert not manager.is_accepted(["a", "b"])
    assert manager.is_received(["a", "b"])
    with pytest.raises(Sentinel):
        manager.true_or_raise(manager.is_accepted, ["b"])
