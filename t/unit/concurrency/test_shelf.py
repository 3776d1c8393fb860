"""The memory in which big payloads wait for a child."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from celery.concurrency._shelf import SLOT_SIZE, SLOTS, Shelf


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.close()


def test_another_process_reads_what_was_put(shelf: Shelf) -> None:
    payload = pickle.dumps([b"x" * 100_000])
    slot, reference = shelf.put(7, payload) or (-1, b"")

    assert Shelf(shelf.fd).load(7, memoryview(reference)) == [b"x" * 100_000]
    assert 0 <= slot < SLOTS
    assert len(reference) < 20


def test_a_slot_that_is_free_again_is_the_next_to_be_used(shelf: Shelf) -> None:
    first, _ = shelf.put(1, b"a") or (-1, b"")
    second, _ = shelf.put(2, b"b") or (-1, b"")
    assert first != second

    shelf.free(first)

    assert (shelf.put(3, b"c") or (-1, b""))[0] == first


def test_what_has_no_room_is_refused(shelf: Shelf) -> None:
    assert shelf.put(1, b"x" * SLOT_SIZE) is None
    for number in range(SLOTS):
        assert shelf.put(number, b"x")
    assert shelf.put(1, b"x") is None


def test_who_comes_too_late_learns_it(shelf: Shelf) -> None:
    """A job was ended by force, and its slot went to another, before a child had read it."""
    slot, reference = shelf.put(1, pickle.dumps("one")) or (-1, b"")
    shelf.free(slot)
    shelf.put(2, pickle.dumps("two"))

    with pytest.raises(LookupError):
        shelf.load(1, reference)
