"""Results that a busy worker stores many at once."""

from __future__ import annotations

import pytest
import redis

from t.harness.servers import RedisServer
from t.harness.worker import eventually

pytestmark = pytest.mark.redis


@pytest.fixture
def store():
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("task", ["work", "late_work"])
def test_every_result_of_a_burst_is_stored_before_the_message_is_gone(on_redis, store, task):
    project = on_redis
    project.conf["result_backend"] = store.url
    results = [project.send(task, str(project.journal.path), str(n), 0) for n in range(300)]
    project.worker("-P", "prefork", "-c", "2")

    assert [result.get(timeout=60) for result in results] == [str(n) for n in range(300)]
    with redis.Redis.from_url(store.url) as client:
        commands = client.info("commandstats")
    assert commands["cmdstat_publish"]["calls"] == 300
    assert commands["cmdstat_evalsha"]["calls"] < 250


def test_results_outlast_a_store_that_is_away_for_a_while(on_redis, redis_url, store):
    """Nothing is called a success meanwhile, and nothing is lost or stored as a failure."""
    project = on_redis
    project.conf["result_backend"] = store.url
    gate = project.gate()
    path = str(project.journal.path)
    held = [project.send("late_gated", path, f"held {n}", str(gate)) for n in range(2)]
    project.worker("-P", "prefork", "-c", "2")
    project.journal.wait_for("begin held 0", "begin held 1")
    burst = [project.send("late_work", path, str(n), 0) for n in range(50)]

    with store.frozen():
        gate.touch()
        project.journal.wait_for("end held 0", "end held 1")
    results = held + burst

    values = [result.get(timeout=60) for result in results]
    assert values == ["held 0", "held 1", *map(str, range(50))]
    # Each was acknowledged once its result was there.
    with redis.Redis.from_url(redis_url) as broker:
        eventually(lambda: broker.hlen("unacked") == 0)
