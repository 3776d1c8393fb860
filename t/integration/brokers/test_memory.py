"""The broker in memory, for the threads of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, chain
from celery.contrib.testing.worker import start_worker
from t.harness.worker import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    """An app with a worker in another thread."""
    made = Celery("t", broker="memory://", backend="cache+memory://", set_as_current=False)

    @made.task(name="add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(made, perform_ping_check=False, pool="threads", concurrency=2):
        yield made


def test_tasks_and_workflows_run_within_one_process(app: Any) -> None:
    """B-BROK-011."""
    add = app.tasks["add"]
    assert [add.delay(n, n) for n in range(20)][-1].get(timeout=PATIENCE_S) == 38
    assert chain(add.s(1, 2), add.s(3)).apply_async().get(timeout=PATIENCE_S) == 6
    assert add.apply_async((1, 2), countdown=0.2).get(timeout=PATIENCE_S) == 3


def test_remote_control_works_within_one_process(app: Any) -> None:
    """B-BROK-011."""
    [reply] = eventually(lambda: app.control.ping(timeout=1))
    assert list(reply.values()) == [{"ok": "pong"}]
