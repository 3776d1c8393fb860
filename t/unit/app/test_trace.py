"""One execution, step by step: signals, hooks, stored states, log lines."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from kombu.exceptions import EncodeError, OperationalError

from celery import _state, signals, states
from celery.app import trace
from celery.app._handover import handover
from celery.app.task import Context, Task
from celery.exceptions import (
    Ignore,
    InvalidTaskError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
)
from celery.utils.nodenames import gethostname
from t.harness.calls import python_calls
from t.harness.inline import memory_app

SIGNALS = (
    "before_task_publish",
    "after_task_publish",
    "task_prerun",
    "task_postrun",
    "task_success",
    "task_failure",
    "task_retry",
    "task_internal_error",
)


class Watched(Task):
    """Notes its hooks, with what is stored at that time."""

    notes: list[Any]

    def stored(self):
        return self.backend.get_state(self.request.id)

    def before_start(self, task_id, args, kwargs):
        self.notes.append(("H before_start", self.stored()))

    def on_success(self, retval, task_id, args, kwargs):
        self.notes.append(("H on_success", self.stored()))

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.notes.append(("H on_retry", self.stored()))

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.notes.append(("H on_failure", self.stored()))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.notes.append(("H after_return", self.stored()))


@pytest.fixture
def watch(app, caplog):
    """Make a task of a body and run it once; returns everything that happened, in order."""
    notes: list[Any] = []
    caplog.set_level(logging.DEBUG, logger="celery.app.trace")

    class LogNotes(logging.Handler):
        def emit(self, record):
            words = record.getMessage().split("] ", 1)[1].split()
            notes.append((f"L {words[0]}", record.levelname))

    def listen(name):
        def receiver(sender, **kwargs):
            notes.append((f"S {name}", kwargs.get("state", "-")))

        return receiver

    def run(body, **options):
        task = app.task(
            name="p.watched", shared=False, bind=True, base=Watched, notes=notes, **options
        )(body)._get_current_object()
        with ExitStack() as undo:
            for name in SIGNALS:
                signal = getattr(signals, name)
                receiver = listen(name)
                signal.connect(receiver, weak=False)
                undo.callback(signal.disconnect, receiver)
            handler = LogNotes()
            trace.logger.addHandler(handler)
            undo.callback(trace.logger.removeHandler, handler)
            tracer = trace.build_tracer(task.name, task, app=app)
            tracer("id-1", (), {}, {"delivery_info": {}})
        return notes

    run.notes = notes
    return run


def succeed(self):
    self.notes.append(("body", self.stored()))
    return 42


def fail(self):
    self.notes.append(("body", self.stored()))
    raise KeyError("lost")


def time_out(self):
    self.notes.append(("body", self.stored()))
    raise SoftTimeLimitExceeded


def retry(self):
    self.notes.append(("body", self.stored()))
    raise self.retry(countdown=9)


def ignore(self):
    self.notes.append(("body", self.stored()))
    raise Ignore


def reject(self):
    self.notes.append(("body", self.stored()))
    raise Reject("no", requeue=False)


def requeue(self):
    self.notes.append(("body", self.stored()))
    raise Reject("later", requeue=True)


def leave(self):
    self.notes.append(("body", self.stored()))
    raise SystemExit(3)


START = [("S task_prerun", "-"), ("H before_start", "PENDING"), ("body", "PENDING")]
FAILED = [
    *START,
    ("H on_failure", "FAILURE"),
    ("S task_failure", "-"),
    ("L raised", "ERROR"),
    ("H after_return", "FAILURE"),
    ("S task_postrun", "FAILURE"),
]
SEQUENCES = {
    succeed: [
        *START,
        ("H on_success", "SUCCESS"),
        ("S task_success", "-"),
        ("L succeeded", "INFO"),
        ("H after_return", "SUCCESS"),
        ("S task_postrun", "SUCCESS"),
    ],
    fail: FAILED,
    time_out: FAILED,
    retry: [
        *START,
        ("S before_task_publish", "-"),
        ("S after_task_publish", "-"),
        ("H on_retry", "RETRY"),
        ("S task_retry", "-"),
        ("L retry:", "INFO"),
        ("S task_postrun", "RETRY"),
    ],
    ignore: [*START, ("L ignored", "INFO"), ("S task_postrun", "IGNORED")],
    reject: [*START, ("L reject", "WARNING"), ("S task_postrun", "REJECTED")],
    requeue: [*START, ("L reject", "WARNING"), ("S task_postrun", "REJECTED")],
}


@pytest.mark.parametrize("body", SEQUENCES, ids=lambda body: body.__name__)
def test_signals_hooks_states_and_log_lines_come_in_this_order(watch, body):
    """B-TASK-036, B-TASK-037, B-TASK-041, B-SIG-007, B-SIG-009: one row of the table each.

    Beside each step stands the state that was stored, or signalled, when it ran; so the state is
    there before the hooks, and the retry is published before ``RETRY`` is stored (B-TASK-027).
    """
    assert watch(body) == SEQUENCES[body]


def test_leaving_the_process_still_signals_the_end(watch):
    """B-TASK-039: with neither value nor state; nothing else happens."""
    with pytest.raises(SystemExit):
        watch(leave)

    assert watch.notes == [*START, ("S task_postrun", None)]
    assert not _state._task_stack.stack


def run(task: Any, *args: Any, request: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    tracer = trace.build_tracer(task.name, task, app=task.app)
    return tracer("id-1", args, kwargs, {"delivery_info": {}, **(request or {})})


def stored(app):
    return app.AsyncResult("id-1")


def receive(signal):
    """Return a list that collects what *signal* sends, until the test ends."""
    seen = []

    def receiver(sender, signal, **kwargs):
        seen.append((sender, kwargs))

    signal.connect(receiver, weak=False)
    return seen, lambda: signal.disconnect(receiver)


@pytest.fixture
def sent():
    """Signal name to what it sent so far."""
    lists, undo = {}, []
    for name in SIGNALS:
        lists[name], back = receive(getattr(signals, name))
        undo.append(back)
    yield lists
    for back in undo:
        back()


def test_the_arguments_of_the_signals_of_a_success(app, sent):
    """B-SIG-007: prerun, success with runtime, postrun; the sender is the task."""

    @app.task(name="p.t", shared=False)
    def t(x, y=0):
        return x + y

    task = t._get_current_object()
    run(task, 1, y=2)

    call = {"task_id": "id-1", "task": task, "args": (1,), "kwargs": {"y": 2}}
    assert sent["task_prerun"] == [(task, call)]
    assert sent["task_postrun"] == [(task, {**call, "retval": 3, "state": "SUCCESS"})]
    ((sender, fields),) = sent["task_success"]
    assert sender is task
    assert fields.keys() == {"result", "runtime"}
    assert fields["result"] == 3
    assert 0 <= fields["runtime"] < 60


def test_the_arguments_of_the_signals_of_a_failure(app, sent):
    """B-SIG-007: the exception itself, its traceback, and an ExceptionInfo."""

    @app.task(name="p.t", shared=False)
    def t():
        raise KeyError("lost")

    run(t)

    ((sender, fields),) = sent["task_failure"]
    assert sender is t._get_current_object()
    assert fields.keys() == {"task_id", "exception", "args", "kwargs", "traceback", "einfo"}
    assert isinstance(fields["exception"], KeyError)
    assert fields["traceback"] is fields["exception"].__traceback__
    assert isinstance(fields["einfo"], ExceptionInfo)
    ((_, fields),) = sent["task_postrun"]
    assert isinstance(fields["retval"], KeyError)


def test_the_arguments_of_the_signal_of_a_retry(app, sent):
    """B-TASK-043, B-SIG-007: the hook gets the cause, the signal the Retry object."""
    hooked = []

    class Hooked(Task):
        def on_retry(self, exc, task_id, args, kwargs, einfo):
            hooked.append((exc, task_id, einfo))

    @app.task(name="p.t", shared=False, bind=True, base=Hooked)
    def t(self):
        raise self.retry(exc=cause, countdown=1)

    cause = ValueError("again")
    run(t)

    ((sender, fields),) = sent["task_retry"]
    assert sender is t._get_current_object()
    assert fields["request"].id == "id-1"
    assert isinstance(fields["reason"], Retry)
    assert fields["reason"].exc is cause
    assert isinstance(fields["einfo"], ExceptionInfo)
    ((exc, task_id, einfo),) = hooked
    assert (exc, task_id) == (cause, "id-1")
    assert isinstance(einfo, ExceptionInfo)


def test_what_the_hooks_are_given(app):
    """B-TASK-040: positions of the arguments; after_return has no einfo."""
    seen = {}

    class Hooked(Task):
        def before_start(self, task_id, args, kwargs):
            seen["before_start"] = (task_id, args, kwargs)
            return "ignored"

        def on_success(self, retval, task_id, args, kwargs):
            seen["on_success"] = (retval, task_id, args, kwargs)
            return "ignored"

        def on_failure(self, exc, task_id, args, kwargs, einfo):
            seen["on_failure"] = (repr(exc), task_id, args, kwargs, type(einfo))

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            seen["after_return"] = (status, repr(retval), task_id, args, kwargs, einfo)

    @app.task(name="p.t", shared=False, base=Hooked)
    def t(x, y=0):
        return 1 / x

    run(t, 1, y=5)
    assert seen == {
        "before_start": ("id-1", (1,), {"y": 5}),
        "on_success": (1.0, "id-1", (1,), {"y": 5}),
        "after_return": ("SUCCESS", "1.0", "id-1", (1,), {"y": 5}, None),
    }
    seen.clear()
    run(t, 0)
    exc = "ZeroDivisionError('division by zero')"
    assert seen == {
        "before_start": ("id-1", (0,), {}),
        "on_failure": (exc, "id-1", (0,), {}, ExceptionInfo),
        "after_return": ("FAILURE", exc, "id-1", (0,), {}, None),
    }


def test_what_hooks_return_is_ignored(app):
    """B-TASK-044."""

    class Hooked(Task):
        def before_start(self, *args):
            return "other"

        on_success = after_return = before_start

    @app.task(name="p.t", shared=False, base=Hooked)
    def t():
        return "value"

    assert run(t).retval == "value"
    assert stored(app).result == "value"


def test_an_error_before_the_body_is_a_failure_without_it(app):
    """B-TASK-044: the body waits for before_start."""
    ran = []

    class Hooked(Task):
        def before_start(self, *args):
            raise KeyError("not ready")

    @app.task(name="p.t", shared=False, base=Hooked)
    def t():
        ran.append(1)

    run(t)

    assert not ran
    assert stored(app).state == states.FAILURE


@pytest.mark.parametrize("hook", ["on_success", "after_return", "on_failure", "on_retry"])
def test_an_error_in_a_hook_leaves_the_outcome_alone(app, caplog, hook):
    """B-TASK-042: it is logged at ERROR, in a worker."""

    def broken(self, *args):
        raise RuntimeError("hook is broken")

    broken.__name__ = hook
    base = type("Hooked", (Task,), {hook: broken})

    @app.task(name="p.t", shared=False, base=base, bind=True)
    def t(self):
        if hook == "on_failure":
            raise KeyError("lost")
        if hook == "on_retry":
            raise self.retry()
        return 42

    end = run(t)

    expected = {"on_failure": "FAILURE", "on_retry": "RETRY"}.get(hook, "SUCCESS")
    assert (end.info.state if end.info else "SUCCESS") == expected
    assert stored(app).state == expected
    (record,) = [record for record in caplog.records if record.exc_info and hook in record.message]
    assert record.levelname == "ERROR"
    assert "hook is broken" in str(record.exc_info[1])


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_an_error_in_a_hook_reaches_the_eager_caller(app, hook):
    """B-TASK-042."""

    def broken(self, *args):
        raise RuntimeError("hook is broken")

    t = app.task(
        name="p.t", shared=False, base=type("Hooked", (Task,), {hook: broken}), lazy=False
    )(lambda: 42)

    with pytest.raises(RuntimeError, match="hook is broken"):
        t.apply()
    assert not _state._task_stack.stack


def test_the_body_may_be_wrapped_by_the_class(app):
    """B-TASK-046: a `__call__` of one's own runs the body itself."""

    class Doubling(Task):
        def __call__(self, *args, **kwargs):
            return 2 * self.run(*args, **kwargs)

    @app.task(name="p.t", shared=False, base=Doubling)
    def t(x):
        return x + 1

    assert run(t, 1).retval == 4
    assert t(1) == 4
    assert trace.task_has_custom(t, "__call__")


