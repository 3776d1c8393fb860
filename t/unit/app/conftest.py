"""Tests of the app layer share no tasks and no current app."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery import Celery, _state
from celery.backends.cache import DummyClient
from t.harness.inline import InlineWorker, memory_app


@pytest.fixture(autouse=True)
def own_registers() -> Iterator[None]:
    """Put back, after each test, which app is current and what is declared for all apps.

    Results in memory are those of the process; each test finds none.
    """
    DummyClient().cache.clear()
    finalizers = dict(_state._on_app_finalizers)
    current, default = _state._tls.current_app, _state.default_app
    yield
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(finalizers)
    _state._set_current_app(current)
    _state.set_default_app(default)


@pytest.fixture
def app() -> Celery:
    """An app with a queue and a result store of its own, both in memory."""
    return memory_app()


@pytest.fixture
def worker(app: Celery) -> Iterator[InlineWorker]:
    """Runs the messages of `app` in this thread."""
    worker = InlineWorker(app)
    yield worker
    worker.close()
