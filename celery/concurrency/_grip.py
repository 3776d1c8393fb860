"""
How the prefork pool interrupts a job: by a signal that hits this job, or nothing at all.

Before a child is signalled because of a job it is stopped and its reports are read: if the job
has ended meanwhile, the child just goes on.  So it does if the job has only to store how it ended,
for `SEALED_GRACE_S` seconds at most.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from celery.concurrency import _children
from celery.concurrency._children import NEVER, Child

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.concurrency._job import Job
    from celery.concurrency._seals import Seals

#: Seconds that a job may take to store its end after it was to be ended by force.
SEALED_GRACE_S = 10.0


class Grip:
    """
    Interrupts what children run.

    Args:
        seals: Tell which jobs have only to store their ends.
        read_reports: Reads all that children have reported so far.
    """

    def __init__(self, seals: Seals, read_reports: Callable[[], object]) -> None:
        self._seals = seals
        self._read_reports = read_reports

    def signal(self, child: Child, job: Job, signum: int) -> None:
        """End *job* by *signum*, now or when ``child.wish_at`` has come."""
        if self._hold(child, job):
            job._terminated = signum
            _children.kill(child.pid, signum, signal.SIGCONT)
        elif child.job is job:
            job._terminated = signum  # what it dies of, should it die before
            child.wish_at, child.wish = child.patient_until, signum

    def interrupt(self, child: Child, job: Job) -> bool:
        """Tell *job* that its soft limit has passed; False if it needs not know any more."""
        child.soft_at = NEVER
        if not self._hold(child, job):
            return False
        _children.kill(child.pid, signal.SIGUSR1, signal.SIGCONT)
        return True

    def kill(self, child: Child, job: Job) -> bool:
        """Kill *child* for the hard limit of *job*; False if it has ended, or gets some time."""
        child.soft_at = child.hard_at = NEVER
        if self._hold(child, job):
            _children.kill(child.pid, signal.SIGKILL)
            child.free()
            return True
        if child.job is job:
            child.hard_at = child.patient_until
        return False

    def _hold(self, child: Child, job: Job) -> bool:
        """
        Stop *child* if *job* can still be ended there, and say whether it can.

        With True the child is stopped, no report of its is unread, and the caller lets it go on.
        """
        _children.stop_and_wait(child.pid)
        self._read_reports()
        if child.job is job and not self._is_sealed(child, job):
            return True
        _children.kill(child.pid, signal.SIGCONT)
        return False

    def _is_sealed(self, child: Child, job: Job) -> bool:
        """Say whether *job* has only to store its end, for which it gets some time."""
        if self._seals.get(child.process.index) != job._job:
            return False
        now = time.monotonic()
        if child.patient_until == NEVER:
            child.patient_until = now + SEALED_GRACE_S
        return now < child.patient_until
