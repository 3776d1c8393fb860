"""
Which job each child is done with but for storing and saying so: memory that all of them share.

A report would cost a system call for each job, and is not needed: the main process looks only
when it wants to end a job, at a child that it has stopped, or when a child has gone.  See
`celery.app._sealing`.

Each place has a number in front, and most have two pages further back: how the last job has ended,
and the note before that, which counts until the new one is whole.  What is too long for a page goes
into a file.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from typing import Any

from celery.app._sealing import Ended
from celery.concurrency._packets import Spill

#: How many children there is room for; those beyond it are interrupted at any time.
_ROOM = 4096
_SIZE = 8
_FRONT = _ROOM * _SIZE

#: Bytes for the end of a job; the system has memory only for those that were used.
PAGE_SIZE = 1 << 15
#: How many children have pages; the ends of the others are not noted. Limits of a process for
#: addresses and sizes of files count pages that were never used, too.
_PLACES = 1024
_ENDS = _FRONT + _PLACES * _SIZE
_LENGTH = _ENDS + 2 * _PLACES * PAGE_SIZE

_PROTOCOL = 5

#: Stands for a value that can't be kept.
_NOT_WHOLE = Ended(is_whole=False)


class Seals:
    """
    A number and two pages for each place in the pool; numbers of jobs are never used again.

    Args:
        spill: Where ends are kept that are too long for a page.
        fd: Of the memory that another process has made; None to make it.
    """

    def __init__(self, spill: Spill, fd: int | None = None) -> None:
        self.fd = new_memory(_LENGTH) if fd is None else fd
        self._spill = spill
        self._memory = memoryview(mmap.mmap(self.fd, _LENGTH))
        self._jobs = self._memory[:_FRONT].cast("Q")
        #: Of each place twice the number of the job whose end is noted, plus one for the second
        #: page. It is written last, and at once, so a page that is half written counts for nothing.
        self._ends = self._memory[_FRONT:_ENDS].cast("Q")
        # Kept, as making one takes longer than most values do.
        self._pickler = pickle.Pickler(self, _PROTOCOL)
        self._page, self._at = self._memory[:0], 0
        #: The place of this process, if there is a file with an end.
        self.in_file: int | None = None

    def set(self, place: int, job: int) -> None:
        """Note that nobody else ends *job*, which the child in *place* runs."""
        if place < _ROOM:
            self._jobs[place] = job

    def get(self, place: int) -> int:
        """Return the last job that the child in *place* has noted."""
        return self._jobs[place] if place < _ROOM else 0

    def put_end(self, place: int, job: int, how: Ended) -> None:
        """Note how *job* has ended, which the child in *place* runs; again when there is news."""
        if place >= _PLACES:
            return
        last = self._ends[place]
        second = 0 if last & 1 else 1
        self._page = self._page_of(place, second)
        try:
            self._dump(tuple(how))
        except Exception:  # noqa: BLE001 - no room, or whatever a value raises when pickled
            try:
                self._dump(self._to_file(place, second, how))
            except Exception:  # noqa: BLE001 - whatever a value raises, and whatever the disk says
                if how.error is not None:
                    # Not even what was noted before is true any more.
                    self._ends[place] = 0
                    return
                self._dump(tuple(_NOT_WHOLE))
        self._ends[place] = 2 * job + second

    def end_of(self, place: int, job: int) -> Ended | None:
        """Return how *job* has ended, if the child that was in *place* has noted that."""
        if place >= _PLACES or self._ends[place] >> 1 != job:
            return None
        try:
            noted = pickle.loads(self._page_of(place, self._ends[place] & 1))
            if isinstance(noted, str):
                with open(noted, "rb") as file:
                    noted = pickle.load(file)
            return Ended(*noted)
        except Exception:  # noqa: BLE001 - classes of users are built here
            return _NOT_WHOLE

    def discard_files(self, place: int) -> None:
        """Remove what did not fit into the pages of *place*; its job is done with."""
        self.in_file = None
        for second in range(2):
            Spill.discard(self._path(place, second))

    def close(self) -> None:
        """Give the descriptor back; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def write(self, data: Any) -> None:
        """Do what a file does, for the pickler; refuses what goes beyond the page."""
        start, self._at = self._at, self._at + len(data)
        self._page[start : self._at] = data

    def _dump(self, what: Any) -> None:
        self._at = 0
        try:
            # Stops where a value of megabytes has no more room.
            self._pickler.dump(what)
        finally:
            self._pickler.clear_memo()

    def _to_file(self, place: int, second: int, how: Ended) -> str:
        self.in_file = place
        path = self._path(place, second)
        with self._spill.open(path) as file:
            pickle.dump(tuple(how), file, _PROTOCOL)
        return path

    def _path(self, place: int, second: int) -> str:
        return os.path.join(self._spill.folder, f"end-{place}-{second}")

    def _page_of(self, place: int, second: int) -> memoryview:
        start = _ENDS + (2 * place + second) * PAGE_SIZE
        return self._memory[start : start + PAGE_SIZE]


def new_memory(length: int) -> int:
    """Return the descriptor of a file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("celery-pool")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, length)
    return fd
