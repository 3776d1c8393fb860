"""An app in memory, a broker connection, and events as workers send them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery.contrib.testing.app import TestApp, setup_default_app
from celery.events.state import State


@pytest.fixture
def app() -> Iterator[Any]:
    app = TestApp(config={"broker_transport_options": {"polling_interval": 0.001}})
    with setup_default_app(app):
        yield app


@pytest.fixture
def connection(app: Any) -> Iterator[Any]:
    with app.connection_for_write() as connection:
        yield connection


class Cluster:
    """A state, fed with events in the words of the tests."""

    def __init__(self, **options: Any) -> None:
        self.state = State(**options)
        self.clock = 0

    def task(self, kind: str, uuid: str = "t1", node: str = "w1@h", **fields: Any) -> Any:
        return self._event(f"task-{kind}", node, {"uuid": uuid, **fields})

    def worker(self, kind: str, node: str = "w1@h", **fields: Any) -> Any:
        return self._event(f"worker-{kind}", node, {"freq": 2.0, **fields})

    def _event(self, type: str, node: str, fields: dict[str, Any]) -> Any:
        self.clock += 1
        event = {
            "type": type,
            "hostname": node,
            "clock": self.clock,
            "timestamp": 1000.0 + self.clock,
            "local_received": 1000.0 + self.clock,
            "pid": 1,
            "utcoffset": 0,
            **fields,
        }
        return self.state.event(event)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()
