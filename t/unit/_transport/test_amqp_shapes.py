"""Properties are the same whether or not a message is recognised as one of its kind."""

from __future__ import annotations

from struct import pack
from typing import Any

import amqp
import pytest
from amqp.serialization import decode_properties_basic, dumps
from hypothesis import given, strategies as st

from celery._transport import _amqp_shapes
from celery._transport._amqp_shapes import LEARNED_AT_MOST, SIZES_AT_MOST, Shapes
from t.unit._transport.test_amqp_reader import PROPERTIES


def packed(properties: dict[str, Any]) -> bytes:
    """Return *properties* as they stand in the header of a message, behind its flags."""
    raw: bytes = amqp.Message(**properties)._serialize_properties()
    return raw


def read(shapes: Shapes, raw: bytes) -> dict[str, Any]:
    return shapes.read(b"xy" + raw + b"z", 2, 2 + len(raw))


def task(number: int, **more: Any) -> dict[str, Any]:
    """Return properties as a task message has them."""
    task_id = f"00000000-0000-0000-0000-{number:012}"
    headers = {
        "task": "proj.add",
        "id": task_id,
        "root_id": task_id,
        "eta": None,
        "retries": 0,
        "timelimit": [None, None],
        "stamps": {},
        **more,
    }
    return {
        "content_type": "application/json",
        "application_headers": headers,
        "delivery_mode": 2,
        "correlation_id": task_id,
    }


def same_size(value: Any, fill: str) -> Any:
    """Return *value* with other texts, of the same size."""
    if isinstance(value, str):
        return fill * len(value.encode())
    if isinstance(value, dict):
        return {name: same_size(item, fill) for name, item in value.items()}
    return value


@given(st.lists(PROPERTIES, min_size=1, max_size=3), st.lists(st.integers(0, 30), max_size=40))
def test_properties_are_those_of_py_amqp(kinds: list[dict[str, Any]], order: list[int]) -> None:
    shapes = Shapes()
    for number in order:
        raw = packed(same_size(kinds[number % len(kinds)], chr(ord("a") + number % 7)))
        expected, _ = decode_properties_basic(raw, 0)

        found = read(shapes, raw)

        assert found == expected
        assert list(found) == list(expected)


def test_messages_of_a_kind_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = Shapes()
    for number in range(2):
        read(shapes, packed(task(number)))

    def refuse(*args: Any) -> None:
        raise AssertionError("it was read octet by octet")

    monkeypatch.setattr(_amqp_shapes, "read_properties", refuse)
    for number in range(5):
        assert read(shapes, packed(task(number))) == task(number)


def test_what_one_consumer_changes_is_not_seen_by_the_next() -> None:
    shapes = Shapes()
    for number in range(4):
        found = read(shapes, packed(task(number, list=["a", 1])))
        assert found == task(number, list=["a", 1])
        found["more"] = 1
        found["application_headers"]["stamps"]["more"] = 1
        found["application_headers"]["timelimit"].append(1)
        found["application_headers"]["list"].clear()


def test_an_empty_table_of_headers_is_one_for_each() -> None:
    shapes = Shapes()
    for _ in range(4):
        found = read(shapes, packed({"application_headers": {}, "reply_to": "r"}))
        assert found == {"application_headers": {}, "reply_to": "r"}
        found["application_headers"]["more"] = 1


@pytest.mark.parametrize(
    "change",
    [
        {"retries": 1},
        {"eta": "x" * 36},
        {"timelimit": [None, 1]},
        {"stamps": {"a": ["b", {"c": "d"}]}},
        {"task": "proj.ad", "id": "x" * 37},
        {"id": "\ud800" * 12},
    ],
)
def test_others_of_the_same_size_are_told_apart(change: dict[str, Any]) -> None:
    shapes = Shapes()
    for number in range(6):
        for properties in (task(number), task(number, **change)):
            assert read(shapes, packed(properties)) == properties


def table(*items: bytes) -> bytes:
    body = b"".join(items)
    return b"\x20\x00" + pack(">I", len(body)) + body


@pytest.mark.parametrize(
    "raw",
    [
        table(b"\x01aS\x00\x00\x00\x01x", b"\x01aI\x00\x00\x00\x07"),
        table(b"\x01aI\x00\x00\x00\x07", b"\x01aS\x00\x00\x00\x01x"),
        table(b"\x01\xffS\x00\x00\x00\x01x"),
        table(b"\x01aS\x00\x00\x00\x01\xff"),
    ],
)
def test_odd_tables_are_read_as_by_py_amqp(raw: bytes) -> None:
    shapes = Shapes()
    for _ in range(4):
        assert read(shapes, raw) == decode_properties_basic(raw, 0)[0]


def test_nothing_is_learned_without_end() -> None:
    shapes = Shapes()
    for number in range(3 * SIZES_AT_MOST):
        read(shapes, dumps("B", (0x8000,)) + dumps("s", ("x" * (number % 250),)) + b"x" * number)
    assert len(shapes._missed) <= SIZES_AT_MOST
    assert len(shapes._known) <= SIZES_AT_MOST

    shapes = Shapes()
    for number in range(100):
        assert read(shapes, packed(task(1, retries=number))) == task(1, retries=number)
    assert max(shapes._missed.values()) <= LEARNED_AT_MOST + 1
