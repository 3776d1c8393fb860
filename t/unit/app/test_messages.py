"""The messages that calls publish, field by field, against recorded ones."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest
import yaml
from kombu import Exchange, Queue

from celery import Celery, chain, chord, group
from celery.canvas import StampingVisitor

GOLDEN = json.loads(Path(__file__).parents[2].joinpath("golden/messages.json").read_text())
LATER = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ROOT, PARENT = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
UUID_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
PLACEHOLDERS = {
    "<iso8601+00:00>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00"),
    "<iso8601>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?"),
    "gen<pid>@<host>": re.compile(r"gen\d+@.+"),
    "<ms>": re.compile(r"\d+"),
}
DECODERS: dict[str, Callable[[bytes], Any]] = {
    "application/json": json.loads,
    "application/x-python-serialize": pickle.loads,
    "application/x-yaml": yaml.safe_load,
    "application/x-msgpack": msgpack.unpackb,
}


class Marks(StampingVisitor):
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"header": "value", "stamped_headers": ["header"]}


def stamped(sig: Any, *args: Any, **kwargs: Any) -> Any:
    sig.stamp(*args, **kwargs)
    return sig


def calls(app: Celery) -> dict[str, Callable[[], Any]]:
    """Name of a recorded case to what publishes it."""
    add, xsum, err = (app.tasks[f"demo.{name}"] for name in ("add", "xsum", "err"))

    def send(*args: Any, **options: Any) -> Callable[[], Any]:
        return lambda: add.apply_async(args or (2, 2), **options)

    return {
        "plain": lambda: add.delay(2, 2),
        "kwargs": lambda: add.apply_async((2,), {"y": 3}),
        "countdown": send(countdown=60),
        "eta_aware": send(eta=LATER),
        "eta_naive": send(eta=LATER.replace(tzinfo=None)),
        "expires_seconds": send(expires=120),
        "expires_datetime": send(expires=LATER),
        "link": send(link=add.s(8)),
        "link_error": send(link_error=err.s()),
        "chain": lambda: chain(add.s(2, 2), add.s(4), add.s(8)).apply_async(),
        "group": lambda: group(add.s(1, 1), add.s(2, 2)).apply_async(),
        "chord": lambda: chord([add.s(1, 1), add.s(2, 2)])(xsum.s()),
        "retries": send(retries=2),
        "timelimit": send(time_limit=30, soft_time_limit=20),
        "priority": send(priority=7),
        "shadow": send(shadow="shadow.name"),
        "argsrepr": send(argsrepr="(secret)", kwargsrepr="{secret}"),
        "ignore_result": send(ignore_result=True),
        "headers": send(headers={"x-custom": "v"}),
        "stamped": lambda: stamped(add.s(2, 2), header="value").apply_async(),
        "stamped_visitor": lambda: stamped(add.s(2, 2), Marks()).apply_async(),
        "stamped_chain": lambda: stamped(chain(add.s(2, 2), add.s(4)), Marks()).apply_async(),
        "compression_zlib": send(compression="zlib"),
        "serializer_json": send(serializer="json"),
        "serializer_pickle": send(serializer="pickle"),
        "serializer_yaml": send(serializer="yaml"),
        "serializer_msgpack": send(serializer="msgpack"),
        "json_rich_types": lambda: app.send_task(
            "demo.add",
            (LATER.replace(microsecond=6), Decimal("1.5")),
            {
                "y": UUID("00000000000040008000000000000009"),
                "b": b"bytes",
                "d": date(2030, 1, 2),
                "t": time(3, 4, 5),
            },
        ),
        "send_task": lambda: app.send_task("other.task", args=(1,), kwargs={"k": 2}),
        "queue": send(queue="other"),
        "exchange_routing_key": send(exchange="ex", routing_key="rk"),
        "delivery_mode": send(delivery_mode=1),
        "add_to_parent": send(add_to_parent=False, root_id=ROOT, parent_id=PARENT),
        "reply_to": send(reply_to="my-reply-queue"),
        "map": lambda: add.starmap([(1, 2), (3, 4)]).apply_async(),
        "chunks": lambda: add.chunks([(1, 2), (3, 4)], 1).apply_async(),
        "nested_chord_in_chain": lambda: chain(
            add.s(1, 1), group(add.s(2), add.s(3)), xsum.s()
        ).apply_async(),
        "empty_args": lambda: app.send_task("no.args"),
    }


@pytest.fixture
def app() -> Celery:
    app = Celery("golden", broker="memory://", backend="cache+memory://", set_as_current=False)
    for name, fun in {
        "add": lambda x, y: x + y,
        "xsum": sum,
        "err": lambda request, exc, tb: None,
    }.items():
        app.task(name=f"demo.{name}", typing=False, shared=False)(named(fun, name))
    app.finalize()
    return app


def named(fun: Callable[..., Any], name: str) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        return fun(*args, **kwargs)

    body.__name__ = body.__qualname__ = name
    return body


def published_by(app: Celery, call: Callable[[], Any]) -> list[dict[str, Any]]:
    """Make the call and take what it published out of the queues, in queue order."""
    queues = [
        Queue("celery", Exchange("celery"), "celery"),
        Queue("other", Exchange("other"), "other"),
        Queue("exq", Exchange("ex"), "rk"),
    ]
    found = []
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for queue in queues:
            queue(channel).declare()
            queue(channel).purge()
        call()
        for queue in queues:
            while (message := queue(channel).get(no_ack=True)) is not None:
                body = message.body
                body = body if isinstance(body, bytes) else body.encode()
                found.append(
                    {
                        "delivery": {
                            "exchange": message.delivery_info["exchange"],
                            "routing_key": message.delivery_info["routing_key"],
                            "queue": queue.name,
                        },
                        "content_type": message.content_type,
                        "content_encoding": message.content_encoding,
                        "headers": message.headers,
                        "properties": message.properties,
                        "body": DECODERS[message.content_type](body),
                    }
                )
    return found


class Comparison:
    """Compares found data with recorded; one placeholder stands for one value throughout."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def check(self, recorded: Any, found: Any, where: str) -> None:
        if isinstance(recorded, dict):
            assert isinstance(found, dict), where
            assert recorded.keys() <= found.keys(), where
            for key, value in recorded.items():
                self.check(value, found[key], f"{where}.{key}")
        elif isinstance(recorded, list):
            assert isinstance(found, (list, tuple)), where
            assert len(found) == len(recorded), where
            for index, (one, other) in enumerate(zip(recorded, found, strict=True)):
                self.check(one, other, f"{where}[{index}]")
        elif isinstance(recorded, str):
            self.check_text(recorded, found, where)
        else:
            assert found == recorded, where

    def check_text(self, recorded: str, found: Any, where: str) -> None:
        if recorded in PLACEHOLDERS:
            assert PLACEHOLDERS[recorded].fullmatch(found), (where, found)
        elif recorded.startswith("<uuid-"):
            assert UUID_TEXT.fullmatch(found), (where, found)
            assert self.ids.setdefault(recorded, found) == found, where
        elif "<uuid-" not in recorded:
            assert found == recorded, where


