"""The app's side of the broker, beside queues and messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from kombu import Exchange, Queue
from kombu.messaging import Consumer

from celery.app.amqp import AMQP, task_message, utf8dict
from t.harness.inline import memory_app


def test_settings_are_read_once_and_again_after_a_change(app):
    """The plan of publishing follows the settings, and is one object in between."""
    plan = app.amqp.plan
    assert app.amqp.plan is plan
    assert (plan.serializer, plan.retry, plan.utc) == ("json", True, True)

    app.conf.task_serializer = "yaml"

    assert app.amqp.plan is not plan
    assert app.amqp.plan.serializer == "yaml"


def test_the_protocol_may_change(app):
    """B-CALL-010: the encoder follows the setting."""
    two = app.amqp.create_task_message("i", "p.t", (1,), {})
    app.conf.task_protocol = 1
    one = app.amqp.create_task_message("i", "p.t", (1,), {})

    assert isinstance(two, task_message)
    assert two.headers["task"] == "p.t"
    assert one.headers == {}
    assert one.body["task"] == "p.t"


def test_a_subclass_may_publish_in_its_own_way():
    seen = []

    class Mine(AMQP):
        def send_task_message(self, producer, name, message, **options):
            seen.append((name, options["queue"].name))

    app = memory_app()
    app.amqp_cls = Mine
    app.send_task("p.t", queue="q")

    assert seen == [("p.t", "q")]


def test_a_consumer_of_tasks_takes_the_selected_queues(app):
    app.amqp.queues.select(["a", "b"])
    with app.connection_for_read() as connection:
        consumer = app.amqp.TaskConsumer(connection.default_channel)

        assert isinstance(consumer, Consumer)
        assert sorted(queue.name for queue in consumer.queues) == ["a", "b"]
        assert consumer.accept == {"application/json"}
        only = app.amqp.TaskConsumer(connection.default_channel, queues=[Queue("c")])
        assert [queue.name for queue in only.queues] == ["c"]


def test_bytes_as_keys_are_decoded():
    assert utf8dict({b"a": 1, "b": 2}) == {"a": 1, "b": 2}


@pytest.fixture
def delaying():
    """An app on a broker that holds messages back itself."""
    app = memory_app(
        task_queues=[
            Queue("q", Exchange("tx", "topic"), "t.k", queue_arguments={"x-queue-type": "quorum"}),
            Queue("plain", queue_arguments={"x-queue-type": "quorum"}),
        ]
    )
    return app.amqp, SimpleNamespace(transport=SimpleNamespace(driver_type="amqp"))


def test_a_quorum_queue_gets_its_message_when_it_is_due(delaying):
    """The delay is written into the routing key in binary, and rounded up to seconds."""
    amqp, connection = delaying
    exchange, key = amqp.delay_in_broker(connection, "q", 4.2, None, None)

    assert exchange == "celery_delayed_27"
    assert key.endswith("0.0.1.0.1.t.k")
    eta = datetime.now(UTC) + timedelta(seconds=4.5)
    assert amqp.delay_in_broker(connection, "q", None, eta, "other")[1].endswith("0.0.1.0.1.other")


def test_what_is_due_or_goes_to_a_direct_exchange_is_sent_as_usual(delaying):
    amqp, connection = delaying
    for queue, countdown in (("q", 0), ("q", -3), ("plain", 5), (None, 5)):
        assert amqp.delay_in_broker(connection, queue, countdown, None, None) is None


def test_other_brokers_hold_nothing_back(app):
    with app.connection_for_write() as connection:
        assert app.amqp.delay_in_broker(connection, "q", 5, None, None) is None


def test_the_pool_has_as_many_producers_as_connections():
    """A second producer that waits for a connection of the first would wait for ever."""
    app = memory_app(broker_pool_limit=2)
    app.conf.broker_transport_options = {"own": id(app)}

    assert app.producer_pool.limit == app.pool.limit == 2
    assert len(app.producer_pool._resource.queue) == 2
