"""Pauses between looks for messages, and what ends them."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace

import pytest

from celery.utils.functional import noop
from celery.worker._polling import FIRST_PAUSE_S, Polling, rings


class Queue:
    """Answers looks as told; True is a message."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def drain(self, timeout: float) -> None:
        if not self.answers.pop(0):
            raise TimeoutError


def test_pauses_grow_to_the_interval_and_start_over_with_a_message() -> None:
    queue = Queue(*[False] * 5, True, *[False] * 2)
    pauses: list[float] = []
    polling = Polling(queue.drain, pauses.append, 6 * FIRST_PAUSE_S)
    while queue.answers:
        polling.turn()

    assert [round(pause / FIRST_PAUSE_S) for pause in pauses] == [1, 2, 4, 6, 6, 1, 2]


def test_an_interval_shorter_than_the_first_pause_is_kept() -> None:
    pauses: list[float] = []
    Polling(Queue(False).drain, pauses.append, FIRST_PAUSE_S / 4).turn()

    assert pauses == [FIRST_PAUSE_S / 4]


def test_another_error_is_passed_on() -> None:
    def drain(timeout: float) -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        Polling(drain, noop, 1.0).turn()


def test_a_call_ends_the_pause() -> None:
    obj = SimpleNamespace(wake=noop)
    with rings(obj) as bell:
        threading.Timer(0.01, obj.wake).start()
        # Longer than the test may take.
        bell.wait(600)
    assert obj.wake is noop


def test_a_signal_ends_the_pause() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: seen.append(signum))
    try:
        with rings(SimpleNamespace(wake=noop)) as bell:
            threading.Timer(0.01, signal.raise_signal, (signal.SIGUSR2,)).start()
            bell.wait(600)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [signal.SIGUSR2]


def test_a_call_before_the_pause_is_not_lost() -> None:
    obj = SimpleNamespace(wake=noop)
    with rings(obj) as bell:
        obj.wake()
        bell.wait(600)


def test_a_call_after_the_end_is_harmless() -> None:
    obj = SimpleNamespace(wake=noop)
    with rings(obj):
        wake = obj.wake
    wake()
