"""An app whose results are kept in memory, and nothing else."""

from __future__ import annotations

import pytest
from kombu.transport import memory

from celery import Celery
from celery.backends.cache import DummyClient


@pytest.fixture
def app():
    # The broker in memory is one per process: what other tests sent is still there.
    for queue in memory.Channel.queues.values():
        queue.queue.clear()
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    DummyClient().flush_all()
    app.close()


@pytest.fixture
def backend(app):
    return app.backend
