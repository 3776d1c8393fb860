"""From `delay` to the published message."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from amqp.exceptions import ConnectionError as BrokerLost
from kombu import Producer
from kombu.exceptions import EncodeError, OperationalError, SerializerNotInstalled

from celery import Celery, signals
from celery.app import trace
from celery.app.task import Task
from celery.exceptions import AlwaysEagerIgnored
from celery.result import AsyncResult
from t.harness.inline import memory_app


@pytest.fixture
def add(app: Celery) -> Task:
    @app.task(name="p.add", shared=False)
    def add(x, y=0):
        return x + y

    app.finalize()
    return app.tasks["p.add"]


@contextmanager
def connected(signal, receiver, **kwargs):
    signal.connect(receiver, weak=False, **kwargs)
    try:
        yield
    finally:
        signal.disconnect(receiver, **kwargs)


def test_arguments_are_checked_before_publishing(add, worker):
    """B-TASK-002: with the texts of Python, however the call is written."""
    for call in (add.delay, lambda: add.apply_async(()), lambda: add.s().delay()):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value) == "add() missing 1 required positional argument: 'x'"
    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3 were given"):
        add.delay(1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        add.delay(1, z=2)
    assert worker.sent() == []


def test_who_skips_the_check(app, add, worker):
    """B-TASK-003: typing=False, strict_typing=False, send_task, and signatures given as links."""
    app.task(name="p.loose", shared=False, typing=False)(lambda x: x).delay()
    app.send_task("p.add", (1, 2, 3))
    add.apply_async((1,), link=add.s(1, 2, 3))
    assert len(worker.sent()) == 3

    loose = Celery("loose", broker="memory://", strict_typing=False, set_as_current=False)
    assert loose.task(name="p.t", shared=False)(lambda x: x).delay().id


def test_the_task_itself_is_not_counted(app, worker):
    """B-TASK-003: `self` of bound tasks."""

    @app.task(name="p.bound", shared=False, bind=True)
    def bound(self, x):
        return x

    with pytest.raises(TypeError, match=r"bound\(\) missing 1 required positional argument: 'x'"):
        bound.delay()
    bound.delay(1)
    assert worker.sent()[0].body[0] == [1]


def test_containers_of_arguments_have_to_be_such(add):
    """B-TASK-005."""
    add.typing = False
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        add.apply_async("ab")
    with pytest.raises(TypeError, match="task keyword arguments must be a mapping"):
        add.apply_async((1,), [1])
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        add.app.send_task("p.add", {1})


def test_reprs_of_arguments_are_limited(app, worker):
    """B-CALL-007: in length, in nesting, and by the caller's own.

    B-SEC-013: these hide values in the headers, which logs and events use, not in the body.
    """
    app.send_task("p.t", (1, {"a": {"b": {"c": 1}}}))
    app.send_task("p.t", ("x" * 3000,))
    app.send_task("p.t", (1,), {"password": "p"}, argsrepr="(hidden)", kwargsrepr="{hidden}")
    nested, long, hidden = worker.sent()

    assert nested.headers["argsrepr"] == "(1, {'a': {'b': {...}}})"
    assert 900 <= len(long.headers["argsrepr"]) <= 1100
    assert "..." in long.headers["argsrepr"]
    assert hidden.headers["argsrepr"] == "(hidden)"
    assert hidden.headers["kwargsrepr"] == "{hidden}"
    assert hidden.body[:2] == [[1], {"password": "p"}]


def test_a_shadow_is_a_name_for_log_and_events(app, worker):
    """B-CALL-008, B-TASK-076: of the call, or computed by the task when it is published."""

    class Shadowed(Task):
        def shadow_name(self, args, kwargs, options):
            return f"{self.name}-{args[0]}-{kwargs['y']}-{options['countdown']}"

    task = app.task(name="p.t", shared=False, base=Shadowed)(lambda x, y: x)

    task.apply_async((1,), {"y": 2}, countdown=3)
    task.apply_async((1,), {"y": 2}, shadow="by.call")
    computed, given = worker.sent()

    assert computed.headers["shadow"] == "p.t-1-2-3"
    assert given.headers["shadow"] == "by.call"
    assert given.task == "p.t"


def test_an_id_is_taken_as_it_is(add, worker):
    """B-CALL-009: nobody checks that it is unique."""
    one, two = (add.apply_async((1,), task_id="my-id") for _ in range(2))

    assert one.id == two.id == "my-id"
    assert isinstance(one, AsyncResult)
    assert [message.id for message in worker.sent()] == ["my-id", "my-id"]


def test_times_may_be_in_a_zone_other_than_utc(worker):
    """B-CALL-016: with enable_utc=False, and told so by version 1."""
    app = memory_app(enable_utc=False, timezone="Asia/Tokyo", task_protocol=1)
    sent = []

    with connected(
        signals.before_task_publish, lambda body, **kwargs: sent.append(body), sender="p.t"
    ):
        app.send_task("p.t", countdown=60)

    (body,) = sent
    assert body["utc"] is False
    assert datetime.fromisoformat(body["eta"]).utcoffset() == timedelta(hours=9)


def test_a_countdown_is_in_utc(add, worker):
    """B-CALL-011: and wins over an eta."""
    add.apply_async((1,), countdown=60, eta=datetime(2099, 1, 1, tzinfo=UTC))
    (message,) = worker.sent()

    assert message.headers["eta"].endswith("+00:00")
    left = datetime.fromisoformat(message.headers["eta"]) - datetime.now(UTC)
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)


def test_an_eta_keeps_its_offset(add, worker):
    """B-CALL-012: naive ones have none, texts are passed on."""
    zone = timezone(timedelta(hours=2))
    for eta in (datetime(2099, 1, 1, tzinfo=zone), datetime(2099, 1, 1), "whatever"):
        add.apply_async((1,), eta=eta)

    assert [message.headers["eta"] for message in worker.sent()] == [
        "2099-01-01T00:00:00+02:00",
        "2099-01-01T00:00:00",
        "whatever",
    ]


def test_a_countdown_has_to_be_a_number(add):
    """B-CALL-013, B-CALL-030: a negative one is fine."""
    with pytest.raises(TypeError):
        add.apply_async((1,), countdown="soon")
    add.apply_async((1,), countdown=-5)


def test_expiry_counts_from_publishing(add, worker):
    """B-CALL-014, B-CALL-015: in seconds, whatever the eta."""
    add.apply_async((1,), expires=60, countdown=3600)
    add.apply_async((1,), expires=-1)
    soon, past = worker.sent()

    left = datetime.fromisoformat(soon.headers["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    assert soon.properties["expiration"] == "60000"
    assert datetime.fromisoformat(past.headers["expires"]) < datetime.now(UTC)
    assert "expiration" not in past.properties


def test_time_limits_are_sent_the_hard_one_first(app, add, worker):
    """B-CALL-017, B-TASK-009: of the call, or of the task."""
    limited = app.task(name="p.t", shared=False, time_limit=30, soft_time_limit=20)(lambda: None)
    add.apply_async((1,), time_limit=9, soft_time_limit=3)
    limited.delay()

    assert [message.headers["timelimit"] for message in worker.sent()] == [[9, 3], [30, 20]]


def test_links_are_lists_of_plain_signatures(app, add, worker):
    """B-CALL-018, B-TASK-013: from one signature, or a list."""
    err = app.signature("p.err")
    add.apply_async((1,), link=add.s(1), link_error=[err, err])
    (message,) = worker.sent()

    assert [(link["task"], link["args"]) for link in message.embed["callbacks"]] == [("p.add", [1])]
    assert [link["task"] for link in message.embed["errbacks"]] == ["p.err", "p.err"]


def test_the_steps_of_publishing_come_in_order(app, monkeypatch):
    """B-CALL-026, B-SIG-005: check, routing, signal, publish with declare, signal, event."""
    app.conf.task_send_sent_event = True
    steps = []

    def route(name, args, kwargs, options, task=None, **kw):
        steps.append("route")

    app.conf.task_routes = route
    add = app.task(name="p.add", shared=False)(lambda x: x)
    app.finalize()
    publish = Producer.publish

    def noting_publish(self, body, **kwargs):
        # Event messages have a type of their own.
        if isinstance(body, dict) and body.get("type") == "task-sent":
            steps.append("event")
        else:
            steps.append("publish")
            assert kwargs["declare"]
        return publish(self, body, **kwargs)

    monkeypatch.setattr(Producer, "publish", noting_publish)

    def before(sender, signal, **fields):
        assert sender == "p.add"
        assert fields.keys() == {
            "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy",
        }  # fmt: skip
        steps.append("before_task_publish")

    def after(sender, signal, **fields):
        assert sender == "p.add"
        assert fields.keys() == {"headers", "body", "exchange", "routing_key"}
        steps.append("after_task_publish")

    with (
        connected(signals.before_task_publish, before),
        connected(signals.after_task_publish, after),
    ):
        with pytest.raises(TypeError):
            add.delay()
        assert steps == []
        add.delay(1)

    assert steps == ["route", "before_task_publish", "publish", "after_task_publish", "event"]


def test_a_handler_may_change_the_message(app, add, worker):
    """B-CALL-026: body, headers and properties before they are published."""

    def before(body, headers, properties, **kwargs):
        body[0][0] += 1
        headers["tenant"] = "a"
        properties["priority"] = 3

    with connected(signals.before_task_publish, before, sender="p.add"):
        add.apply_async([1])
        app.send_task("p.other", [1])
    changed, other = worker.sent()

    assert (changed.body[0], changed.headers["tenant"]) == ([2], "a")
    assert changed.properties["priority"] == 3
    assert "tenant" not in other.headers


def test_the_old_signal_of_sending_still_comes(add):
    """B-SIG-015: `task_sent`."""
    seen = []

    def receiver(sender, **fields):
        seen.append((sender, fields["task_id"], fields["args"]))

    with connected(signals.task_sent, receiver):
        result = add.delay(1)

    assert seen == [("p.add", result.id, (1,))]


def test_a_lost_broker_is_tried_again_and_then_told(add, monkeypatch):
    """B-CALL-027, B-CALL-028: by the policy of the settings, the call, or not at all."""
    attempts = []

    def refuse(self, *args, **kwargs):
        attempts.append(1)
        raise BrokerLost("nobody listens")

    monkeypatch.setattr(Producer, "_publish", refuse)
    policies = []
    ensure = type(add.app.connection_for_write()).ensure

    def noting(self, obj, fun, **policy):
        policies.append({name: value for name, value in policy.items() if name != "errback"})
        return ensure(self, obj, fun, **{**policy, "interval_start": 0, "interval_step": 0})

    monkeypatch.setattr("kombu.connection.Connection.ensure", noting)

    with pytest.raises(OperationalError):
        add.delay(1)
    assert policies[0] == {
        "max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1,
    }  # fmt: skip
    assert len(attempts) > 1  # how often is up to kombu, given the policy
    assert Task.OperationalError is OperationalError

    attempts.clear()
    with pytest.raises(OperationalError):
        add.apply_async((1,), retry_policy={"max_retries": 1})
    assert policies[1] == {**policies[0], "max_retries": 1}

    attempts.clear()
    with pytest.raises(BrokerLost):
        add.apply_async((1,), retry=False)
    assert len(attempts) == 1
    assert len(policies) == 2


def test_who_chooses_serializer_and_compression(app, monkeypatch):
    """B-CALL-029: the call, then the task, then the setting."""
    chosen = []
    monkeypatch.setattr(
        Producer,
        "publish",
        lambda self, body, content_type, compression, **kw: chosen.append(
            (content_type, compression)
        ),
    )
    plain = app.task(name="p.plain", shared=False)(lambda: None)
    app.conf.task_compression = "bzip2"
    own = app.task(name="p.own", shared=False, serializer="pickle", compression="zlib")(
        lambda: None
    )

    plain.delay()
    own.delay()
    own.apply_async(serializer="msgpack", compression="gzip")

    assert chosen == [
        ("application/json", "bzip2"),
        ("application/x-python-serialize", "zlib"),
        ("application/x-msgpack", "gzip"),
    ]


def test_what_cannot_be_serialized_is_told_the_caller(app, add):
    """B-CALL-031, B-CALL-030: unknown serializer, unserializable value, unknown compression."""
    with pytest.raises(SerializerNotInstalled):
        add.apply_async((1,), serializer="no-such")
    with pytest.raises(EncodeError):
        add.delay(object())
    with pytest.raises(KeyError):
        add.apply_async((1,), compression="no-such")


def test_json_carries_more_than_json(app, add, worker):
    """B-CALL-032: dates, decimals, ids and bytes come back; sets are refused."""
    values = [datetime(2030, 1, 1, tzinfo=UTC), Decimal("1.5"), UUID(int=7), b"bytes"]
    seen = []

    @app.task(name="p.echo", shared=False)
    def echo(args, mapping, pair):
        seen.extend([args, mapping, pair])

    echo.delay(values, {1: "one"}, (1, 2))
    connection = app.connection_for_read()
    channel = connection.channel()
    message = channel.basic_get(app.conf.task_default_queue, no_ack=True)
    trace.trace_task_ret(
        "p.echo", "i", {"id": "i"}, message.body, message.content_type, "utf-8", app=app
    )

    assert seen == [values, {"1": "one"}, [1, 2]]
    with pytest.raises(EncodeError):
        add.delay({1, 2})


def test_send_task_needs_no_task(app, worker):
    """B-CALL-033: nor does a signature of an unknown name; nothing is checked."""
    result = app.send_task("nobody.knows", (1,), {"k": 2}, task_id="i")
    app.signature("nobody.knows", (3,)).apply_async()
    one, two = worker.sent()

    assert (result.id, one.task, one.body[:2]) == ("i", "nobody.knows", [[1], {"k": 2}])
    assert two.body[0] == [3]


def test_send_task_is_never_eager(worker):
    """B-CALL-033: it warns, and publishes."""
    app = memory_app(task_always_eager=True)
    seen = []

    with (
        connected(signals.after_task_publish, lambda sender, **kw: seen.append(sender)),
        pytest.warns(AlwaysEagerIgnored, match="task_always_eager has no effect on send_task"),
    ):
        app.send_task("p.t")

    assert seen == ["p.t"]


def run(task: Task, **request: Any) -> Any:
    return trace.build_tracer(task.name, task)("parent-id", (), {}, request)


def test_a_task_called_from_a_task_is_its_child(app, add, worker):
    """B-CALL-035, B-TASK-012, B-TASK-016: parent, root and children."""
    children = []

    @app.task(name="p.outer", shared=False, bind=True)
    def outer(self):
        one = add.delay(1)
        add.apply_async((2,), add_to_parent=False)
        children.extend(self.request.children)
        return one.id

    retval = run(outer, root_id="root-id").retval
    one, two = worker.sent()

    assert [child.id for child in children] == [retval]
    assert [child.id for child in app.AsyncResult("parent-id").children] == [retval]
    for message in (one, two):
        assert message.headers["parent_id"] == "parent-id"
        assert message.headers["root_id"] == "root-id"


def test_a_task_without_trail_has_no_children(app, add):
    """B-TASK-016."""

    @app.task(name="p.outer", shared=False, bind=True, trail=False)
    def outer(self):
        add.delay(1)
        return len(self.request.children)

    assert run(outer).retval == 0


def test_a_task_without_parent_is_its_own_root(add, worker):
    """B-TASK-012."""
    result = add.delay(1)
    (message,) = worker.sent()

    assert message.headers["root_id"] == result.id
    assert message.headers["parent_id"] is None


@pytest.mark.parametrize("inherit", [True, False])
def test_priority_is_inherited_where_it_is_asked_for(inherit):
    """B-CALL-035, B-ROUT-029: from the delivery of the parent."""
    app = memory_app(task_inherit_parent_priority=inherit, task_default_priority=2)
    add = app.task(name="p.add", shared=False)(lambda x: x)
    seen = []

    @app.task(name="p.outer", shared=False)
    def outer():
        add.delay(1)

    with connected(
        signals.before_task_publish, lambda properties, **kw: seen.append(properties["priority"])
    ):
        add.delay(1)
        run(outer, delivery_info={"priority": 7})

    # The default is an option of the task, so it is given for the call.
    assert seen == [2, 2]


def test_priority_is_inherited_by_calls_without_one(app):
    """B-CALL-035, B-ROUT-029: also by callbacks."""
    app.conf.task_inherit_parent_priority = True
    add = app.task(name="p.add", shared=False)(lambda x: x)
    seen = []

    @app.task(name="p.outer", shared=False)
    def outer():
        add.delay(1)
        add.apply_async((1,), priority=1)

    with connected(
        signals.before_task_publish,
        lambda properties, **kw: seen.append(properties.get("priority")),
    ):
        run(outer, delivery_info={"priority": 7}, callbacks=[add.s()])

    assert seen == [7, 1, 7]


def test_a_call_may_be_routed_by_another_name(app, worker):
    """B-CALL-036."""
    app.conf.task_routes = {"p.add": {"queue": "q-add"}, "other": {"queue": "q-other"}}
    add = app.task(name="p.add", shared=False)(lambda x: x)
    seen = []

    with connected(
        signals.after_task_publish, lambda sender, routing_key, **kw: seen.append(routing_key)
    ):
        add.delay(1)
        add.apply_async((1,), route_name="other")

    assert seen == ["q-add", "q-other"]


def test_the_reply_id_is_one_per_thread(app, add, worker):
    """B-TASK-011: and the correlation id is that of the task."""
    results = [add.delay(1), add.delay(2)]
    thread = threading.Thread(target=add.delay, args=(3,))
    thread.start()
    thread.join(10)
    one, two, other = worker.sent()

    assert [one.properties["correlation_id"], two.properties["correlation_id"]] == [
        result.id for result in results
    ]
    assert one.properties["reply_to"] == two.properties["reply_to"] == app.thread_oid
    assert UUID(one.properties["reply_to"])
    assert other.properties["reply_to"] != one.properties["reply_to"]


def test_the_result_of_a_call_without_result_is_there_at_once(add):
    """B-TASK-060: None, without waiting."""
    result = add.apply_async((1,), ignore_result=True)

    assert result.get(timeout=0.01) is None


def test_links_get_the_value_and_run_as_own_tasks(app, add, worker):
    """B-CALL-019: published by the process that ran the parent; not after a failure."""
    note = app.task(name="p.note", shared=False)(lambda *args: None)
    parent = add.apply_async((1, 2), link=note.s("more"))
    add.apply_async((1, "x"), link=note.s("never"))
    add.apply_async((1, 2), link=note.si("only"))
    worker.run()

    ran = [message for message in worker.seen if message.task == "p.note"]
    assert [message.body[0] for message in ran] == [[3, "more"], ["only"]]
    assert ran[0].headers["parent_id"] == parent.id
    assert ran[0].headers["root_id"] == parent.id


def test_two_links_are_one_group(app, add, worker):
    """B-CALL-020: which is the one child of the parent."""
    note = app.task(name="p.note", shared=False)(lambda *args: None)
    parent = add.apply_async((1, 2), link=[note.s(1), note.s(2)])
    worker.run()

    (child,) = parent.children
    assert type(child).__mro__[1].__name__ == "GroupResult"
    assert len(child.results) == 2


def test_how_errbacks_are_called(app, worker):
    """B-CALL-021, B-CALL-022, B-CALL-023: directly when they can take the error, else as tasks."""
    direct: list[Any] = []

    @app.task(name="p.boom", shared=False)
    def boom():
        raise ValueError("boom")

    @app.task(name="p.direct", shared=False)
    def on_error(request, exc, traceback):
        direct.append((request, exc, traceback))

    @app.task(name="p.by_id", shared=False)
    def by_id(task_id):
        return task_id

    @app.task(name="p.bound", shared=False, bind=True)
    def bound(self, *args):
        return args

    errbacks = [on_error.s(), by_id.s(), bound.s("stored"), app.signature("p.unknown")]
    parent = boom.apply_async(link_error=errbacks)
    app.finalize()
    message = worker.sent()[0]
    trace.trace_task_ret(
        "p.boom",
        parent.id,
        dict(message.headers),
        (message.body),
        None,
        None,
        app=app,
    )

    ((request, exc, traceback),) = direct
    assert (request.id, type(exc), type(traceback)) == (parent.id, ValueError, str)
    published = worker.sent()
    assert [(m.task, m.body[0]) for m in published] == [
        ("p.by_id", [parent.id]),
        ("p.bound", [parent.id, "stored"]),
        ("p.unknown", [parent.id]),
    ]
    for message in published:
        assert message.headers["parent_id"] == parent.id
        assert message.headers["root_id"] == parent.id


def test_errbacks_come_before_the_hook_and_the_log(app, caplog):
    """B-CALL-024."""
    steps = []

    class Hooked(Task):
        def on_failure(self, *args):
            steps.append(("hook", len(caplog.records)))

    @app.task(name="p.boom", shared=False, base=Hooked)
    def boom():
        raise ValueError("boom")

    @app.task(name="p.direct", shared=False)
    def on_error(request, exc, traceback):
        steps.append(("errback", len(caplog.records)))

    app.finalize()
    with caplog.at_level("ERROR", logger="celery.app.trace"):
        run(boom, errbacks=[on_error.s()])

    assert steps == [("errback", 0), ("hook", 0)]
    assert len(caplog.records) == 1


def test_unknown_options_of_a_route_become_properties(app, worker):
    """B-CALL-030."""
    app.conf.task_routes = {"p.*": {"zoo": 1}}
    app.send_task("p.t")

    assert worker.sent()[0].properties["zoo"] == 1


def test_the_request_has_what_the_message_said(app, worker):
    """B-TASK-010, B-TASK-014, B-TASK-015: times as text, custom headers, nothing of version 1."""
    seen = []

    @app.task(name="p.t", shared=False, bind=True)
    def t(self):
        r = self.request
        seen.append((r.eta, r.expires, r.headers, r.utc, r.taskset, r.loglevel, r.logfile))

    t.apply_async(
        eta=datetime(2000, 1, 1, tzinfo=UTC),
        expires=datetime(2099, 1, 1, tzinfo=UTC),
        headers={"tenant": "a"},
    )
    worker.run()

    assert seen == [
        (
            "2000-01-01T00:00:00+00:00",
            "2099-01-01T00:00:00+00:00",
            {"tenant": "a"},
            None,
            None,
            None,
            None,
        )
    ]
    assert int(worker.seen[0].properties["expiration"]) > 0


def test_a_default_serializer_of_json_and_version_two():
    """B-LEG-005: since version 4."""
    app = Celery("p", set_as_current=False)

    assert (app.conf.task_serializer, app.conf.task_protocol) == ("json", 2)


def test_old_names_of_a_result(app, add, worker):
    """B-LEG-012: `wait`, `task_id` and `status`."""
    result = add.delay(1, 2)
    worker.run()

    assert result.wait(timeout=1) == 3
    assert (result.task_id, result.status) == (result.id, "SUCCESS")


def test_purging_has_its_old_name():
    """B-LEG-015."""
    app = memory_app()

    assert app.control.discard_all == app.control.purge