def test_ignore_stores_nothing(app):
    """B-TASK-047: and keeps the last custom state."""

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, custom):
        if custom:
            self.update_state(state="PROGRESS", meta={"done": 5})
        raise Ignore

    run(t, False)
    assert stored(app).state == "PENDING"
    end = run(t, True)
    assert (stored(app).state, stored(app).info) == ("PROGRESS", {"done": 5})
    assert end.info.state == states.IGNORED


def test_reject_is_settled_by_the_worker(app, caplog):
    """B-TASK-048, B-TASK-049: the pool process hands the exception on, and stores nothing."""

    @app.task(name="p.t", shared=False)
    def t(requeue):
        raise Reject("no room", requeue=requeue)

    for requeue in (False, True):
        end = run(t, requeue)

        assert end.info.state == states.REJECTED
        rejected = trace.plain_exception(end.retval.exception)
        assert isinstance(rejected, Reject)
        assert str(rejected) == f"reject requeue={requeue}: no room"
        assert stored(app).state == "PENDING"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert all(record.exc_info for record in caplog.records)
    assert caplog.records[0].getMessage() == "Task p.t[id-1] reject requeue=False: no room"


def log_lines(caplog):
    return [
        (record.levelname, re.sub(r"in [\d.e-]+s", "in Ns", record.getMessage()))
        for record in caplog.records
        if record.name == "celery.app.trace"
    ]


