"""What a worker declares on RabbitMQ, as the tools of the server show it."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from t.harness.worker import eventually

pytestmark = pytest.mark.rabbitmq

TOPIC = {
    "task_default_queue_type": "quorum",
    "task_default_exchange": "tasks",
    "task_default_exchange_type": "topic",
}


@pytest.fixture
def listed(on_rabbitmq, rabbitmq_server):
    """Return a function that lists objects of the project's virtual host, by their first column."""
    vhost = on_rabbitmq.conf["broker_url"].rsplit("/", 1)[1]

    def listed(kind: str, *columns: str) -> dict[str, dict[str, Any]]:
        text = rabbitmq_server.ctl(f"list_{kind}", "-p", vhost, "--formatter", "json", *columns)
        rows = [{**row, "arguments": as_table(row.get("arguments"))} for row in json.loads(text)]
        return {row[columns[0]]: row for row in rows}

    return listed


def as_table(arguments: Any) -> dict[str, Any]:
    """Read the argument table, whose form differs between versions of the tool."""
    if isinstance(arguments, dict):
        return arguments
    return {name: value for name, *_, value in arguments or ()}


QUEUE = ("name", "durable", "auto_delete", "exclusive", "arguments")
EXCHANGE = ("name", "type", "durable", "auto_delete", "arguments")


def test_the_task_queue_is_durable_and_plain(on_rabbitmq, listed):
    """B-BACK-025: exchange and queue of one name, bound with it."""
    on_rabbitmq.worker("-c1", "-n", "w@lab")

    queue = listed("queues", *QUEUE)["celery"]
    assert (queue["durable"], queue["auto_delete"], queue["exclusive"]) == (True, False, False)
    assert queue["arguments"] == {}
    exchange = listed("exchanges", *EXCHANGE)["celery"]
    assert (exchange["type"], exchange["durable"]) == ("direct", True)
    binding = listed("bindings", "source_name", "destination_name", "routing_key")["celery"]
    assert (binding["destination_name"], binding["routing_key"]) == ("celery", "celery")


def test_the_queues_of_control_and_events_go_with_their_worker(on_rabbitmq, listed):
    """B-BACK-026, B-BACK-027."""
    worker = on_rabbitmq.worker("-c1", "-n", "w@lab")
    eventually(lambda: any(name.startswith("celeryev.") for name in listed("queues", *QUEUE)))

    queues, exchanges = listed("queues", *QUEUE), listed("exchanges", *EXCHANGE)
    control = queues["w@lab.celery.pidbox"]
    assert (control["auto_delete"], control["exclusive"]) == (True, True)
    assert control["arguments"]["x-expires"] == 10_000
    assert control["arguments"]["x-message-ttl"] == 300_000
    assert (exchanges["celery.pidbox"]["type"], exchanges["celery.pidbox"]["durable"]) == (
        "fanout",
        False,
    )
    replies = exchanges["reply.celery.pidbox"]
    assert (replies["type"], replies["durable"]) == ("direct", False)
    [events] = [row for name, row in queues.items() if name.startswith("celeryev.")]
    assert (events["auto_delete"], events["exclusive"]) == (True, True)
    assert events["arguments"]["x-expires"] == 60_000
    assert events["arguments"]["x-message-ttl"] == 5_000
    assert (exchanges["celeryev"]["type"], exchanges["celeryev"]["durable"]) == ("topic", True)
    bindings = listed("bindings", "destination_name", "source_name", "routing_key")
    assert bindings[events["name"]]["routing_key"] == "worker.#"

    assert worker.stop() == 0
    assert set(listed("queues", "name")) == {"celery"}


def test_delayed_messages_climb_down_a_ladder_of_queues(on_rabbitmq, listed):
    """B-BACK-028, B-BACK-029: one for each bit of the seconds; the worker holds nothing."""
    on_rabbitmq.conf.update(TOPIC)
    worker = on_rabbitmq.worker("-c1")
    worker.wait_for("Global QoS is disabled. Prefetch count is now static")

    queues, exchanges = listed("queues", *QUEUE), listed("exchanges", *EXCHANGE)
    for bit in range(28):
        arguments = queues[f"celery_delayed_{bit}"]["arguments"]
        assert arguments["x-message-ttl"] == 2**bit * 1000
        assert arguments["x-overflow"] == "reject-publish"
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        below = f"celery_delayed_{bit - 1}" if bit else "celery_delayed_delivery"
        assert arguments["x-dead-letter-exchange"] == below
        assert exchanges[f"celery_delayed_{bit}"]["type"] == "topic"

    sent_at = time.monotonic()
    result = on_rabbitmq.send("add", 1, 1, countdown=3)
    inspect = on_rabbitmq.app.control.inspect(timeout=5, limit=1)
    assert [tasks for tasks in inspect.scheduled().values() if tasks] == []
    assert result.get(timeout=30) == 2
    assert time.monotonic() - sent_at > 2


def test_a_direct_exchange_has_the_worker_hold_what_is_delayed(on_rabbitmq):
    """B-BACK-030: and the worker says so."""
    on_rabbitmq.conf.update(TOPIC, task_default_exchange_type="direct")
    worker = on_rabbitmq.worker("-c1")
    worker.wait_for(
        re.escape(
            "Exchange tasks is a direct exchange and native delayed delivery do not support"
            " direct exchanges."
        )
    )

    result = on_rabbitmq.send("add", 1, 1, countdown=600)
    inspect = on_rabbitmq.app.control.inspect(timeout=5, limit=1)

    def held() -> list[str]:
        replies = inspect.scheduled() or {}
        return [task["request"]["id"] for tasks in replies.values() for task in tasks]

    eventually(lambda: held() == [result.id])
