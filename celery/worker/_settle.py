"""Decide what the broker is told about a message, and what is stored, once a task ended.

Pure: `settle` maps how a task ended and what its options say to a `Settlement`. The
request acts on the answer, once; see ``on_failure`` there. The table of all cases is in
its test and in the user guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from celery.exceptions import Ignore, Reject


class End(Enum):
    """How the life of a request in the pool ended."""

    SUCCEEDED = auto()
    #: The body raised; a soft time limit that nobody caught belongs here.
    FAILED = auto()
    RETRIED = auto()
    IGNORED = auto()
    REJECTED = auto()
    #: The body raised ``Reject(requeue=True)``.
    REJECTED_TO_REQUEUE = auto()
    #: The pool ended the process because of the hard time limit.
    TIMED_OUT = auto()
    #: The process died, by a signal or by its own exit.
    WORKER_LOST = auto()
    #: The process was ended by ``revoke(terminate=True)``.
    TERMINATED = auto()
    #: Never ran: revoked or expired before.
    DISCARDED = auto()
    #: Ended by this worker on its way down, or because the connection was lost.
    CANCELLED = auto()


def classify(exc: BaseException) -> End:
    """Say how a task ended that the pool reports as failed by *exc*, which is no retry."""
    if isinstance(exc, Ignore):
        return End.IGNORED
    if isinstance(exc, Reject):
        return End.REJECTED_TO_REQUEUE if exc.requeue else End.REJECTED
    if isinstance(exc, WorkerLostError):
        return End.WORKER_LOST
    if isinstance(exc, TimeLimitExceeded) and not isinstance(exc, SoftTimeLimitExceeded):
        return End.TIMED_OUT
    return End.FAILED


class Settlement(Enum):
    """What the broker is told."""

    ACK = auto()
    REJECT = auto()
    #: Have it delivered again; the task may then run more than once.
    REQUEUE = auto()
    #: Nothing: whoever closes the connection gives the message back.
    KEEP = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class AckPolicy:
    """What a task's options say about acknowledging.

    ``on_failure`` and ``on_timeout`` are the options resolved: a value of None has been
    replaced by ``acks_on_failure_or_timeout``.
    """

    late: bool
    on_failure: bool = True
    on_timeout: bool = True
    requeue_on_worker_lost: bool = False


def resolve(
    *,
    late: bool | None,
    on_failure_or_timeout: bool | None,
    on_failure: bool | None,
    on_timeout: bool | None,
    reject_on_worker_lost: bool | None,
) -> AckPolicy:
    """Make a policy of a task's attributes, any of which may be None for "not said"."""
    common = True if on_failure_or_timeout is None else bool(on_failure_or_timeout)
    return AckPolicy(
        late=bool(late),
        on_failure=common if on_failure is None else bool(on_failure),
        on_timeout=common if on_timeout is None else bool(on_timeout),
        requeue_on_worker_lost=bool(reject_on_worker_lost),
    )


def settle(end: End, policy: AckPolicy) -> Settlement:
    """Say what the broker is told when a task ended this way.

    An early acknowledged message was settled when the pool accepted it; for those only
    a discarded one still needs an answer, and asking again is harmless.
    """
    match end:
        case End.DISCARDED:
            return Settlement.ACK
        case _ if not policy.late:
            return Settlement.ACK
        case End.SUCCEEDED | End.RETRIED | End.IGNORED | End.TERMINATED:
            return Settlement.ACK
        case End.REJECTED:
            return Settlement.REJECT
        case End.REJECTED_TO_REQUEUE:
            return Settlement.REQUEUE
        case End.FAILED:
            return Settlement.ACK if policy.on_failure else Settlement.REJECT
        case End.TIMED_OUT:
            return Settlement.ACK if policy.on_timeout else Settlement.REQUEUE
        case End.WORKER_LOST:
            if policy.requeue_on_worker_lost:
                return Settlement.REQUEUE
            return Settlement.ACK if policy.on_failure else Settlement.REJECT
        case End.CANCELLED:
            return Settlement.KEEP


def stores_failure(end: End, settlement: Settlement, *, traced: bool = True) -> bool:
    """Say whether the main process stores ``FAILURE``; the child has stored the rest.

    *traced* is whether the tracer has seen the end. It has not when the pool itself failed
    the task: for a ``KeyboardInterrupt``, or for arguments that do not pickle.

    A task that will be delivered again after a lost process, or because it asked for that,
    has not failed yet. One that hit its hard limit has, even when it runs again.
    """
    match end:
        case End.TIMED_OUT | End.REJECTED:
            return True
        case End.WORKER_LOST:
            return settlement is not Settlement.REQUEUE
        case End.FAILED:
            return not traced
        case _:
            return False
