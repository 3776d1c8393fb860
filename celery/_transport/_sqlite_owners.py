"""Owners of claimed messages: who lives, and what becomes of what the dead held.

Each consuming transport is an owner, and has a thread that says so in the store. Whoever says
nothing for longer than the lease is dead, unless its process can be seen to exist; a process
that can be seen to be gone is dead at once. The same thread forgets queues and messages whose
time is over, and gives free space back to the file system.
"""

from __future__ import annotations

import logging
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from celery._embedded.store import Store, StoreError
from celery._transport import _sqlite_queues as queues
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery._transport.sqlite import Transport

__all__ = (
    "BEAT_S",
    "LEASE_S",
    "Keeper",
    "Owner",
    "is_alive",
    "join",
    "leave",
    "restore_dead",
    "this_process",
)

logger = get_logger(__name__)

#: Seconds of silence after which an owner counts as dead whose process cannot be seen.
LEASE_S = 12.0
#: Seconds between looks at the others.
BEAT_S = 2.0
#: Messages and results that are forgotten in one transaction, and such transactions in one turn:
#: together more than others can store between two turns.
CHUNK = 1000
MOST_CHUNKS = 50
#: Free pages from which on some are given back, and how many at a time.
SPARE_PAGES = 2000
PAGES_AT_ONCE = 500


class Owner(NamedTuple):
    """A process that claims messages."""

    #: Names the machine since it was started, and the space in which its process ids count.
    host: str
    pid: int
    #: When the process began, in a form that only equality is good for; empty if unknown.
    started: str
    #: On the clock `time.monotonic`, which all processes of a machine share.
    lives_until: float = 0.0


def this_process() -> Owner:
    """Return what tells this process from all others."""
    return Owner(_host(), os.getpid(), _started(os.getpid()))


def is_alive(
    owner: Owner, host: str, now: float, started: Callable[[int], str | None] | None = None
) -> bool:
    """Say whether *owner* lives.

    Args:
        owner: What the store knows of it.
        host: Of the process that asks.
        now: On the clock `time.monotonic`.
        started: Returns when a process began: None if there is none, empty if unknown.
    """
    if owner.host != host:
        # Another container: its clock is ours, its processes are not to be seen. After a new
        # start of the machine the clock begins anew, so what it says may lie far ahead.
        return now < owner.lives_until < now + 1000 * LEASE_S
    begun = (started or _begin_of)(owner.pid)
    if begun is None:
        return False
    if begun and owner.started:
        return begun == owner.started
    return now < owner.lives_until


