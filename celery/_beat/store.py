"""
What beat remembers between two lives: the port, and the records that cross it.

A store holds the last run of each entry, the entries that were added or changed at run time, and a
*lease* that says which of the processes with this store sends.  Every change by the sender names
the *fence*, a number that grows with each new sender: one that was replaced without noticing it
can't write any more.

A tick, one sending of one entry, is *claimed* before its message is published: in one transaction
its entry is noted as run, and the tick as possibly unsent.  The note goes with the next claim, or
with `Store.settle`.  Whoever takes over sends again what is still noted, under the same task id.
Why it is so: ``docs/internals/decisions/0006-beat-store.rst``.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import symbol_by_name

__all__ = (
    "OWNERS_HERE",
    "Contents",
    "Fenced",
    "Lease",
    "Run",
    "Store",
    "StoreError",
    "least_tick",
    "open_store",
)

#: Where the store of a URL scheme is; ``db+`` is left out before.
STORES: dict[str, str] = {
    "redis": "celery._beat.redis:RedisStore",
    "rediss": "celery._beat.redis:RedisStore",
    "unix": "celery._beat.redis:RedisStore",
    "mysql": "celery._beat.database:DatabaseStore",
    "mariadb": "celery._beat.database:DatabaseStore",
    "oracle": "celery._beat.database:DatabaseStore",
    "postgresql": "celery._beat.database:DatabaseStore",
    "sqlite": "celery._beat.database:DatabaseStore",
}

#: Senders of this process, and candidates.
OWNERS_HERE: set[str] = set()

_FILE_STORE = "celery._beat.file:FileStore"


class StoreError(Exception):
    """The store of beat can't be reached, or refuses."""


class Fenced(Exception):
    """Another process sends now."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who sends."""

    #: Grows with each new sender.
    fence: int
    #: Empty when nobody does.
    owner: str
    #: Grows while the owner lives.
    beats: int
    #: Grows with each change of entries at run time.
    revision: int


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of an entry."""

    at: datetime
    count: int
    #: Number of the tick, while its message may not have been sent.
    tick: int | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a store holds, besides the lease."""

    #: Of this store, made with it.
    store_id: str
    runs: dict[str, Run] = field(default_factory=dict)
    #: What was added or changed at run time: name to fields, see `celery._beat.definition`.
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Versions and settings under which it was written.
    notes: dict[str, Any] = field(default_factory=dict)


class Store(ABC):
    """One place that beat remembers in.

    Every method may raise `StoreError`; those with a fence raise `Fenced`.
    """

    #: Seconds of silence after which the sender counts as dead.
    lease_s: ClassVar[float] = 3.0
    #: Seconds between two looks at the lease.
    look_s: ClassVar[float] = 0.5
    #: Whether beats on several machines may share it.
    is_shared: ClassVar[bool] = True

    @property
    @abstractmethod
    def info(self) -> str:
        """Where it is, for people."""

    @abstractmethod
    def open(self) -> None:
        """Make ready what is missing; harmless twice."""

    @abstractmethod
    def close(self) -> None:
        """Give connections back; harmless twice."""

    @abstractmethod
    def lease(self) -> Lease:
        """Return who sends."""

    @abstractmethod
    def take(self, seen: Lease, owner: str) -> int | None:
        """Make *owner* the sender if nothing has changed since *seen*; return its fence."""

    @abstractmethod
    def renew(self, fence: int) -> int:
        """Say that the sender lives; return the revision."""

    @abstractmethod
    def release(self, fence: int) -> None:
        """Stop being the sender; harmless if that is over."""

    @abstractmethod
    def load(self) -> Contents:
        """Read everything."""

    @abstractmethod
    def claim(self, fence: int, runs: Mapping[str, Run], sent: Mapping[str, int]) -> int:
        """
        Note runs, with messages that may be unsent from now on.

        Args:
            fence: Of the sender.
            runs: By name of the entry; their `Run.tick` is not looked at.
            sent: Ticks by entry that have been sent.

        Returns:
            The tick of the first; the others follow in order.  Ticks of a store only grow.
        """

    @abstractmethod
    def settle(self, fence: int, sent: Mapping[str, int]) -> None:
        """Note that ticks have been sent."""

    @abstractmethod
    def save(
        self, fence: int, runs: Mapping[str, Run], gone: set[str], notes: Mapping[str, Any]
    ) -> None:
        """Write *runs* as they are, forget those that are *gone*, and write *notes*."""

    @abstractmethod
    def put(self, name: str, definition: Mapping[str, Any]) -> None:
        """Define an entry at run time; needs no fence."""

    @abstractmethod
    def remove(self, name: str) -> bool:
        """Forget what was defined at run time; say whether there was something."""

    def is_gone(self, owner: str) -> bool:
        """Say whether the process *owner* certainly has ended."""
        return False


def least_tick() -> int:
    """
    Return a number that ticks from now on have at least: the time in microseconds.

    A counter alone would go back with a server that loses its last writes or is restored from a
    copy, and brokers that have seen larger numbers would drop messages.
    """
    return int(time.time() * 1_000_000)


def open_store(where: str, name: str = "celery-beat") -> Store:
    """
    Return the store at a URL or a path of a file; it is not opened yet.

    Args:
        where: ``redis://…``, a URL of SQLAlchemy with or without ``db+`` before it, or a path.
        name: Keeps apart what several apps keep in one database.
    """
    scheme, separator, _ = where.partition("://")
    if not separator:
        return _made(_FILE_STORE, where)
    dialect = scheme.removeprefix("db+").partition("+")[0]
    if dialect not in STORES:
        raise ImproperlyConfigured(
            f"beat can't keep its schedule in {scheme}://; it can in: {', '.join(sorted(STORES))}"
        )
    return _made(STORES[dialect], where.removeprefix("db+"), name)


def _made(path: str, *args: Any) -> Store:
    store: Store = symbol_by_name(path)(*args)
    return store
