"""Which stored states a later write must not replace."""

from __future__ import annotations

import pytest

from celery.backends._finality import lasting_states, stays

STATES = ["PENDING", "STARTED", "PROGRESS", "RETRY", "FAILURE", "REVOKED", "SUCCESS"]


@pytest.mark.parametrize("new", STATES)
def test_a_success_stays_whatever_comes(new):
    """B-RES-009."""
    assert stays("SUCCESS", new)


@pytest.mark.parametrize("stored", ["FAILURE", "REVOKED"])
def test_an_end_stays_when_an_earlier_attempt_says_that_it_retries(stored):
    assert stays(stored, "RETRY")


@pytest.mark.parametrize("stored", STATES[:-1])
@pytest.mark.parametrize("new", ["STARTED", "PROGRESS", "FAILURE", "REVOKED", "SUCCESS"])
def test_everything_else_is_overwritten(stored, new):
    """B-RES-009: a later state overwrites the former."""
    assert not stays(stored, new)


def test_both_forms_of_the_decision_agree():
    for stored in STATES:
        for new in STATES:
            assert stays(stored, new) is (stored in lasting_states(new))
