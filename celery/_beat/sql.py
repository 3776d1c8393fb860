"""The statements of stores in SQL databases; how they are run is the business of subclasses."""

from __future__ import annotations

import json
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from celery._beat.store import Contents, Fenced, Lease, Run, Store, least_tick

__all__ = ("SCHEMA", "Execute", "SQLStore")

#: Every row belongs to one store.  Moments are texts in ISO 8601; fields and notes are JSON.
SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS celery_beat_store (
        store VARCHAR(100) NOT NULL PRIMARY KEY,
        id VARCHAR(40) NOT NULL,
        fence BIGINT NOT NULL,
        owner VARCHAR(200) NOT NULL,
        beats BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        ticks BIGINT NOT NULL,
        notes TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS celery_beat_run (
        store VARCHAR(100) NOT NULL,
        name VARCHAR(500) NOT NULL,
        last_run_at VARCHAR(40) NOT NULL,
        total_run_count BIGINT NOT NULL,
        tick BIGINT,
        PRIMARY KEY (store, name)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS celery_beat_definition (
        store VARCHAR(100) NOT NULL,
        name VARCHAR(500) NOT NULL,
        fields TEXT NOT NULL,
        PRIMARY KEY (store, name)
    )
    """,
)

_FIND = "SELECT id FROM celery_beat_store WHERE store = :store"
_MAKE = """
INSERT INTO celery_beat_store (store, id, fence, owner, beats, revision, ticks, notes)
VALUES (:store, :id, 0, '', 0, 0, 0, '{}')
"""
_LEASE = "SELECT fence, owner, beats, revision FROM celery_beat_store WHERE store = :store"
_TAKE = """
UPDATE celery_beat_store SET fence = fence + 1, owner = :owner, beats = beats + 1
WHERE store = :store AND fence = :fence AND owner = :seen AND beats = :beats
"""
# Whoever writes as the sender begins with this.  It locks the row until the end of the
# transaction, so a successor either waits, or has come before and is found out here.
_LOCK = """
UPDATE celery_beat_store
SET beats = beats + 1, ticks = CASE WHEN ticks + :ticks > :now THEN ticks + :ticks ELSE :now END
WHERE store = :store AND fence = :fence AND owner <> ''
"""
_TICKS = "SELECT ticks FROM celery_beat_store WHERE store = :store"
_RELEASE = """
UPDATE celery_beat_store SET owner = '' WHERE store = :store AND fence = :fence
"""
_CONTENTS = "SELECT id, notes FROM celery_beat_store WHERE store = :store"
_NOTE = "UPDATE celery_beat_store SET notes = :notes WHERE store = :store"
_REVISE = "UPDATE celery_beat_store SET revision = revision + 1 WHERE store = :store"

_RUNS = """
SELECT name, last_run_at, total_run_count, tick FROM celery_beat_run WHERE store = :store
"""
_ADD_RUN = """
INSERT INTO celery_beat_run (store, name, last_run_at, total_run_count, tick)
VALUES (:store, :name, :at, :count, :tick)
"""
_SET_RUN = """
UPDATE celery_beat_run SET last_run_at = :at, total_run_count = :count, tick = :tick
WHERE store = :store AND name = :name
"""
_SETTLE = """
UPDATE celery_beat_run SET tick = NULL WHERE store = :store AND tick BETWEEN :first AND :last
"""
_FORGET_RUN = "DELETE FROM celery_beat_run WHERE store = :store AND name = :name"

_DEFINITIONS = "SELECT name, fields FROM celery_beat_definition WHERE store = :store"
_SET_DEFINITION = """
UPDATE celery_beat_definition SET fields = :fields WHERE store = :store AND name = :name
"""
_ADD_DEFINITION = """
INSERT INTO celery_beat_definition (store, name, fields) VALUES (:store, :name, :fields)
"""
_REMOVE_DEFINITION = "DELETE FROM celery_beat_definition WHERE store = :store AND name = :name"


class Execute(Protocol):
    """Runs one statement with named parameters inside a transaction."""

    def __call__(self, statement: str, **values: Any) -> tuple[int, Sequence[Sequence[Any]]]:
        """Return how many rows were changed, and those that were read."""


class SQLStore(Store):
    """
    A store in tables.

    Args:
        name: Of this store among those in the same tables.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Execute]:
        """Run statements together: all of them, or none after an error."""

    def make_tables(self) -> None:
        """Make what is missing."""
        with self.transaction() as execute:
            for statement in SCHEMA:
                execute(statement)
        with self.transaction() as execute:
            if not execute(_FIND, store=self.name)[1]:
                execute(_MAKE, store=self.name, id=str(uuid.uuid4()))

    def lease(self) -> Lease:
        """Return who sends."""
        with self.transaction() as execute:
            _, [row] = execute(_LEASE, store=self.name)
        return Lease(*row)

    def take(self, seen: Lease, owner: str) -> int | None:
        """Make *owner* the sender if nothing has changed since *seen*; return its fence."""
        with self.transaction() as execute:
            taken, _ = execute(
                _TAKE,
                store=self.name,
                owner=owner,
                fence=seen.fence,
                seen=seen.owner,
                beats=seen.beats,
            )
        return seen.fence + 1 if taken else None

    def renew(self, fence: int) -> int:
        """Say that the sender lives; return the revision."""
        with self.transaction() as execute:
            self._lock(execute, fence)
            _, [row] = execute(_LEASE, store=self.name)
        return Lease(*row).revision

    def release(self, fence: int) -> None:
        """Stop being the sender."""
        with self.transaction() as execute:
            execute(_RELEASE, store=self.name, fence=fence)

    def load(self) -> Contents:
        """Read everything."""
        with self.transaction() as execute:
            _, [(store_id, notes)] = execute(_CONTENTS, store=self.name)
            _, runs = execute(_RUNS, store=self.name)
            _, definitions = execute(_DEFINITIONS, store=self.name)
        return Contents(
            store_id,
            {name: Run(datetime.fromisoformat(at), count, tick) for name, at, count, tick in runs},
            {name: json.loads(fields) for name, fields in definitions},
            json.loads(notes),
        )

    def claim(self, fence: int, runs: Mapping[str, Run], sent: Mapping[str, int]) -> int:
        """Note runs, with messages that may be unsent from now on; return the first tick."""
        with self.transaction() as execute:
            self._lock(execute, fence, len(runs))
            _, [(last,)] = execute(_TICKS, store=self.name)
            self._settle(execute, sent)
            first: int = last - len(runs) + 1
            for tick, (name, run) in enumerate(runs.items(), first):
                self._write_run(execute, name, run, tick)
        return first

    def settle(self, fence: int, sent: Mapping[str, int]) -> None:
        """Note that ticks have been sent."""
        with self.transaction() as execute:
            self._lock(execute, fence)
            self._settle(execute, sent)

    def save(
        self, fence: int, runs: Mapping[str, Run], gone: set[str], notes: Mapping[str, Any]
    ) -> None:
        """Write *runs* as they are, forget those that are *gone*, and write *notes*."""
        with self.transaction() as execute:
            self._lock(execute, fence)
            for name in gone:
                execute(_FORGET_RUN, store=self.name, name=name)
            for name, run in runs.items():
                self._write_run(execute, name, run, run.tick)
            execute(_NOTE, store=self.name, notes=json.dumps(notes))

    def put(self, name: str, definition: Mapping[str, Any]) -> None:
        """Define an entry at run time."""
        values = {"store": self.name, "name": name, "fields": json.dumps(definition)}
        with self.transaction() as execute:
            # First, for it locks the row that all writers have in common.
            execute(_REVISE, store=self.name)
            if not execute(_SET_DEFINITION, **values)[0]:
                execute(_ADD_DEFINITION, **values)

    def remove(self, name: str) -> bool:
        """Forget what was defined at run time."""
        with self.transaction() as execute:
            execute(_REVISE, store=self.name)
            removed, _ = execute(_REMOVE_DEFINITION, store=self.name, name=name)
        return bool(removed)

    def _lock(self, execute: Execute, fence: int, ticks: int = 0) -> None:
        changed, _ = execute(_LOCK, store=self.name, fence=fence, ticks=ticks, now=least_tick())
        if not changed:
            raise Fenced(f"fence {fence} of {self.info} is over")

    def _write_run(self, execute: Execute, name: str, run: Run, tick: int | None) -> None:
        values = {
            "store": self.name,
            "name": name,
            "at": run.at.isoformat(),
            "count": run.count,
            "tick": tick,
        }
        if not execute(_SET_RUN, **values)[0]:
            execute(_ADD_RUN, **values)

    def _settle(self, execute: Execute, sent: Mapping[str, int]) -> None:
        # A tick has its number alone, and those of one claim follow each other.
        for first, last in _ranges(sorted(sent.values())):
            execute(_SETTLE, store=self.name, first=first, last=last)


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of numbers, in order, that follow each other."""
    start = 0
    for place, number in enumerate(numbers):
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            yield numbers[start], number
            start = place + 1
