from __future__ import annotations

import pickle

import pytest

from celery import states


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("PENDING", "RECEIVED"),
        ("RETRY", "RECEIVED"),
        ("RECEIVED", "STARTED"),
        ("STARTED", "REVOKED"),
        ("REVOKED", "PROGRESS"),
        ("PROGRESS", "FAILURE"),
        ("FAILURE", "SUCCESS"),
    ],
)
def test_a_state_that_tells_more_is_greater(less, more):
    assert states.state(less) < states.state(more)
    assert states.state(less) <= states.state(more)
    assert states.state(more) > states.state(less)
    assert states.state(more) >= states.state(less)
    assert not states.state(more) < states.state(less)


def test_a_state_equals_its_text_and_pickles():
    state = states.state("SUCCESS")

    assert state == "SUCCESS"
    assert {state: 1}["SUCCESS"] == 1
    assert pickle.loads(pickle.dumps(state)) >= "SUCCESS"


def test_unknown_ids_and_known_ends_are_in_the_sets():
    """B-TASK-056: the sets of states."""
    assert states.PENDING in states.UNREADY_STATES
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert {"FAILURE", "REVOKED"} == states.PROPAGATE_STATES
    assert {"RETRY", "FAILURE", "REVOKED"} == states.EXCEPTION_STATES
    assert not states.READY_STATES & states.UNREADY_STATES
    assert states.precedence("no such state") == states.precedence(None)
