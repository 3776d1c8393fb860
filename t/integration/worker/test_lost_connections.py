"""What runs when the connection to a living Redis server is lost belongs to its worker still."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from signal import SIGKILL
from typing import Any

import pytest
import redis

from t.harness.worker import eventually

pytestmark = pytest.mark.redis

LEASE_S = 2


@pytest.fixture
def store(redis_url: str) -> Iterator[Any]:
    """A client of the server."""
    client: Any = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


@pytest.fixture
def soon(on_redis):
    """A project whose leases are short."""
    on_redis.conf["broker_transport_options"] = {"claim_lease": LEASE_S}
    return on_redis


def cut(store: Any) -> None:
    """Close all connections but our own."""
    me = store.client_id()
    for entry in store.client_list():
        if int(entry["id"]) != me:
            store.client_kill_filter(_id=entry["id"])


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_runs_is_not_delivered_again(soon, store, pool):
    """What was only prefetched is given back at once, and runs once."""
    worker = soon.worker("-P", pool, "-c1")
    journal, gate = str(soon.journal), str(soon.gate())
    soon.send("late_gated", journal, "held", gate)
    soon.journal.wait_for("begin held")
    for number in range(3):
        soon.send("late_note", journal, f"n{number}")
    if pool != "solo":
        eventually(lambda: worker.count("received") == 4)
    others = soon.worker("-P", "solo", "-n", "other@%h")

    cut(store)
    others.wait_for("Connected to redis", times=2)
    over = time.monotonic() + 2 * LEASE_S
    eventually(lambda: time.monotonic() > over)
    soon.reconnect()
    soon.gate().touch()
    soon.journal.wait_for("end held", "n0", "n1", "n2")

    eventually(lambda: not store.exists("unacked", "unacked_index", "celery"))
    assert sorted(soon.journal.lines) == ["begin held", "end held", "n0", "n1", "n2"]
    if pool != "solo":
        # The owner of the lost connection has left.
        eventually(lambda: store.zcard("unacked.owners") == 2)
    assert (worker.stop(), others.stop()) == (0, 0)


def test_what_ends_while_there_is_no_connection_is_acknowledged_later(soon, store):
    worker = soon.worker("-c1")
    soon.send("late_gated", str(soon.journal), "held", str(soon.gate()))
    soon.journal.wait_for("begin held")

    store.config_set("maxclients", 1)
    cut(store)
    worker.wait_for("Cannot connect to redis")
    soon.gate().touch()
    soon.journal.wait_for("end held")
    store.config_set("maxclients", 10000)

    worker.wait_for("Connected to redis", times=2)
    eventually(lambda: not store.exists("unacked", "unacked_index", "celery"))
    assert soon.journal.lines == ["begin held", "end held"]
    assert worker.stop() == 0


def test_what_asks_to_be_delivered_again_is(soon, store):
    """Here because its process dies after the reconnect, with ``reject_on_worker_lost``."""
    worker = soon.worker("-c1")
    journal, gate = str(soon.journal), str(soon.gate())
    soon.send("late_lost_gated", journal, "held", gate)
    soon.journal.wait_for("begin held")
    cut(store)
    worker.wait_for("Connected to redis", times=2)

    for pid in worker.children():
        os.kill(pid, SIGKILL)
    soon.journal.wait_for("begin held", "begin held")
    soon.gate().touch()
    soon.journal.wait_for("end held")
    eventually(lambda: not store.exists("unacked", "unacked_index", "celery"))
    assert soon.journal.lines == ["begin held", "begin held", "end held"]