def test_an_expected_error_is_logged_without_a_traceback(app, caplog):
    """B-TASK-050: at INFO; the stored result has its traceback."""
    caplog.set_level(logging.INFO, logger="celery.app.trace")

    @app.task(name="p.t", shared=False, throws=(KeyError,))
    def t():
        raise KeyError("expected")

    run(t)

    assert log_lines(caplog) == [("INFO", "Task p.t[id-1] raised expected: KeyError('expected')")]
    assert not caplog.records[0].exc_info
    assert stored(app).state == "FAILURE"
    assert "Traceback" in stored(app).traceback


def test_an_unexpected_error_is_logged_with_its_traceback(app, caplog):
    """B-TASK-051, B-LEG-022: at ERROR; the repr is that of today."""

    @app.task(name="p.t", shared=False)
    def t():
        raise KeyError("lost")

    run(t)

    assert log_lines(caplog) == [("ERROR", "Task p.t[id-1] raised unexpected: KeyError('lost')")]
    assert isinstance(caplog.records[0].exc_info[1], KeyError)
    assert "in t\n" in caplog.text


def test_the_lines_of_other_ends(app, caplog):
    """B-TASK-052: the templates, where the name is the shadow when there is one."""
    caplog.set_level(logging.INFO, logger="celery.app.trace")

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, what):
        if what == "retry":
            raise self.retry(exc=ValueError("x"), countdown=5)
        if what == "ignore":
            raise Ignore
        if what == "reject":
            raise Reject("no", requeue=True)
        return "done"

    for what in ("succeed", "retry", "ignore", "reject"):
        run(t, what, request={"shadow": "seen.as"})
    run(t, "succeed")

    assert log_lines(caplog) == [
        ("INFO", "Task seen.as[id-1] succeeded in Ns: 'done'"),
        ("INFO", "Task seen.as[id-1] retry: Retry in Ns: ValueError('x')"),
        ("INFO", "Task seen.as[id-1] ignored"),
        ("WARNING", "Task seen.as[id-1] reject requeue=True: no"),
        ("INFO", "Task p.t[id-1] succeeded in Ns: 'done'"),
    ]
    assert trace.LOG_RECEIVED % {"name": "p.t", "id": "id-1"} == "Task p.t[id-1] received"


