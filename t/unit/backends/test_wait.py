"""Pauses between two looks for a result."""

from __future__ import annotations

from itertools import islice

import pytest

from celery.backends._wait import pauses
from celery.exceptions import TimeoutError


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_pauses_grow_from_a_hundredth_to_the_interval():
    """B-BACK-019: the interval is the longest pause."""
    first = list(islice(pauses(0.5, None, Clock()), 20))

    assert first[0] == pytest.approx(0.005)
    assert first == sorted(first)
    assert first[-1] == 0.5


def test_the_last_pause_ends_at_the_deadline():
    clock = Clock()
    waits = pauses(10, 0.25, clock)
    assert next(waits) == pytest.approx(0.1)
    clock.now += 0.1
    assert next(waits) == pytest.approx(0.15)


def test_after_the_deadline_there_is_no_pause():
    """B-RES-020: TimeoutError with its text."""
    clock = Clock()
    waits = pauses(1, 5, clock)
    next(waits)
    clock.now += 5

    with pytest.raises(TimeoutError, match=r"The operation timed out\."):
        next(waits)


def test_a_timeout_of_zero_never_sleeps():
    """B-RES-020."""
    with pytest.raises(TimeoutError):
        next(pauses(1, 0, Clock()))
