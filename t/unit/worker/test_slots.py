"""Slots of the pool: who gets one, and when."""

from __future__ import annotations

from hypothesis import given, strategies as st

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


def short_tasks(slots, n=30):
    for _ in range(n):
        slots.acquire(lambda argument: True, None)
        slots.release(0.001)


def test_short_tasks_are_handed_out_ahead():
    slots, ran = Slots(2, depth=2), []
    short_tasks(slots)
    for number in range(10):
        slots.acquire(ran.append, number)
    assert ran == [0, 1, 2, 3, 4, 5]

    slots.release(5.0)
    assert ran == [0, 1, 2, 3, 4, 5]
    for _ in range(4):
        slots.release()
    assert ran == [0, 1, 2, 3, 4, 5, 6]


def test_one_that_may_expire_is_not_handed_out_ahead():
    """B-WORK-038: it has to be looked at when it begins."""
    slots, ran = Slots(1, depth=2), []
    short_tasks(slots)
    slots.acquire(ran.append, "a")
    slots.acquire(ran.append, "expires", strict=True)
    slots.acquire(ran.append, "b")
    assert ran == ["a"]

    slots.release(0.001)
    assert ran == ["a", "expires", "b"]


def test_without_depth_and_after_a_change_of_mind_the_limit_is_strict():
    strict, changed = Slots(1), Slots(1, depth=2)
    short_tasks(strict)
    short_tasks(changed)
    assert changed.extra == 2
    changed.grow()
    assert changed.extra == 4
    changed.stay_strict()

    assert (strict.extra, changed.extra) == (0, 0)


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


def test_tasks_that_take_no_time_are_told_from_short_ones():
    slots = Slots(2, depth=2)
    for _ in range(60):
        slots.release(0.003)
    assert slots.extra == 4
    assert not slots.is_brisk

    for _ in range(60):
        slots.release(0.00001)
    assert slots.is_brisk
    # A little more is no reason to change; a slow one is.
    slots.release(0.004)
    assert slots.is_brisk
    slots.release(0.5)
    assert not slots.is_brisk


def test_after_a_slow_down_many_have_to_be_quick_again():
    slots = Slots(2, depth=2)
    for _ in range(60):
        slots.release(0.00001)
    slots.slow_down()
    for _ in range(20):
        slots.release(0.00001)

    assert not slots.is_brisk
    assert slots.extra == 0


def test_those_who_came_last_can_be_taken_back():
    slots, ran = Slots(1), []
    for number in range(4):
        slots.acquire(ran.append, number)

    assert slots.take_back(2) == [3, 2]
    slots.release()
    assert ran == [0, 1]
    assert slots.take_back(2) == []