def test_the_templates_of_the_log_may_be_replaced(app, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="celery.app.trace")
    monkeypatch.setattr(trace, "LOG_SUCCESS", "%(name)s did %(return_value)s")
    monkeypatch.setattr(trace, "LOG_FAILURE", "%(name)s broke: %(exc)s")

    @app.task(name="p.t", shared=False)
    def t(x):
        return 1 // x

    run(t, 1)
    run(t, 0)

    assert [line for _, line in log_lines(caplog)] == [
        "p.t did 1",
        "p.t broke: ZeroDivisionError('integer division or modulo by zero')",
    ]


def test_a_long_result_is_shown_in_part(app, caplog):
    """B-TASK-053: ends with dots, and its brackets are closed."""
    caplog.set_level(logging.INFO, logger="celery.app.trace")

    @app.task(name="p.t", shared=False, resultrepr_maxsize=40)
    def t():
        return list(range(1000))

    end = run(t)

    assert len(end.retstr) < 80
    assert "..." in end.retstr
    assert end.retstr.startswith("[0, 1")
    assert end.retstr.endswith("]")
    assert log_lines(caplog)[0][1].endswith(end.retstr)


def test_any_exception_is_stored(app):
    """B-TASK-055: also one that is no `Exception`, with the JSON serializer."""

    class Odd(BaseException):
        pass

    @app.task(name="p.t", shared=False)
    def t():
        raise Odd("x")

    run(t)

    assert stored(app).state == "FAILURE"
    assert type(stored(app).result).__name__ == "Odd"
    assert stored(app).result.args == ("x",)


