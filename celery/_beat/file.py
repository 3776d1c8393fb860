"""The schedule file: a store in an SQLite database, for beats on one machine."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from celery._beat import shelf
from celery._beat.sql import Execute, SQLStore
from celery._beat.store import OWNERS_HERE, Lease, StoreError
from celery.utils.log import get_logger

__all__ = ("FileStore",)

logger = get_logger("celery.beat")

_MAGIC = b"SQLite format 3\x00"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"

#: Seconds to wait for another process that writes.
_BUSY_S = 5.0


class FileStore(SQLStore):
    """
    A store in a file.

    The journal beside it is what lets a write be cut off at any instant.  A file of an earlier
    version, which was written by `shelve`, is converted when it is opened.

    Args:
        filename: Its path.
    """

    # Few writes, for they may wake a disk; a process of this machine that has ended is known to
    # be gone at once, see `is_gone`.
    lease_s = 15.0
    look_s = 1.0
    is_shared = False

    def __init__(self, filename: str) -> None:
        super().__init__("celery-beat")
        self.filename = filename
        self._connection: sqlite3.Connection | None = None

    @property
    def info(self) -> str:
        """The path."""
        return self.filename

    def open(self) -> None:
        """
        Open the file, make or convert it.

        Raises:
            FileNotFoundError: Its directory does not exist.
        """
        if self._connection is not None:
            return
        directory = os.path.dirname(os.path.abspath(self.filename))
        if not os.path.isdir(directory):
            raise FileNotFoundError(
                f"the directory of the schedule file does not exist: {directory!r}"
            )
        if shelf.exists(self.filename) and not self._is_ours():
            with shelf.locked(self.filename):
                if not self._is_ours():  # nor has another process been here meanwhile
                    self._convert()
        try:
            self._open()
        except StoreError as exc:
            if not _is_damage(exc.__cause__):
                raise
            self._put_damaged_aside(exc)
            self._open()

    def _open(self) -> None:
        connection = None
        try:
            connection = sqlite3.connect(
                self.filename, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            # A write survives the end of the process at once, and that of the machine in a while.
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as exc:
            if connection is not None:
                connection.close()
            raise StoreError(f"{self.filename}: {exc}") from exc
        self._connection = connection
        try:
            self.make_tables()
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Run statements together."""
        connection = self._connection
        if connection is None:
            raise StoreError(f"{self.filename} is closed")

        def execute(statement: str, **values: Any) -> tuple[int, Sequence[Sequence[Any]]]:
            cursor = connection.execute(statement, values)
            return (cursor.rowcount, ()) if cursor.description is None else (0, cursor.fetchall())

        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield execute
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise StoreError(f"{self.filename}: {exc}") from exc

    def lease(self) -> Lease:
        """Return who sends, without a lock."""
        connection = self._connection
        if connection is None:
            raise StoreError(f"{self.filename} is closed")
        try:
            row = connection.execute(
                "SELECT fence, owner, beats, revision FROM celery_beat_store WHERE store = ?",
                (self.name,),
            ).fetchone()
        except sqlite3.Error as exc:
            raise StoreError(f"{self.filename}: {exc}") from exc
        return Lease(*row)

    def is_gone(self, owner: str) -> bool:
        """Say whether *owner* was a process of this machine that has ended."""
        pid, _, host = owner.partition("@")
        if host.partition("/")[0] != platform.node() or os.name != "posix":
            return False
        if int(pid) == os.getpid():
            # In a container, a process often has the number of the one before it.
            return owner not in OWNERS_HERE
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    # -- what was there before

    def _convert(self) -> None:
        """Put a file with the last runs in the place of one of an earlier version."""
        try:
            runs, notes = shelf.read(self.filename)
        except shelf.Unreadable as exc:
            self._put_damaged_aside(exc)
            return
        new = FileStore(f"{self.filename}.new")
        shelf.remove(new.filename)
        new._open()
        fence = new.take(new.lease(), "conversion")
        if fence is not None:
            new.save(fence, runs, set(), notes)
            new.release(fence)
        new.close()
        shelf.keep_copy(self.filename, ".old")
        # At this instant, for whoever comes now, it is a new file with everything in it.
        os.replace(new.filename, self.filename)
        shelf.put_aside(self.filename, ".old", shelf.SUFFIXES[1:])
        logger.info("beat: The schedule file %r was converted", self.filename)

    def _is_ours(self) -> bool:
        """Say whether there is a file of the kind that we write, be it damaged."""
        try:
            with open(self.filename, "rb") as file:
                head = file.read(len(_MAGIC))
        except FileNotFoundError:
            return False
        if not head:
            return True
        if head != _MAGIC:
            return False
        # Newer versions of `shelve` use SQLite, too.
        connection = sqlite3.connect(self.filename, timeout=_BUSY_S)
        try:
            tables = {name for (name,) in connection.execute(_TABLES)}
        except sqlite3.Error:
            return True
        finally:
            connection.close()
        return "Dict" not in tables

    def _put_damaged_aside(self, exc: Exception) -> None:
        logger.error(
            "beat: The schedule file %r can't be read (%r) and is made anew;"
            " the times of the last runs are lost",
            self.filename,
            exc,
        )
        shelf.put_aside(self.filename, ".damaged")


def _is_damage(exc: BaseException | None) -> bool:
    # Other errors (locks, permissions, lack of space) are not the file's.
    codes = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(exc, sqlite3.Error) and exc.sqlite_errorcode & 0xFF in codes
