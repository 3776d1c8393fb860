"""Calls in threads, which nothing can end but their own end."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from celery import Celery, states
from celery.app.trace import trace_task_ret
from celery.concurrency.thread import Abandoned, TaskPool

#: Seconds for what has to happen, however slow the machine.
PATIENCE_S = 60


class Running:
    """A traced task in a thread of the pool, whose body waits until it may go on."""

    def __init__(self) -> None:
        self.app = Celery("threads", backend="cache+memory://", set_as_current=False)
        self.has_begun, self.may_end = Event(), Event()
        self.told: list[Any] = []

        @self.app.task(name="body")
        def body(fails: bool) -> str:
            self.has_begun.set()
            assert self.may_end.wait(PATIENCE_S)
            if fails:
                raise ValueError("too late")
            return "value"

        self.pool = TaskPool(1, app=self.app)
        self.pool.start()

    def apply(self, fails: bool = False) -> Any:
        job = self.pool.apply_async(
            trace_task_ret,
            ("body", "id", {"id": "id", "task": "body"}, ([fails], {}, {}), None, None),
            {"app": self.app},
            callback=self.told.append,
            error_callback=self.told.append,
        )
        assert self.has_begun.wait(PATIENCE_S)
        return job

    @property
    def state(self) -> str:
        return str(self.app.AsyncResult("id").state)


@pytest.fixture
def running() -> Any:
    running = Running()
    yield running
    running.may_end.set()
    running.pool.stop()


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_hears_how_an_abandoned_call_ends(running, fails) -> None:
    job = running.apply(fails)
    assert job.abandon()
    running.may_end.set()

    with pytest.raises(Abandoned):
        job.get(PATIENCE_S)
    assert running.told == []
    assert running.state == states.PENDING


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_whose_body_has_ended_cannot_be_abandoned(running, fails) -> None:
    job = running.apply(fails)
    running.may_end.set()
    job.wait(PATIENCE_S)

    assert not job.abandon()
    assert len(running.told) == 1
    assert running.state == (states.FAILURE if fails else states.SUCCESS)


def test_one_abandoned_call_leaves_its_thread_to_the_next(running) -> None:
    running.apply().abandon()
    running.may_end.set()
    job = running.apply()
    job.wait(PATIENCE_S)

    assert running.state == states.SUCCESS
