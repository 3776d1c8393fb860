from __future__ import annotations

import sys
import threading
import time

import pytest

from celery.utils import timer2
from celery.utils.timer2 import Entry, Timer


@pytest.fixture
def timer():
    timer = Timer(max_interval=5)
    yield timer
    timer.stop()


def test_entries_run_in_the_order_of_their_times(timer):
    """B-EXT-013: ``timer.call_after(secs, f, args, kwargs, priority)``, ``call_at``."""
    ran, done = [], threading.Event()
    with timer.mutex:
        timer.call_after(0, ran.append, ("a",))
        now = time.monotonic()
        timer.call_at(now + 0.03, done.set)
        timer.call_at(now + 0.02, ran.append, ("c",))
        timer.call_at(now + 0.01, ran.append, args=("b",))

    assert done.wait(10)
    assert ran == ["a", "b", "c"]


def test_a_new_first_entry_wakes_the_thread(timer):
    done = threading.Event()
    timer.call_after(60, lambda: None)
    timer.call_after(0, done.set)

    assert done.wait(10)
    assert len(timer) == 1


def test_an_entry_may_repeat_until_it_is_cancelled(timer):
    """B-EXT-013: ``call_repeatedly``."""
    turns, done = [], threading.Event()

    def turn(word):
        turns.append(word)
        if len(turns) == 3:
            entry.cancel()
            done.set()

    with timer.mutex:
        entry = timer.call_repeatedly(0.001, turn, ("x",))

    assert done.wait(10)
    assert turns[:3] == ["x", "x", "x"]


def test_an_error_does_not_end_the_timer():
    errors, done = [], threading.Event()
    timer = Timer(on_error=errors.append)
    try:
        timer.call_after(0, lambda: 1 / 0)
        timer.call_after(0, done.set)
        assert done.wait(10)
    finally:
        timer.stop()

    assert isinstance(errors[0], ZeroDivisionError)


def test_a_cancelled_entry_does_not_run(timer):
    ran, done = [], threading.Event()
    with timer.mutex:
        entry = timer.call_after(0, ran.append, (1,))
        timer.cancel(entry)
        timer.enter_after(0.001, Entry(done.set))

    assert done.wait(10)
    assert ran == []


def test_the_thread_starts_with_the_first_entry():
    started = []
    timer = Timer(on_start=started.append)
    assert timer
    assert timer.empty()
    assert not timer.is_alive()
    timer.stop()

    timer = Timer(on_start=started.append)
    timer.enter(Entry(lambda: None), time.monotonic() + 60)
    timer.ensure_started()

    assert started == [timer]
    assert timer.is_alive()
    assert timer.daemon
    assert len(timer.queue) == 1
    timer.clear()
    assert timer.empty()
    timer.stop()
    timer.stop()
    assert not timer.is_alive()
    assert not timer.running


def test_the_wait_for_the_next_entry_is_announced():
    told = []
    ticked = threading.Event()

    def on_tick(delay):
        told.append(delay)
        ticked.set()

    timer = Timer(on_tick=on_tick)
    try:
        timer.call_after(30, lambda: None)
        assert ticked.wait(10)
    finally:
        timer.stop()
    assert 0 < told[0] <= 30


def test_one_step_may_be_made_by_hand():
    timer = Timer()
    ran = []
    timer.schedule.call_after(0, ran.append, (1,))
    timer.schedule.call_after(60, ran.append, (2,))

    assert timer.next() is None
    assert ran == [1]
    assert 0 < next(timer) <= 60
    assert Timer().next() is None


def test_the_thread_can_be_ended_by_an_entry(timer):
    timer.exit_after(0)
    timer.join(10)
    assert not timer.is_alive()


def test_a_broken_schedule_ends_the_process(monkeypatch):
    codes = []
    monkeypatch.setattr(timer2.os, "_exit", codes.append)
    timer = Timer()

    def broken():
        raise ValueError("broken")

    timer._turn = broken
    timer.run()

    assert codes == [1]


def test_adding_from_many_threads_loses_nothing(timer):
    ran, done = [], threading.Event()
    total = 200

    def run(number):
        ran.append(number)
        if len(ran) == total:
            done.set()

    def add(first):
        for number in range(first, first + 50):
            timer.call_after(0, run, (number,))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=add, args=(n,)) for n in range(0, total, 50)]
        for thread in threads:
            thread.start()
        assert done.wait(20)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(ran) == list(range(total))
