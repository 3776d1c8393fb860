"""
What the children of the prefork pool report: that a job has begun, how one ended, or both.

All children write to one pipe.  A write of at most ``PIPE_BUF`` bytes goes in whole or not at all,
so reports never mix, a killed child leaves none half written, and the main process takes whatever
has come with one read.  A longer report goes in parts, which the reader puts together again; those
of a child that died in between are forgotten with it, as if it had not begun to speak.

What nearly every task returns, ``(0, text, seconds)``, needs no pickling.
"""

from __future__ import annotations

import os
import pickle
import select
from io import FileIO
from struct import Struct
from typing import Any, NamedTuple

from celery.concurrency._packets import INLINE_LIMIT, Spill

__all__ = ("Outbox", "Report", "Reports", "decode", "encode", "pipe")

#: Flags of a report.  With RETURNED the job named as accepted is given back instead; PLAIN says
#: how the payload is written, IN_FILE that it names a file, PART that the next report goes on,
#: HANDED that a document goes before it.
UP, SUCCEEDED, IN_FILE, RETURNED, PLAIN, PART, HANDED = 1, 2, 4, 8, 16, 32, 64

#: Length of the payload that follows, number of the child, flags, job that ended (0: none), job
#: accepted (0: none), monotonic time.
_HEAD = Struct("=HIBQQd")
_RUNTIME = Struct("=d")
#: Lengths of a task id and of its document, which follow.
_HANDED = Struct("=HI")

#: The most that is certain to be written at once.
_MOST = min(getattr(select, "PIPE_BUF", 512), 0x8000)
_ROOM = _MOST - _HEAD.size

#: Bytes taken with one read; what a pipe holds, as a rule.
_READ_SIZE = 64 * 1024

_PROTOCOL = 5


class Report(NamedTuple):
    """What one child said at one time."""

    child: int
    flags: int
    ended: int
    accepted: int
    when: float
    payload: bytes


def pipe() -> tuple[FileIO, FileIO]:
    """Return the reading end, which never waits, and the writing end, which does."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return FileIO(reader, "rb"), FileIO(writer, "wb")


class Outbox:
    """
    The side of one child.

    Args:
        end: Writing end of the pipe.
        number: Names the child.
    """

    def __init__(self, end: FileIO, number: int) -> None:
        self._write = end.write
        self._number = number

    def send(
        self, flags: int, ended: int, accepted: int, when: float, payload: bytes = b""
    ) -> None:
        """Report; returns when the main process is certain to get it."""
        size, number = len(payload), self._number
        if size > _ROOM:
            for start in range(0, size - _ROOM, _ROOM):
                part = payload[start : start + _ROOM]
                self._write(_HEAD.pack(_ROOM, number, PART, 0, 0, when) + part)
            payload = payload[start + _ROOM :]
            size = len(payload)
        self._write(_HEAD.pack(size, number, flags, ended, accepted, when) + payload)


class Reports:
    """
    The side of the main process: reports in the order in which they were made.

    Args:
        end: Reading end of the pipe.
    """

    def __init__(self, end: FileIO) -> None:
        self._read = end.read
        self._data = b""
        self._at = 0
        #: Beginnings of long payloads, by child.
        self._parts: dict[int, list[bytes]] = {}

    def read(self) -> bool:
        """Take what has come since; False if there is nothing more."""
        data = self._read(_READ_SIZE)
        if not data:
            return False
        self._data = self._data[self._at :] + data
        self._at = 0
        return True

    def next(self) -> Report | None:
        """Return the next report of those that were read, None after the last whole one."""
        while True:
            data, at = self._data, self._at
            start = at + _HEAD.size
            if start > len(data):
                return None
            size, number, flags, ended, accepted, when = _HEAD.unpack_from(data, at)
            end = start + size
            if end > len(data):
                return None
            self._at = end
            payload = data[start:end]
            if flags & PART:
                self._parts.setdefault(number, []).append(payload)
                continue
            if self._parts and number in self._parts:
                payload = b"".join((*self._parts.pop(number), payload))
            return Report(number, flags, ended, accepted, when, payload)

    def forget(self, child: int) -> None:
        """Drop what a child that has gone could not finish."""
        self._parts.pop(child, None)


# -- Outcomes


def encode(
    value: Any, spill: Spill, document: tuple[str, bytes] | None = None
) -> tuple[int, bytes]:
    """
    Write what a target returned as flags and payload of a report.

    Args:
        document: Task id and text of the result, if that is left to the main process; then
            *value* is ``(0, text, seconds)``.

    Raises:
        Exception: Whatever the ``__reduce__`` of a value raises.
    """
    if type(value) is tuple and len(value) == 3:
        failed, text, runtime = value
        if type(failed) is int and not failed and type(text) is str and type(runtime) is float:
            payload = _RUNTIME.pack(runtime) + text.encode("utf-8", "surrogatepass")
            if document is None:
                return fit(SUCCEEDED | PLAIN, payload, spill)
            task_id, result = document[0].encode(), document[1]
            payload = _HANDED.pack(len(task_id), len(result)) + task_id + result + payload
            return fit(SUCCEEDED | PLAIN | HANDED, payload, spill)
    return fit(SUCCEEDED, pickle.dumps(value, _PROTOCOL), spill)


def fit(flags: int, payload: bytes, spill: Spill) -> tuple[int, bytes]:
    """Put a payload that is too long for reports into a file."""
    if len(payload) <= INLINE_LIMIT:
        return flags, payload
    return flags | IN_FILE, spill.write(payload).encode()


def decode(flags: int, payload: bytes) -> Any:
    """
    Read what `encode` or `fit` wrote; a document comes as fourth element.

    Raises:
        Exception: Whatever building the object again raises.
    """
    if flags & IN_FILE:
        payload = Spill.take(payload.decode())
    if not flags & PLAIN:
        return pickle.loads(payload)
    if not flags & HANDED:
        return _plain(payload, 0)
    id_size, size = _HANDED.unpack_from(payload)
    start = _HANDED.size + id_size
    end = start + size
    document = payload[_HANDED.size : start].decode(), payload[start:end]
    return *_plain(payload, end), document


def _plain(payload: bytes, start: int) -> tuple[int, str, float]:
    text = payload[start + _RUNTIME.size :].decode("utf-8", "surrogatepass")
    return 0, text, _RUNTIME.unpack_from(payload, start)[0]
