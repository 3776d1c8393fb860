"""The file of an embedded store: opening it, and transactions on it.

A `Store` is one connection. Threads may take turns on it; a process that was forked opens one of
its own. The file is in WAL mode, so readers never wait for the one writer, and a process that is
killed at any instant leaves it sound. With ``synchronous=NORMAL`` (the default) a commit survives
the death of processes, not the loss of power; ``FULL`` has it on the disk first.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

from celery.exceptions import ImproperlyConfigured

__all__ = ("APPLICATION_ID", "SYNCHRONOUS", "Store", "StoreError")

T = TypeVar("T")

#: Marks our files: "Cely".
APPLICATION_ID = 0x43656C79
#: Version of the tables.
SCHEMA_VERSION = 1
#: What the setting ``synchronous`` may be.
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")
#: Seconds for which a writer waits for another.
BUSY_TIMEOUT_S = 10.0
#: Bytes of the write-ahead log that stay on disk after it was copied into the file.
LOG_LIMIT = 32 * 1024 * 1024
#: The shortest and the longest pause of a writer that waits, in seconds.
PAUSE_S = (0.00005, 0.005)
#: Oldest SQLite that knows what we say to it.
OLDEST_SQLITE = (3, 35, 0)

SCHEMA = """
CREATE TABLE queues (
    name TEXT PRIMARY KEY,
    auto_delete INTEGER NOT NULL,
    expires_s REAL,
    message_ttl_s REAL,
    used_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE exchanges (name TEXT PRIMARY KEY, type TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE bindings (
    exchange TEXT, queue TEXT, routing_key TEXT, pattern TEXT,
    PRIMARY KEY (exchange, queue, routing_key)
) WITHOUT ROWID;
CREATE TABLE owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL, pid INTEGER NOT NULL, started TEXT NOT NULL, lives_until REAL NOT NULL
);
CREATE TABLE consumers (queue TEXT, owner INTEGER, PRIMARY KEY (queue, owner)) WITHOUT ROWID;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL, rank INTEGER NOT NULL, expires REAL, head TEXT NOT NULL, body
);
CREATE INDEX messages_expires ON messages (expires) WHERE expires IS NOT NULL;
CREATE TABLE ready (
    queue TEXT, rank INTEGER, id INTEGER, redelivered INTEGER NOT NULL,
    PRIMARY KEY (queue, rank, id)
) WITHOUT ROWID;
CREATE TABLE delayed (queue TEXT, due REAL, id INTEGER, PRIMARY KEY (queue, due, id)) WITHOUT ROWID;
CREATE TABLE claimed (owner INTEGER, id INTEGER, PRIMARY KEY (owner, id)) WITHOUT ROWID;
CREATE TABLE results (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL
) WITHOUT ROWID;
CREATE INDEX results_expires ON results (expires) WHERE expires IS NOT NULL;
"""

#: Connections that a fork has brought here. Closing one would tell SQLite that this process,
#: which never had it, lets go of its locks; so they are kept until the process ends.
_inherited: list[Any] = []

#: All stores of this process, and who may add to them; see `_before_fork`.
_stores: WeakSet[Store] = WeakSet()
_registry = threading.RLock()
#: What the thread that forks holds meanwhile.
_held: list[Store] = []
#: Seconds that a fork waits for a transaction of another thread.
FORK_PATIENCE_S = 1.0


def _before_fork() -> None:
    """Let no other thread be inside SQLite while the process forks.

    A child would inherit its mutexes and what it knows of locks on the file as they are at that
    instant, and nobody would ever release them there.
    """
    _registry.acquire()
    for store in _stores:
        # A thread that takes longer waits for another process, hardly ever inside SQLite.
        if store._lock.acquire(timeout=FORK_PATIENCE_S):
            _held.append(store)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _registry.release()


def _after_fork_in_child() -> None:
    for store in _stores:
        if store not in _held:
            store._lock = threading.RLock()
    _after_fork_in_parent()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)


class StoreError(OSError):
    """The file of an embedded store cannot be used now; the message names it and the cause."""


class Store:
    """One connection to the file of an embedded store; see the module.

    Entered as a context manager it holds the write lock: what happens within is one transaction.

    Args:
        path: The file; it and its directory are made when missing.
        synchronous: One of `SYNCHRONOUS`.
        timeout_s: Seconds for which to wait for the write lock.
    """

    def __init__(
        self, path: Path, synchronous: str = "NORMAL", timeout_s: float = BUSY_TIMEOUT_S
    ) -> None:
        if str(synchronous).upper() not in SYNCHRONOUS:
            raise ImproperlyConfigured(
                f"synchronous={synchronous!r}: an embedded store knows {', '.join(SYNCHRONOUS)}"
            )
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ImproperlyConfigured(
                f"an embedded store needs SQLite {'.'.join(map(str, OLDEST_SQLITE))} or later;"
                f" this Python has {sqlite3.sqlite_version}"
            )
        self.path = path
        self.synchronous = str(synchronous).upper()
        self.timeout_s = timeout_s
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._pid = 0
        self._file: tuple[int, int] | None = None
        with _registry:
            _stores.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.path}>"

    # -- using it

    def __enter__(self) -> sqlite3.Connection:
        self._lock.acquire()
        try:
            db = self._connection()
            self._begin(db)
        except BaseException:
            self._lock.release()
            raise
        return db

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            db = self._db
            assert db is not None
            if kind is None:
                try:
                    db.execute("COMMIT")
                except sqlite3.Error as error:
                    self._roll_back(db)
                    raise self._error(error) from error
                return
            self._roll_back(db)
            if isinstance(exc, sqlite3.Error):
                raise self._error(exc) from exc
        finally:
            self._lock.release()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows that one statement finds; never waits for a writer."""
        with self._lock:
            try:
                db = self._connection()
                return self._patiently(lambda: db.execute(sql, parameters).fetchall())
            except sqlite3.Error as error:
                raise self._error(error) from error

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return what ``function(connection, *args)`` does, which may only read."""
        with self._lock:
            try:
                db = self._connection()
                return self._patiently(lambda: function(db, *args))
            except sqlite3.Error as error:
                raise self._error(error) from error

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            self._drop()

    # -- the connection

    def _connection(self) -> sqlite3.Connection:
        db = self._db
        if db is not None and self._pid == os.getpid() and self._is_same_file():
            return db
        self._drop()
        return self._open()

    def _is_same_file(self) -> bool:
        # A file that was deleted or replaced takes writes for ever, and nobody reads them.
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is None:
            return
        if self._pid == os.getpid():
            db.close()
        else:
            _inherited.append(db)

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = sqlite3.connect(
                self.path, timeout=0.0, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        try:
            self._patiently(lambda: self._prepare(db))
        except (OSError, sqlite3.Error) as error:
            db.close()
            raise self._error(error) from error
        except BaseException:
            db.close()
            raise
        self._db, self._pid = db, os.getpid()
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        (marked,) = db.execute("PRAGMA application_id").fetchone()
        if marked != APPLICATION_ID:
            self._create(db)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was made by a later version (its tables have number {version},"
                f" this version knows {SCHEMA_VERSION}): use that version, or another file"
            )
        db.execute(f"PRAGMA synchronous = {self.synchronous}")
        db.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")
        found = os.stat(self.path)
        self._file = (found.st_dev, found.st_ino)

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        self._begin(db)
        try:
            (marked,) = db.execute("PRAGMA application_id").fetchone()
            if marked != APPLICATION_ID:
                if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    raise StoreError(
                        f"{self.path} is a database of another program; give the embedded store"
                        " a file of its own"
                    )
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute("COMMIT")
        except BaseException:
            self._roll_back(db)
            raise

    def _begin(self, db: sqlite3.Connection) -> None:
        self._patiently(lambda: db.execute("BEGIN IMMEDIATE"))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Make a call again while another process has the lock that it needs.

        SQLite can wait by itself, but its pauses are too long for writes as short as ours.
        """
        end = 0.0
        pause, longest = PAUSE_S
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise self._error(error) from error
                now = time.monotonic()
                end = end or now + self.timeout_s
                if now >= end:
                    raise self._error(error) from error
            time.sleep(pause * random.random())  # spreads writers, no secret
            pause = min(pause * 2, longest)

    @staticmethod
    def _roll_back(db: sqlite3.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")

    def _error(self, error: Exception) -> Exception:
        if isinstance(error, StoreError):
            return error
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return StoreError(f"{self.path}: {EXPLANATIONS.get(code, error)}{self._hint(code)}")

    def _hint(self, code: int) -> str:
        return f" for {self.timeout_s:g} s" if code == sqlite3.SQLITE_BUSY else ""


EXPLANATIONS = {
    sqlite3.SQLITE_BUSY: "another process has kept the embedded store locked",
    sqlite3.SQLITE_FULL: "the disk is full, so nothing can be written to the embedded store",
    sqlite3.SQLITE_READONLY: "the embedded store is read-only; give this user the right to write"
    " to the file and to its directory",
    sqlite3.SQLITE_CANTOPEN: "the embedded store cannot be opened; check that its directory exists"
    " and may be written to",
    sqlite3.SQLITE_NOTADB: "this is not a database; give the embedded store a file of its own",
    sqlite3.SQLITE_CORRUPT: "the embedded store is damaged; move it away, or recover it with the"
    " sqlite3 program (.recover)",
}
