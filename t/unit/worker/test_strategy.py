"""From message to decision."""

from __future__ import annotations

import json
import logging

import pytest
from kombu.exceptions import ContentDisallowed

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.worker import state, strategy
from t.harness.calls import python_calls

LONG_AGO, FAR_AWAY = "2001-01-01T00:00:00+00:00", "2101-01-01T00:00:00+00:00"


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize(
    ("headers", "fate"),
    [
        ({}, "taken"),
        ({"eta": LONG_AGO}, "taken"),
        ({"eta": FAR_AWAY}, "held"),
        ({"expires": FAR_AWAY}, "taken"),
        ({"expires": LONG_AGO}, "dropped"),
        ({"eta": FAR_AWAY, "expires": FAR_AWAY}, "held"),
        ({"eta": FAR_AWAY, "expires": LONG_AGO}, "dropped"),
        ({"id": "revoked", "eta": FAR_AWAY}, "dropped"),
    ],
)
def test_a_message_is_admitted_as_its_times_and_limits_say(
    task, app, consumer, make_message, headers, fate, limited
):
    """B-WORK-038, B-WORK-039, B-WORK-053: a rate limit counts once the ETA has passed."""
    if limited:
        consumer.task_buckets["add"] = "a bucket"
    state.revoked.add("revoked")
    message = make_message(**headers)
    handler = strategy.default(task, app, consumer)
    handler(message, None, message.ack_log_error, message.reject_log_error)

    taken = len(consumer.throttled) if limited else len(consumer.ran)
    assert (taken, len(consumer.held)) == {"taken": (1, 0), "held": (0, 1), "dropped": (0, 0)}[fate]
    assert len(consumer.ran) + len(consumer.throttled) == taken


@pytest.fixture
def handle(task, app, consumer):
    handler = strategy.default(task, app, consumer)

    def call(message, body=None, callbacks=()):
        handler(message, body, message.ack_log_error, message.reject_log_error, callbacks)

    return call


@pytest.mark.parametrize(
    ("accepted", "kind", "runs"),
    [
        (["json"], "application/json", True),
        (["application/json"], "application/json", True),
        (["pickle"], "application/json", False),
        (["application/x-python-serialize"], "application/json", False),
    ],
)
def test_content_is_accepted_by_name_or_type(
    app, task, consumer, make_message, accepted, kind, runs
):
    """B-SEC-001."""
    app.conf.accept_content = accepted
    handler = strategy.default(task, app, consumer)
    message = make_message(kind=kind)
    if runs:
        handler(message, None, message.ack, message.reject)
        assert consumer.ran
    else:
        with pytest.raises(ContentDisallowed, match=r"json \(application/json\)"):
            handler(message, None, message.ack, message.reject)


def test_a_message_runs(handle, make_message, consumer, caplog, eventer):
    """B-TASK-052, B-EVT-005."""
    told = []
    message = make_message(id="the-id", root_id="root", retries=2)
    handle(message, callbacks=[told.append])

    (request,) = consumer.ran
    assert request.id == "the-id"
    assert request in state.reserved_requests
    assert told == [request]
    assert eventer.sent == [
        (
            "task-received",
            {
                "uuid": "the-id", "name": "add", "args": "(2, 2)", "kwargs": "{}",
                "root_id": "root", "parent_id": None, "retries": 2, "eta": None,
                "expires": None,
            },
        )
    ]  # fmt: skip


@pytest.fixture
def info(caplog):
    """Strategies look at the level when they are built."""
    caplog.set_level(logging.INFO, "celery.worker.strategy")
    return caplog


def test_reception_is_logged(info, handle, make_message):
    """B-TASK-052."""
    handle(make_message(id="the-id"))

    assert info.messages == ["Task add[the-id] received"]


def test_a_task_with_an_eta_is_held(info, handle, make_message, consumer):
    """B-WORK-051."""
    handle(make_message(id="the-id", eta="2101-01-01T00:00:00+00:00"))

    assert consumer.ran == []
    ((request, until),) = consumer.held
    assert until == request.eta.timestamp()
    assert info.messages == ["Task add[the-id] received  ETA:[2101-01-01 00:00:00+00:00]"]


def test_an_eta_in_the_past_runs_at_once(handle, make_message, consumer):
    """B-WORK-039."""
    handle(make_message(eta="2001-01-01T00:00:00+00:00"))

    assert len(consumer.ran) == 1


def test_an_expired_task_is_logged_but_not_announced(info, handle, make_message, consumer, eventer):
    """B-WORK-037, B-WORK-040: no signal and no event of reception."""
    received = []
    signals.task_received.connect(receiver := (lambda **kw: received.append(kw)), weak=False)
    try:
        handle(make_message(id="the-id", expires="2001-01-01T00:00:00+00:00"))
    finally:
        signals.task_received.disconnect(receiver)

    assert consumer.ran == []
    assert received == []
    assert eventer.types == ["task-revoked"]
    assert info.messages[0].startswith("Task add[the-id] received")


