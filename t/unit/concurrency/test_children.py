"""The parts of a child that need no process."""

from __future__ import annotations

import pickle
import signal
from typing import Any

import pytest

from celery.concurrency import _child
from celery.concurrency._children import patience_after, signal_number
from celery.concurrency._loop import Loop
from celery.concurrency.base import describe


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (None, signal.SIGTERM), ("", signal.SIGTERM), (9, signal.SIGKILL),
        ("KILL", signal.SIGKILL), ("sigusr1", signal.SIGUSR1), (signal.SIGHUP, signal.SIGHUP),
    ],
)  # fmt: skip
def test_a_signal_goes_by_number_or_name(given: Any, number: int) -> None:
    assert signal_number(given) == number


class NeverBack(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("short")


class NoPickle(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("never")


@pytest.mark.parametrize("error", [NeverBack(1, 2), NoPickle("x")])
def test_a_failure_that_cannot_travel_is_described(error: Exception) -> None:
    einfo = pickle.loads(_child._dump_failure(describe(error)))

    assert einfo.type.__name__ == "MaybeEncodingError"
    assert type(error).__name__ in str(einfo.exception)


def test_a_failure_that_can_travel_does() -> None:
    einfo = pickle.loads(_child._dump_failure(describe(KeyError("gone"))))

    assert einfo.type is KeyError
    assert einfo.exception.args == ("gone",)


def test_resident_memory_is_some_megabytes() -> None:
    assert 1024 < _child.resident_kib() < 64 * 1024 * 1024


def test_timers_run_in_the_order_of_their_time_unless_cancelled() -> None:
    loop = Loop()
    ran: list[str] = []
    loop.call_later(0.002, lambda: ran.append("second"))
    loop.call_later(0, lambda: ran.append("first"))
    loop.call_later(0.001, lambda: ran.append("never")).cancel()

    loop.run(lambda: len(ran) == 2)
    loop.close()

    assert ran == ["first", "second"]


def test_a_failing_callback_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop()
    ran: list[int] = []
    loop.call_later(0, lambda: 1 // 0)
    loop.call_later(0.001, lambda: ran.append(1))

    loop.run(lambda: bool(ran))
    loop.close()

    assert "ZeroDivisionError" in caplog.text


def test_the_next_child_is_given_twice_what_a_slow_one_took() -> None:
    assert patience_after(4.0, took=0.05) == 4.0
    assert patience_after(4.0, took=4.0) == 8.0
    assert patience_after(4.0, took=1000.0) == 64.0
