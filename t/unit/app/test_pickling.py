"""What crosses the border of a process: apps, tasks, results, signatures."""

from __future__ import annotations

import pickle

import pytest

from celery import Celery
from celery.app.task import Task
from celery.result import AsyncResult
from t.harness.inline import memory_app


def again(obj):
    return pickle.loads(pickle.dumps(obj))


def test_a_task_is_pickled_by_name():
    """The receiver uses the task of its own app."""
    here, there = memory_app(), memory_app()
    for app in (here, there):
        app.task(name="p.t", shared=False)(len)
        app.finalize()
    there.set_current()

    assert again(here.tasks["p.t"]) is there.tasks["p.t"]


def test_a_declared_task_pickles_too(app):
    task = app.task(name="p.t", shared=False)(len)
    app.set_current()

    assert again(task) is app.tasks["p.t"]


class Registered(Task):
    name = "p.registered"

    def run(self):
        return 1


def test_classes_of_tasks_pickle_as_the_registered_one(app):
    task = app.register_task(Registered)
    app.set_current()

    assert again(task) is task


def test_an_app_keeps_its_changes():
    """B-APP-017: and what makes it the same app."""
    app = Celery("proj", broker="memory://", set_as_current=False, namespace="MINE")
    app.conf.task_serializer = "yaml"
    other = again(app)

    assert (other.main, other.namespace) == ("proj", "MINE")
    assert other.conf.broker_url == "memory://"
    assert other.conf.task_serializer == "yaml"
    assert other is not app


class Sub(Celery):
    def __init__(self, *args, **kwargs):
        self.made = True
        super().__init__(*args, **kwargs)


def test_a_subclass_of_the_app_stays_one():
    """B-APP-017."""
    app = Sub("sub", set_as_current=False)
    app.conf.task_serializer = "yaml"
    other = again(app)

    assert type(other) is Sub
    assert other.made
    assert (other.main, other.conf.task_serializer) == ("sub", "yaml")


@pytest.mark.parametrize("configured", [True, False])
def test_a_pickled_app_is_not_made_current(configured):
    current = Celery("current")
    app = Celery("proj", set_as_current=False)
    if configured:
        app.conf.timezone
    again(app)

    from celery import _state

    assert _state.get_current_app() is current


def test_results_and_signatures_find_the_current_app(app):
    task = app.task(name="p.t", shared=False)(len)
    app.set_current()
    result, sig = again(app.AsyncResult("i")), again(task.s([1]))

    assert isinstance(result, AsyncResult)
    assert (result.id, result.app) == ("i", app)
    assert sig == task.s([1])
    assert sig.type is app.tasks["p.t"]
