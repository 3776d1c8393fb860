"""A worker under everything at once: every task has one final state, and nothing is left behind.

One minute's work in CI; ``T_LONG=1`` goes on for an hour.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from celery import Celery
from celery.states import READY_STATES
from t.harness.servers import RedisServer
from t.harness.worker import WorkerProcess, eventually

#: Seconds of each of the two tests.
DURATION_S = 1800.0 if os.environ.get("T_LONG") else 30.0

#: Tasks under way at most.
AT_ONCE = 40

#: Seconds between two looks at the memory of the worker.
LOOK_S = DURATION_S / 60

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
        # A crowd that keeps the worker busy for an hour leaves gigabytes otherwise.
        "result_expires": 60,
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


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def zombies(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                found.append(pid)
    return found


def named(document: dict[str, Any]) -> str:
    """Return the state, and LOST for the failure of a task whose process was killed."""
    result = document["result"]
    is_lost = isinstance(result, dict) and result.get("exc_type") == "WorkerLostError"
    return "LOST" if is_lost else str(document["status"])


class Finals:
    """Hears of every final state that is stored, by the announcements of the store."""

    def __init__(self, server: RedisServer) -> None:
        self._client = redis.Redis(port=server.port)
        self._channel = self._client.pubsub()
        self._channel.psubscribe("celery-task-meta-*")
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.open: set[str] = set()
        self.states: defaultdict[str, list[str]] = defaultdict(list)

    def _listen(self) -> None:
        for message in self._channel.listen():
            if message["type"] == "unsubscribe" or message["type"] == "punsubscribe":
                return
            if message["type"] == "pmessage":
                document = json.loads(message["data"])
                if document["status"] in READY_STATES:
                    self.states[document["task_id"]].append(named(document))
                    self.open.discard(document["task_id"])

    def close(self) -> None:
        self._channel.punsubscribe()
        self._thread.join(30)
        self._channel.close()
        self._client.close()


def described(app: Celery, finals: Finals) -> str:
    """Say where the tasks are that have no final state."""
    control = app.control.inspect(timeout=5)

    def told(answers: Any) -> Any:
        """Leave out the arguments, which may be megabytes."""
        fields = ("id", "name", "time_start", "worker_pid")
        return {
            node: [[task.get("request", task)[field] for field in fields] for task in tasks]
            for node, tasks in (answers or {}).items()
        }

    with app.connection_for_read() as connection:
        client = connection.default_channel.client
        keys = {key: client.type(key) for key in client.keys("*") if b"meta" not in key}
    return (
        f"stored {[(each, app.AsyncResult(each).state) for each in finals.open]}, "
        f"active {told(control.active())}, reserved {told(control.reserved())}, "
        f"scheduled {told(control.scheduled())}, stats {control.stats()}, keys {keys}"
    )[:20_000]


def send_one(app: Celery, chance: random.Random, big: str, task_id: str) -> Any:
    kind = chance.randrange(10)
    if kind < 2:
        return app.send_task("stressed.length", (big,), task_id=task_id)
    if kind < 4:
        limits = {"soft_time_limit": chance.uniform(0.02, 0.3), "time_limit": 2}
        name = chance.choice(["stressed.pause", "stressed.coroutine_pause"])
        return app.send_task(name, (chance.uniform(0, 0.4),), task_id=task_id, **limits)
    if kind < 6:
        limits = {"time_limit": chance.uniform(0.05, 0.3)}
        name = chance.choice(["stressed.stubborn", "stressed.coroutine_pause"])
        return app.send_task(name, (chance.uniform(0, 0.5),), task_id=task_id, **limits)
    text = "x" * chance.randrange(50_000)
    return app.send_task("stressed.echo", (text,), task_id=task_id)


@pytest.mark.timeout(DURATION_S + 240)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--autoscale", "8,1"), id="autoscale"),
        pytest.param(("-c", "2", "--max-tasks-per-child", "1"), id="one task a child"),
    ],
)
def test_every_task_ends_once_and_nothing_is_left_behind(
    options: tuple[str, ...], app: Celery, folder: Path, redis_server: RedisServer
) -> None:
    chance = random.Random(7)
    big = os.urandom(4 << 20).hex()  # 8 MB
    finals = Finals(redis_server)
    sent: list[str] = []
    memory: list[float] = []
    env = {"AUTOSCALE_KEEPALIVE": "2"}
    worker = WorkerProcess(*options, conf={}, app="stressed", cwd=folder, level="ERROR", env=env)
    with worker.quietly():
        warm = app.send_task("stressed.length", (big,))
        assert warm.get(timeout=60) == len(big)
        eventually(lambda: worker.children())
        first_fds = descriptors(worker.pid)
        start = time.monotonic()
        next_kill, next_look, next_lull = start + 1, start + 5, start + 10
        seen_open, seen_at = set[str](), start
        while (now := time.monotonic()) < start + DURATION_S:
            if len(finals.open) < AT_ONCE and now < next_lull:
                sent.append(f"stress-{len(sent)}")
                finals.open.add(sent[-1])
                send_one(app, chance, big, sent[-1])
                # That one may have ended by now.
                if chance.random() < 0.05 and (still_open := [*finals.open]):
                    app.control.revoke(chance.choice(still_open), terminate=True)
            else:
                time.sleep(0.005)
            if finals.open != seen_open:
                seen_open, seen_at = set(finals.open), now
            assert now < seen_at + 90, described(app, finals)
            if now > next_lull and not finals.open:
                # With nothing to do the pool shrinks, and grows again in the next rush.
                next_lull = now + chance.uniform(5, 20)
                eventually(lambda: not zombies(worker.children()))
            if now > next_kill:
                next_kill = now + chance.uniform(0.3, 2)
                with suppress(ProcessLookupError, IndexError):
                    os.kill(chance.choice(worker.children()), signal.SIGKILL)
            if now > next_look:
                next_look = now + LOOK_S
                memory.append(resident_mib(worker.pid))
                left_over = set(zombies(worker.children()))
                eventually(lambda left=left_over: not left & set(zombies(worker.children())))
        with suppress(AssertionError):
            eventually(lambda: not finals.open, timeout_s=120)
        assert not finals.open, described(app, finals)
        eventually(lambda: not zombies(worker.children()))
        last = app.send_task("stressed.echo", ("last",))
        assert last.get(timeout=60) == "last"
        fds = descriptors(worker.pid)
        assert worker.stop() == 0
    finals.close()

    quarter = len(memory) // 4
    early, late = (
        statistics.median(memory[quarter : 2 * quarter]),
        statistics.median(memory[-quarter:]),
    )
    ends = {task_id: finals.states[task_id] for task_id in sent}
    counts = Counter(states[0] for states in ends.values() if states)
    print(dict(counts), len(sent), "fds", first_fds, fds, "MiB", [round(m) for m in memory])
    assert {task_id: states for task_id, states in ends.items() if len(set(states)) != 1} == {}
    assert counts["SUCCESS"] > len(sent) / 4
    # Children come and go, and each has a descriptor or two while it lives.
    assert fds <= first_fds + 40
    # Eight messages of 8 MB may be in memory at a time, in a few copies.
    assert late < early + (50 if os.environ.get("T_LONG") else 200)
    assert max(memory) < 600
