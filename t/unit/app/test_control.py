"""The client of remote control: what it sends, and what it makes of replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from celery.app.control import Control, Inspect, flatten_reply
from celery.contrib.testing.app import TestApp, setup_default_app
from celery.exceptions import DuplicateNodenameWarning, ImproperlyConfigured


@pytest.fixture
def app() -> Iterator[Any]:
    app = TestApp()
    with setup_default_app(app):
        yield app


class Sent:
    """Takes the place of the mailbox: notes what is sent and replies as told."""

    def __init__(self, replies: Any = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.replies = replies

    def __call__(self, connection: Any) -> Sent:
        return self

    def _broadcast(
        self,
        command: str,
        arguments: Any,
        destination: Any,
        reply: bool,
        timeout: float,
        limit: Any,
        callback: Any,
        **more: Any,
    ) -> Any:
        self.calls.append(
            {
                "command": command,
                "arguments": arguments,
                "destination": destination,
                "reply": reply,
                "timeout": timeout,
                "limit": limit,
                **more,
            }
        )
        return self.replies if reply else None


@pytest.fixture
def sent(app: Any) -> Sent:
    app.control.mailbox = Sent([{"w1@h": {"ok": "pong"}}, {"w2@h": {"ok": "pong"}}])
    return app.control.mailbox


@pytest.mark.parametrize(
    ("method", "args", "command", "arguments"),
    [
        ("revoke", ("id",), "revoke", {"task_id": "id", "terminate": False, "signal": "SIGTERM"}),
        ("terminate", ("id",), "revoke", {"task_id": "id", "terminate": True, "signal": "SIGTERM"}),
        ("rate_limit", ("add", "10/m"), "rate_limit", {"task_name": "add", "rate_limit": "10/m"}),
        ("time_limit", ("add", 5, 10), "time_limit", {"task_name": "add", "soft": 5, "hard": 10}),
        ("cancel_consumer", ("q",), "cancel_consumer", {"queue": "q"}),
        ("enable_events", (), "enable_events", {}),
        ("disable_events", (), "disable_events", {}),
        ("pool_grow", (2,), "pool_grow", {"n": 2}),
        ("pool_shrink", (), "pool_shrink", {"n": 1}),
        ("autoscale", (6, 2), "autoscale", {"max": 6, "min": 2}),
        ("shutdown", (), "shutdown", {}),
        ("heartbeat", (), "heartbeat", {}),
        (
            "revoke_by_stamped_headers",
            ({"k": "v"},),
            "revoke_by_stamped_headers",
            {"headers": {"k": "v"}, "terminate": False, "signal": "SIGTERM"},
        ),
        (
            "add_consumer",
            ("q", None, "topic", "a.#", {"queue_arguments": {}}),
            "add_consumer",
            {
                "queue": "q",
                "exchange": None,
                "exchange_type": "topic",
                "routing_key": "a.#",
                "queue_arguments": {},
            },
        ),
        (
            "pool_restart",
            (["mod"], True),
            "pool_restart",
            {"modules": ["mod"], "reload": True, "reloader": None},
        ),
        ("election", ("id", "topic"), "election", {"id": "id", "topic": "topic", "action": None}),
    ],
)
def test_each_method_sends_its_command(
    app: Any, sent: Sent, method: str, args: tuple[Any, ...], command: str, arguments: Any
) -> None:
    """B-EVT-021: without reply a broadcast returns None at once."""
    assert getattr(app.control, method)(*args) is None

    (call,) = sent.calls
    assert (call["command"], call["arguments"], call["reply"]) == (command, arguments, False)


def test_replies_are_a_list_in_the_order_they_came(app: Any, sent: Sent) -> None:
    """B-EVT-021: with reply a list of {node: reply}."""
    assert app.control.ping() == [{"w1@h": {"ok": "pong"}}, {"w2@h": {"ok": "pong"}}]
    # B-EVT-020: the default wait is one second.
    assert sent.calls[0]["timeout"] == 1.0


def test_nobody_there_gives_an_empty_list(app: Any) -> None:
    """B-EVT-021: no node gives []."""
    app.conf.broker_transport_options = {"polling_interval": 0.001}

    assert app.control.ping(timeout=0.01) == []
    assert app.control.inspect(timeout=0.01).ping() is None


def test_options_of_broadcast_are_handed_on(app: Any, sent: Sent) -> None:
    app.control.revoke("id", destination=["w1@h"], reply=True, timeout=5, limit=1, pattern="w*")

    (call,) = sent.calls
    assert call["destination"] == ["w1@h"]
    assert (call["timeout"], call["limit"], call["pattern"]) == (5, 1, "w*")


def test_a_single_name_is_no_destination(app: Any) -> None:
    """B-EVT-022: destination must be a list or tuple; a string raises ValueError."""
    with pytest.raises(ValueError, match="list of node names"):
        app.control.broadcast("ping", destination="w1@h")


def test_inspect_merges_replies_by_node(app: Any, sent: Sent) -> None:
    """B-EVT-023: {node: reply}."""
    assert app.control.inspect().ping() == {"w1@h": {"ok": "pong"}, "w2@h": {"ok": "pong"}}


def test_inspect_returns_none_when_nobody_answers(app: Any, sent: Sent) -> None:
    """B-EVT-023: None when nobody answered."""
    sent.replies = []

    assert app.control.inspect().active() is None


def test_inspect_asks_by_pattern(app: Any, sent: Sent) -> None:
    """B-EVT-028: pattern and matcher restrict by node name."""
    inspect = app.control.inspect(pattern="w1*", matcher="glob")

    assert inspect.ping() == {"w1@h": {"ok": "pong"}}
    assert (sent.calls[0]["pattern"], sent.calls[0]["matcher"]) == ("w1*", "glob")


def test_inspecting_one_node_by_name_gives_its_reply(app: Any, sent: Sent) -> None:
    assert app.control.inspect("w1@h").ping() == {"ok": "pong"}
    assert sent.calls[0]["destination"] == ["w1@h"]


@pytest.mark.parametrize(
    ("method", "args", "command", "arguments"),
    [
        ("report", (), "report", {}),
        ("clock", (), "clock", {}),
        ("active", (True,), "active", {"safe": True}),
        ("scheduled", (), "scheduled", {}),
        ("reserved", (), "reserved", {}),
        ("stats", (), "stats", {}),
        ("revoked", (), "revoked", {}),
        ("registered", ("rate_limit",), "registered", {"taskinfoitems": ("rate_limit",)}),
        ("registered_tasks", (), "registered", {"taskinfoitems": ()}),
        ("active_queues", (), "active_queues", {}),
        ("query_task", ("a", "b"), "query_task", {"ids": ("a", "b")}),
        ("query_task", (["a", "b"],), "query_task", {"ids": ["a", "b"]}),
        ("conf", (True,), "conf", {"with_defaults": True}),
        ("hello", ("me@h", {}), "hello", {"from_node": "me@h", "revoked": {}}),
        ("memsample", (), "memsample", {}),
        ("memdump", (3,), "memdump", {"samples": 3}),
        ("objgraph", ("Task", 9, 2), "objgraph", {"type": "Task", "num": 9, "max_depth": 2}),
    ],
)
def test_each_question_is_sent(
    app: Any, sent: Sent, method: str, args: tuple[Any, ...], command: str, arguments: Any
) -> None:
    getattr(app.control.inspect(), method)(*args)

    (call,) = sent.calls
    assert (call["command"], call["arguments"], call["reply"]) == (command, arguments, True)


def test_two_nodes_of_one_name_are_warned_about() -> None:
    with pytest.warns(DuplicateNodenameWarning, match="w@h"):
        merged = flatten_reply([{"w@h": 1}, {"w@h": 2}, {"x@h": 3}])

    assert merged == {"w@h": 2, "x@h": 3}


def test_the_queue_for_commands_is_configured(app: Any) -> None:
    """B-EVT-033: 300 seconds for messages, 10 for the queue, exclusive; name from B-EVT-019."""
    mailbox = app.control.mailbox
    queue = mailbox.get_queue("w1@h")

    assert queue.name == "w1@h.celery.pidbox"
    assert queue.exchange.name == "celery.pidbox"
    assert queue.exchange.type == "fanout"
    assert mailbox.reply_exchange.name == "reply.celery.pidbox"
    assert (queue.message_ttl, queue.expires, queue.exclusive) == (300.0, 10.0, True)
    assert mailbox.clock is app.clock


def test_the_queue_cannot_be_durable_and_exclusive(app: Any) -> None:
    """B-EVT-033: durable and exclusive together are an error."""
    app.conf.control_queue_durable = True

    with pytest.raises(ImproperlyConfigured, match="control_queue_durable"):
        Control(app)


def test_purge_returns_the_number_of_messages(app: Any) -> None:
    """B-CLI-026: app.control.purge() returns the number of messages."""
    app.conf.task_default_queue = "purged-by-the-test"
    for _ in range(3):
        app.send_task("some.task")

    assert app.control.purge() == 3
    assert app.control.discard_all() == 0


def test_inspect_is_bound_to_the_app(app: Any) -> None:
    assert issubclass(app.control.inspect, Inspect)
    assert app.control.inspect().app is app


def test_a_command_is_tried_as_often_as_a_task(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu by itself would try for ever, and so would workers that reply."""
    policies = []

    class Pool:
        limit = None

        @contextmanager
        def acquire(self) -> Any:
            yield SimpleNamespace(publish=lambda *_, **how: policies.append(how["retry_policy"]))

    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0}
    monkeypatch.setattr(app.amqp, "_producer_pool", Pool())
    app.control.revoke("some-id")

    assert policies == [{"max_retries": 1, "interval_start": 0}]
