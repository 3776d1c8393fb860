"""
The states of a task, the sets they form, and which of two states tells more.

Anything may be a state: tasks invent their own.  An unknown one ranks just below the states that
end a task.  Only `IGNORED` and `REJECTED` never reach a result store.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

__all__ = (
    "EXCEPTION_STATES",
    "FAILURE",
    "IGNORED",
    "PENDING",
    "PROPAGATE_STATES",
    "READY_STATES",
    "RECEIVED",
    "RETRY",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "UNREADY_STATES",
    "precedence",
    "state",
)

#: Unknown to the store: not sent yet, waiting, or its result has expired.
PENDING = "PENDING"
#: A worker has it (only seen in events).
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
#: The message was refused (only seen in events).
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"

#: The task has ended.
READY_STATES = frozenset({FAILURE, REVOKED, SUCCESS})
UNREADY_STATES = frozenset({PENDING, RECEIVED, REJECTED, RETRY, STARTED})
#: Waiting for the result raises its exception.
PROPAGATE_STATES = READY_STATES - {SUCCESS}
#: The stored result is an exception.
EXCEPTION_STATES = PROPAGATE_STATES | {RETRY}
ALL_STATES = READY_STATES | (UNREADY_STATES - {REJECTED})

#: From the most telling to the least; None stands for all states not named here.
PRECEDENCE: list[str | None] = [
    SUCCESS,
    FAILURE,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    RETRY,
    PENDING,
]
PRECEDENCE_LOOKUP: dict[str | None, int] = {name: rank for rank, name in enumerate(PRECEDENCE)}
NONE_PRECEDENCE = PRECEDENCE_LOOKUP[None]

_rank_of = PRECEDENCE_LOOKUP.get


def precedence(state: str | None) -> int:
    """Rank *state*; the lower the number, the more it tells."""
    return _rank_of(state, NONE_PRECEDENCE)


def _by_rank(holds: Callable[[int, int], bool]) -> Callable[[str, str], bool]:
    # Ranks count downwards: the state that tells more is the greater one.
    def compare(self: str, other: str) -> bool:
        return holds(precedence(other), precedence(self))

    return compare


class state(str):
    """
    A state that compares by precedence: ``state("PENDING") < state("SUCCESS")``.

    Equality and hash stay those of the string.
    """

    __slots__ = ()

    __lt__ = _by_rank(operator.lt)
    __le__ = _by_rank(operator.le)
    __gt__ = _by_rank(operator.gt)
    __ge__ = _by_rank(operator.ge)
