"""Chords: is the header complete, did it fail, and what the body is called with.

The decisions are pure and work for every store; running the body and telling it about a failure
comes last. Stores differ only in how they count: `BaseKeyValueStoreBackend` with a counter,
`RedisBackend` with a script, all others by polling (the task ``celery.chord_unlock``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    return blame(part.task_id, restore(part.result))


def blame(task_id: str, error: Any, what: str = "raised") -> ChordError:
    """Return the error of a body for which the header task *task_id* is to blame."""
    if isinstance(error, ChordError) and str(error).startswith(f"Dependency {task_id} "):
        # It is about this task, which has ended without a value, and says so already.
        return error
    return ChordError(f"Dependency {task_id} {what} {error!r}")


def header_error(header: Any, exc: BaseException, what: str = "raised") -> ChordError:
    """Return the error of a body whose header could not be read because of *exc*."""
    culprit = next(header._failed_join_report(), None)
    return ChordError(repr(exc)) if culprit is None else blame(culprit.id, exc, what)


def body_argument(parts: Sequence[Part]) -> list[Any]:
    """Return the list that the body is called with."""
    return [part.result for part in parts]


# -- Headers that grow while they run, in stores that can't count additions. Each task notes its own
# additions under an id that follows from its own, so that no two write to the same place.


def growth_id(group_id: str, task_id: str = "") -> str:
    """Return the id under which the additions of a header task are saved, as a group.

    With no task: the id under which it is saved that the header has grown at all.
    """
    from uuid import NAMESPACE_OID, uuid5  # when a part has to be named

    return str(uuid5(NAMESPACE_OID, f"{group_id}/{task_id}"))


def grown(members: Iterable[Any], additions: Mapping[str, Iterable[Any]]) -> Iterator[Any]:
    """Yield the results of a header, those that each task has added behind its own."""
    for member in members:
        yield member
        yield from grown(additions.get(member.id, ()), additions)
