"""Chords: is the header complete, did it fail, and what the body is called with.

The decisions are pure and work for every store; running the body and telling it about a failure
comes last. Stores differ only in how they count: `BaseKeyValueStoreBackend` with a counter,
`RedisBackend` with a script, all others by polling (the task ``celery.chord_unlock``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from celery.exceptions import ChordError
from celery.states import EXCEPTION_STATES


class Part(NamedTuple):
    """One finished header task."""

    task_id: str
    state: str
    #: A value, or an error in its plain form.
    result: Any


class Count(enum.Enum):
    """What a back-end does after counting one more part."""

    WAIT = "wait"
    COMPLETE = "complete"
    #: More parts than the header has: a part was delivered and counted twice.
    OVERCOUNTED = "overcounted"


def judge_count(counted: int, size: int) -> Count:
    """Say whether *counted* parts make a header of *size* complete."""
    if counted < size:
        return Count.WAIT
    return Count.COMPLETE if counted == size else Count.OVERCOUNTED


def first_failure(parts: Iterable[Part]) -> Part | None:
    """Return the first part in the order given that ended with an error."""
    return next((part for part in parts if part.state in EXCEPTION_STATES), None)


def dependency_error(part: Part, restore: Callable[[Any], Any]) -> ChordError:
    """Build the error with which the body fails because of *part*."""
    return ChordError(f"Dependency {part.task_id} raised {restore(part.result)!r}")


def body_argument(parts: Sequence[Part]) -> list[Any]:
    """Return the list that the body is called with."""
    return [part.result for part in parts]
