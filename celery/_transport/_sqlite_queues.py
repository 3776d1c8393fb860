"""Queues in an embedded store: what a transport does there, as statements.

A message is in `messages`, and its id in exactly one of `ready`, `delayed` and `claimed`; every
function here moves ids between these within one transaction, so a process that is killed leaves
each message in one of them. Times are seconds since the epoch, except `lives_until` of an owner.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from sqlite3 import Connection
from typing import Any, NamedTuple

from kombu.utils.json import JSONEncoder

__all__ = (
    "Claimed",
    "Content",
    "claim",
    "delete_queue",
    "drop_expired",
    "give_back",
    "head_of",
    "next_due",
    "purge",
    "put",
    "put_last",
    "settle",
    "size",
    "timestamp",
)

#: kombu's encoder, made once.
_encode = JSONEncoder().encode


class Content(NamedTuple):
    """What is stored of a message."""

    #: Place in the queue: lower ones are delivered first, equal ones in the order of arrival.
    rank: int
    #: JSON of everything but the body.
    head: str
    body: str | bytes
    #: When it may be forgotten, None for never.
    expires: float | None = None
    #: Not before this time, None for at once.
    due: float | None = None


class Claimed(NamedTuple):
    """What a consumer gets of a message."""

    id: int
    queue: str
    redelivered: bool
    head: str
    body: str | bytes


def head_of(message: dict[str, Any]) -> str:
    """Return the text in which everything but the body of a message is stored."""
    return _encode({**message, "body": None})


def timestamp(eta: Any) -> float | None:
    """Return the time that the header ``eta`` of a task message names, None for none."""
    if not isinstance(eta, str):
        return None
    try:
        moment = datetime.fromisoformat(eta)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def put(db: Connection, queue: str, content: Content, now: float) -> None:
    """Add a message to *queue*."""
    rank, head, body, expires, due = content
    known = db.execute("SELECT message_ttl_s FROM queues WHERE name = ?", (queue,)).fetchone()
    if known is not None and known[0] is not None:
        end = now + known[0]
        expires = end if expires is None else min(expires, end)
    cursor = db.execute(
        "INSERT INTO messages (queue, rank, expires, head, body) VALUES (?, ?, ?, ?, ?)",
        (queue, rank, expires, head, body),
    )
    number = cursor.lastrowid
    if due is None or due <= now:
        db.execute("INSERT INTO ready VALUES (?, ?, ?, 0)", (queue, rank, number))
    else:
        db.execute("INSERT INTO delayed VALUES (?, ?, ?)", (queue, due, number))


CLAIM = """
SELECT ready.rank, ready.id, redelivered, expires, head, body
FROM ready JOIN messages ON messages.id = ready.id
WHERE ready.queue = ? ORDER BY ready.rank, ready.id LIMIT ?
"""


def claim(
    db: Connection, owner: int, queues: Sequence[str], most: int, now: float
) -> list[Claimed]:
    """Take up to *most* messages, from the first of *queues* while it has any, and so on."""
    found: list[Claimed] = []
    for queue in queues:
        _promote(db, queue, now)
        while len(found) < most:
            rows = db.execute(CLAIM, (queue, most - len(found))).fetchall()
            if not rows:
                break
            last = rows[-1]
            db.execute(
                "DELETE FROM ready WHERE queue = ? AND (rank, id) <= (?, ?)",
                (queue, last[0], last[1]),
            )
            live = [row for row in rows if row[3] is None or row[3] > now]
            if len(live) < len(rows):
                _delete(db, [row[1] for row in rows if row[3] is not None and row[3] <= now])
            db.executemany("INSERT INTO claimed VALUES (?, ?)", [(owner, row[1]) for row in live])
            found += [Claimed(row[1], queue, bool(row[2]), row[4], row[5]) for row in live]
    return found


def _promote(db: Connection, queue: str, now: float) -> None:
    """Make messages ready whose time has come."""
    due = db.execute("SELECT id FROM delayed WHERE queue = ? AND due <= ?", (queue, now)).fetchall()
    if due:
        db.execute("DELETE FROM delayed WHERE queue = ? AND due <= ?", (queue, now))
        db.executemany(
            "INSERT INTO ready SELECT queue, rank, id, 0 FROM messages WHERE id = ?", due
        )


def settle(db: Connection, owner: int, ids: Iterable[int]) -> list[int]:
    """Delete messages that *owner* has claimed and is done with; returns those it still had."""
    held = _let_go(db, owner, ids)
    _delete(db, held)
    return held


def give_back(db: Connection, owner: int, ids: Iterable[int]) -> int:
    """Put claimed messages back to where they were in their queues; returns how many."""
    held = _let_go(db, owner, ids)
    db.executemany(
        "INSERT INTO ready SELECT queue, rank, id, 1 FROM messages WHERE id = ?",
        [(number,) for number in held],
    )
    return len(held)


def put_last(db: Connection, owner: int, ids: Iterable[int]) -> int:
    """Put claimed messages behind all others of their rank; returns how many."""
    held = _let_go(db, owner, ids)
    for number in held:
        cursor = db.execute(
            "INSERT INTO messages (queue, rank, expires, head, body)"
            " SELECT queue, rank, expires, head, body FROM messages WHERE id = ?",
            (number,),
        )
        db.execute(
            "INSERT INTO ready SELECT queue, rank, id, 1 FROM messages WHERE id = ?",
            (cursor.lastrowid,),
        )
    _delete(db, held)
    return len(held)


def _let_go(db: Connection, owner: int, ids: Iterable[int]) -> list[int]:
    rows = db.execute(
        "DELETE FROM claimed WHERE owner = ? AND id IN (SELECT value FROM json_each(?))"
        " RETURNING id",
        (owner, json.dumps(list(ids))),
    ).fetchall()
    return [number for (number,) in rows]


def _delete(db: Connection, ids: Iterable[int]) -> None:
    db.execute(
        "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )


def next_due(db: Connection, queues: Sequence[str]) -> float | None:
    """Return when the next delayed message of *queues* is due, None if there is none."""
    times = [
        db.execute("SELECT min(due) FROM delayed WHERE queue = ?", (queue,)).fetchone()[0]
        for queue in queues
    ]
    return min((due for due in times if due is not None), default=None)


def size(db: Connection, queue: str) -> int:
    """Return how many messages of *queue* wait, those that are not due yet included."""
    (count,) = db.execute(
        "SELECT (SELECT count(*) FROM ready WHERE queue = ?1)"
        " + (SELECT count(*) FROM delayed WHERE queue = ?1)",
        (queue,),
    ).fetchone()
    return int(count)


def purge(db: Connection, queue: str) -> int:
    """Delete what waits in *queue*; returns how many messages that were."""
    count = 0
    for table in ("ready", "delayed"):
        ids = db.execute(f"DELETE FROM {table} WHERE queue = ? RETURNING id", (queue,)).fetchall()
        _delete(db, [number for (number,) in ids])
        count += len(ids)
    return count


def delete_queue(db: Connection, queue: str) -> None:
    """Delete *queue*, its bindings, and what waits in it."""
    purge(db, queue)
    for statement in (
        "DELETE FROM bindings WHERE queue = ?",
        "DELETE FROM consumers WHERE queue = ?",
        "DELETE FROM queues WHERE name = ?",
    ):
        db.execute(statement, (queue,))


def drop_expired(db: Connection, now: float, most: int) -> int:
    """Delete waiting messages whose time is over, at most so many; returns how many."""
    rows = db.execute(
        "SELECT queue, rank, id FROM messages"
        " WHERE expires <= ? AND id NOT IN (SELECT id FROM claimed) LIMIT ?",
        (now, most),
    ).fetchall()
    db.executemany("DELETE FROM ready WHERE queue = ? AND rank = ? AND id = ?", rows)
    for queue, _, number in rows:
        db.execute("DELETE FROM delayed WHERE queue = ? AND id = ?", (queue, number))
    _delete(db, [number for _, _, number in rows])
    return len(rows)