def test_reception_is_signalled(handle, make_message, consumer):
    """B-SIG-006."""
    received = []

    def receiver(sender, request, **kwargs):
        received.append((sender, request.id))

    signals.task_received.connect(receiver)
    handle(make_message(id="the-id"))

    assert received == [(consumer, "the-id")]


def test_a_limited_task_waits_for_its_bucket(task, app, consumer, make_message):
    """B-WORK-067: its prefetch slot stays taken, it counts as reserved."""
    consumer.task_buckets["add"] = "a bucket"
    message = make_message()
    strategy.default(task, app, consumer)(message, None, None, None, ())

    assert consumer.ran == []
    assert consumer.throttled[0] in state.reserved_requests


@pytest.mark.parametrize(
    "raw",
    ["{}", "[]", "7", "null", '"text"', "[[1], {}, 7]", "nonsense", "", "[[1, 2], {},"],
)
def test_a_body_that_is_no_call_is_refused(handle, make_message, raw, consumer):
    """B-WORK-033."""
    with pytest.raises(InvalidTaskError):
        handle(make_message(raw=raw))
    assert consumer.ran == []


@pytest.mark.parametrize("raw", ["[[1], {}]", '[[1], {"a": {"b": null}}]', "[[], {}, {}, {}]"])
def test_a_body_of_another_number_of_parts_is_refused(handle, make_message, raw, consumer):
    """B-WORK-030: it would fail in a pool process, and be taken for a task that failed."""
    with pytest.raises(InvalidTaskError, match="not args, kwargs and options"):
        handle(make_message(raw=raw.encode()))
    assert consumer.ran == []


@pytest.mark.parametrize("embed", [None, {}, {"chain": None}])
def test_the_least_body_is_accepted(handle, make_message, embed, consumer):
    """B-WORK-030."""
    handle(make_message([[1], {}, embed]))
    assert len(consumer.ran) == 1


def test_a_body_may_be_bytes_or_have_blanks(handle, make_message, consumer):
    handle(make_message(raw=json.dumps([[1], {}, {}], indent=1).encode()))
    handle(make_message(raw=b"[[1], {}, {}]"))

    assert len(consumer.ran) == 2


def test_content_that_is_not_accepted_is_refused_undecoded(handle, make_message):
    """B-WORK-028."""
    with pytest.raises(
        ContentDisallowed,
        match=r"Refusing to deserialize untrusted content of type pickle "
        r"\(application/x-python-serialize\)",
    ):
        handle(make_message(raw=b"cos\nsystem\n", kind="application/x-python-serialize"))


def test_a_body_that_could_not_be_decompressed_is_refused(handle, make_message):
    message = make_message(compression="gzip", raw=b"not gzip")

    with pytest.raises(InvalidTaskError, match="Cannot read the message body"):
        handle(message)


def test_version_one_has_defaults(handle, make_message, consumer):
    """B-WORK-035, B-WORK-036."""
    handle(make_message(), {"task": "add", "id": "v1"})

    (request,) = consumer.ran
    assert (request.args, request.kwargs) == ((), {})
    assert request.content_type is None
    assert request.root_id == "v1"


@pytest.mark.parametrize("body", [{"args": 7}, {"kwargs": [1]}, {"args": "text"}, {}])
def test_version_one_with_wrong_fields_is_refused(handle, make_message, body):
    with pytest.raises(InvalidTaskError):
        handle(make_message(), {"task": "add", "id": "v1", **body} if body else {"task": "add"})


def test_a_taskset_is_a_group_and_times_may_be_local(make_message):
    body, headers, decoded, utc = strategy.hybrid_to_proto2(
        make_message(), {"task": "add", "id": "x", "taskset": "g", "utc": False, "args": [1]}
    )

    assert body[0] == [1]
    assert (headers["group"], decoded, utc) == ("g", True, False)


def test_the_log_format_can_be_replaced(info, handle, make_message, monkeypatch):
    """B-EXT-006."""
    from celery.app import trace

    monkeypatch.setattr(trace, "LOG_RECEIVED", "GOT %(name)s")
    handle(make_message())

    assert info.messages == ["GOT add"]


def test_a_strategy_costs_few_calls(task, app, consumer, make_message):
    """The path from message to pool is bound once; look-ups for each message would show here."""
    handler = strategy.default(task, app, consumer)
    message = make_message()
    handler(make_message(), None, print, print, ())

    calls = python_calls(lambda: handler(message, None, print, print, ()))

    # Among them: the test's own stand-ins, and one for the event.
    assert len(calls) < 41, calls
