"""Replacing the running task, and adding to its chord."""

from __future__ import annotations

import pytest

from celery import chain, chord, group
from celery.exceptions import ImproperlyConfigured


@pytest.fixture
def add(app):
    return app.task(name="p.add", shared=False)(lambda x, y=0: x + y)


@pytest.fixture
def total(app):
    return app.task(name="p.total", shared=False)(sum)


def replacing(app, make, **options):
    @app.task(name="p.replacing", shared=False, bind=True, **options)
    def task(self, *args):
        return self.replace(make())

    return task


def test_the_replacement_takes_the_place_of_the_task(app, add, worker):
    """B-TASK-072, B-TASK-074: id, root, links and what follows; it counts the replacements."""
    note = app.task(name="p.note", shared=False)(lambda *args: None)
    task = replacing(app, lambda: add.s(40, 2))
    result = chain(task.s().set(link=note.s("linked")), add.s(1)).apply_async()
    worker.run()

    first = worker.seen[0]
    again = next(message for message in worker.seen if message.id == first.id and message != first)
    assert again.task == "p.add"
    assert again.headers["root_id"] == first.headers["root_id"]
    assert again.headers["parent_id"] == first.headers["parent_id"]
    assert again.headers["replaced_task_nesting"] == 1
    assert app.AsyncResult(first.id).get(timeout=1) == 42
    assert result.get(timeout=1) == 43
    (linked,) = [message for message in worker.seen if message.task == "p.note"]
    assert linked.body[0] == [42, "linked"]


def test_replacements_are_counted(app, add, worker):
    """B-TASK-074."""
    inner = replacing(app, lambda: add.s(1, 1))
    outer = app.task(name="p.outer", shared=False, bind=True)(lambda self: self.replace(inner.s()))
    result = outer.delay()
    worker.run()

    assert result.get(timeout=1) == 2
    assert [m.headers["replaced_task_nesting"] for m in worker.seen] == [0, 1, 2]


def test_a_replaced_member_of_a_chord_counts_once(app, add, total, worker):
    """B-TASK-072: group and chord go over."""
    task = replacing(app, lambda: add.s(10, 5))
    result = chord([task.s(), add.s(1, 1)])(total.s())
    worker.run()

    assert result.get(timeout=1) == 17


def test_nothing_cannot_replace_a_task(app):
    """Errors of the caller, told before anything is sent."""
    for make in (lambda: group([], app=app), lambda: chain(app=app)):
        result = replacing(app, make).apply()
        assert isinstance(result.result, ImproperlyConfigured)
        del app._tasks["p.replacing"]


def test_a_member_of_another_chord_cannot_replace_a_task(app, add, total):
    task = replacing(app, lambda: add.s(1).set(chord=total.s()))

    assert isinstance(task.apply().result, ImproperlyConfigured)


def test_how_a_replacement_is_sent_may_be_overridden(app, add):
    """B-TASK-072: `on_replace`."""
    from celery.app.task import Task

    class Own(Task):
        def on_replace(self, sig):
            return repr(sig)

    task = replacing(app, lambda: add.s(1, 2), base=Own)
    from celery.app import trace

    end = trace.build_tracer(task.name, task)("i", (), {}, {})

    assert end.retval == "p.add(1, 2)"


def test_a_task_can_be_added_to_the_chord_it_is_in(app, add, worker, monkeypatch):
    """B-TASK-073: the store counts it, and it is sent as one more member of the header."""
    counted = []
    backend = type(app.backend)
    monkeypatch.setattr(
        backend, "add_to_chord", lambda self, group_id, result: counted.append((group_id, result))
    )

    @app.task(name="p.adding", shared=False, bind=True)
    def adding(self, x):
        self.add_to_chord(add.s(99))
        lazy = self.add_to_chord(add.s(98), lazy=True)
        return lazy.task

    header = adding.s(1)
    chord([header, add.s(2)])(add.s())
    message = worker.sent()[0]
    run_message(app, message)
    (added,) = worker.sent()

    assert [group_id for group_id, _ in counted] == [message.headers["group"]] * 2
    assert added.id == counted[0][1].id
    for name in ("group", "group_index", "root_id"):
        assert added.headers[name] == message.headers[name]
    assert added.embed["chord"] == message.embed["chord"]


def run_message(app, message):
    from celery.app import trace

    body = (message.body[0], message.body[1], message.embed)
    trace.trace_task_ret(message.task, message.id, dict(message.headers), body, None, None, app=app)


def test_only_a_chord_can_be_added_to(app, add):
    """B-TASK-073."""

    @app.task(name="p.adding", shared=False, bind=True)
    def adding(self):
        self.add_to_chord(add.s(99))

    error = adding.apply().result
    assert isinstance(error, ValueError)
    assert str(error) == "Current task is not member of any chord"
