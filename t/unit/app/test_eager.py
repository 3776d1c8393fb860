"""Calls that run in the caller's process: `apply` and ``task_always_eager``."""

from __future__ import annotations

import pytest
from kombu.exceptions import EncodeError

from celery import chain, chord, group, signals
from celery.app.task import Task
from celery.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    TaskRevokedError,
)
from celery.result import EagerResult
from celery.utils.nodenames import gethostname
from t.harness.inline import memory_app


@pytest.fixture
def app():
    return memory_app(task_always_eager=True)


@pytest.fixture
def add(app):
    return app.task(name="p.add", shared=False)(lambda x, y=0: x + y)


@pytest.fixture
def boom(app):
    @app.task(name="p.boom", shared=False)
    def boom(*args):
        raise ValueError("boom")

    return boom


def test_calls_run_at_once(add):
    """B-CALL-037: and `apply` always does."""
    for result in (add.delay(1, 2), add.apply_async((1, 2)), add.s(1, 2).delay()):
        assert isinstance(result, EagerResult)
        assert (result.state, result.get(disable_sync_subtasks=False)) == ("SUCCESS", 3)
    add.app.conf.task_always_eager = False
    assert isinstance(add.apply((1, 2)), EagerResult)


def test_times_have_no_effect(add):
    """B-CALL-038."""
    from datetime import UTC, datetime

    assert add.apply_async((1,), countdown=100).result == 1
    assert add.apply_async((1,), eta=datetime(2099, 1, 1, tzinfo=UTC), expires=1).result == 1


def test_arguments_go_through_the_serializer(app, add):
    """B-CALL-039: what can't be sent can't be called either; tuples arrive as lists."""
    with pytest.raises(EncodeError):
        add.delay(object())
    assert app.task(name="p.t", shared=False)(type).delay((1, 2)).result is list


