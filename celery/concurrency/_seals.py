"""
Which job each child is done with but for storing and saying so: memory that all of them share.

A report would cost a system call for each job, and is not needed: the main process looks only
when it wants to end a job, at a child that it has stopped.  See `celery.app._sealing`.
"""

from __future__ import annotations

import mmap
import os
import tempfile

#: How many children there is room for; those beyond it are interrupted at any time.
_ROOM = 4096
_SIZE = 8


class Seals:
    """
    One number for each place in the pool; numbers of jobs are never used again.

    Args:
        fd: Of the memory that another process has made; None to make it.
    """

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _new() if fd is None else fd
        self._memory = memoryview(mmap.mmap(self.fd, _ROOM * _SIZE)).cast("Q")

    def set(self, place: int, job: int) -> None:
        """Note that nobody else ends *job*, which the child in *place* runs."""
        if place < _ROOM:
            self._memory[place] = job

    def get(self, place: int) -> int:
        """Return the last job that the child in *place* has noted."""
        return self._memory[place] if place < _ROOM else 0

    def close(self) -> None:
        """Give the descriptor back; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _new() -> int:
    size = _ROOM * _SIZE
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("celery-pool")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