def _begin_of(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        # It exists, and is somebody else's.
        pass
    return _started(pid)


def _started(pid: int) -> str:
    with suppress(OSError, IndexError):
        # The name of the process, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] in "ZX":
            return "ended"
        return fields[19]
    return ""


def _host() -> str:
    parts = [platform.node()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            path = Path(name)
            parts.append(os.readlink(path) if path.is_symlink() else path.read_text().strip())
    return " ".join(parts)


def join(db: sqlite3.Connection, lease_s: float) -> int:
    """Register this process; returns the number it has as an owner."""
    owner = this_process()._replace(lives_until=time.monotonic() + lease_s)
    cursor = db.execute(
        "INSERT INTO owners (host, pid, started, lives_until) VALUES (?, ?, ?, ?)", owner
    )
    number = cursor.lastrowid
    assert number is not None
    return number


def leave(db: sqlite3.Connection, number: int) -> int:
    """Give back all that an owner holds, and forget it; returns how many messages it held."""
    ids = [row[0] for row in db.execute("SELECT id FROM claimed WHERE owner = ?", (number,))]
    count = queues.give_back(db, number, ids)
    consumed = db.execute(
        "DELETE FROM consumers WHERE owner = ? RETURNING queue", (number,)
    ).fetchall()
    for (queue,) in consumed:
        drop_unused(db, queue)
    db.execute("DELETE FROM owners WHERE id = ?", (number,))
    return count


def drop_unused(db: sqlite3.Connection, queue: str) -> None:
    """Delete a queue that is to go with its last consumer, if it was the last."""
    known = db.execute(
        "SELECT 1 FROM queues WHERE name = ?1 AND auto_delete"
        " AND NOT EXISTS (SELECT 1 FROM consumers WHERE queue = ?1)",
        (queue,),
    ).fetchone()
    if known:
        queues.delete_queue(db, queue)


def restore_dead(db: sqlite3.Connection) -> list[tuple[Owner, int]]:
    """Give back what dead owners held; returns them, and how many messages each had."""
    host, now = _host(), time.monotonic()
    found: list[tuple[Owner, int]] = []
    for number, *rest in db.execute(
        "SELECT id, host, pid, started, lives_until FROM owners"
    ).fetchall():
        owner = Owner(*rest)
        if not is_alive(owner, host, now):
            found.append((owner, leave(db, number)))
    return found


class Keeper:
    """Keeps an owner alive, and the store in order, from a thread of its own.

    Args:
        store: A connection that nobody else uses.
        number: Of the owner.
        transport: The `celery._transport.sqlite.Transport` that is the owner.
    """

    def __init__(self, store: Store, number: int, lease_s: float, transport: Transport) -> None:
        self.store = store
        self.number = number
        self.lease_s = lease_s
        self.transport = transport
        #: Set once others have taken this owner for dead.
        self.has_ended = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sqlite-keeper", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join(self.lease_s)

    def _run(self) -> None:
        beat_s = min(BEAT_S, self.lease_s / 4)
        while not self._stop.wait(beat_s):
            try:
                self.turn()
            except StoreError as exc:
                # The consumer will notice too, and say more.
                logger.debug("while keeping the embedded store: %s", exc)
            except Exception:
                logger.exception("Error while keeping the embedded store")
        self.store.close()

    def turn(self) -> None:
        """Say that the owner lives, and do what is due."""
        if self.transport._hub is None:
            self.transport.settle()
        with self.store as db:
            if not db.execute(
                "UPDATE owners SET lives_until = ? WHERE id = ?",
                (time.monotonic() + self.lease_s, self.number),
            ).rowcount:
                self.has_ended = True
                return
            dead = restore_dead(db)
            _forget_queues(db, time.time())
            forgotten = _forget_expired(db, time.time())
            _give_pages_back(db)
        for _ in range(MOST_CHUNKS):
            if forgotten < CHUNK:
                break
            # One by one, so that others can write in between.
            with self.store as db:
                forgotten = _forget_expired(db, time.time())
        report(dead)
        if dead:
            self.transport.bell.ring()


def report(dead: Iterable[tuple[Owner, int]]) -> None:
    """Log what was given back."""
    for owner, count in dead:
        level = logging.WARNING if count else logging.DEBUG
        text = "Gave back %s message(s) of a consumer that is gone (process %s)"
        logger.log(level, text, count, owner.pid)


def _forget_queues(db: sqlite3.Connection, now: float) -> None:
    """Forget the queues that nobody has used for as long as they were to be kept."""
    db.execute(
        "UPDATE queues SET used_at = ? WHERE expires_s IS NOT NULL"
        " AND EXISTS (SELECT 1 FROM consumers WHERE queue = name)",
        (now,),
    )
    unused = db.execute("SELECT name FROM queues WHERE used_at + expires_s < ?", (now,)).fetchall()
    for (queue,) in unused:
        queues.delete_queue(db, queue)


def _forget_expired(db: sqlite3.Connection, now: float) -> int:
    """Forget some of what has expired; returns the larger of the numbers of either kind."""
    messages = queues.drop_expired(db, now, CHUNK)
    results = db.execute(
        "DELETE FROM results WHERE key IN (SELECT key FROM results WHERE expires <= ? LIMIT ?)",
        (now, CHUNK),
    ).rowcount
    return max(messages, results)


def _give_pages_back(db: sqlite3.Connection) -> None:
    (spare,) = db.execute("PRAGMA freelist_count").fetchone()
    if spare > SPARE_PAGES:
        db.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
