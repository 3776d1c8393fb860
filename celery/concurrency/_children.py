"""Child processes as the main process knows them, and how it signals them."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from billiard.common import TERM_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery.concurrency._job import Job

NEVER = float("inf")

#: Longest time to wait for a signalled child to come to a stop.
_STOP_S = 0.05

#: How many times what it gets as a rule a child may be given to come up.
MOST_PATIENCE = 16

#: First and last pause before replacing children that die while they start.
_BACKOFF_S = (0.1, 10.0)

#: Signals whose handlers in the main process must not run in a child that just came to be.
_BLOCKED_IN_FORK = {
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    if hasattr(signal, name)
}


class Child:
    """
    A child process and what it is doing.

    Args:
        process: The started process object.
        number: Names the child in its reports.
        patience: Seconds by which it has to report up.
    """

    __slots__ = (
        "alive_by", "born_at", "counted", "expendable", "hard_at", "is_retired", "is_up", "job",
        "number", "patient_until", "pid", "process", "soft_at", "watched", "wish", "wish_at",
    )  # fmt: skip

    def __init__(self, process: Any, number: int, patience: float) -> None:
        self.process = process
        self.number = number
        self.pid: int = process.pid
        self.job: Job | None = None
        self.is_up = False
        self.is_retired = False  #: told to leave by signal
        self.expendable = False  #: its exit is our doing and needs no line in the log
        self.counted = 0  #: jobs begun
        self.born_at = time.monotonic()
        self.alive_by = self.born_at + patience
        self.soft_at = self.hard_at = NEVER
        #: Until when a job that is storing its end is left alone, once somebody wanted to end it.
        self.patient_until = NEVER
        #: The signal that the job gets if it has not ended by then.
        self.wish_at, self.wish = NEVER, 0
        #: Becomes readable when the process ends.
        self.watched = _watch(process)

    def free(self) -> Job | None:
        """Have no job any more; returns the one that there was."""
        job, self.job = self.job, None
        self.soft_at = self.hard_at = self.patient_until = self.wish_at = NEVER
        return job


class Starts:
    """
    How long children may take to come up, and how soon those that do not are replaced.

    Args:
        timeout: Seconds that a child gets as a rule (``worker_proc_alive_timeout``).
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.patience = timeout  #: seconds for the next child
        self.early_deaths = 0  #: of children that had not come up, since the last that had
        self.resume_at = NEVER  #: when to start children again, after such a death

    def came_up(self, child: Child) -> None:
        """Note that *child* reports."""
        self.patience = patience_after(self._timeout, time.monotonic() - child.born_at)
        self.early_deaths = 0

    def gave_up(self, had: float) -> None:
        """Note that a child got *had* seconds in vain."""
        self.patience = max(self.patience, patience_after(self._timeout, had))

    def died(self) -> None:
        """Note that a child died before it was up; it is replaced, but not in a busy loop."""
        first, last = _BACKOFF_S
        self.resume_at = time.monotonic() + min(first * 2**self.early_deaths, last)
        self.early_deaths += 1


def patience_after(timeout: float, took: float) -> float:
    """
    Return how many seconds the next child may take to come up.

    On a busy machine, children that were killed after *timeout* for being slow would be
    replaced by others as slow, for ever: so each gets twice what the one before it took.

    Args:
        timeout: What a child gets as a rule (``worker_proc_alive_timeout``).
        took: What the last one needed, or was given in vain.
    """
    return min(max(timeout, 2 * took), timeout * MOST_PATIENCE)


def spread(children: Sequence[Child]) -> dict[str, Any]:
    """Say how the jobs were spread over *children*, as the ``stats`` command shows it."""
    counts = [child.counted for child in children]
    total = sum(counts)
    average = 100 / len(counts) if total and counts else 0.0
    return {
        "total": total,
        "avg": f"{average:.2f}%",
        "all": ", ".join(f"{100 * count / total if total else 0:.2f}%" for count in counts),
        "raw": ", ".join(map(str, counts)),
    }


def _watch(process: Any) -> int:
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        # A pipe that the child holds open; a process that it leaves behind may hold it longer.
        return os.dup(process.sentinel)


def start(process: Any) -> None:
    """Start *process* such that no signal finds the handlers of the main process in it."""
    if getattr(process, "_start_method", "fork") != "fork":
        process.start()
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_IN_FORK)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def kill(pid: int, *signums: int) -> None:
    """Send signals to *pid*, in order."""
    try:
        for signum in signums:
            os.kill(pid, signum)
    except ProcessLookupError:
        return  # gone already, which the kernel tells us separately


def is_alive(pid: int) -> bool:
    """Say whether there is a process *pid*."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stop_and_wait(pid: int) -> None:
    """Stop *pid*; returns when it has come to a stop or has ended, and soon in any case."""
    kill(pid, signal.SIGSTOP)
    if not hasattr(os, "waitid"):
        return
    options = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
    give_up = time.monotonic() + _STOP_S
    while time.monotonic() < give_up:
        try:
            if os.waitid(os.P_PID, pid, options) is not None:
                return
        except ChildProcessError:
            return
        os.sched_yield()


def signal_number(sig: int | str | None) -> int:
    """Return the number of a signal given by number or name; the terminating one for None."""
    if not sig:
        return int(TERM_SIGNAL)
    if isinstance(sig, str):
        name = sig.upper()
        sig = int(getattr(signal, name if name.startswith("SIG") else f"SIG{name}"))
    # Where SIGTERM is remapped, children ignore it.
    return int(TERM_SIGNAL) if sig == signal.SIGTERM else int(sig)
