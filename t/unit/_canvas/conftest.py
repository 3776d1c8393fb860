"""An app with a few tasks, and a worker that runs them in this thread."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from celery import Celery
from t.harness.inline import InlineWorker, declare_tasks, memory_app


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