@pytest.mark.parametrize("case", sorted(GOLDEN["cases"]["protocol_2"]))
@pytest.mark.parametrize("version", [1, 2])
def test_a_call_publishes_the_recorded_message(app: Celery, version: int, case: str):
    """B-CALL-001, B-CALL-002, B-CALL-003, B-CALL-004, B-CALL-010: the message, by field."""
    app.conf.task_protocol = version

    found = published_by(app, calls(app)[case])

    recorded = GOLDEN["cases"][f"protocol_{version}"][case]["messages"]
    assert len(found) == len(recorded)
    compare = Comparison()
    for index, (one, other) in enumerate(zip(recorded, found, strict=True)):
        compare.check(one, other, f"message {index}")


def test_every_recorded_case_is_called(app: Celery):
    assert set(calls(app)) == set(GOLDEN["cases"]["protocol_2"])


def test_the_body_has_three_elements_with_absent_parts_as_null(app: Celery):
    """B-CALL-001: ``[args, kwargs, embed]``."""
    (message,) = published_by(app, lambda: app.tasks["demo.add"].delay(2, 2))

    assert message["body"] == [
        [2, 2],
        {},
        {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]


def test_custom_headers_stand_beside_the_tasks_own(app: Celery):
    """B-CALL-005: no nested ``headers`` key."""
    add = app.tasks["demo.add"]
    (message,) = published_by(app, lambda: add.apply_async((1, 2), headers={"tenant": "a"}))

    assert message["headers"]["tenant"] == "a"
    assert "headers" not in message["headers"]


def test_an_unknown_option_becomes_a_message_property(app: Celery):
    """B-CALL-006."""
    add = app.tasks["demo.add"]
    (message,) = published_by(app, lambda: add.apply_async((1, 2), zoo=1))

    assert message["properties"]["zoo"] == 1


def test_send_task_leaves_ignore_result_to_the_worker(app: Celery):
    """B-CALL-004: the header is null without the option."""
    (message,) = published_by(app, lambda: app.send_task("demo.add", (1, 2)))

    assert message["headers"]["ignore_result"] is None
