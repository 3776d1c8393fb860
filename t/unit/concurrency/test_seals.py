"""The memory in which a child notes that, and how, its job has ended."""

from __future__ import annotations

import pickle

from billiard.einfo import ExceptionInfo

from celery.app._sealing import Ended
from celery.concurrency._seals import PAGE_SIZE, Seals


def test_the_end_of_a_job_is_read_by_another_process_number_for_number():
    mine, other = Seals(), None
    try:
        other = Seals(mine.fd)
        ended = Ended({"value": [1, 2.5, "three"]}, None, [(("id", None), None)], False)
        mine.put_end(3, 17, ended)

        assert other.end_of(3, 17) == ended
        assert other.end_of(3, 18) is None
        assert other.end_of(4, 17) is None
    finally:
        mine.close()


def test_each_end_takes_the_place_of_the_one_before():
    seals = Seals()
    for job, value in enumerate(["x" * 1000, None, 4, "y"], start=1):
        seals.put_end(0, job, Ended(value))

        assert seals.end_of(0, job) == Ended(value)
        assert seals.end_of(0, job - 1) is None
    seals.close()


def test_of_a_value_that_is_too_long_it_is_known_that_there_is_one():
    seals = Seals()
    for job, value in enumerate(["x" * PAGE_SIZE, [1.5] * PAGE_SIZE, lambda: 1], start=1):
        seals.put_end(0, job, Ended(value))

        assert seals.end_of(0, job) == Ended(is_whole=False)
    seals.put_end(1, 9, Ended("neighbour"))
    seals.put_end(0, 8, Ended("x" * PAGE_SIZE))
    assert seals.end_of(1, 9) == Ended("neighbour")
    seals.close()


def test_an_error_that_is_too_long_is_not_noted():
    seals = Seals()
    seals.put_end(0, 1, Ended("a value that could not be stored"))
    try:
        raise KeyError("x" * PAGE_SIZE)
    except KeyError:
        seals.put_end(0, 1, Ended(error=ExceptionInfo()))

    assert seals.end_of(0, 1) is None
    seals.close()


class Unreadable:
    def __reduce__(self):
        return pickle.loads, (b"nonsense",)


def test_a_value_that_can_not_be_built_again_is_not_whole():
    seals = Seals()
    seals.put_end(0, 1, Ended(Unreadable()))

    assert seals.end_of(0, 1) == Ended(is_whole=False)
    seals.close()


def test_children_beyond_the_room_note_nothing():
    seals = Seals()
    for place in (1023, 1024, 4096):
        seals.put_end(place, 1, Ended(4))

    assert seals.end_of(1023, 1) == Ended(4)
    assert seals.end_of(1024, 1) is None
    assert seals.end_of(4096, 1) is None
    seals.close()