def test_arguments_are_checked_as_for_a_message(add):
    """B-TASK-002, B-TASK-004: by `delay`; with `apply`, a bad call is a failure."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        add.delay()
    result = add.apply()
    assert result.state == "FAILURE"
    assert isinstance(result.result, TypeError)


def test_the_request_of_an_eager_call(app):
    """B-CALL-040."""

    @app.task(name="p.t", shared=False, bind=True)
    def t(self):
        r = self.request
        return {
            "is_eager": r.is_eager,
            "called_directly": r.called_directly,
            "delivery_info": r.delivery_info,
            "hostname": r.hostname,
            "own root": r.root_id == r.id,
            "headers": r.headers,
        }

    options = {"exchange": "ex", "routing_key": "rk", "priority": 3, "headers": {"tenant": "a"}}
    assert t.apply_async(**options).result == {
        "is_eager": True,
        "called_directly": False,
        "delivery_info": {
            "is_eager": True, "exchange": "ex", "routing_key": "rk", "priority": 3,
        },
        "hostname": gethostname(),
        "own root": True,
        "headers": {"tenant": "a"},
    }  # fmt: skip
    assert t.apply().result["delivery_info"]["exchange"] is None


def test_a_failure_is_a_result(boom):
    """B-CALL-041: `get` raises, or returns the exception."""
    result = boom.delay()

    assert result.state == "FAILURE"
    with pytest.raises(ValueError, match="boom"):
        result.get()
    assert isinstance(result.get(propagate=False), ValueError)
    assert "Traceback" in result.traceback


def test_failures_may_reach_the_caller(app, boom):
    """B-CALL-042: task_eager_propagates, which `apply` may overrule."""
    app.conf.task_eager_propagates = True

    for call in (boom.delay, boom.apply_async, boom.apply):
        with pytest.raises(ValueError, match="boom"):
            call()
    assert boom.apply(throw=False).state == "FAILURE"


@pytest.mark.parametrize("propagates", [True, False])
def test_ignoring_is_no_failure_to_propagate(app, propagates):
    """B-CALL-050: the states of `Ignore` and `Reject`, whatever is propagated."""
    app.conf.task_eager_propagates = propagates
    for exc, state in ((Ignore(), "IGNORED"), (Reject("no"), "REJECTED")):

        @app.task(name=f"p.{state}", shared=False)
        def t(exc=exc):
            raise exc

        assert t.apply().state == state


def test_retries_follow_at_once(app):
    """B-CALL-043: up to the limit, with their number in the request."""
    seen = []

    @app.task(name="p.t", shared=False, bind=True, max_retries=2)
    def t(self, succeed_at=None):
        seen.append(self.request.retries)
        if self.request.retries == succeed_at:
            return "done"
        raise self.retry(countdown=1000)

    result = t.delay()
    assert seen == [0, 1, 2]
    assert isinstance(result.result, MaxRetriesExceededError)

    seen.clear()
    assert t.delay(1).result == "done"
    assert seen == [0, 1]


def test_a_retry_may_reach_the_caller(app):
    """B-CALL-043: with task_eager_propagates it is raised."""
    app.conf.task_eager_propagates = True

    @app.task(name="p.t", shared=False, bind=True)
    def t(self):
        raise self.retry()

    with pytest.raises(Retry):
        t.delay()


def test_a_retry_may_change_the_arguments(app):
    """B-CALL-043."""

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, x, y=0):
        if self.request.retries:
            return [x, y]
        raise self.retry(args=(8,), kwargs={"y": 9})

    assert t.delay(1).result == [8, 9]


@pytest.mark.parametrize(
    ("store", "ignore", "stored"), [(False, False, False), (True, False, True), (True, True, False)]
)
def test_results_are_stored_only_on_demand(store, ignore, stored):
    """B-CALL-044: task_store_eager_result, unless they are ignored."""
    app = memory_app(task_always_eager=True, task_store_eager_result=store)

    @app.task(name="p.t", shared=False, ignore_result=ignore)
    def t(x):
        return 1 // x

    ok, failed = t.delay(1), t.delay(0)

    assert app.AsyncResult(ok.id).state == ("SUCCESS" if stored else "PENDING")
    assert app.AsyncResult(failed.id).state == ("FAILURE" if stored else "PENDING")


def test_an_eager_result_can_be_revoked(add):
    """B-CALL-045: afterwards there is nothing to get."""
    result = add.delay(1)
    result.revoke()

    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError):
        result.get()


def test_links_run_in_the_same_call(app, add, boom):
    """B-CALL-046: also with `apply`, without always_eager; there are no children."""
    seen = []
    note = app.task(name="p.note", shared=False)(seen.append)

    result = add.apply_async((1, 2), link=note.s())
    assert (seen, result.children) == ([3], None)
    add.apply_async((2, 2), link=[note.s(), note.s()])
    assert seen == [3, 4, 4]
    boom.apply_async(link=note.s())
    assert seen == [3, 4, 4]

    app.conf.task_always_eager = False
    add.apply((4, 4), link=note.s())
    assert seen == [3, 4, 4, 8]


def test_errbacks_run_in_the_direct_style(app, boom):
    """B-CALL-048."""
    seen = []

    @app.task(name="p.err", shared=False)
    def err(request, exc, traceback):
        seen.append((request.id, str(exc), "Traceback" in traceback))

    result = boom.apply_async(link_error=err.s())

    assert seen == [(result.id, "boom", True)]


def test_failures_in_eager_workflows(app, add, boom):
    """B-CALL-047: where they are raised, and where they are a result."""
    tsum = app.task(name="p.sum", shared=False)(sum)

    with pytest.raises(ValueError, match="boom"):
        chain(boom.s(), add.s(1)).apply_async()
    with pytest.raises(ValueError, match="boom"):
        chord([boom.s(), add.s(1)])(tsum.s())
    assert chain(add.s(1), boom.s()).apply_async().state == "FAILURE"
    assert chord([add.s(1), add.s(2)])(boom.s()).state == "FAILURE"
    result = group(boom.s(), add.s(1, 2)).apply_async()
    with pytest.raises(ValueError, match="boom"):
        result.get()
    error, value = result.get(propagate=False)
    assert (type(error), value) == (ValueError, 3)


@pytest.mark.parametrize("call", [lambda task: task.apply(), lambda task: task.delay()])
def test_a_replacement_gives_the_value(app, add, call):
    """B-CALL-049 differs on purpose: also under task_always_eager, and in an eager chain."""

    @app.task(name="p.replacing", shared=False, bind=True)
    def replacing(self):
        return self.replace(add.s(40, 2))

    assert (call(replacing).state, call(replacing).result) == ("SUCCESS", 42)
    assert chain(replacing.s(), add.s(1)).apply_async().get() == 43


def test_waiting_for_another_result_within_a_task_is_refused(app, add):
    """B-CALL-051: as in a worker."""

    @app.task(name="p.t", shared=False)
    def t():
        return add.delay(1).get()

    result = t.delay()

    assert result.state == "FAILURE"
    assert isinstance(result.result, RuntimeError)
    assert "Never call result.get() within a task" in str(result.result)


def test_signals_of_an_eager_call(app, add):
    """B-SIG-007: those of an execution, none of publishing."""
    seen = []

    def listen(name):
        def receiver(sender, **kwargs):
            seen.append(name)

        signal = getattr(signals, name)
        signal.connect(receiver, weak=False)
        return lambda: signal.disconnect(receiver)

    undo = [
        listen(name)
        for name in ("before_task_publish", "task_prerun", "task_success", "task_postrun")
    ]
    try:
        add.delay(1)
    finally:
        for back in undo:
            back()

    assert seen == ["task_prerun", "task_success", "task_postrun"]


def test_tasks_called_from_an_eager_task_have_it_as_parent(app):
    """B-TASK-012."""

    @app.task(name="p.inner", shared=False, bind=True)
    def inner(self):
        return [self.request.root_id, self.request.parent_id]

    @app.task(name="p.outer", shared=False)
    def outer():
        return inner.delay().result

    result = outer.delay()
    assert result.result == [result.id, result.id]


def test_keyword_arguments_have_to_be_a_mapping(add):
    """B-TASK-005."""
    with pytest.raises(TypeError, match="task keyword arguments must be a mapping"):
        add.apply((1,), [("y", 1)])


def test_stamps_of_an_eager_call_are_in_the_request(app):
    @app.task(name="p.t", shared=False, bind=True)
    def t(self):
        return [self.request.stamped_headers, self.request.stamps]

    sig = t.s()
    sig.stamp(customer="c1")

    assert sig.apply().result == [["customer"], {"customer": ["c1"]}]


def test_hooks_of_an_eager_call(app):
    """B-TASK-036: the same as in a worker."""
    seen = []

    class Hooked(Task):
        def before_start(self, *args):
            seen.append("before_start")

        def on_retry(self, *args):
            seen.append("on_retry")

        def on_success(self, *args):
            seen.append("on_success")

        def after_return(self, *args):
            seen.append("after_return")

    @app.task(name="p.t", shared=False, bind=True, base=Hooked)
    def t(self):
        if not self.request.retries:
            raise self.retry()

    t.delay()

    assert seen == ["before_start", "on_retry", "before_start", "on_success", "after_return"]
