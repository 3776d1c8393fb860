"""
A timer with a thread of its own, for workers without an event loop.

It runs kombu's schedule: entries may be added from any thread, and a new one that is due before
all others wakes the thread at once.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from kombu.asynchronous.timer import Entry, Timer as Schedule, to_timestamp

from celery.utils.log import get_logger

__all__ = ("Entry", "Schedule", "Timer", "to_timestamp")

TIMER_DEBUG = os.environ.get("TIMER_DEBUG")

logger = get_logger(__name__)


class Timer(threading.Thread):
    """
    Calls functions later, one after the other, in a thread.

    The thread starts with the first entry.

    Args:
        schedule: Where entries are kept; by default one is made.
        on_error: Called with what an entry raises; by default that is logged.
        on_tick: Called with the seconds until the next entry whenever the thread goes to wait.
        on_start: Called with the timer before the thread starts.
        max_interval: Seconds to wait at most before looking at the schedule again.
        kwargs: Passed to the schedule.
    """

    Entry = Entry
    Schedule = Schedule

    running = False
    on_tick: Callable[[float], Any] | None = None

    _timer_count = itertools.count(1)

    if TIMER_DEBUG:

        def start(self) -> None:
            """Start the thread, saying so."""
            sys.stderr.write("- Timer starting\n")
            super().start()

    def __init__(
        self,
        schedule: Any = None,
        on_error: Callable[[Exception], Any] | None = None,
        on_tick: Callable[[float], Any] | None = None,
        on_start: Callable[[Timer], Any] | None = None,
        max_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=f"Timer-{next(self._timer_count)}", daemon=True)
        make_schedule: Any = self.Schedule
        self.schedule = schedule or make_schedule(
            on_error=on_error, max_interval=max_interval, **kwargs
        )
        self.on_start = on_start
        self.on_tick = on_tick or self.on_tick
        self.mutex = threading.RLock()
        self.not_empty = threading.Condition(self.mutex)
        self.scheduler = iter(self.schedule)
        self._stop_requested = threading.Event()
        self._guard_schedule()

    def _guard_schedule(self) -> None:
        """Make additions take the lock: entries that repeat add themselves, from our thread."""
        add = self.schedule._enter

        def enter(*args: Any, **kwargs: Any) -> Any:
            with self.not_empty:
                entry = add(*args, **kwargs)
                self.not_empty.notify()
            return entry

        vars(self.schedule)["_enter"] = enter

    def _turn(self) -> None:
        """Run the entry that is due, or wait until one is, or until something is added."""
        with self.not_empty:
            delay, entry = next(self.scheduler)
            if entry is None:
                if delay is not None and self.on_tick is not None:
                    self.on_tick(delay)
                if not self._stop_requested.is_set():
                    self.not_empty.wait(delay)
                return
        self.schedule.apply_entry(entry)

    def next(self) -> float | None:
        """Run the entry that is due, if there is one; return the seconds until the next is."""
        with self.not_empty:
            delay, entry = next(self.scheduler)
        if entry is None:
            return None if delay is None else float(delay)
        self.schedule.apply_entry(entry)
        return None

    __next__ = next

    def run(self) -> None:
        """Run entries until `stop`."""
        self.running = True
        try:
            while not self._stop_requested.is_set():
                self._turn()
        except SystemExit:
            pass  # how exit_after() ends the thread
        except Exception:
            # A worker that lost its timer would hold tasks for ever.
            logger.critical("Timer thread %s crashed", self.name, exc_info=True)
            sys.stderr.flush()
            os._exit(1)
        finally:
            self.running = False

    def stop(self) -> None:
        """End the thread, and wait for that unless it is the one that calls."""
        with self.not_empty:
            self._stop_requested.set()
            self.not_empty.notify_all()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
        self.running = False

    def ensure_started(self) -> None:
        """Start the thread if that has not been done."""
        with self.mutex:
            if self.ident is not None or self._stop_requested.is_set():
                return
            if self.on_start:
                self.on_start(self)
            self.start()

    def enter(self, entry: Any, eta: datetime | float | None, priority: int | None = None) -> Any:
        """Run *entry* at *eta*: a moment, or seconds of the monotonic clock."""
        self.ensure_started()
        return self.schedule.enter_at(entry, eta, priority or 0)

    # What follows takes the arguments of the schedule's methods of the same names.

    def enter_after(self, *args: Any, **kwargs: Any) -> Any:
        """Run an entry later: ``(secs, entry, priority=0)``."""
        self.ensure_started()
        return self.schedule.enter_after(*args, **kwargs)

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function at a moment: ``(eta, fun, args=(), kwargs=None, priority=0)``."""
        self.ensure_started()
        return self.schedule.call_at(*args, **kwargs)

    def call_after(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function later: ``(secs, fun, args=(), kwargs=None, priority=0)``."""
        self.ensure_started()
        return self.schedule.call_after(*args, **kwargs)

    def call_repeatedly(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function every so often: ``(secs, fun, args=(), kwargs=None, priority=0)``."""
        self.ensure_started()
        return self.schedule.call_repeatedly(*args, **kwargs)

    def exit_after(self, secs: float, priority: int = 10) -> None:
        """End the thread in *secs*."""
        self.call_after(secs, sys.exit, priority=priority)

    def cancel(self, tref: Any) -> None:
        """Don't run the entry *tref*."""
        tref.cancel()

    def clear(self) -> None:
        """Forget all entries."""
        with self.mutex:
            self.schedule.clear()

    def empty(self) -> bool:
        """Say whether nothing is to be done."""
        return not len(self)

    def __len__(self) -> int:
        return len(self.schedule)

    def __bool__(self) -> bool:
        return True

    @property
    def queue(self) -> list[Any]:
        """The entries with their times, the next one first."""
        with self.mutex:
            return list(self.schedule.queue)
