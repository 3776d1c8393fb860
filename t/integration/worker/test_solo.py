"""What the broker knows while the solo pool runs a body, and its loop stands still."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import redis

from t.harness.worker import WorkerProcess, eventually
from t.integration.worker.conftest import Project


def held_by_redis(project: Project, worker: WorkerProcess) -> set[str]:
    with redis.Redis.from_url(project.conf["broker_url"]) as server:
        records = [json.loads(record) for record in server.hvals("unacked")]
        return {message["headers"]["id"] for message, *_ in records}


def held_by_rabbitmq(project: Project, worker: WorkerProcess) -> set[str]:
    """Take what the server delivers again to another: it is all that was not acknowledged."""
    worker.signal(SIGKILL)
    worker.wait()
    with project.app.connection_for_read() as connection:
        channel = connection.default_channel
        # The messages are back as soon as their consumer is gone.
        eventually(lambda: not channel.queue_declare("celery", passive=True).consumer_count)
        found = set()
        while (message := channel.basic_get("celery")) is not None:
            found.add(message.headers["id"])
        return found


def held_by_file(project: Project, worker: WorkerProcess) -> set[str]:
    path = project.conf["broker_url"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as store:
        heads = store.execute("SELECT head FROM messages WHERE queue = 'celery'").fetchall()
    return {json.loads(head)["headers"]["id"] for (head,) in heads}


BROKERS: dict[str, Callable[[Project, WorkerProcess], set[str]]] = {
    "redis": held_by_redis,
    "rabbitmq": held_by_rabbitmq,
    "sqlite": held_by_file,
}


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Project, Any]:
    if request.param == "sqlite":
        make = request.getfixturevalue("make_project")
        return make(f"sqlite:///{tmp_path}/broker.db"), BROKERS["sqlite"]
    return request.getfixturevalue(f"on_{request.param}"), BROKERS[request.param]


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_body_that_ends_the_worker_brings_back_no_task_before_it(
    broker: tuple[Project, Any], late: bool
) -> None:
    """All four come with one read; the body of the last one is what the process dies of."""
    project, held = broker
    name, journal = ("late_gated" if late else "gated"), str(project.journal)
    project.gate("open").touch()
    for label in "abc":
        project.send(name, journal, label, str(project.gate("open")))
    last = project.send(name, journal, "d", str(project.gate("shut")))

    # Busy as soon as it is connected, it may not come to say that it is ready.
    worker = project.unstarted("-P", "solo", "--prefetch-multiplier=8")
    worker.launch()
    try:
        project.journal.wait_for("begin d")

        assert held(project, worker) == ({last.id} if late else set())
    finally:
        if worker.process is not None and worker.process.poll() is None:
            worker.signal(SIGKILL)
        worker.kill()
