"""An app with a few tasks, and a worker that runs them in this thread."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery import Celery
from celery.exceptions import Ignore, Reject
from t.harness.inline import InlineWorker, memory_app


def declare_tasks(app: Celery) -> SimpleNamespace:
    """Return the tasks of the tests by name; ``calls`` notes what errbacks and notes got."""
    calls: list[Any] = []

    @app.task(name="p.add", shared=False)
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="p.tsum", shared=False)
    def tsum(xs: Any) -> Any:
        return sum(xs)

    @app.task(name="p.ident", shared=False)
    def ident(x: Any) -> Any:
        return x

    @app.task(name="p.boom", shared=False)
    def boom(*args: Any) -> None:
        raise ValueError("boom")

    @app.task(name="p.note", shared=False)
    def note(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))

    @app.task(name="p.direct", shared=False)
    def direct(request: Any, exc: Any, traceback: Any) -> None:
        calls.append((request, exc, traceback))

    @app.task(name="p.by_id", shared=False)
    def by_id(task_id: str) -> None:
        calls.append(task_id)

    @app.task(name="p.ignoring", shared=False)
    def ignoring(*args: Any) -> None:
        raise Ignore("not now")

    @app.task(name="p.rejecting", shared=False)
    def rejecting(*args: Any) -> None:
        raise Reject("no", requeue=False)

    @app.task(name="p.whoami", shared=False, bind=True)
    def whoami(self: Any, *args: Any) -> Any:
        r = self.request
        return {
            "id": r.id,
            "root": r.root_id,
            "parent": r.parent_id,
            "group": r.group,
            "index": r.group_index,
        }

    return SimpleNamespace(
        add=add,
        tsum=tsum,
        ident=ident,
        boom=boom,
        note=note,
        direct=direct,
        by_id=by_id,
        ignoring=ignoring,
        rejecting=rejecting,
        whoami=whoami,
        calls=calls,
    )


@pytest.fixture
def app() -> Celery:
    return memory_app()


@pytest.fixture
def t(app: Celery) -> SimpleNamespace:
    return declare_tasks(app)


@pytest.fixture
def worker(app: Celery) -> Iterator[InlineWorker]:
    worker = InlineWorker(app)
    yield worker
    worker.close()


@pytest.fixture
def eager() -> SimpleNamespace:
    """The same tasks, on an app that runs everything at once."""
    app = memory_app(task_always_eager=True)
    tasks = declare_tasks(app)
    tasks.app = app
    return tasks