def test_an_exception_is_rebuilt_from_its_arguments(app):
    """B-TASK-063: of its own class, else of one made up under that name."""

    class Local(Exception):
        pass

    @app.task(name="p.t", shared=False)
    def t(local):
        raise Local("x", 1) if local else LookupError("y")

    run(t, False)
    assert type(stored(app).result) is LookupError
    run(t, True)
    found = stored(app).result
    assert (type(found).__name__, found.args) == ("Local", ("x", 1))


def test_an_error_that_cannot_travel_is_described(app):
    """B-TASK-061: what goes to the parent process pickles, and tells class and arguments."""
    import pickle

    class Local(Exception):
        pass

    @app.task(name="p.t", shared=False)
    def t():
        raise Local("x", {1, 2})

    einfo = run(t).retval

    travelled = trace.plain_exception(pickle.loads(pickle.dumps(einfo)).exception)
    assert type(travelled).__name__ == "UnpickleableExceptionWrapper"
    assert travelled.exc_cls_name == "Local"
    assert str(travelled) == "Local('x', {1, 2})"


def test_a_value_that_cannot_be_stored_is_a_failure(app):
    """B-TASK-062: with the error of the serializer as result."""

    @app.task(name="p.t", shared=False)
    def t():
        return object()

    end = run(t)

    assert end.info.state == "FAILURE"
    assert stored(app).state == "FAILURE"
    assert isinstance(stored(app).result, EncodeError)
    assert "not JSON serializable" in str(stored(app).result)


def test_started_is_stored_when_it_is_tracked(app):
    """B-TASK-058: with pid and node name, when the body starts."""

    @app.task(name="p.t", shared=False, bind=True, track_started=True)
    def t(self):
        return self.backend.get_task_meta(self.request.id, cache=False)

    tracer = trace.build_tracer(t.name, t._get_current_object(), hostname="w@host")
    meta = tracer("id-1", (), {}, {}).retval

    assert (meta["status"], meta["result"]) == (
        "STARTED",
        {"pid": os.getpid(), "hostname": "w@host"},
    )
    app.conf.task_track_started = True
    assert app.task(name="p.other", shared=False)(lambda: None).track_started is True


@pytest.mark.parametrize(
    ("call", "task", "setting", "ignored"),
    [
        (None, None, False, False),
        (None, None, True, True),
        (None, True, False, True),
        (None, False, True, False),
        (True, False, False, True),
        (False, True, True, False),
    ],
)
def test_who_decides_that_a_result_is_ignored(call, task, setting, ignored):
    """B-TASK-059: the call, then the task, then the setting."""
    app = memory_app(task_ignore_result=setting)

    @app.task(name="p.t", shared=False, ignore_result=task)
    def t(x):
        return 1 // x

    run(t, 1, request={"ignore_result": call})
    assert stored(app).state == ("PENDING" if ignored else "SUCCESS")
    run(t, 0, request={"id": "id-1", "ignore_result": call})
    assert stored(app).state == ("PENDING" if ignored else "SUCCESS")  # a success is final


@pytest.mark.parametrize("keep", [True, False])
def test_errors_may_be_stored_even_if_results_are_ignored(app, keep):
    """B-TASK-059: store_errors_even_if_ignored."""

    @app.task(name="p.t", shared=False, ignore_result=True, store_errors_even_if_ignored=keep)
    def t():
        raise KeyError("x")

    run(t, request={"ignore_result": None})

    assert stored(app).state == ("FAILURE" if keep else "PENDING")


