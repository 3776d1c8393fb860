"""A bell: one process tells others that there is something new in the store.

It is a file beside the store that is written to after a commit, and watched: with inotify on
Linux, with kqueue on macOS and the BSDs. Elsewhere, and where that fails, whoever waits has to
look from time to time (`Bell.listen` says -1 then).
"""

from __future__ import annotations

import ctypes
import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ("Bell",)

IN_MODIFY = 0x2


class Bell:
    """One end of a bell; each process, and each waiting thread, has its own.

    Args:
        path: The file; made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._ear = -1
        self._kqueue: Any = None
        self._pid = 0

    def ring(self) -> None:
        """Wake whoever listens. Cheap, and never an error: a missed ring costs time only."""
        if self._pid != os.getpid():
            self._forget()
        with suppress(OSError):
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._file, b"!", 0)

    def listen(self) -> int:
        """Begin to listen; return a descriptor that is readable after a ring, or -1."""
        if self._pid != os.getpid():
            self._forget()
        if self._ear < 0:
            with suppress(OSError):
                if self._file < 0:
                    self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._ear = self._watch()
        return self._ear

    def _watch(self) -> int:
        # Looked up by name: what there is of it depends on the platform.
        kqueues: Any = select
        if hasattr(kqueues, "kqueue"):
            self._kqueue = kqueues.kqueue()
            event = kqueues.kevent(
                self._file,
                filter=kqueues.KQ_FILTER_VNODE,
                flags=kqueues.KQ_EV_ADD | kqueues.KQ_EV_CLEAR,
                fflags=kqueues.KQ_NOTE_WRITE,
            )
            self._kqueue.control([event], 0)
            return int(self._kqueue.fileno())
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            return -1
        ear = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if ear >= 0 and libc.inotify_add_watch(ear, os.fsencode(self.path), IN_MODIFY) < 0:
            os.close(ear)
            return -1
        return ear

    def hush(self) -> None:
        """Forget the rings so far, so that the descriptor is readable again after the next."""
        with suppress(OSError):
            if self._kqueue is not None:
                self._kqueue.control(None, 8, 0)
            elif self._ear >= 0:
                os.read(self._ear, 4096)

    def wait(self, seconds: float) -> bool:
        """Wait for a ring, at most so many seconds; say whether there was one."""
        poller = select.poll()
        poller.register(self._ear, select.POLLIN)
        if not poller.poll(max(seconds, 0.0) * 1000):
            return False
        self.hush()
        return True

    def close(self) -> None:
        """Give the descriptors back."""
        if self._pid == os.getpid():
            for fd in (self._file, self._ear if self._kqueue is None else -1):
                if fd >= 0:
                    with suppress(OSError):
                        os.close(fd)
            if self._kqueue is not None:
                self._kqueue.close()
        self._forget()

    def _forget(self) -> None:
        # After a fork the descriptors are the parent's: a watch shared with it would let each
        # take rings from the other.
        self._file = self._ear = -1
        self._kqueue = None
        self._pid = os.getpid()
