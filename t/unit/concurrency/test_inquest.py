"""Jobs that vanished with a child: when it is certain, they are sent again, and once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery.concurrency import _inquest
from celery.concurrency._inquest import Inquest
from celery.concurrency._job import RUNNING, SENT

LONGEST_S = 10.0


class Job:
    def __init__(self) -> None:
        self.state = SENT


class Bed:
    """An inquest over children that the test has live and die, and a clock that it sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.children: dict[int, Any] = {}
        self.sent_again: list[Job] = []
        monkeypatch.setattr(_inquest, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.inquest = Inquest(self.children, self.sent_again.extend, LONGEST_S)

    def born(self, *numbers: int, is_up: bool = True) -> None:
        for number in numbers:
            self.children[number] = SimpleNamespace(number=number, is_up=is_up)

    def dies(self, number: int, *missing: Job) -> None:
        del self.children[number]
        self.inquest.open(missing)


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Bed:
    return Bed(monkeypatch)


def test_a_job_is_sent_again_when_every_other_child_has_spoken(bed: Bed) -> None:
    job = Job()
    bed.born(1, 2, 3)
    bed.dies(1, job)
    bed.inquest.hear(2)
    assert bed.sent_again == []
    bed.inquest.hear(3)

    assert bed.sent_again == [job]
    assert not bed.inquest.suspects


def test_children_that_were_not_up_yet_are_not_waited_for(bed: Bed) -> None:
    job = Job()
    bed.born(1)
    bed.born(2, is_up=False)
    bed.dies(1, job)

    assert bed.sent_again == [job]


def test_a_child_that_has_the_job_and_says_so_keeps_it(bed: Bed) -> None:
    job = Job()
    bed.born(1, 2)
    bed.dies(1, job)
    job.state = RUNNING
    bed.inquest.hear(2)

    assert bed.sent_again == []
    assert not bed.inquest.suspects


def test_a_silent_child_is_waited_for_so_long_and_no_longer(bed: Bed) -> None:
    job = Job()
    bed.born(1, 2)
    bed.dies(1, job)
    assert bed.inquest.due == bed.now + LONGEST_S
    bed.now += LONGEST_S
    bed.inquest.close()

    assert bed.sent_again == [job]


def test_deaths_that_go_on_do_not_put_it_off(bed: Bed) -> None:
    """Idle children say nothing, and may be replaced for ever."""
    job = Job()
    bed.born(1, 2)
    bed.dies(1, job)
    for number in range(3, 20):
        bed.born(number)
        bed.now += 1
        bed.dies(number, job)
        if bed.sent_again:
            break

    assert bed.sent_again == [job]
    assert bed.now == 100 + LONGEST_S


def test_when_all_who_lived_then_are_dead_nobody_has_it(bed: Bed) -> None:
    job = Job()
    bed.born(1, 2)
    bed.dies(1, job)
    bed.born(3)
    bed.dies(2, job)

    assert bed.sent_again == [job]


def test_each_job_has_its_own_witnesses(bed: Bed) -> None:
    first, second = Job(), Job()
    bed.born(1, 2)
    bed.dies(1, first)
    bed.born(3, 4)
    bed.dies(4, first, second)
    bed.inquest.hear(2)
    assert bed.sent_again == [first]
    bed.inquest.hear(3)

    assert bed.sent_again == [first, second]


def test_a_job_that_was_given_back_is_in_the_inbox_and_not_sent_again(bed: Bed) -> None:
    job = Job()
    bed.born(1, 2)
    bed.dies(1, job)
    bed.inquest.acquit(job)
    bed.now += LONGEST_S
    bed.inquest.close()

    assert bed.sent_again == []