def test_a_custom_state_is_replaced_by_the_next(app):
    """B-TASK-056, B-TASK-057: its meta is the info; unknown ids read as PENDING."""
    seen = []

    @app.task(name="p.t", shared=False, bind=True)
    def t(self):
        self.update_state(state="PROGRESS", meta={"done": 1})
        seen.append((stored(app).state, stored(app).info))
        return "end"

    assert stored(app).state == states.PENDING
    run(t)

    assert seen == [("PROGRESS", {"done": 1})]
    assert (stored(app).state, stored(app).info) == (states.SUCCESS, "end")


@pytest.mark.parametrize("kwargs", [None, [], "text"])
def test_keyword_arguments_that_are_none_are_a_failure(app, sent, kwargs):
    """B-WORK-032 differs on purpose: the state does not stay PENDING for ever."""
    t = app.task(name="p.t", shared=False)(lambda: None)
    tracer = trace.build_tracer(t.name, t._get_current_object())

    end = tracer("id-1", (), kwargs, {})

    assert end.info.state == "FAILURE"
    assert isinstance(stored(app).result, InvalidTaskError)
    ((_, fields),) = sent["task_postrun"]
    assert fields["state"] == "FAILURE"


def test_arguments_that_do_not_fit_are_a_failure(app):
    """B-WORK-031: too many, and such as can't be iterated over."""
    t = app.task(name="p.t", shared=False)(lambda x: x)
    tracer = trace.build_tracer(t.name, t._get_current_object())

    for args in ((1, 2), 5):
        app.backend.forget("id-1")
        assert tracer("id-1", args, {}, {}).info.state == "FAILURE"
        assert isinstance(stored(app).result, TypeError)


def test_what_goes_wrong_around_the_body_is_reported(app, sent):
    """B-SIG-007: task_internal_error, a warning, and a final state as far as it goes."""

    @app.task(name="p.t", shared=False)
    def t():
        return 1

    task = t._get_current_object()

    def explode(*args):
        raise RuntimeError("machinery")

    task.__trace__ = explode
    with pytest.warns(RuntimeWarning, match="raised outside body"):
        end = trace.trace_task(task, "id-1", (), {}, {})

    assert end.info.state == "FAILURE"
    assert stored(app).state == "FAILURE"
    assert str(stored(app).result) == "machinery"
    ((sender, fields),) = sent["task_internal_error"]
    assert sender is task
    assert fields.keys() >= {"task_id", "args", "kwargs", "request", "exception", "einfo"}


def test_a_message_is_executed_by_name(app):
    """What any pool calls: (0, repr) for a value, (1, ExceptionInfo) for anything else."""

    @app.task(name="p.t", shared=False)
    def t(x, y=1):
        return x // y

    def execute(body, content_type="application/json"):
        return trace.trace_task_ret(
            "p.t", "id-1", {"id": "id-1"}, body, content_type, "utf-8", app=app
        )

    app.finalize()
    assert execute(json.dumps([[6], {"y": 2}, None]))[:2] == (0, "3")
    assert execute(([8], {}, {}), None)[:2] == (0, "8")
    failed, einfo, _ = execute(json.dumps([[6], {"y": 0}, {}]))
    assert failed == 1
    assert isinstance(trace.plain_exception(einfo.exception), ZeroDivisionError)


@pytest.mark.parametrize("body", ["[[1], {}]", '{"args": []}', "garbage"])
def test_a_body_that_is_no_call_is_a_failure(app, body):
    """B-WORK-033 differs on purpose: it ends nobody but itself."""
    app.task(name="p.t", shared=False)(lambda: None)
    app.finalize()

    failed, einfo, _ = trace.trace_task_ret(
        "p.t", "id-1", {"id": "id-1"}, body, "application/json", "utf-8", app=app
    )

    assert failed == 1
    assert isinstance(einfo, ExceptionInfo)
    assert stored(app).state == "FAILURE"


