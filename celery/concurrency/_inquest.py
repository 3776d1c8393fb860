"""
Jobs that vanish together with a child of the prefork pool: found out, and sent again.

A job that has left the inbox without being accepted may have been in the hands of a child that
died.  Or another child has just taken it and is about to say so.  A child has at most one
unaccepted job, so a report that it sends from then on speaks for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.concurrency._children import NEVER
from celery.concurrency._job import SENT
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from celery.concurrency._children import Child
    from celery.concurrency._job import Job

# Of the module that users know.
logger = get_logger("celery.concurrency.asynpool")


@dataclass(slots=True)
class _Case:
    #: Numbers of the children that may have the job.
    witnesses: set[int]
    #: Monotonic time from which they are not waited for any more.
    due: float


class Inquest:
    """
    Each job has its own witnesses: those that lived when it was missed, and have not spoken since.

    Children that are born later can't have it, so more deaths make an inquest shorter, not longer.

    Args:
        children: By number; those that live.
        send_again: Called with the jobs that no living child can have.
        longest_s: Seconds for which children are waited for that say nothing.
    """

    def __init__(
        self,
        children: Mapping[int, Child],
        send_again: Callable[[list[Job]], object],
        longest_s: float,
    ) -> None:
        self._children = children
        self._send_again = send_again
        self._longest_s = longest_s
        #: Jobs whose fate is not known yet.
        self.suspects: dict[Job, _Case] = {}
        #: Monotonic time at which one of them is given up in any case.
        self.due = NEVER

    def open(self, suspects: Iterable[Job]) -> None:
        """Look for *suspects*, all reports being read that were on their way."""
        due = time.monotonic() + self._longest_s
        for job in suspects:
            if job not in self.suspects:
                up = {child.number for child in self._children.values() if child.is_up}
                self.suspects[job] = _Case(up, due)
        self.close()

    def hear(self, number: int) -> None:
        """Note that child *number* has reported."""
        for case in self.suspects.values():
            case.witnesses.discard(number)
        self.close()

    def acquit(self, job: Job) -> None:
        """Note that *job* has been given back; it is in the inbox."""
        self.suspects.pop(job, None)

    def close(self) -> None:
        """Send suspects again as soon as no living child can have them."""
        now, lost = time.monotonic(), []
        for job, case in list(self.suspects.items()):
            case.witnesses.intersection_update(self._children)
            if job.state != SENT:
                del self.suspects[job]
            elif not case.witnesses or now >= case.due:
                del self.suspects[job]
                lost.append(job)
                logger.warning("%r was taken by a process that has gone: sent again", job)
        self.due = min((case.due for case in self.suspects.values()), default=NEVER)
        if lost:
            self._send_again(lost)
