"""Timers as green threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

gevent = pytest.importorskip("gevent")
eventlet = pytest.importorskip("eventlet")

from celery import signals  # noqa: E402 - after the drivers
from celery.concurrency import (  # noqa: E402
    eventlet as eventlet_pool,
    gevent as gevent_pool,
)


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def timer(library: str) -> Any:
    return {"gevent": gevent_pool, "eventlet": eventlet_pool}[library].Timer()


@pytest.fixture
def turn(library: str) -> Callable[[], None]:
    return {"gevent": lambda: gevent.sleep(0.001), "eventlet": lambda: eventlet.sleep(0.001)}[
        library
    ]


def test_entries_run_when_they_are_due(timer: Any, turn: Callable[[], None]) -> None:
    ran: list[str] = []
    timer.call_after(0.004, ran.append, ("second",))
    timer.call_after(0.0, ran.append, ("first",))
    assert len(timer.queue) == 2

    while len(ran) < 2:
        turn()

    assert ran == ["first", "second"]
    assert not timer.queue


def test_a_cancelled_entry_never_runs(timer: Any, turn: Callable[[], None]) -> None:
    ran: list[str] = []
    first = timer.call_after(0.001, ran.append, ("never",))
    second = timer.call_after(0.001, ran.append, ("neither",))
    timer.call_after(0.003, ran.append, ("last",))
    first.cancel()
    timer.cancel(second)

    while not ran:
        turn()

    assert ran == ["last"]


def test_clearing_cancels_everything(timer: Any, turn: Callable[[], None]) -> None:
    ran: list[str] = []
    timer.call_after(0.001, ran.append, ("never",))
    timer.clear()
    timer.call_after(0.003, ran.append, ("later",))

    while not ran:
        turn()

    assert ran == ["later"]


def test_a_repeated_entry_may_cancel_itself(timer: Any, turn: Callable[[], None]) -> None:
    ran: list[int] = []

    def tick() -> None:
        ran.append(1)
        if len(ran) == 3:
            entry.cancel()

    entry = timer.call_repeatedly(0.001, tick)
    while len(ran) < 3:
        turn()
    done: list[int] = []
    timer.call_after(0.02, done.append, (1,))
    while not done:
        turn()

    assert len(ran) == 3


def test_a_failing_entry_is_reported(timer: Any, turn: Callable[[], None]) -> None:
    errors: list[Exception] = []
    timer.on_error = errors.append
    timer.call_after(0.0, lambda: 1 // 0)

    while not errors:
        turn()

    assert isinstance(errors[0], ZeroDivisionError)


def test_eventlet_announces_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """B-POOL-014: signals of start, shutdown and each call."""
    monkeypatch.setenv("EVENTLET_NOPATCH", "1")
    log: list[Any] = []
    receivers = {
        "eventlet_pool_started": lambda **_: log.append("started"),
        "eventlet_pool_apply": lambda target, args, **_: log.append((target, args)),
        "eventlet_pool_preshutdown": lambda **_: log.append("preshutdown"),
        "eventlet_pool_postshutdown": lambda **_: log.append("postshutdown"),
    }
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver, weak=False)
    try:
        pool = eventlet_pool.TaskPool(1)
        pool.start()
        pool.apply_async(len, ("abc",))
        pool.stop()
    finally:
        for name, receiver in receivers.items():
            getattr(signals, name).disconnect(receiver)

    assert log == ["started", (len, ("abc",)), "preshutdown", "postshutdown"]


def test_eventlet_warns_if_it_came_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVENTLET_NOPATCH", raising=False)

    with pytest.warns(RuntimeWarning, match="before eventlet patched"):
        eventlet_pool.TaskPool(1).start()
