"""Quorum queues and native delayed delivery, on a real RabbitMQ."""

from __future__ import annotations

import time

import pytest
from kombu import Connection

from t.harness.worker import eventually


@pytest.fixture
def quorum(on_rabbitmq):
    """A project whose default queue is a quorum queue behind a topic exchange."""
    on_rabbitmq.conf.update(
        task_default_queue_type="quorum",
        task_default_exchange="tasks",
        task_default_exchange_type="topic",
    )
    return on_rabbitmq


def test_a_quorum_queue_has_a_fixed_prefetch_count(quorum):
    """B-WORK-090: global QoS is off; held tasks don't change the count."""
    worker = quorum.worker("-c2")
    worker.wait_for("Global QoS is disabled. Prefetch count is now static")

    assert quorum.send("add", 1, 1).get(timeout=20) == 2
    stats = next(iter(quorum.app.control.inspect(timeout=60, limit=1).stats().values()))
    assert stats["prefetch_count"] == 8


def test_the_broker_delays_tasks_with_an_eta(quorum):
    """B-WORK-090, B-WORK-091: by 28 queues; the worker gets the message when it is due."""
    worker = quorum.worker("-c1")
    sent_at = time.monotonic()
    result = quorum.send("add", 1, 1, countdown=2)
    assert result.get(timeout=20) == 2
    waited = time.monotonic() - sent_at

    assert 1.0 <= waited < 15
    assert worker.count(r"Task add\[.*\] received") == 1
    with Connection(quorum.conf["broker_url"]) as connection:
        for level in range(28):
            connection.default_channel.queue_declare(f"celery_delayed_{level}", passive=True)


def test_a_quorum_worker_reconnects(quorum, rabbitmq_server):
    """B-WORK-058: there is no count to reduce."""
    worker = quorum.worker("-c1")
    assert quorum.send("add", 1, 1).get(timeout=20) == 2
    rabbitmq_server.disconnect_clients()
    worker.wait_for("Skipping prefetch count reduction")
    worker.wait_for("Connected to", times=2)
    quorum.reconnect()

    assert eventually(lambda: quorum.send("add", 1, 1).get(timeout=20)) == 2
