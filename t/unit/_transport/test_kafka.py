"""What is committed to Kafka."""

from __future__ import annotations

import pytest

pytest.importorskip("confluent_kafka")

from celery._transport.kafka import Progress


def test_what_is_done_in_order_is_committed_one_by_one() -> None:
    progress = Progress()
    for offset in (5, 6, 7):
        progress.take(offset)

    assert [progress.done(offset) for offset in (5, 6, 7)] == [6, 7, 8]


def test_nothing_is_committed_over_a_message_that_is_held() -> None:
    """B-BROK-009: a killed worker's messages come again."""
    progress = Progress()
    for offset in (5, 6, 7):
        progress.take(offset)

    assert progress.done(7) == 5
    assert progress.done(6) is None
    assert progress.done(5) == 8


def test_gaps_of_a_compacted_topic_are_passed() -> None:
    progress = Progress()
    progress.take(5)
    progress.take(9)

    assert progress.done(5) == 9
    assert progress.done(9) == 10


def test_a_message_that_comes_again_is_held_again() -> None:
    progress = Progress()
    progress.take(5)
    assert progress.done(5) == 6
    progress.take(5)
    progress.take(6)

    assert progress.done(6) == 5
