"""
Payloads too big for a packet, in memory that the main process shares with the children.

The packet names a slot, from which whoever takes it reads the payload: one copy, where a file would
take a dozen system calls in both processes.  A slot is free again when its job has ended.
"""

from __future__ import annotations

import mmap
import os
import pickle
from struct import Struct
from typing import Any

from celery.concurrency._seals import new_memory

#: Greatest payload that has room in a slot, with its head.
SLOT_SIZE = 1 << 18
#: The system has memory only for those that were used.
SLOTS = 32

#: The job whose payload it is.
_HEAD = Struct("Q")
#: What a packet says: number of the slot, length of the payload.
REFERENCE = Struct("=HI")


class Shelf:
    """
    Slots that the main process fills and children read.

    Args:
        fd: Of the memory that another process has made; None to make it.
    """

    def __init__(self, fd: int | None = None) -> None:
        length = SLOTS * SLOT_SIZE
        self.fd = new_memory(length) if fd is None else fd
        self._memory = memoryview(mmap.mmap(self.fd, length))
        # The last one freed is used next: its memory is there already.
        self._free = [*range(SLOTS)]

    def put(self, job: int, payload: bytes) -> tuple[int, bytes] | None:
        """Keep *payload*, and return its slot and what a packet says; None without room."""
        size = len(payload)
        if size > SLOT_SIZE - _HEAD.size:
            return None
        try:
            slot = self._free.pop()
        except IndexError:
            return None
        start = slot * SLOT_SIZE
        _HEAD.pack_into(self._memory, start, job)
        start += _HEAD.size
        self._memory[start : start + size] = payload
        return slot, REFERENCE.pack(slot, size)

    def load(self, job: int, reference: Any) -> Any:
        """
        Return the object whose pickle was put there.

        Raises:
            LookupError: The job has ended meanwhile, and the slot is another's.
        """
        slot, size = REFERENCE.unpack(reference)
        start = slot * SLOT_SIZE
        with self._memory[start + _HEAD.size : start + _HEAD.size + size] as payload:
            found = pickle.loads(payload)
        if _HEAD.unpack_from(self._memory, start)[0] != job:
            raise LookupError(f"job {job} has ended")
        return found

    def free(self, slot: int) -> None:
        """Let another payload have the slot."""
        self._free.append(slot)

    def close(self) -> None:
        """Give the descriptor back; harmless twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
