"""
The books of the prefork pool: every job that was handed to it and has no outcome yet.

Whoever gives a job its outcome takes it out of the books; only the first can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.concurrency._job import ENDED, WITHDRAWN
from celery.concurrency._packets import Spill
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.concurrency._job import Job
    from celery.concurrency._shelf import Shelf

# Of the module that users know.
logger = get_logger("celery.concurrency.asynpool")


class Books:
    """
    Jobs by number.

    Args:
        shelf: Where payloads of jobs may be.
        semaphore: Released once for each job that leaves; may be None.
        on_ready: Called with a job, None, success and value, None after its callbacks.
    """

    def __init__(self, shelf: Shelf, semaphore: Any, on_ready: Callable[..., object]) -> None:
        self._shelf = shelf
        self.jobs: dict[int, Job] = {}
        self._semaphore = semaphore
        self._on_ready = on_ready

    def end(self, job: Job, success: bool, value: Any) -> None:
        """Give *job* its outcome, and tell who asked for it."""
        if not self.remove(job):
            return
        job.settle(ENDED, success, value)
        if success:
            if job.callback is not None:
                self.call(job, job.callback, value)
        elif job.error_callback is not None:
            self.call(job, job.error_callback, value)
        self._on_ready(job, None, (success, value), None)

    def end_by_limit(self, job: Job, einfo: Any) -> None:
        """End *job* because of its hard limit, of which there is a callback of its own."""
        if not self.remove(job):
            return
        job.settle(ENDED, False, einfo)
        if job.timeout_callback is not None:
            self.call(job, job.timeout_callback, soft=False, timeout=job.timeout)
        elif job.error_callback is not None:
            self.call(job, job.error_callback, einfo)

    def withdraw(self, job: Job) -> None:
        """Have it never run; none of its callbacks is called."""
        self.remove(job)
        job.settle(WITHDRAWN)

    def remove(self, job: Job) -> bool:
        """Take *job* out of the books; False if it was not in them."""
        if self.jobs.pop(job._job, None) is None:
            return False
        if job.spilled is not None:
            Spill.discard(job.spilled)
        if job.slot is not None:
            self._shelf.free(job.slot)
        if self._semaphore is not None:
            self._semaphore.release()
        return True

    @staticmethod
    def call(job: Job, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call a callback of *job*; what it raises is logged, unless it is to propagate."""
        try:
            callback(*args, **kwargs)
        except job.callbacks_propagate:
            raise
        except Exception:
            logger.exception("Callback of %r failed", job)
