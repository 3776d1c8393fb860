"""Every way to end, every option that matters, and what the broker is told."""

from __future__ import annotations

import pytest

from celery.worker._settle import AckPolicy, End, Settlement, resolve, settle, stores_failure

ACK, REJECT, REQUEUE, KEEP = (
    Settlement.ACK, Settlement.REJECT, Settlement.REQUEUE, Settlement.KEEP,
)  # fmt: skip

EARLY = AckPolicy(late=False)
LATE = AckPolicy(late=True)
LOST = AckPolicy(late=True, requeue_on_worker_lost=True)
NOFAIL = AckPolicy(late=True, on_failure=False)
NOTIMEOUT = AckPolicy(late=True, on_timeout=False)
NEITHER = AckPolicy(late=True, on_failure=False, on_timeout=False)

COLUMNS = (EARLY, LATE, LOST, NOFAIL, NOTIMEOUT, NEITHER)

TABLE = {
    End.SUCCEEDED: (ACK, ACK, ACK, ACK, ACK, ACK),
    End.FAILED: (ACK, ACK, ACK, REJECT, ACK, REJECT),
    End.RETRIED: (ACK, ACK, ACK, ACK, ACK, ACK),
    End.IGNORED: (ACK, ACK, ACK, ACK, ACK, ACK),
    End.REJECTED: (ACK, REJECT, REJECT, REJECT, REJECT, REJECT),
    End.REJECTED_TO_REQUEUE: (ACK, REQUEUE, REQUEUE, REQUEUE, REQUEUE, REQUEUE),
    End.TIMED_OUT: (ACK, ACK, ACK, ACK, REQUEUE, REQUEUE),
    End.WORKER_LOST: (ACK, ACK, REQUEUE, REJECT, ACK, REJECT),
    End.TERMINATED: (ACK, ACK, ACK, ACK, ACK, ACK),
    End.DISCARDED: (ACK, ACK, ACK, ACK, ACK, ACK),
    End.CANCELLED: (ACK, KEEP, KEEP, KEEP, KEEP, KEEP),
}


def test_the_table_has_every_end():
    assert set(TABLE) == set(End)


@pytest.mark.parametrize("end", End, ids=lambda end: end.name)
def test_each_end_is_settled_as_the_table_says(end):
    """B-WORK-013, B-WORK-023."""
    assert tuple(settle(end, policy) for policy in COLUMNS) == TABLE[end]


def test_a_lost_process_requeues_even_where_failures_are_rejected():
    """B-WORK-015: both options: R+ for a lost child, R- for an exception."""
    both = AckPolicy(late=True, on_failure=False, requeue_on_worker_lost=True)

    assert settle(End.WORKER_LOST, both) is REQUEUE
    assert settle(End.FAILED, both) is REJECT


@pytest.mark.parametrize(
    ("common", "failure", "timeout", "expected"),
    [
        (None, None, None, (True, True)),
        (True, None, None, (True, True)),
        (False, None, None, (False, False)),
        (False, True, None, (True, False)),
        (False, None, True, (False, True)),
        (True, False, None, (False, True)),
        (True, None, False, (True, False)),
    ],
)
def test_options_not_given_follow_the_common_one(common, failure, timeout, expected):
    """B-WORK-018: acks_on_failure and acks_on_timeout default to acks_on_failure_or_timeout."""
    policy = resolve(
        late=True,
        on_failure_or_timeout=common,
        on_failure=failure,
        on_timeout=timeout,
        reject_on_worker_lost=None,
    )

    assert (policy.on_failure, policy.on_timeout) == expected


@pytest.mark.parametrize(
    ("end", "told", "stored"),
    [
        (End.TIMED_OUT, ACK, True),
        (End.TIMED_OUT, REQUEUE, True),
        (End.WORKER_LOST, ACK, True),
        (End.WORKER_LOST, REJECT, True),
        (End.WORKER_LOST, REQUEUE, False),
        (End.REJECTED, REJECT, True),
        (End.REJECTED_TO_REQUEUE, REQUEUE, False),
        (End.FAILED, ACK, False),
        (End.SUCCEEDED, ACK, False),
    ],
)
def test_the_main_process_stores_only_what_no_child_could(end, told, stored):
    """B-WORK-013, B-WORK-016: the states in brackets; an early acknowledged task whose child
    is lost has failed, whatever reject_on_worker_lost says."""
    assert stores_failure(end, told) is stored
