"""A message that comes again is settled as its task ends, and the task runs once."""

from __future__ import annotations

from typing import Any

import pytest

from celery.worker import state
from celery.worker.consumer import _survivors as module
from celery.worker.consumer._survivors import Survivors

ERRORS = (OSError,)


class Settled(list):
    """What is told about the new delivery."""

    def ack(self, log: Any, errors: Any, multiple: bool = False) -> None:
        assert errors == ERRORS
        self.append("ack")

    def reject(self, log: Any, errors: Any, requeue: bool = False) -> None:
        assert errors == ERRORS
        self.append("requeue" if requeue else "reject")


@pytest.fixture
def survivors() -> Survivors:
    return Survivors()


@pytest.fixture
def settled() -> Settled:
    return Settled()


@pytest.fixture
def lost(make_request, make_message, task, survivors):
    """Return a function that makes a request which runs as its connection is lost."""

    def lose(late=True, **headers):
        task.acks_late = late
        request = make_request(make_message(id="a", **headers))
        state.task_reserved(request)
        request.on_accepted(7, 0.0)
        survivors.note([request])
        return request

    return lose


def again(make_message, body=None, **headers):
    message = make_message(**({} if body is None else {"body": body}), **{"id": "a", **headers})
    message.delivery_info["redelivered"] = True
    return message


def take_over(survivors, message, settled):
    return survivors.take_over(message, settled.ack, settled.reject, ERRORS)


def end(request, how):
    if how == "ack":
        request.on_success((0, 4, 0.1))
    else:
        request.reject(requeue=how == "requeue")


@pytest.mark.parametrize("how", ["ack", "reject", "requeue"])
def test_a_running_task_settles_its_new_delivery(
    survivors, lost, make_message, settled, channel, how
):
    request = lost()

    assert take_over(survivors, again(make_message), settled)
    assert settled == []
    end(request, how)

    assert settled == [how]
    # The lost one can't be settled any more.
    assert channel.told == []


@pytest.mark.parametrize("how", ["ack", "reject"])
def test_the_delivery_of_a_task_that_has_ended_is_settled_at_once(
    survivors, lost, make_message, settled, how
):
    end(lost(), how)

    assert take_over(survivors, again(make_message), settled)

    assert settled == [how]
    assert not survivors.waiting


def test_a_task_that_is_to_run_again_runs_again(survivors, lost, make_message, settled):
    end(lost(), "requeue")

    assert not take_over(survivors, again(make_message), settled)
    assert settled == []


def test_an_early_acknowledgement_is_repeated(survivors, lost, make_message, settled):
    """The broker may not have heard it."""
    lost(late=False)

    assert take_over(survivors, again(make_message), settled)
    assert settled == ["ack"]


@pytest.mark.parametrize(
    "change",
    [{"retries": 1}, {"id": "b"}, {"task": "other"}, {"body": [[3, 3], {}, {}]}],
)
def test_another_message_is_none_of_these(survivors, lost, make_message, settled, change):
    lost(retries=0)

    assert not take_over(survivors, again(make_message, **{"retries": 0, **change}), settled)


def test_a_message_that_is_new_runs(survivors, lost, make_message, settled):
    """B-WORK-021: sending twice with one id runs twice."""
    lost()

    assert not take_over(survivors, make_message(id="a"), settled)


def test_a_second_copy_runs(survivors, lost, make_message, settled):
    lost()

    assert take_over(survivors, again(make_message), settled)
    assert not take_over(survivors, again(make_message), settled)


def test_several_losses_are_survived(survivors, lost, make_message, settled):
    request = lost()
    assert take_over(survivors, again(make_message), Settled())
    survivors.note([request])

    assert take_over(survivors, again(make_message), settled)
    end(request, "ack")

    assert settled == ["ack"]


def test_what_ended_with_a_lost_delivery_is_settled_later(survivors, lost, make_message, settled):
    request = lost()
    assert take_over(survivors, again(make_message), Settled())
    survivors.note([request])
    end(request, "ack")

    assert take_over(survivors, again(make_message), settled)
    assert settled == ["ack"]


def test_what_ended_long_ago_is_forgotten(survivors, lost, make_message, settled, monkeypatch):
    request = lost()
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    assert survivors.forget_old()
    end(request, "ack")
    now += module.REMEMBERED_S + 1

    assert not take_over(survivors, again(make_message), settled)
    assert not survivors.forget_old()


def test_no_more_than_a_bound_are_remembered(survivors, make_request, task, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED_AT_MOST", 3)
    task.acks_late = True

    survivors.note([make_request() for _ in range(10)])

    assert len(survivors.waiting) == 3
