"""An app whose results are kept in memory, and nothing else."""

from __future__ import annotations

import pytest

from celery import Celery
from celery.backends.cache import DummyClient


@pytest.fixture
def app():
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    DummyClient().flush_all()
    app.close()


@pytest.fixture
def backend(app):
    return app.backend
