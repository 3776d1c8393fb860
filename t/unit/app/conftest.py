"""What tests of the app layer start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery import Celery
from celery.backends.cache import DummyClient
from t.harness.inline import InlineWorker, memory_app


@pytest.fixture(autouse=True)
def no_results() -> None:
    """Forget what other tests stored: results in memory are those of the process."""
    DummyClient().cache.clear()


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
