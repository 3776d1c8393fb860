"""Say what the end of a task body means, before anything is done about it.

The tracer calls `classify` with what the body raised; everything that follows
(what is stored, logged, signalled, acknowledged) hangs on the `Outcome`. The log
policies say how each kind of end appears in the log.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import NamedTuple

from celery import states
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry

#: What the log says of each end; monitoring and users may replace these (B-EXT-006).
LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"


class log_policy_t(NamedTuple):
    """How one kind of end is logged; ``mail`` is kept for compatibility and unused."""

    format: str
    description: str
    severity: int
    traceback: int
    mail: int


log_policy_reject = log_policy_t(LOG_REJECTED, "rejected", logging.WARNING, 1, 1)
log_policy_ignore = log_policy_t(LOG_IGNORED, "ignored", logging.INFO, 0, 0)
log_policy_internal = log_policy_t(LOG_INTERNAL_ERROR, "INTERNAL ERROR", logging.CRITICAL, 1, 1)
log_policy_expected = log_policy_t(LOG_FAILURE, "raised expected", logging.INFO, 0, 0)
log_policy_unexpected = log_policy_t(LOG_FAILURE, "raised unexpected", logging.ERROR, 1, 1)


class Outcome(Enum):
    """How a task body ended; the value is the state that signals and hooks are told."""

    SUCCESS = states.SUCCESS
    FAILURE = states.FAILURE
    RETRY = states.RETRY
    IGNORED = states.IGNORED
    REJECTED = states.REJECTED


def classify(exc: BaseException) -> Outcome:
    """Say what *exc*, raised by a task body, means for the task."""
    if isinstance(exc, Retry):
        return Outcome.RETRY
    if isinstance(exc, Ignore):
        return Outcome.IGNORED
    if isinstance(exc, Reject):
        return Outcome.REJECTED
    return Outcome.FAILURE


def failure_policy(
    exc: BaseException, throws: tuple[type[BaseException], ...], *, internal: bool = False
) -> log_policy_t:
    """Choose how a failure is logged; *throws* lists what the task declares as expected."""
    if internal:
        if isinstance(exc, Reject):
            return log_policy_reject
        if isinstance(exc, Ignore):
            return log_policy_ignore
        return log_policy_internal
    if throws and isinstance(exc, throws):
        return log_policy_expected
    return log_policy_unexpected


def argument_error(kwargs: object) -> InvalidTaskError | None:
    """Return the error of a message whose keyword arguments can't be passed, else None."""
    if isinstance(kwargs, dict):
        return None
    return InvalidTaskError(
        f"Task keyword arguments is not a mapping (got {type(kwargs).__name__})"
    )
