"""
How jobs get from the main process to the children of the prefork pool.

One channel, the *inbox*, serves all children; whichever is free takes the next job, so none ever
waits behind a busy child.  It is a packet socket: a packet is taken by one reader, whole or not at
all, which is what lets the main process take back what nobody has begun.  Their answers are
`celery.concurrency._reports`.

A payload too big for a packet is put on the shelf (`celery.concurrency._shelf`) or, without room
there, written to a file of a private folder, and the packet names it.
"""

from __future__ import annotations

import os
import pickle
import secrets
import shutil
import socket
import tempfile
from struct import Struct
from types import FunctionType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.concurrency._job import Job
    from celery.concurrency._shelf import Shelf

#: kind, number of the job, length of the pickled target that follows.
JOB = Struct("=BQH")

# Kinds of inbox packets; NOTHING is never sent.
LEAVE, INLINE, SPILLED, SHELVED, NOTHING = 0, 1, 2, 4, 255

#: Added to the kind: the main process stores a result that is handed over.
HANDS_OVER = 16

#: Greatest payload that travels inside a packet.
INLINE_LIMIT = 64 * 1024

#: Size of a buffer that holds any packet.
PACKET_SIZE = INLINE_LIMIT + 8 * 1024

#: Wanted size of the kernel's buffer; about a thousand small jobs.
_BUFFER_SIZE = 1024 * 1024

_PROTOCOL = 5

DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)


def channel(kind: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Return the ``(reading, writing)`` ends of a one-way packet channel."""
    reader, writer = _pair() if kind is None else socket.socketpair(socket.AF_UNIX, kind)
    for end, option in ((writer, socket.SO_SNDBUF), (reader, socket.SO_RCVBUF)):
        end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_SIZE)
    return reader, writer


def _pair() -> tuple[socket.socket, socket.socket]:
    try:
        # These keep their order and end with the peer.
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except (AttributeError, OSError):
        # macOS has the name and nothing behind it; its datagrams are as whole and as ordered
        # between local sockets, but don't tell that the peer has gone.
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


class Spill:
    """
    The folder for payloads that don't fit into a packet.

    It comes into being with the first big payload, whoever sends that.  The name can't be
    guessed and only the own user may enter, as the files hold pickles.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or os.path.join(
            tempfile.gettempdir(), f"celery-pool-{os.getpid()}-{secrets.token_hex(8)}"
        )

    def write(self, payload: bytes) -> str:
        """Keep *payload* and return the path under which `take` finds it."""
        path = os.path.join(self.folder, secrets.token_hex(8))
        with self.open(path) as file:
            file.write(payload)
        return path

    def open(self, path: str) -> BinaryIO:
        """Open the empty file at *path*, which is in the folder."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        return open(fd, "wb")

    @staticmethod
    def take(path: str) -> bytes:
        """Return what `write` kept, and forget it."""
        with open(path, "rb") as file:
            payload = file.read()
        os.unlink(path)
        return payload

    @staticmethod
    def discard(path: str) -> None:
        """Forget a payload that may have been taken already."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Packer:
    """
    Makes packets of jobs.

    Args:
        shelf: Takes payloads that are too big.
        spill: Takes those for which the shelf has no room.
        invoke: What a child calls to have a target called that comes among the arguments.
    """

    def __init__(self, shelf: Shelf, spill: Spill, invoke: Callable[..., Any]) -> None:
        self._shelf = shelf
        self._spill = spill
        self._invoke = invoke
        self._keys: dict[Callable[..., Any], bytes] = {}

    def pack(
        self,
        job: Job,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        hands_over: bool,
    ) -> bytes:
        """Return the packet that has a child run ``func(*args, **kwargs)`` as *job*."""
        key = self._keys.get(func)
        if key is None:
            if type(func) is not FunctionType:
                # May hold state, which belongs to this call alone.
                return self.pack(job, self._invoke, (func, args, kwargs), {}, hands_over)
            key = self._keys[func] = pickle.dumps(func, _PROTOCOL)
        kind, payload = INLINE, pickle.dumps((args, kwargs), _PROTOCOL)
        if len(payload) > INLINE_LIMIT:
            kind, payload = self._put_aside(job, payload)
        if hands_over:
            kind |= HANDS_OVER
        return JOB.pack(kind, job._job, len(key)) + key + payload

    def _put_aside(self, job: Job, payload: bytes) -> tuple[int, bytes]:
        shelved = self._shelf.put(job._job, payload)
        if shelved is not None:
            job.slot, reference = shelved
            return SHELVED, reference
        job.spilled = self._spill.write(payload)
        return SPILLED, job.spilled.encode()


def read_all(receive: Callable[..., int], buffer: bytearray) -> list[bytes]:
    """Take every packet that waits in a channel, without waiting for more."""
    packets: list[bytes] = []
    while True:
        try:
            size = receive(buffer, 0, DONT_WAIT)
        except BlockingIOError:
            return packets
        if not size:
            return packets
        packets.append(bytes(buffer[:size]))
