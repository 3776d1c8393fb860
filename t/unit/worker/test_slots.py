"""Slots of the pool: who gets one, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from celery.worker._slots import Slots


def test_those_beyond_the_limit_wait_in_order():
    slots, ran = Slots(2), []
    for number in range(4):
        slots.acquire(ran.append, number)
    assert ran == [0, 1]

    slots.release()
    assert ran == [0, 1, 2]
    slots.release()
    assert ran == [0, 1, 2, 3]
    assert (slots.taken, len(slots)) == (2, 0)


def test_one_who_declines_passes_the_slot_on():
    slots, ran = Slots(1), []
    slots.acquire(ran.append, "first")
    for number in range(1000):
        slots.acquire(lambda n: ran.append(n) or False, number)
    slots.acquire(ran.append, "last")

    slots.release()

    assert ran[-1] == "last"
    assert len(ran) == 1002
    assert slots.taken == 1


def test_more_slots_are_handed_out_at_once_and_fewer_as_they_become_free():
    slots, ran = Slots(1), []
    for number in range(4):
        slots.acquire(ran.append, number)
    slots.grow(2)
    assert ran == [0, 1, 2]

    slots.shrink(2)
    slots.release()
    slots.release()
    assert ran == [0, 1, 2]
    slots.release()
    assert ran == [0, 1, 2, 3]
    assert slots.taken == 1


def test_those_who_wait_can_be_sent_away():
    slots, ran = Slots(1), []
    for number in range(3):
        slots.acquire(ran.append, number)

    assert slots.clear() == [1, 2]
    slots.release()
    assert ran == [0]
    assert slots.taken == 0


@given(st.lists(st.sampled_from(["acquire", "release", "grow", "shrink"]), max_size=60))
def test_nobody_waits_while_a_slot_is_free(steps):
    slots, ran = Slots(2), []
    for number, step in enumerate(steps):
        match step:
            case "acquire":
                slots.acquire(ran.append, number)
            case "release":
                if slots.taken:
                    slots.release()
            case "grow":
                slots.grow()
            case "shrink":
                slots.shrink()
        assert slots.taken >= 0
        assert not (len(slots) and slots.taken < slots.limit)
    assert ran == sorted(ran)
