"""Rare collections while a program starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from celery.utils.garbage import RARELY, collect_as_usual, collect_rarely


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    kept = gc.get_threshold()
    gc.set_threshold(500, 7, 9)
    yield
    collect_as_usual()
    gc.set_threshold(*kept)


def test_collections_are_rare_for_a_while() -> None:
    collect_rarely()
    collect_rarely()
    assert gc.get_threshold() == (RARELY, 7, 9)

    collect_as_usual()
    assert gc.get_threshold() == (500, 7, 9)


def test_what_others_decide_meanwhile_stays() -> None:
    collect_rarely()
    gc.set_threshold(800, 1, 2)

    collect_as_usual()

    assert gc.get_threshold() == (800, 1, 2)


def test_without_a_beginning_nothing_changes() -> None:
    collect_as_usual()

    assert gc.get_threshold() == (500, 7, 9)


@pytest.mark.parametrize("threshold", [0, RARELY, 2 * RARELY])
def test_who_collects_never_or_as_rarely_is_left_alone(threshold: int) -> None:
    gc.set_threshold(threshold, 7, 9)
    collect_rarely()
    assert gc.get_threshold() == (threshold, 7, 9)

    collect_as_usual()
    assert gc.get_threshold() == (threshold, 7, 9)
