"""The task object, beside calling, retrying and executing."""

from __future__ import annotations

import pytest

from celery import Celery
from celery.app.task import Task, extract_exec_options, get_actual_ignore_result
from celery.canvas import Signature, chunks, xmap, xstarmap
from t.harness.inline import memory_app


@pytest.fixture
def add(app):
    return app.task(name="p.add", shared=False)(lambda x, y=0: x + y)


def test_signatures_of_a_task(app, add):
    sig, immutable = add.s(1, y=2), add.si(1)

    assert isinstance(sig, Signature)
    assert (sig.task, sig.args, sig.kwargs, sig.immutable) == ("p.add", (1,), {"y": 2}, False)
    assert immutable.immutable
    assert sig.app is app
    assert isinstance(add.map([1]), xmap)
    assert isinstance(add.starmap([(1, 2)]), xstarmap)
    assert isinstance(add.chunks([(1, 2)], 1), chunks)


def test_options_that_a_task_states_are_those_of_its_calls(app, worker):
    task = app.task(name="p.t", shared=False, expires=60, compression="zlib")(lambda: None)

    assert extract_exec_options(task) == {
        "expires": 60, "compression": "zlib", "serializer": "json",
    }  # fmt: skip
    task.delay()
    (message,) = worker.sent()
    assert message.headers["expires"]
    assert message.headers["compression"] == "application/x-gzip"


def test_the_call_decides_whether_its_result_is_ignored(app):
    """B-TASK-059."""
    task = app.task(name="p.t", shared=False, ignore_result=True)(lambda: None)
    from celery.app.task import Context

    assert get_actual_ignore_result(task, Context(ignore_result=None)) is True
    assert get_actual_ignore_result(task, Context(ignore_result=False)) is False


def test_a_class_that_belongs_to_no_app_uses_the_current_one():
    app = memory_app()
    app.set_current()

    class Loose(Task):
        name = "p.loose"

    assert repr(Loose()).startswith("<@task: p.loose of")
    assert Loose.app is app
    assert Loose().serializer == "json"


def test_a_bound_base_class_does_not_bind_its_subclasses():
    """Each class is bound by itself: it has a stack of requests of its own."""
    app = memory_app()

    class Base(app.Task):
        name = "p.base"

    class Derived(Base):
        name = "p.derived"

    app.register_task(Base)
    app.register_task(Derived)

    assert Base.request_stack is not Derived.request_stack


def test_requests_are_pushed_and_popped(add):
    """B-TASK-017."""
    add.push_request(id="outer")
    add.push_request(id="inner")
    assert add.request.id == "inner"
    add.pop_request()
    assert add.request.id == "outer"
    add.pop_request()
    assert add.request.id is None


def test_methods_can_be_wrapped(app):
    """B-APP-065: annotations of the form ``@name``; wrapping twice replaces the wrapper."""
    calls = []

    def around(fun):
        def wrapper(*args, **kwargs):
            calls.append(args[1:])
            return fun(*args, **kwargs)

        return wrapper

    app.conf.task_annotations = {"p.t": {"@on_success": around}}
    task = app.task(name="p.t", shared=False)(lambda: 1)
    task.apply(task_id="i")

    assert calls == [(1, "i", (), {})]
    cls = type(task._get_current_object())
    cls.add_around("on_success", around)
    task.apply(task_id="j")
    assert calls[1:] == [(1, "j", (), {})]


def test_a_task_sends_events_of_its_own(app):
    """With its id, through the dispatcher of the app."""
    seen = []

    @app.task(name="p.t", shared=False, bind=True)
    def t(self):
        self.send_event("task-progress", done=50)

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.append(event)})
        receiver.queue(connection.default_channel).declare()
        t.apply(task_id="i")
        message = receiver.queue(connection.default_channel).get()
        receiver._receive(message.payload, message)

    (event,) = seen
    assert (event["type"], event["uuid"], event["done"]) == ("task-progress", "i", 50)


def test_tasks_of_several_apps_do_not_share_settings():
    one, two = memory_app(task_serializer="yaml"), memory_app()
    for app in (one, two):
        app.task(name="p.t", shared=False)(len)

    assert one.tasks["p.t"].serializer == "yaml"
    assert two.tasks["p.t"].serializer == "json"


def test_a_back_end_may_be_the_tasks_own(app):
    other = Celery("other", backend="cache+memory://", set_as_current=False)
    task = app.task(name="p.t", shared=False)(lambda: 1)
    assert task.backend is app.backend

    task.backend = other.backend

    assert task.backend is other.backend
    assert task.AsyncResult("i").backend is other.backend
