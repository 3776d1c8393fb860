"""Tasks with an ETA wait on the server, and run once, on time, whatever happens to workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from signal import SIGKILL
from typing import Any

import pytest
import redis

from t.harness.worker import eventually

pytestmark = pytest.mark.redis

WAITING = "unacked.delayed:celery"


@pytest.fixture
def store(redis_url: str) -> Iterator[Any]:
    """A client of the server."""
    client: Any = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def send_timed(project: Any, count: int, countdown: float) -> float:
    """Send tasks that write when they ran, all due at one moment; returns which one."""
    due = time.time() + countdown
    eta = datetime.fromtimestamp(due, UTC)
    with project.app.producer_or_acquire() as producer:
        for number in range(count):
            project.send("timed", str(project.journal), str(number), eta=eta, producer=producer)
    return due


def run_times(project: Any, count: int) -> list[float]:
    """Wait until *count* tasks have run, each once; returns when they did."""
    eventually(lambda: len(project.journal.lines) >= count)
    names = Counter(line.split()[0] for line in project.journal.lines)
    assert names == dict.fromkeys(map(str, range(count)), 1)
    return [float(line.split()[1]) for line in project.journal.lines]


def test_tasks_wait_on_the_server_and_run_on_time(on_redis, store):
    """Nothing of them is in the worker meanwhile, and none is in the queue."""
    worker = on_redis.worker("-c2")
    due = send_timed(on_redis, 50, 4)

    eventually(lambda: store.zcard(WAITING) == 50)
    assert not store.exists("unacked", "unacked_index", "celery")
    assert on_redis.app.control.inspect().stats() is not None

    times = run_times(on_redis, 50)
    assert min(times) >= due
    assert max(times) < due + 30
    eventually(lambda: not store.exists(WAITING, f"{WAITING}:text", "unacked", "celery"))
    assert worker.stop() == 0


def test_tasks_that_wait_are_listed_and_found(on_redis, store):
    """B-EVT-026: ``inspect scheduled`` shows them, and ``query_task`` finds them."""
    on_redis.worker("-c1")
    results = [on_redis.send("add", 1, n, countdown=600 + n) for n in range(3)]
    eventually(lambda: store.zcard(WAITING) == 3)

    inspect = on_redis.app.control.inspect()
    ((_, shown),) = inspect.scheduled().items()
    assert [entry["request"]["id"] for entry in shown] == [result.id for result in results]
    assert all(entry["eta"] and entry["priority"] == 6 for entry in shown)
    ((_, found),) = inspect.query_task(results[1].id).items()
    assert found[results[1].id][0] == "scheduled"
    assert found[results[1].id][1]["id"] == results[1].id


def test_a_revoked_task_that_waits_is_discarded_at_once(on_redis, store):
    """B-WORK-041: also where it would be due long after the worker has forgotten its id."""
    worker = on_redis.worker("-c1")
    results = [on_redis.send("note", str(on_redis.journal), "x", countdown=600) for _ in range(2)]
    eventually(lambda: store.zcard(WAITING) == 2)

    results[0].revoke()
    worker.wait_for(rf"Discarding revoked task: note\[{results[0].id}\]")
    eventually(lambda: results[0].state == "REVOKED")
    assert store.zrange(WAITING, 0, -1) == [results[1].id]
    eventually(lambda: not store.exists("unacked", "celery"))


def test_purging_deletes_what_waits(on_redis, store):
    on_redis.worker("-c1")
    for number in range(5):
        on_redis.send("add", 1, number, countdown=600)
    eventually(lambda: store.zcard(WAITING) == 5)

    assert on_redis.queue_length() == 0
    assert on_redis.app.control.purge() == 5
    assert not store.exists(WAITING, f"{WAITING}:text")


def test_the_priority_counts_when_the_time_comes(on_redis, store):
    """Those due at once come in the order of their priorities."""
    conf = {"broker_transport_options": {"priority_steps": [0, 3, 6, 9]}}
    on_redis.conf.update(conf, worker_prefetch_multiplier=1)
    on_redis.worker("-c1")
    journal = str(on_redis.journal)
    due = time.time() + 4
    eta = datetime.fromtimestamp(due, UTC)
    for priority in (9, 0, 6, 3):
        for _ in range(2):
            on_redis.send("work", journal, f"p{priority}", 0.05, priority=priority, eta=eta)
    eventually(lambda: store.zcard(WAITING) == 8)
    on_redis.send("gated", journal, "holder", str(on_redis.gate()))
    on_redis.journal.wait_for("begin holder")
    eventually(lambda: time.time() > due + 0.5 and not store.exists(WAITING))
    on_redis.gate().touch()

    on_redis.journal.wait_for("end p9", "end p9")
    order = [line for line in on_redis.journal.lines if line.startswith("begin p")]
    # One was prefetched while the process was held.
    assert sorted(order[1:]) == order[1:]


def test_a_killed_worker_delays_nothing_that_waits(on_redis, store):
    """Each runs once and on time, though the worker that left them on the server is gone."""
    on_redis.conf["broker_transport_options"] = {"claim_lease": 2}
    first = on_redis.worker("-c2", "-n", "first@%h")
    due = send_timed(on_redis, 40, 6)
    eventually(lambda: store.zcard(WAITING) == 40)
    first.signal(SIGKILL)
    on_redis.worker("-c2", "-n", "second@%h")

    times = run_times(on_redis, 40)
    assert min(times) >= due
    assert max(times) < due + 30


def test_an_eta_beyond_the_visibility_timeout_runs_once(on_redis, store):
    """B-ROUT-032 does not hold here: ten tasks, ten runs, whether they wait here or there."""
    for window in (2, None):
        on_redis.journal.path.write_text("")
        conf = {
            "broker_transport_options": {
                "visibility_timeout": 1, "unacked_restore_interval": 0.2, "eta_window": window,
            }
        }  # fmt: skip
        workers = [on_redis.worker("-c1", "-n", f"{n}-{window}@%h", conf=conf) for n in range(2)]
        due = send_timed(on_redis, 10, 4)
        times = run_times(on_redis, 10)
        assert max(times) < due + 30
        eventually(lambda: not store.exists("unacked", "celery", WAITING))
        assert len(on_redis.journal.lines) == 10
        assert [worker.stop() for worker in workers] == [0, 0]


def test_with_no_window_what_waits_is_delivered(on_redis, store):
    """The way back to other workers: one with ``eta_window`` None empties the server's sets."""
    first = on_redis.worker("-c1")
    for number in range(300):
        on_redis.send("add", 1, number, countdown=600)
    eventually(lambda: store.zcard(WAITING) == 300)
    assert first.stop() == 0

    second = on_redis.worker("-c1", conf={"broker_transport_options": {"eta_window": None}})
    eventually(lambda: store.hlen("unacked") == 300)
    assert not store.exists(WAITING)
    assert second.stop() == 0
    assert store.llen("celery") == 300


@pytest.mark.rabbitmq
def test_many_tasks_wait_in_a_worker_on_rabbitmq(on_rabbitmq):
    """B-WORK-055, B-WORK-076: a task behind them runs at once; a warm stop gives them back."""
    worker = on_rabbitmq.worker("-c1")
    due = send_timed(on_rabbitmq, 1500, 8)
    on_rabbitmq.send("note", str(on_rabbitmq.journal), "behind 0")
    on_rabbitmq.journal.wait_for("behind 0")
    assert time.time() < due

    on_rabbitmq.journal.path.write_text("")
    times = run_times(on_rabbitmq, 1500)
    assert min(times) >= due
    assert max(times) < due + 30

    for number in range(1100):
        on_rabbitmq.send("add", 1, number, countdown=600)
    eventually(lambda: worker.count("received") == 2 * 1500 - 1000 + 1 + 1100)
    assert worker.stop() == 0
    assert on_rabbitmq.queue_length() == 1100
