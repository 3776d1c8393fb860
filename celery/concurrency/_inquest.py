"""
Jobs that vanish together with a child of the prefork pool: found out, and sent again.

A job that has left the inbox without being accepted may have been in the hands of a child that
died.  Or another child has just taken it and is about to say so.  A child has at most one
unaccepted job, so a report that it sends from then on speaks for it.
"""

from __future__ import annotations

import time
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


class Inquest:
    """
    One at a time: a second death while it is open begins it anew.

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
        self.suspects: list[Job] = []
        self._witnesses: set[int] = set()
        #: Monotonic time at which it closes in any case.
        self.due = NEVER

    def open(self, suspects: Iterable[Job]) -> None:
        """Look for *suspects*, all reports being read that were on their way."""
        self.suspects = [job for job in suspects if job.state == SENT]
        if self.suspects:
            self._witnesses = {child.number for child in self._children.values() if child.is_up}
            self.due = time.monotonic() + self._longest_s
            self.close()

    def hear(self, number: int) -> None:
        """Note that child *number* has reported."""
        self._witnesses.discard(number)
        self.close()

    def close(self) -> None:
        """Send suspects again as soon as no living child can have them."""
        self.suspects = [job for job in self.suspects if job.state == SENT]
        self._witnesses.intersection_update(self._children)
        if self.suspects and self._witnesses and time.monotonic() < self.due:
            return
        suspects, self.suspects, self.due = self.suspects, [], NEVER
        for job in suspects:
            logger.warning("%r was taken by a process that has gone: sent again", job)
        self._send_again(suspects)
