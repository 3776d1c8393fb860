"""
The line of jobs that no child has begun, as the main process keeps it.

Its head is in the kernel's channel, where a free child takes the next packet; the rest waits here
until there is room.  What is in the channel can be recalled, because whoever reads a packet has
it alone, the main process included.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from celery.concurrency import _packets
from celery.concurrency._job import SENT, WAITING
from celery.concurrency._packets import JOB, LEAVE, PACKET_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery.concurrency._job import Job

_FULL = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS}


class Inbox:
    """
    Packets on their way to the children; any thread may call any method.

    Args:
        jobs: The pool's books, by number.
    """

    def __init__(self, jobs: Mapping[int, Job]) -> None:
        self.reader, self.writer = _packets.channel()
        # Only this end may be non-blocking, as the children share the other one and its flags.
        self.writer.setblocking(False)
        self._send = self.writer.send
        self._jobs = jobs
        self._waiting: deque[tuple[Job | None, bytes]] = deque()
        self._lock = threading.RLock()
        self._loop: Any = None
        self._is_watched = False

    def attach(self, loop: Any) -> None:
        """Have *loop* say when there is room; None for no loop."""
        with self._lock:
            if self._is_watched:
                self._loop.remove(self.writer)
                self._is_watched = False
            self._loop = loop
            self._watch()

    def put(self, job: Job, packet: bytes) -> None:
        """Append *job* to the line."""
        with self._lock:
            if self._waiting:
                self._waiting.append((job, packet))
                return
            job.state = SENT  # before the packet is out: the answer may come at once
            try:
                self._send(packet)
            except OSError as exc:
                job.state = WAITING
                self._waiting.append((job, packet))
                self._on_error(exc)

    def put_first(self, jobs: Iterable[Job]) -> None:
        """Put jobs that a child gave up, or died with, at the head of the line."""
        with self._lock:
            for job in reversed([*jobs]):
                job.state = WAITING
                if job.packet is not None:
                    self._waiting.appendleft((job, job.packet))
            self.write()

    def send_away(self, n: int) -> None:
        """Have the next *n* children that are free leave."""
        packet = JOB.pack(LEAVE, 0, 0)
        with self._lock:
            self._waiting.extendleft((None, packet) for _ in range(n))
            self.write()

    def take_back(self, job: Job) -> bool:
        """Take *job* out of the line; False if it is not there any more."""
        with self._lock:
            if job.state == SENT:
                self._recall()
            found = job.state == WAITING
            if found:
                self._waiting = deque(item for item in self._waiting if item[0] is not job)
            self.write()
        return found

    def take_all(self) -> list[Job]:
        """Take every job out of the line."""
        with self._lock:
            self._recall()
            jobs = [job for job, _ in self._waiting if job is not None]
            self._waiting = deque(item for item in self._waiting if item[0] is None)
            self.write()
        return jobs

    def missing(self) -> list[Job]:
        """List the jobs that were taken and not accepted so far."""
        with self._lock:
            self._recall()
            jobs = [job for job in [*self._jobs.values()] if job.state == SENT]
            self.write()
        return jobs

    def write(self) -> None:
        """Move waiting packets into the channel until it is full."""
        with self._lock:
            while self._waiting:
                job, packet = self._waiting[0]
                if job is not None:
                    job.state = SENT
                try:
                    self._send(packet)
                except OSError as exc:
                    if job is not None:
                        job.state = WAITING
                    self._on_error(exc)
                    return
                self._waiting.popleft()
            if self._is_watched:
                self._is_watched = False
                self._loop.remove(self.writer)

    def _on_error(self, exc: OSError) -> None:
        if exc.errno not in _FULL:
            raise exc
        self._watch()

    def _watch(self) -> None:
        if self._waiting and self._loop is not None and not self._is_watched:
            self._is_watched = True
            self._loop.add_writer(self.writer, self.write)

    def _recall(self) -> None:
        """Move everything that no child has taken from the channel back to the line here."""
        for packet in reversed(_packets.read_all(self.reader.recv_into, bytearray(PACKET_SIZE))):
            kind, number, _ = JOB.unpack_from(packet)
            job = None if kind == LEAVE else self._jobs.get(number)
            if job is not None:
                job.state = WAITING
            elif kind != LEAVE:
                continue  # not in the books any more
            self._waiting.appendleft((job, packet))
