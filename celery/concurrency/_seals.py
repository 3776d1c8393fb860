"""
Which job each child is done with but for storing and saying so: memory that all of them share.

A report would cost a system call for each job, and is not needed: the main process looks only
when it wants to end a job, at a child that it has stopped, or when a child has gone.  See
`celery.app._sealing`.

Each place has a number in front, and most have a page further back: how the last job has ended.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from struct import Struct
from typing import Any

from celery.app._sealing import Ended

#: How many children there is room for; those beyond it are interrupted at any time.
_ROOM = 4096
_SIZE = 8
_FRONT = _ROOM * _SIZE

#: Bytes for the end of a job; the system has memory only for those that were used.
PAGE_SIZE = 1 << 16
#: How many children have a page; the ends of the others are not noted. Limits of a process for
#: addresses and sizes of files count pages that were never used, too.
_PAGES = 1024
_LENGTH = _FRONT + _PAGES * PAGE_SIZE
#: The job whose end it is; written last, so that a page which is half written counts for nothing.
_HEAD = Struct("Q")

_PROTOCOL = 5

#: Stands for a value that has no room.
_NOT_WHOLE = Ended(is_whole=False)


class Seals:
    """
    A number and a page for each place in the pool; numbers of jobs are never used again.

    Args:
        fd: Of the memory that another process has made; None to make it.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = new_memory(_LENGTH) if fd is None else fd
        self._memory = memoryview(mmap.mmap(self.fd, _LENGTH))
        self._jobs = self._memory[:_FRONT].cast("Q")
        self._writer: tuple[int, _Writer] | None = None

    def set(self, place: int, job: int) -> None:
        """Note that nobody else ends *job*, which the child in *place* runs."""
        if place < _ROOM:
            self._jobs[place] = job

    def get(self, place: int) -> int:
        """Return the last job that the child in *place* has noted."""
        return self._jobs[place] if place < _ROOM else 0

    def put_end(self, place: int, job: int, how: Ended) -> None:
        """Note how *job* has ended, which the child in *place* runs."""
        if place >= _PAGES:
            return
        if self._writer is None or self._writer[0] != place:
            self._writer = place, _Writer(self._page(place))
        self._writer[1].put(job, how)

    def end_of(self, place: int, job: int) -> Ended | None:
        """Return how *job* has ended, if the child that was in *place* has noted that."""
        if place >= _PAGES:
            return None
        page = self._page(place)
        if _HEAD.unpack_from(page)[0] != job:
            return None
        try:
            return Ended(*pickle.loads(page[_HEAD.size :]))
        except Exception:  # noqa: BLE001 - classes of users are built here
            return _NOT_WHOLE

    def _page(self, place: int) -> memoryview:
        start = _FRONT + place * PAGE_SIZE
        return self._memory[start : start + PAGE_SIZE]

    def close(self) -> None:
        """Give the descriptor back; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class _Writer:
    """Writes to one page, and refuses what goes beyond its end."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._at = _HEAD.size
        # Kept, as making one takes longer than most values do.
        self._pickler = pickle.Pickler(self, _PROTOCOL)

    def put(self, job: int, how: Ended) -> None:
        # A job may be noted twice: its result could not be stored, so it fails.
        _HEAD.pack_into(self._page, 0, 0)
        try:
            self._dump(how)
        except Exception:  # noqa: BLE001 - no room, or whatever a value raises when pickled
            if how.error is not None:
                return
            self._dump(_NOT_WHOLE)
        _HEAD.pack_into(self._page, 0, job)

    def _dump(self, how: Ended) -> None:
        self._at = _HEAD.size
        try:
            # Stops where a value of megabytes has no more room.
            self._pickler.dump(tuple(how))
        finally:
            self._pickler.clear_memo()

    def write(self, data: Any) -> None:
        """Do what a file does, for the pickler."""
        start, self._at = self._at, self._at + len(data)
        self._page[start : self._at] = data


def new_memory(length: int) -> int:
    """Return the descriptor of a file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("celery-pool")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, length)
    return fd
