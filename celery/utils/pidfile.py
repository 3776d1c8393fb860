"""
Files that hold the number of a process, so that it runs once.

`celery.platforms` offers them under their public names.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import Any

from celery.exceptions import reraise

__all__ = ("LockFailed", "Pidfile", "create_pidlock", "refuse_held", "why_not_writable")

EX_CANTCREAT = 73

PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644

PIDLOCKED = """ERROR: Pidfile ({0}) already exists.
Seems we're already running? (pid: {1})"""


class LockFailed(Exception):
    """Another process holds the lock, or its file can't be made."""


def complain(text: str) -> None:
    """Tell on stderr, at once."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Pidfile:
    """
    A file that holds the number of the process that has it.

    Also a context: entering acquires it, leaving removes it.
    """

    path: str = None  # type: ignore[assignment]  # set for each

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._owner: int | None = None

    def acquire(self) -> Pidfile:
        """
        Write the file.

        Raises:
            LockFailed: It exists, or can't be made.
        """
        try:
            self.write_pid()
        except OSError as exc:
            reraise(LockFailed, LockFailed(str(exc)), exc.__traceback__)
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        """Say whether the file exists."""
        return os.path.exists(self.path)

    def release(self, *args: Any) -> None:
        """Remove the file; a child of the process that wrote it leaves it alone."""
        if self._owner in (None, os.getpid()):
            self.remove()

    __exit__ = release

    def read_pid(self) -> int | None:
        """
        Return the number in the file, None if there is no file.

        Raises:
            ValueError: The file holds something else, or was not written to its end.
        """
        try:
            with open(self.path) as content:
                line = content.readline()
        except FileNotFoundError:
            return None
        if not line.endswith("\n"):
            raise ValueError(f"the pidfile {self.path} is incomplete")
        try:
            return int(line)
        except ValueError:
            raise ValueError(f"the pidfile {self.path} holds no number: {line!r}") from None

    def remove(self) -> None:
        """Remove the file if it is there and we may."""
        with suppress(FileNotFoundError, PermissionError):
            os.unlink(self.path)

    def remove_if_stale(self) -> bool:
        """Remove the file if no process has it any more, and say so on stderr."""
        try:
            pid = self.read_pid()
        except ValueError:
            complain("Broken pidfile found - Removing it.")
            pid = None
        if not pid:
            self.remove()
            return True
        # In a container the number of a former life is often our own.  A process of another user
        # (EPERM) took over the number of one that ended: ours would run as we do.
        if pid != os.getpid() and self._runs(pid):
            return False
        complain("Stale pidfile exists - Removing it.")
        self.remove()
        return True

    @staticmethod
    def _runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError, OverflowError):
            return False
        return True

    def write_pid(self) -> None:
        """Make the file, which must not exist, and write our number to the disk."""
        content = f"{os.getpid()}\n"
        fd = os.open(self.path, PIDFILE_FLAGS, PIDFILE_MODE)
        with os.fdopen(fd, "w") as pidfile:
            pidfile.write(content)
            pidfile.flush()
            os.fsync(fd)
        self._owner = os.getpid()
        with open(self.path) as written:
            if written.read() != content:
                raise LockFailed(f"the pidfile {self.path} was changed by another process")


def create_pidlock(pidfile: str) -> Pidfile:
    """Acquire the file for the life of the process, or end it with status 73 if one has it."""
    lock = Pidfile(pidfile)
    refuse_held(lock)
    lock.acquire()
    atexit.register(lock.release)
    return lock


def refuse_held(lock: Pidfile) -> None:
    """End the process with status 73 if another one has *lock*."""
    if lock.is_locked() and not lock.remove_if_stale():
        complain(PIDLOCKED.format(lock.path, lock.read_pid()))
        raise SystemExit(EX_CANTCREAT)


def why_not_writable(path: str) -> str | None:
    """Return why a file can't be written, None if it can; it doesn't have to be there."""
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else "permission denied"
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"no permission in {folder}"
