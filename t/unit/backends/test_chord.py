"""Counting the parts of a chord: pure decisions."""

from __future__ import annotations

import pytest

from celery.backends import _chord
from celery.backends._chord import Count, Part
from celery.exceptions import ChordError


@pytest.mark.parametrize(
    ("counted", "size", "answer"),
    [
        (0, 1, Count.WAIT),
        (1, 1, Count.COMPLETE),
        (2, 3, Count.WAIT),
        (3, 3, Count.COMPLETE),
        (4, 3, Count.OVERCOUNTED),
    ],
)
def test_a_header_is_complete_when_as_many_parts_have_come(counted, size, answer):
    assert _chord.judge_count(counted, size) is answer


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_the_first_failed_part_is_found(state):
    """B-CANV-051: failures and revocations fail the body."""
    parts = [Part("a", "SUCCESS", 1), Part("b", state, {}), Part("c", "FAILURE", {})]

    assert _chord.first_failure(parts) is parts[1]


def test_a_header_without_failures_has_none():
    assert _chord.first_failure([Part("a", "SUCCESS", 1)]) is None
    assert _chord.first_failure([]) is None


def test_the_error_names_the_task_and_what_it_raised():
    """B-CANV-051: Dependency ID raised ValueError('boom')."""
    error = _chord.dependency_error(Part("the-id", "FAILURE", {}), lambda _: ValueError("boom"))

    assert type(error) is ChordError
    assert str(error) == "Dependency the-id raised ValueError('boom')"


def test_an_error_that_names_the_task_already_is_taken_as_it_is():
    said = ChordError("Dependency a raised Ignore()")

    assert _chord.blame("a", said) is said
    assert str(_chord.blame("b", said)) == f"Dependency b raised {said!r}"
    assert str(_chord.blame("a", KeyError(1), "could not be read")) == (
        "Dependency a could not be read KeyError(1)"
    )


def test_additions_stand_behind_the_task_that_made_them():
    class Result(str):
        id = property(str)

    made = {"b": [Result("b1"), Result("b2")], "b1": [Result("b11")], "c": [Result("c1")]}
    header = [Result("a"), Result("b"), Result("c")]

    assert list(_chord.grown(header, made)) == ["a", "b", "b1", "b11", "b2", "c", "c1"]
    assert list(_chord.grown(header, {})) == header


def test_each_task_has_a_place_of_its_own_for_additions():
    places = [_chord.growth_id(g, t) for g in ("g", "h") for t in ("", "a", "b")]

    assert len(set(places)) == 6
    assert _chord.growth_id("g", "a") == places[1]
    # Columns of databases are no longer than this.
    assert {len(place) for place in places} == {36}


def test_the_body_gets_the_values_in_the_order_given():
    parts = [Part("b", "SUCCESS", 2), Part("a", "SUCCESS", 1)]

    assert _chord.body_argument(parts) == [2, 1]
