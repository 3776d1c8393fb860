"""Results as messages: queues and messages on a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celery import Celery
from celery.app.task import Context
from celery.result import denied_join_result
from t.harness.servers import wait_until

pytestmark = pytest.mark.rabbitmq

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "result_documents.json").read_text(encoding="utf-8")
)["rpc_messages"]


def make(url, **settings):
    app = Celery("rpc", broker=url, backend="rpc://", set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.fixture
def app(amqp_url):
    app = make(amqp_url)
    yield app
    app.backend.result_consumer.stop()
    app.close()


def request_of(app, task_id):
    return Context(id=task_id, reply_to=app.thread_oid, correlation_id=task_id)


def expect(app, task_id):
    with app.producer_or_acquire(None) as producer:
        app.backend.on_task_call(producer, task_id)


def take_message(app):
    with app.connection_for_read() as connection:
        queue = app.backend.binding(connection.default_channel)
        found = []

        def got():
            message = queue.get(no_ack=True)
            if message is not None:
                found.append(message)
            return bool(found)

        wait_until(got, "the message", timeout_s=10)
        return found[0]


def queues(server, url, *columns):
    vhost = url.rsplit("/", 1)[1]
    text = server.ctl("list_queues", "-p", vhost, "--formatter", "json", "name", *columns)
    return json.loads(text)


def test_the_reply_queue_is_declared_as_recorded(app, amqp_url, rabbitmq_server):
    """B-BACK-007: per client, durable, auto-delete, not exclusive, x-expires."""
    expect(app, "a")

    columns = ("durable", "auto_delete", "exclusive", "arguments")
    [queue] = queues(rabbitmq_server, amqp_url, *columns)
    assert queue["name"] == app.thread_oid
    assert (queue["durable"], queue["auto_delete"], queue["exclusive"]) == (True, True, False)
    assert ("x-expires", 86_400_000) in as_pairs(queue["arguments"])


def as_pairs(arguments):
    """Read the argument table, whose form differs between versions of the tool."""
    if isinstance(arguments, dict):
        return list(arguments.items())
    return [(item[0], item[-1]) for item in arguments]


@pytest.mark.parametrize(
    ("kind", "state", "value"),
    [
        ("success", "SUCCESS", 4),
        ("failure", "FAILURE", ValueError("boom")),
        ("started", "STARTED", {"pid": 4321, "hostname": "w1@lab"}),
        ("retry", "RETRY", KeyError("again")),
    ],
)
def test_a_message_is_as_recorded(app, kind, state, value):
    """B-BACK-007: through the default exchange, with the correlation id of the task."""
    expect(app, "<uuid-2>")
    app.backend.store_result("<uuid-2>", value, state, request=request_of(app, "<uuid-2>"))

    message = take_message(app)
    recorded = GOLDEN[kind]
    assert message.delivery_info["exchange"] == ""
    assert message.delivery_info["routing_key"] == app.thread_oid
    assert message.content_type == recorded["content_type"]
    assert message.content_encoding == recorded["content_encoding"]
    properties = message.properties
    assert properties["correlation_id"] == recorded["correlation_id"]
    assert properties["delivery_mode"] == recorded["delivery_mode"]
    assert message.payload["status"] == state


def test_messages_survive_a_restart_of_the_broker_where_that_is_wanted(amqp_url):
    """B-BACK-010: result_persistent."""
    app = make(amqp_url, result_persistent=True)
    expect(app, "a")
    app.backend.mark_as_done("a", 4, request=request_of(app, "a"))

    assert take_message(app).properties["delivery_mode"] == 2
    app.close()


def test_too_many_other_results_are_an_error(app):
    """B-BACK-010: BacklogLimitExceeded when polling the state."""
    expect(app, "a")
    for number in range(5):
        app.backend.mark_as_done(f"t{number}", 4, request=request_of(app, f"t{number}"))
    in_queue = []

    def all_there():
        with app.connection_for_read() as connection:
            bound = app.backend.binding(connection.default_channel)
            in_queue.append(bound.queue_declare(passive=True).message_count)
        return in_queue[-1] == 5

    wait_until(all_there, "the messages", timeout_s=10)
    with pytest.raises(app.backend.BacklogLimitExceeded, match="more than 3"):
        app.backend.get_task_meta("a", backlog_limit=3)


def test_results_read_by_polling_stay_for_others(app):
    """B-BACK-007: whatever is taken from the queue is kept for those who ask for it."""
    expect(app, "a")
    for name in ("one", "two"):
        app.backend.mark_as_done(name, name, request=request_of(app, name))
    wait_until(lambda: app.AsyncResult("two").state == "SUCCESS", "the result", timeout_s=10)

    assert app.AsyncResult("one").get(timeout=5) == "one"


def test_nothing_is_declared_inside_of_tasks(app, amqp_url, rabbitmq_server):
    with denied_join_result():
        expect(app, "a")

    assert queues(rabbitmq_server, amqp_url) == []


def test_a_result_for_nobody_is_dropped(app):
    app.backend.mark_as_done("a", 4, request=Context(id="a"))
    with pytest.raises(RuntimeError, match="missing task request for 'a'"):
        app.backend.mark_as_done("a", 4)
