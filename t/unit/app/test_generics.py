"""Classes that are generic to type checkers can be subscripted at run time, too."""

from __future__ import annotations

from typing import Any

import pytest

from celery import Celery, Task
from celery.canvas import Signature
from celery.result import AsyncResult


@pytest.mark.parametrize("params", [(..., Any), (Any, Any), ([int], str)])
def test_a_subscripted_task_is_a_base_class(params):
    class Mine(Task[params]):
        name = "mine"

        def run(self, x):
            return x + 1

    app = Celery(set_as_current=False)
    task = app.register_task(Mine())

    assert task(1) == 2
    assert isinstance(task, Task)
    assert Mine.__mro__[1] is Task


def test_a_subscripted_class_of_the_app_is_a_base_class():
    app = Celery(set_as_current=False)

    class Base(app.Task[..., Any]):
        abstract = True
        mark = 1

    @app.task(base=Base)
    def add(x, y):
        return x + y

    assert (add.mark, add(1, 2)) == (1, 3)


def test_results_and_signatures_take_parameters():
    app = Celery(set_as_current=False, backend="cache+memory://")

    assert AsyncResult[int]("id", app=app).id == "id"
    assert Signature[int]("task", app=app).task == "task"


def test_others_may_replace_how_classes_are_subscripted(monkeypatch):
    monkeypatch.setattr(Task, "__class_getitem__", classmethod(lambda cls, *args, **kwargs: cls))

    assert Task[int, str] is Task
