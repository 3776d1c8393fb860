"""A process that is lost after the body: the request ends as the process was about to."""

from __future__ import annotations

from time import monotonic

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError

from celery.app._sealing import Ended, UnreportedEnd
from celery.exceptions import Reject, Retry
from celery.worker import state


def einfo(exc):
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


def lose(request, ended):
    """Do what the pool does about a process that died."""
    state.task_reserved(request)
    request.on_accepted(77, monotonic())
    request._on_pool_failure(einfo(UnreportedEnd("signal 9", ended)))
    return request


@pytest.fixture
def store(task, app):
    """A store that answers."""
    type(task).backend = app.backend
    return app.backend


def test_a_success_is_stored_and_told(make_request, store, eventer, channel, task):
    task.acks_late = task.reject_on_worker_lost = True
    request = lose(make_request(), Ended({"sum": 4}, None, [], True))

    assert store.get_result(request.id) == {"sum": 4}
    assert channel.told == [("ack", "tag")], "done, so not to be done again"
    kind, fields = eventer.sent[-1]
    assert (kind, fields["result"]) == ("task-succeeded", "{'sum': 4}")
    assert not state.active_requests


def test_a_success_that_the_process_has_stored_stays(make_request, store):
    request = make_request()
    store.mark_as_done(request.id, 4)
    before = store.get_task_meta(request.id, cache=False)
    lose(request, Ended(4))

    assert store.get_task_meta(request.id, cache=False) == before


def test_the_tasks_that_it_called_are_stored_with_it(make_request, store, app):
    child = app.AsyncResult("the child")
    request = lose(make_request(), Ended(4, None, [child.as_tuple()]))

    assert store.get_children(request.id) == [[["the child", None], None]]


def test_a_result_that_nobody_wants_is_not_stored(make_request, store, channel, task):
    task.acks_late = True
    request = lose(make_request(), Ended(4, stores=False))

    assert store.get_state(request.id) == "PENDING"
    assert channel.told == [("ack", "tag")]


@pytest.mark.parametrize("is_stored", [True, False])
def test_of_a_value_too_long_to_be_kept_the_store_decides(
    make_request, store, channel, task, is_stored
):
    task.acks_late = task.reject_on_worker_lost = True
    request = make_request()
    if is_stored:
        store.mark_as_done(request.id, "long")
    lose(request, Ended(is_whole=False))

    assert channel.told == [("ack" if is_stored else "requeue", "tag")]
    assert store.get_state(request.id) == ("SUCCESS" if is_stored else "PENDING")


def test_an_error_of_the_body_is_the_outcome_and_not_the_loss(make_request, backend, channel, task):
    task.acks_late = task.reject_on_worker_lost = True
    error = KeyError("from the body")
    lose(make_request(), Ended(error=einfo(error)))

    assert backend.marked == [("FAILURE", error)]
    assert channel.told == [("ack", "tag")], "by acks_on_failure, and not given back as lost"


def test_a_retry_that_was_sent_is_no_failure(make_request, backend, eventer):
    cause = OSError("busy")
    lose(make_request(), Ended(error=einfo(Retry("later", cause))))

    assert backend.marked == [("RETRY", cause)]
    assert eventer.types[-1] == "task-retried"


def test_a_rejected_task_is_rejected(make_request, channel, task):
    task.acks_late = True
    lose(make_request(), Ended(error=einfo(Reject("no", requeue=False))))

    assert channel.told == [("reject", "tag")]


def test_a_value_that_the_store_refuses_fails_the_task(make_request, backend, eventer, caplog):
    def refuse(*args, **kwargs):
        raise TypeError("no form for it")

    backend.mark_as_done = refuse
    lose(make_request(), Ended(4))

    assert [status for status, _ in backend.marked] == ["FAILURE"]
    assert eventer.types[-1] == "task-failed"
    assert "Cannot do what was left to do for task" in caplog.text


def test_a_process_that_says_nothing_is_lost_as_ever(make_request, backend):
    request = make_request()
    state.task_reserved(request)
    request.on_accepted(77, monotonic())
    request._on_pool_failure(einfo(WorkerLostError("signal 9")))

    assert [status for status, _ in backend.marked] == ["FAILURE"]
