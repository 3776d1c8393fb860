"""Many workers at a time: all answer, nobody is missed wrongly, who dies is missed, one is elected.

``T_LONG=1`` starts fifty workers, watches them for ten minutes, and holds them to the times that
the documentation names.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from signal import SIGKILL

import pytest

from celery import Celery
from t.harness.servers import RedisServer
from t.harness.worker import PATIENCE_S, WorkerProcess, eventually

pytestmark = pytest.mark.redis

IS_LONG = bool(os.environ.get("T_LONG"))

SIZE = 50 if IS_LONG else 4
DEAD = SIZE // 5 or 1
#: Seconds from the end of a worker until all others have missed it, as documented.
MISSED_WITHIN_S = 9.0
QUIET_S = 600.0 if IS_LONG else 0.0

PROJECT = """
import os
from celery import Celery
app = Celery("proj", broker=os.environ["T_BROKER"])

@app.task
def act(number):
    print(f"acted for {number}")
"""


class Fleet:
    def __init__(self, app: Celery, workers: dict[str, WorkerProcess]) -> None:
        self.app, self.workers = app, workers

    def log(self, pattern: str) -> list[str]:
        """Return what *pattern* finds in any log."""
        return [
            found for each in self.workers.values() for found in re.findall(pattern, each.text())
        ]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "proj.py").write_text(PROJECT)
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        app = Celery("client", broker=server.url, set_as_current=False)
        stack.callback(app.close)
        workers = {}
        for number in range(SIZE):
            name, pool = f"w{number}@lab", ("solo", "threads")[number % 2]
            workers[name] = WorkerProcess(
                "-n", name, "-P", pool, "-c", "1", conf={}, app="proj", cwd=folder,
                level="DEBUG", env={"T_BROKER": server.url},
            )  # fmt: skip
            stack.callback(workers[name].kill)
            workers[name].launch()
        for worker in workers.values():
            worker.wait_for(r" ready\.$", timeout_s=10 * PATIENCE_S)
        fleet = Fleet(app, workers)
        # Each hears of the others by their heartbeats.
        acquaintances = SIZE * (SIZE - 1)
        eventually(lambda: len(fleet.log("joined the party")) >= acquaintances, 10 * PATIENCE_S)
        yield fleet


def test_all_answer(fleet: Fleet) -> None:
    """Fifty workers within the second that inspect waits, of a client that is connected."""
    with fleet.app.pool.acquire(block=True) as connection:
        connection.ensure_connection()
    inspect = fleet.app.control.inspect(timeout=1.0 if IS_LONG else PATIENCE_S, limit=SIZE)
    begun = time.monotonic()
    answers = inspect.ping() or {}
    needed_s = time.monotonic() - begun
    print(f"{len(answers)} answers in {needed_s:.2f} s")

    assert answers == {name: {"ok": "pong"} for name in fleet.workers}
    assert not IS_LONG or needed_s < 1.0


def test_of_all_one_acts(fleet: Fleet) -> None:
    """B-EVT-017: all stand in each election, all know the leader, and the leader alone acts."""
    # Each of fifty answers each of fifty candidates, and all hear of it: one is enough there.
    elections = 1 if IS_LONG else 10
    for number in range(elections):
        task = fleet.app.signature("proj.act", args=(number,))
        fleet.app.control.election(f"election-{number}", "task", task)

    conclusions = r"elected for|I won the election"
    eventually(lambda: len(fleet.log(conclusions)) == elections * SIZE, 4 * PATIENCE_S)
    eventually(lambda: len(fleet.log(r"acted for \d+")) == elections)
    assert len(fleet.log("I won the election")) == elections
    assert len(set(fleet.log(r"acted for \d+"))) == elections


@pytest.mark.timeout(QUIET_S + 300)
def test_whoever_lives_is_not_missed(fleet: Fleet) -> None:
    threading.Event().wait(QUIET_S)

    assert fleet.log("missed heartbeat.*") == []


def test_whoever_dies_is_missed(fleet: Fleet) -> None:
    names = list(fleet.workers)
    dead = {name: fleet.workers.pop(name) for name in names[:DEAD]}
    for worker in dead.values():
        worker.signal(SIGKILL)
    expected = {name: len(fleet.workers) for name in dead}

    def missed() -> dict[str, int]:
        found = fleet.log(r"missed heartbeat from (\S+)")
        return {name: found.count(name) for name in set(found)}

    begun = time.monotonic()
    eventually(lambda: missed() == expected, MISSED_WITHIN_S if IS_LONG else 2 * PATIENCE_S)
    print(f"missed after {time.monotonic() - begun:.1f} s")
    assert not fleet.log(r"ERROR|CRITICAL|Traceback")
