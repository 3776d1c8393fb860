"""The queue table, and the destination that a message gets from it."""

from __future__ import annotations

import pytest
from kombu import Exchange, Queue
from kombu.common import Broadcast

from celery import signals
from celery.app.amqp import Queues
from celery.exceptions import QueueNotFound
from t.harness.inline import memory_app


def make_app(**conf):
    app = memory_app()
    app.conf.update({"task_default_queue": "celery", **conf})
    return app


def facts(queue):
    return (queue.name, queue.exchange.name, queue.exchange.type, queue.routing_key)


def destination(app, **options):
    """Publish one message; return exchange, routing key, delivery mode and declared queues."""
    seen = []

    def receiver(sender, exchange, routing_key, declare, **kwargs):
        seen.append((exchange, routing_key, [q.name for q in declare or ()]))

    signals.before_task_publish.connect(receiver, weak=False)
    try:
        app.send_task("p.t", **options)
    finally:
        signals.before_task_publish.disconnect(receiver)
    return seen[0]


def test_by_default_there_is_one_queue():
    """B-ROUT-012: durable, direct, without arguments, everything called the same."""
    for name in ("celery", "d"):
        app = make_app(task_default_queue=name)
        (queue,) = app.amqp.queues.values()

        assert facts(queue) == (name, name, "direct", name)
        assert (queue.durable, queue.exclusive, queue.auto_delete) == (True, False, False)
        assert not queue.queue_arguments


def test_messages_for_direct_queues_take_the_default_exchange():
    """B-ROUT-013: with the name of the queue as routing key."""
    assert destination(make_app()) == ("", "celery", ["celery"])


def test_queues_of_other_kinds_are_reached_through_their_exchange():
    """B-ROUT-024: and the target is declared when publishing."""
    app = make_app(task_queues=[Queue("topical", Exchange("topical.ex", "topic"), "a.b")])

    assert destination(app, queue="topical") == ("topical.ex", "a.b", ["topical"])
    assert destination(app, queue="topical", routing_key="c.d") == (
        "topical.ex",
        "c.d",
        ["topical"],
    )


def test_queues_may_be_listed_or_described():
    """B-ROUT-014: what an entry leaves out comes from the default exchange and key."""
    described = make_app(
        task_default_exchange="dx",
        task_default_exchange_type="topic",
        task_default_routing_key="dk",
        task_queues={
            "one": {"exchange": "ex", "exchange_type": "fanout", "routing_key": "rk"},
            "two": {"binding_key": "old.key"},
        },
    )
    listed = make_app(
        task_default_exchange="dx",
        task_default_exchange_type="topic",
        task_default_routing_key="dk",
        task_queues=[
            Queue("one", Exchange("ex"), "rk"),
            Queue("two"),
            Queue("three", routing_key="k"),
        ],
    )
    listed.amqp.queues.add("four")

    assert facts(described.amqp.queues["one"]) == ("one", "ex", "fanout", "rk")
    assert facts(described.amqp.queues["two"]) == ("two", "dx", "topic", "old.key")
    assert facts(listed.amqp.queues["one"]) == ("one", "ex", "direct", "rk")
    assert facts(listed.amqp.queues["two"]) == ("two", "dx", "topic", "dk")
    assert facts(listed.amqp.queues["three"]) == ("three", "dx", "topic", "k")
    assert facts(listed.amqp.queues["four"]) == ("four", "dx", "topic", "four")


def test_names_alone_are_no_queues():
    """B-ROUT-014: and the error says what to write."""
    app = make_app(task_queues=["one"])

    with pytest.raises(TypeError, match=r"Queue\('one'\)"):
        app.amqp.queues


def test_unknown_queues_are_made_when_they_are_used():
    """B-ROUT-015: of the same name throughout."""
    app = make_app()

    assert destination(app, queue="new") == ("", "new", ["new"])
    assert facts(app.amqp.queues["new"]) == ("new", "new", "direct", "new")


def test_made_queues_may_be_of_another_type():
    """B-ROUT-015: quorum, with another type of exchange; later changes are not seen."""
    app = make_app(
        task_create_missing_queue_type="quorum", task_create_missing_queue_exchange_type="topic"
    )
    queue = app.amqp.queues["new"]

    assert facts(queue) == ("new", "new", "topic", "new")
    assert queue.queue_arguments == {"x-queue-type": "quorum"}
    app.conf.task_create_missing_queue_type = "classic"
    assert app.amqp.queues["newer"].queue_arguments == {"x-queue-type": "quorum"}


def test_a_made_queue_is_classic_or_quorum():
    app = make_app(task_create_missing_queue_type="stream")

    with pytest.raises(ValueError, match="'classic' or 'quorum'"):
        app.amqp.queues["new"]


def test_an_unknown_queue_may_be_an_error():
    """B-ROUT-016."""
    app = make_app(task_create_missing_queues=False)

    with pytest.raises(QueueNotFound, match="Queue 'zz' missing from task_queues"):
        app.send_task("p.t", queue="zz")


def test_the_default_queue_may_be_a_quorum_queue():
    """B-ROUT-017."""
    (queue,) = make_app(task_default_queue_type="quorum").amqp.queues.values()

    assert queue.queue_arguments == {"x-queue-type": "quorum"}


def test_queues_may_have_priorities():
    """B-ROUT-018: queues that say so themselves keep their own."""
    own = Queue("own", queue_arguments={"x-max-priority": 3})
    app = make_app(task_queue_max_priority=9, task_queues=[own, Queue("other")])

    assert app.amqp.queues["own"].queue_arguments == {"x-max-priority": 3}
    assert app.amqp.queues["other"].queue_arguments == {"x-max-priority": 9}
    assert app.amqp.queues["made"].queue_arguments == {"x-max-priority": 9}