def test_optimised_processes_have_everything_at_hand(app):
    app.task(name="p.t", shared=False)(lambda x: x * 2)
    trace.setup_worker_optimizations(app, "w@host")
    try:
        assert app.use_fast_trace_task
        assert _state.get_current_app() is app
        assert trace.fast_trace_task(
            "p.t", "id-1", {"id": "id-1"}, "[[4], {}, {}]", "application/json", "utf-8"
        )[:2] == (0, "8")
    finally:
        trace.reset_worker_optimizations(app)
    assert not app.use_fast_trace_task


def test_a_redelivered_message_of_a_success_is_not_run_again():
    """With ``worker_deduplicate_successful_tasks``, late acknowledgement, and a lasting store."""
    app = memory_app(worker_deduplicate_successful_tasks=True)
    runs = []

    @app.task(name="p.t", shared=False, acks_late=True)
    def t():
        runs.append(1)

    app.backend.persistent = True
    trace.successful_requests.clear()
    request = {"delivery_info": {"redelivered": True}}
    run(t)
    run(t, request=request)
    trace.successful_requests.clear()
    run(t, request=request)

    assert len(runs) == 1


def test_the_environment_bounds_what_is_remembered_of_successes():
    """B-WORK-048: where tasks run, and for what the main process keeps."""
    code = """
from celery.app.trace import successful_requests as here
from celery.worker.state import successful_requests as main
print(here.maxlen, here.expires, main.maxlen, main.expires)
"""
    bounds = {"CELERY_WORKER_SUCCESSFUL_MAX": "7", "CELERY_WORKER_SUCCESSFUL_EXPIRES": "60"}
    told = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **bounds}, capture_output=True, check=True
    )

    assert told.stdout.split() == [b"7", b"60.0", b"7", b"60.0"]


def test_the_stack_is_empty_after_every_kind_of_end(app):
    """B-TASK-017: whatever the end, the request is left."""

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, exc):
        assert self.app.current_worker_task.request.id == "id-1"
        if exc is not None:
            raise exc

    for exc in (
        None,
        KeyError(),
        Ignore(),
        Reject(),
        Retry("again"),
        SystemExit(),
        KeyboardInterrupt(),
    ):
        if isinstance(exc, (SystemExit, KeyboardInterrupt)):
            with pytest.raises(type(exc)):
                run(t, exc)
        else:
            run(t, exc)
        assert not _state._task_stack.stack
        assert t.request.id is None


def test_calling_a_task_runs_it_without_message_or_state(app, sent):
    """B-TASK-001: in this process, with a request of its own."""
    seen = []

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, x):
        r = self.request
        seen.append((r.called_directly, r.id, r.is_eager, r.args, r.kwargs))
        return x

    assert t(3) == 3
    assert seen == [(True, None, False, (3,), {})]
    assert not any(sent.values())


def test_nested_calls_have_requests_of_their_own(app):
    """B-TASK-017."""
    seen = []

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, depth):
        before = self.request
        if depth:
            t(depth - 1)
        assert self.request is before
        seen.append((depth, self.request.id, self.request.args))

    run(t, 2)

    assert seen == [(0, None, (0,)), (1, None, (1,)), (2, "id-1", (2,))]
    assert isinstance(t.request, Context)


def test_the_name_of_the_machine_stands_for_an_unnamed_node(app):
    @app.task(name="p.t", shared=False, bind=True, track_started=True)
    def t(self):
        return self.backend.get_task_meta(self.request.id, cache=False)["result"]["hostname"]

    assert run(t).retval == gethostname()


def test_a_follow_up_that_cannot_be_sent_fails_the_task(app, monkeypatch):
    """B-CALL-025: through the normal way of failing."""
    failed = []

    class Hooked(Task):
        def on_failure(self, exc, *args):
            failed.append(exc)

    t = app.task(name="p.t", shared=False, base=Hooked)(lambda: 1)
    policies = []

    def refuse(producer, name, message, retry_policy=None, **options):
        policies.append(retry_policy)
        raise OperationalError("refused")

    monkeypatch.setattr(app.amqp, "send_task_message", refuse)
    follow_up = app.signature("p.next", retry_policy={"max_retries": None})
    end = run(t, request={"callbacks": [follow_up]})

    assert end.info.state == "FAILURE"
    assert stored(app).state == "FAILURE"
    assert isinstance(failed[0], OperationalError)
    (policy,) = policies
    assert policy["max_retries"] == 3


