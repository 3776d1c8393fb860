"""Workers with pools other than prefork, and results that pass through the worker."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import redis

from t.harness.worker import eventually


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent", "eventlet", "prefork", "asyncio"])
def test_every_pool_runs_tasks_and_answers(project, pool):
    """B-WORK-008: with -P on the command line, so that modules are patched first."""
    worker = project.worker("-P", pool, "-c2")

    results = [project.send("add", number, 1) for number in range(20)]
    assert [result.get(timeout=20) for result in results] == list(range(1, 21))
    late = [project.send("late_note", str(project.journal), str(n)) for n in range(20)]
    for result in late:
        result.get(timeout=20)
    assert project.app.control.ping(timeout=60, limit=1)
    error = project.send("boom").get(timeout=20, propagate=False)
    assert type(error) is KeyError

    assert worker.stop() == 0
    assert project.queue_length() == 0


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_green_threads_share_their_connections(on_redis, redis_url, pool):
    """A back-end for each of them would open one connection for each task."""
    on_redis.conf["result_backend"] = redis_url
    on_redis.worker("-P", pool, "-c100")
    on_redis.send("add", 1, 1).get(timeout=20)
    with redis.Redis.from_url(redis_url) as server:
        before = server.info("stats")["total_connections_received"]
        results = [on_redis.send("add", number, 1) for number in range(300)]
        assert [result.get(timeout=30) for result in results] == list(range(1, 301))

        # Those of the client are among them.
        assert server.info("stats")["total_connections_received"] - before < 40


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_an_eta_works_with_every_pool(on_redis, pool):
    """B-WORK-039."""
    on_redis.worker("-P", pool, "-c2")

    assert on_redis.send("add", 1, 1, countdown=0.5).get(timeout=20) == 2


def test_children_may_be_fresh_interpreters(on_redis):
    """B-POOL-005, B-POOL-006: names, and a killed one is replaced."""
    worker = on_redis.worker(
        "-c1", conf={"worker_pool_start_method": "spawn", "worker_proc_alive_timeout": 60}
    )
    first = on_redis.send("pid").get(timeout=30)
    os.kill(first, signal.SIGKILL)

    worker.wait_for(rf"Process 'SpawnPoolWorker-1' pid:{first} exited with 'signal 9 \(SIGKILL\)'")
    assert on_redis.send("pid").get(timeout=30) != first


def test_a_child_has_so_long_to_start(on_redis, tmp_path):
    """B-POOL-007: worker_proc_alive_timeout bounds handlers of worker_process_init."""
    worker = on_redis.worker(
        "-c1",
        conf={"worker_proc_alive_timeout": 3},
        env={"T_WORKER_HANG_ONCE": str(tmp_path / "hung")},
    )

    worker.wait_for(r"Process 'ForkPoolWorker-1' pid:\d+ did not start within 3 seconds: killed")
    assert on_redis.send("add", 1, 1).get(timeout=30) == 2


def test_the_environment_may_name_a_pool(on_redis):
    """B-POOL-013: -P custom."""
    path = "celery.concurrency.thread:TaskPool"
    on_redis.worker("-P", "custom", "-c2", env={"CELERY_CUSTOM_WORKER_POOL": path})

    assert on_redis.send("add", 1, 1).get(timeout=30) == 2
    [stats] = on_redis.app.control.inspect(timeout=60, limit=1).stats().values()
    assert stats["pool"]["implementation"] == path


def test_a_redelivered_success_is_not_run_again(on_redis):
    """B-WORK-022: worker_deduplicate_successful_tasks, with late acknowledgement."""
    on_redis.conf["worker_deduplicate_successful_tasks"] = True
    on_redis.worker("-c1")
    on_redis.send("late_note", str(on_redis.journal), "once", task_id="same").get(timeout=20)

    with on_redis.app.connection_for_write() as connection:
        queue = on_redis.app.amqp.queues["celery"]
        message = on_redis.app.amqp.as_task_v2(
            "same", "late_note", (str(on_redis.journal), "once"), {}
        )
        channel = connection.default_channel
        prepared = channel.prepare_message(
            json.dumps(message.body),
            content_type="application/json",
            content_encoding="utf-8",
            headers=message.headers,
            properties={**message.properties, "delivery_mode": 2},
        )
        prepared["properties"]["delivery_info"] = {
            "exchange": "", "routing_key": "celery", "redelivered": True,
        }  # fmt: skip
        queue(channel).declare()
        channel._put("celery", prepared)
    on_redis.send("note", str(on_redis.journal), "after").get(timeout=20)

    assert on_redis.journal.lines == ["once", "after"]
    assert eventually(lambda: on_redis.queue_length() == 0)


def test_revoking_the_middle_of_a_chain_ends_it_there(on_redis):
    """B-WORK-044: that element is REVOKED, and so are later ones, for whoever waits for them."""
    from celery import chain, signature

    worker = on_redis.worker("-c1")
    app = on_redis.app
    app.set_current()
    journal, gate = str(on_redis.journal), str(on_redis.gate())
    last = chain(
        signature("gated", (journal, "a", gate), immutable=True, app=app),
        signature("note", (journal, "b"), immutable=True, app=app),
        signature("note", (journal, "c"), immutable=True, app=app),
    ).apply_async()
    on_redis.journal.wait_for("begin a")
    last.parent.revoke()
    worker.wait_for("Tasks flagged as revoked")
    on_redis.gate().touch()

    worker.wait_for(r"Discarding revoked task: note\[")
    eventually(lambda: last.parent.state == "REVOKED")
    eventually(lambda: last.state == "REVOKED")
    assert on_redis.journal.lines == ["begin a", "end a"]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_transport_that_blocks_serves_every_pool(make_project, tmp_path, pool):
    """B-WORK-012, B-WORK-076: without an event loop, messages are settled by the loop's thread."""
    project = make_project("filesystem://")
    for name in ("queue", "control"):
        (tmp_path / name).mkdir()
    project.conf["broker_transport_options"] = {
        "data_folder_in": str(tmp_path / "queue"),
        "data_folder_out": str(tmp_path / "queue"),
        "control_folder": str(tmp_path / "control"),
        "polling_interval": 0.05,
    }
    # Sent first: kombu's transport may read a file that is still being written.
    results = [project.send("late_note", str(project.journal), str(n)) for n in range(12)]
    late = project.send("add", 1, 1, countdown=0.5)
    worker = project.worker("-P", pool, "-c2")
    for result in results:
        result.get(timeout=30)
    assert late.get(timeout=20) == 2

    assert worker.stop() == 0
    assert sorted(project.journal.lines, key=int) == [str(n) for n in range(12)]
    assert list((tmp_path / "queue").iterdir()) == []


@pytest.mark.parametrize("pool", ["gevent", "asyncio"])
def test_an_idle_worker_sleeps(on_redis, pool):
    """Counted in times it goes to sleep again, which a busy machine does not change."""
    worker = on_redis.worker("-P", pool, "-c2")
    assert on_redis.send("add", 1, 1).get(timeout=20) == 2

    def slept() -> int:
        text = Path(f"/proc/{worker.pid}/status").read_text()
        return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    threading.Event().wait(2)
    before = slept()
    threading.Event().wait(2)

    assert slept() - before < 200
