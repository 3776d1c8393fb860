"""The memory in which a child notes that, and how, its job has ended."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from billiard.einfo import ExceptionInfo

from celery.app._sealing import Ended
from celery.concurrency._packets import Spill
from celery.concurrency._seals import PAGE_SIZE, Seals


@pytest.fixture
def spill(tmp_path: Path) -> Spill:
    return Spill(str(tmp_path / "spill"))


@pytest.fixture
def seals(spill: Spill) -> Iterator[Seals]:
    seals = Seals(spill)
    yield seals
    seals.close()


def files(spill: Spill) -> list[str]:
    folder = Path(spill.folder)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def error_of(exc: Exception) -> Ended:
    try:
        raise exc
    except Exception:
        return Ended(error=ExceptionInfo())


def test_the_end_of_a_job_is_read_by_another_process_number_for_number(seals, spill):
    other = Seals(spill, seals.fd)
    ended = Ended({"value": [1, 2.5, "three"]}, None, [(("id", None), None)], False)
    seals.put_end(3, 17, ended)

    assert other.end_of(3, 17) == ended
    assert other.end_of(3, 18) is None
    assert other.end_of(4, 17) is None


def test_each_end_takes_the_place_of_the_one_before(seals):
    for job, value in enumerate(["x" * 1000, None, 4, "y"], start=1):
        seals.put_end(0, job, Ended(value))

        assert seals.end_of(0, job) == Ended(value)
        assert seals.end_of(0, job - 1) is None


@pytest.mark.parametrize("value", ["x" * PAGE_SIZE, [1.5] * PAGE_SIZE, b"x" * (8 << 20)])
def test_a_value_that_is_too_long_for_a_page_is_whole_all_the_same(seals, spill, value):
    seals.put_end(1, 7, Ended("neighbour"))
    seals.put_end(0, 8, Ended(value))

    assert Seals(spill, seals.fd).end_of(0, 8) == Ended(value)
    assert seals.end_of(1, 7) == Ended("neighbour")


def test_files_are_gone_when_the_job_is_done_with(seals, spill):
    seals.put_end(0, 8, Ended("x" * PAGE_SIZE, unsent=[("next", None)]))
    seals.put_end(0, 8, Ended("x" * PAGE_SIZE))
    assert len(files(spill)) == 2
    assert seals.in_file == 0
    seals.discard_files(0)

    assert files(spill) == []
    assert seals.in_file is None


class Deadly:
    """Stands for the end of the process."""

    def __reduce__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("filler", ["", "x" * PAGE_SIZE])
def test_until_there_is_news_the_note_before_counts(seals, filler):
    """A process may die at any byte that it writes."""
    before = Ended("value" + filler, unsent=[("next", None)])
    seals.put_end(0, 8, before)
    with pytest.raises(KeyboardInterrupt):
        seals.put_end(0, 8, Ended(["value" + filler, Deadly()]))

    assert seals.end_of(0, 8) == before


def test_without_room_for_a_file_it_is_known_that_there_is_a_value(tmp_path):
    (tmp_path / "taken").touch()
    seals = Seals(Spill(str(tmp_path / "taken")))
    seals.put_end(0, 8, Ended("x" * PAGE_SIZE))

    assert seals.end_of(0, 8) == Ended(is_whole=False)
    seals.close()


def test_of_a_value_that_has_no_form_it_is_known_that_there_is_one(seals):
    seals.put_end(0, 8, Ended(lambda: 1))

    assert seals.end_of(0, 8) == Ended(is_whole=False)


def test_an_error_that_has_no_form_is_not_noted_and_ends_what_was(seals):
    seals.put_end(0, 1, Ended("a value that could not be stored"))
    seals.put_end(0, 1, Ended(error=lambda: 1))

    assert seals.end_of(0, 1) is None


def test_a_long_error_is_noted(seals):
    seals.put_end(0, 1, error_of(KeyError("x" * PAGE_SIZE)))

    assert seals.end_of(0, 1).error.exception.args == ("x" * PAGE_SIZE,)


class Unreadable:
    def __reduce__(self):
        return pickle.loads, (b"nonsense",)


def test_a_value_that_can_not_be_built_again_is_not_whole(seals):
    seals.put_end(0, 1, Ended(Unreadable()))

    assert seals.end_of(0, 1) == Ended(is_whole=False)


def test_children_beyond_the_room_note_nothing(seals):
    for place in (1023, 1024, 4096):
        seals.put_end(place, 1, Ended(4))

    assert seals.end_of(1023, 1) == Ended(4)
    assert seals.end_of(1024, 1) is None
    assert seals.end_of(4096, 1) is None
