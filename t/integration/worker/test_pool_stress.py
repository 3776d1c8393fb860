"""A worker under everything at once: every task has one final state, and nothing is left behind.

One minute's work in CI; ``T_LONG=1`` goes on for an hour.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from celery import Celery
from celery.states import READY_STATES
from t.harness.servers import RedisServer
from t.harness.worker import WorkerProcess, eventually

DURATION_S = 3600.0 if os.environ.get("T_LONG") else 15.0

#: Tasks under way at most.
AT_ONCE = 40

TASKS = """
import time
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

app = Celery("stressed")
app.conf.update(__CONF__)

@app.task
def length(data):
    return len(data)

@app.task
def echo(data):
    return data

@app.task
def pause(seconds):
    time.sleep(seconds)
    return seconds

@app.task
def stubborn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except SoftTimeLimitExceeded:
            pass
    return seconds

@app.task
async def coroutine_pause(seconds):
    import asyncio
    await asyncio.sleep(seconds)
    return seconds
"""


@pytest.fixture
def conf(redis_server: RedisServer) -> dict[str, Any]:
    return {
        "broker_url": redis_server.url,
        "result_backend": redis_server.url,
        "task_default_queue": "stress",
        "worker_proc_alive_timeout": 60,
        "worker_max_tasks_per_child": None,
        "result_extended": True,
    }


@pytest.fixture
def folder(conf: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "stressed.py").write_text(TASKS.replace("__CONF__", repr(conf)))
    return tmp_path


@pytest.fixture
def app(conf: dict[str, Any], redis_server: RedisServer) -> Iterator[Celery]:
    redis_server.flush()
    with Celery("client", set_as_current=False) as app:
        app.conf.update(conf)
        yield app


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def zombies(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(pid)
    return found


class Finals:
    """Notes the final state of each task, and whether it stays."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.open: list[Any] = []
        self.states: dict[str, str] = {}
        self.terminated: set[str] = set()

    def under_way(self) -> int:
        """Look at the open ones; return how many still are."""
        still = []
        for result in self.open:
            state = result.state
            if state in READY_STATES:
                self.states[result.id] = state
            else:
                still.append(result)
        self.open = still
        return len(still)

    def changed(self) -> dict[str, tuple[str, str]]:
        """Return the tasks whose final state was not final.

        A task that is terminated in the moment in which it ends may have its success on the way
        to the store when the worker stores that it was revoked; a success always stays.
        """
        now = {task_id: self.app.AsyncResult(task_id).state for task_id in self.states}
        return {
            task_id: (state, now[task_id])
            for task_id, state in self.states.items()
            if now[task_id] != state
            and not (task_id in self.terminated and (state, now[task_id]) == ("REVOKED", "SUCCESS"))
        }


def send_one(app: Celery, chance: random.Random, big: bytes) -> Any:
    kind = chance.randrange(10)
    if kind < 2:
        return app.send_task("stressed.length", (big.decode(),))
    if kind < 4:
        limits = {"soft_time_limit": chance.uniform(0.02, 0.3), "time_limit": 2}
        name = chance.choice(["stressed.pause", "stressed.coroutine_pause"])
        return app.send_task(name, (chance.uniform(0, 0.4),), **limits)
    if kind < 6:
        limits = {"time_limit": chance.uniform(0.05, 0.3)}
        name = chance.choice(["stressed.stubborn", "stressed.coroutine_pause"])
        return app.send_task(name, (chance.uniform(0, 0.5),), **limits)
    return app.send_task("stressed.echo", ("x" * chance.randrange(50_000),))


@pytest.mark.timeout(DURATION_S + 240)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--autoscale", "8,1"), id="autoscale"),
        pytest.param(("-c", "2", "--max-tasks-per-child", "1"), id="one task a child"),
    ],
)
def test_every_task_ends_once_and_nothing_is_left_behind(
    options: tuple[str, ...], app: Celery, folder: Path
) -> None:
    chance = random.Random(7)
    big = os.urandom(4 << 20).hex().encode()  # 8 MB
    finals = Finals(app)
    sent = 0
    with WorkerProcess(*options, conf={}, app="stressed", cwd=folder, level="ERROR").quietly() as (
        worker
    ):
        warm = app.send_task("stressed.length", (big.decode(),))
        assert warm.get(timeout=60) == len(big)
        eventually(lambda: worker.children())
        first_fds, first_kib = descriptors(worker.pid), resident_kib(worker.pid)
        end = time.monotonic() + DURATION_S
        next_kill = time.monotonic() + 1
        while time.monotonic() < end:
            if finals.under_way() < AT_ONCE:
                finals.open.append(send_one(app, chance, big))
                sent += 1
                if chance.random() < 0.05:
                    victim = chance.choice(finals.open)
                    finals.terminated.add(victim.id)
                    victim.revoke(terminate=True)
            if time.monotonic() > next_kill:
                next_kill = time.monotonic() + chance.uniform(0.3, 2)
                children = worker.children()
                if children:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(children), signal.SIGKILL)
        eventually(lambda: finals.under_way() == 0, timeout_s=120)
        eventually(lambda: not zombies(worker.children()))
        last = app.send_task("stressed.echo", ("last",))
        assert last.get(timeout=60) == "last"
        fds, kib = descriptors(worker.pid), resident_kib(worker.pid)
        assert worker.stop() == 0

    counts = Counter(finals.states.values())
    print(dict(counts), sent, "fds", first_fds, fds, "KiB", first_kib, kib)
    assert len(finals.states) == sent
    assert finals.changed() == {}
    assert counts["SUCCESS"] > sent / 4
    # Children come and go, and each has a descriptor or two while it lives.
    assert fds <= first_fds + 40
    # Eight messages of 8 MB may be in memory at a time, in a few copies.
    assert kib < first_kib + 400 * 1024