def test_an_alias_stands_for_a_queue():
    """B-ROUT-019, B-ROUT-020: for looking up, selecting and deselecting."""
    app = make_app(task_queues=[Queue("long.name.of.it", alias="short"), Queue("other")])
    queues = app.amqp.queues

    assert queues["short"].name == "long.name.of.it"
    queues.select("short")
    assert set(queues.consume_from) == {"long.name.of.it"}
    queues.select(["short", "other"])
    queues.deselect("short")
    assert set(queues.consume_from) == {"other"}
    assert destination(app, queue="short")[1] == "long.name.of.it"


def test_queues_to_consume_from_are_selected():
    """B-ROUT-020, B-ROUT-021: others stay known for routing, unknown ones are made."""
    app = make_app(task_queues=[Queue("a"), Queue("b")])
    queues = app.amqp.queues
    assert set(queues.consume_from) == {"a", "b"}

    app.select_queues(["a", "new"])
    assert set(queues.consume_from) == {"a", "new"}
    assert destination(app, queue="b")[1] == "b"

    queues.select_add("c")
    assert set(queues.consume_from) == {"a", "new", "c"}
    queues.deselect("a")
    assert set(queues.consume_from) == {"new", "c"}


def test_excluding_the_only_queue_leaves_none():
    """B-ROUT-023."""
    queues = make_app().amqp.queues
    queues.deselect("celery")

    assert queues.consume_from == {}
    assert queues.format() == ""
    assert "celery" in queues


def test_selecting_nothing_changes_nothing():
    queues = make_app().amqp.queues
    queues.select(None)
    queues.deselect([])

    assert set(queues.consume_from) == {"celery"}


def test_a_selected_queue_has_to_exist_where_none_are_made():
    queues = make_app(task_create_missing_queues=False).amqp.queues

    with pytest.raises(KeyError, match="zz"):
        queues.select(["zz"])


def test_the_banner_lists_the_queues():
    app = make_app(task_queues=[Queue("b", Exchange("x", "topic"), "k"), Queue("a")])

    lines = app.amqp.queues.format(indent=2).splitlines()

    assert [line.split() for line in lines] == [
        [".>", "a", "exchange=celery(direct)", "key=celery"],
        [".>", "b", "exchange=x(topic)", "key=k"],
    ]
    assert all(line.startswith("  .>") for line in lines)
    assert app.amqp.queues.format(indent=2, indent_first=False).startswith(".>")


def test_a_queue_object_is_used_as_it_is():
    """B-ROUT-009: and known from then on."""
    app = make_app()
    queue = Queue("given", Exchange("gx", "topic"), "g.k")

    assert destination(app, queue=queue) == ("gx", "g.k", ["given"])
    assert app.amqp.queues["given"].name == "given"


def test_an_exchange_needs_no_queue():
    """B-ROUT-007: nothing is declared; a missing key is the default one."""
    app = make_app()

    assert destination(app, exchange="ex", routing_key="rk") == ("ex", "rk", [])
    assert destination(app, exchange="ex")[:2] == ("ex", "celery")


def test_broadcast_queues_are_the_workers_own():
    """B-ROUT-026, B-ROUT-027: fanout, auto-delete, of a random name; publishers declare none."""
    app = make_app(task_queues=[Broadcast("bcq")])
    (queue,) = app.amqp.queues.values()

    assert queue.name.startswith("bcast.")
    assert (queue.alias, queue.exchange.type, queue.auto_delete) == ("bcq", "fanout", True)
    exchange, _, declared = destination(app, queue="bcq")
    assert exchange == "bcq"
    assert declared == []


def test_the_default_priority_applies_last():
    """B-ROUT-029: behind the call and the route."""
    app = make_app(task_default_priority=2, task_routes={"p.routed": {"priority": 5}})
    seen = []

    def receiver(sender, properties, **kwargs):
        seen.append(properties.get("priority"))

    plain = app.task(name="p.plain", shared=False)(lambda: None)
    signals.before_task_publish.connect(receiver, weak=False)
    try:
        plain.delay()
        plain.apply_async(priority=8)
        app.send_task("p.routed")
    finally:
        signals.before_task_publish.disconnect(receiver)

    assert seen == [2, 8, 5]


@pytest.mark.parametrize(
    "change",
    [
        lambda conf, routes: setattr(conf, "task_routes", routes),
        lambda conf, routes: conf.update(task_routes=routes),
        lambda conf, routes: conf.__setitem__("task_routes", routes),
        lambda conf, routes: setattr(conf, "CELERY_ROUTES", routes),
    ],
)
def test_routes_may_be_set_after_the_first_call(change):
    """B-ROUT-010: by any form of assignment, also when there were none before."""
    app = make_app()
    assert destination(app)[1] == "celery"

    change(app.conf, {"p.*": "later"})
    assert destination(app)[1] == "later"
    change(app.conf, {"p.*": "latest"})
    assert destination(app)[1] == "latest"


def test_a_table_of_queues_can_be_made_by_hand():
    queues = Queues([Queue("a")], default_exchange=Exchange("x"), default_routing_key="k")

    assert facts(queues["a"]) == ("a", "x", "direct", "k")
    assert facts(queues.add("b", exchange="bx", exchange_type="topic")) == ("b", "bx", "topic", "b")
    app = make_app()
    app.amqp.queues = [Queue("c")]
    assert set(app.amqp.queues) == {"c"}