@pytest.mark.parametrize("own", [None, {"max_retries": 7}, {"max_retries": None}])
def test_publishing_a_follow_up_is_retried_with_an_end(app, own):
    """B-CALL-025: also when the broker refuses the message, by the signature's own policy."""
    from amqp.exceptions import MessageNacked

    policy = app.amqp.follow_up_policy(own)

    assert policy["max_retries"] == ((own or {}).get("max_retries") or 3)
    assert policy["interval_start"] == app.conf.task_publish_retry_policy["interval_start"]
    assert MessageNacked in policy["retry_errors"]


# -- Results that are left to the main process


class Later:
    """Stands in for a back-end that makes documents."""

    persistent = True
    process_cleanup = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.stored: list[str] = []

    def mark_as_done(self, task_id, result, request=None, store_result=True):
        self.stored.append(task_id)

    def mark_as_done_later(self, task_id, result, request):
        return f"{task_id}: {result}".encode()


def handed_over(app, monkeypatch, *, is_open=True, task=None, request=None, connect=None):
    """Run a task; return what was handed over and what was stored."""
    backend = Later()
    monkeypatch.setattr(type(app), "backend", backend)
    ran = task or app.task(name="body", shared=False)(lambda: 4)
    tracer = trace.build_tracer("body", ran, app=app)
    handover.begin(is_open)
    receiver = (lambda **_: None) if connect is not None else None
    if connect is not None:
        connect.connect(receiver, weak=False)
    try:
        tracer("the-id", (), {}, request or {})
    finally:
        if connect is not None:
            connect.disconnect(receiver)
    return handover.take(), backend.stored


def test_a_document_is_handed_over_instead_of_stored(app, monkeypatch):
    assert handed_over(app, monkeypatch) == (("the-id", b"the-id: 4"), [])
    assert not handover.is_open


def test_without_an_invitation_the_result_is_stored(app, monkeypatch):
    assert handed_over(app, monkeypatch, is_open=False) == (None, ["the-id"])


def test_an_ignored_result_is_neither_stored_nor_handed_over(app, monkeypatch):
    assert handed_over(app, monkeypatch, request={"ignore_result": True}) == (None, [])


def test_a_part_of_a_chord_counts_before_the_task_has_ended(app, monkeypatch):
    request = {"chord": {"task": "x"}}

    assert handed_over(app, monkeypatch, request=request) == (None, ["the-id"])


@pytest.mark.parametrize("signal", [signals.task_success, signals.task_postrun])
def test_whoever_hears_of_a_success_finds_its_result(app, monkeypatch, signal):
    assert handed_over(app, monkeypatch, connect=signal) == (None, ["the-id"])


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_a_hook_of_a_success_finds_its_result(app, monkeypatch, hook):
    base = type("Hooked", (Task,), {hook: lambda self, *args: None})
    task = app.task(name="body", shared=False, base=base)(lambda: 4)

    assert handed_over(app, monkeypatch, task=task) == (None, ["the-id"])


def test_a_task_with_a_back_end_of_its_own_stores_there(app, monkeypatch):
    own = Later()
    task = app.task(name="body", shared=False, backend=own)(lambda: 4)

    assert handed_over(app, monkeypatch, task=task) == (None, [])
    assert own.stored == ["the-id"]


# -- What a task costs


def test_a_task_without_anything_around_it_takes_few_calls(app):
    """A message of such a task, from the body as it was sent to the answer of the process."""
    task = app.task(name="body", shared=False, ignore_result=True)(lambda x, y: x + y)
    body = b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'

    def execute():
        return trace.trace_task_ret(
            task.name, "id", {"id": "id", "ignore_result": None}, body, "application/json", "utf-8",
            app=app,
        )  # fmt: skip

    # What is made at the first time.
    assert execute()[:2] == (0, "4")
    calls = python_calls(execute)

    # Among them: this test's own, and those that find task and accepted content.
    assert len(calls) <= 32, calls


@pytest.mark.parametrize(
    "name", ["AsyncResult", "BackendGetMetaError", "Retry", "group", "safe_repr", "_task_stack"]
)
def test_names_that_replacements_of_the_tracer_import_are_here(name: str) -> None:
    assert getattr(trace, name) is not None
    with pytest.raises(AttributeError):
        trace.no_such_name
