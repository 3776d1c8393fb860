"""JSON bodies: the same text and the same values as kombu's serializer."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled

from celery._protocol import body

ACCEPT = {"application/json"}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)
RICH = [
    datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    date(2030, 1, 2),
    time(3, 4, 5),
    Decimal("1.5"),
    uuid.UUID(int=9),
    b"bytes",
    b"\xff\x00",
]


@given(PLAIN)
def test_plain_values_are_written_as_kombu_writes_them_and_come_back(value):
    assert body.dumps(value, "json") == serialization.dumps(value, serializer="json")
    content_type, encoding, text = body.dumps(value, "json")
    assert body.loads(text, content_type, encoding, ACCEPT) == value
    assert body.loads(text.encode(), content_type, encoding, ACCEPT) == value
    assert body.loads(memoryview(text.encode()), content_type, encoding, ACCEPT) == value


@pytest.mark.parametrize("value", RICH, ids=repr)
def test_values_that_json_lacks_are_tagged(value):
    """B-CALL-032: datetime, Decimal, UUID and bytes survive."""
    content_type, encoding, text = body.dumps([{"deep": value}], "json")
    assert body.dumps([{"deep": value}], "json") == serialization.dumps(
        [{"deep": value}], serializer="json"
    )
    assert body.loads(text, content_type, encoding, ACCEPT) == [{"deep": value}]


def test_what_cannot_be_written_is_an_encode_error():
    with pytest.raises(EncodeError):
        body.dumps({1, 2}, "json")


def test_an_unknown_serializer_is_named():
    with pytest.raises(SerializerNotInstalled, match="nosuch"):
        body.dumps(1, "nosuch")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"__type__": "odd", "__value__": 1}'])
def test_a_broken_text_is_a_decode_error(text):
    if not text:
        # kombu passes an empty body through; here it is as broken as any other.
        with pytest.raises(DecodeError):
            body.loads(text, "application/json", "utf-8", ACCEPT)
        return
    with pytest.raises(DecodeError):
        body.loads(text, "application/json", "utf-8", ACCEPT)


def test_content_that_is_not_accepted_is_refused():
    """B-SEC-002."""
    with pytest.raises(ContentDisallowed):
        body.loads(b"[]", "application/json", "utf-8", {"application/x-yaml"})
    with pytest.raises(ContentDisallowed):
        body.loads(b"x", "application/x-python-serialize", "binary", ACCEPT)


def test_a_replaced_json_serializer_is_used():
    before = (
        serialization.registry._encoders["json"],
        serialization.registry._decoders["application/json"],
    )
    serialization.register(
        "json", lambda value: "mine", lambda text: "read", "application/json", "utf-8"
    )
    try:
        assert body.dumps(1, "json")[2] == "mine"
        assert body.loads("1", "application/json", "utf-8", ACCEPT) == "read"
    finally:
        serialization.registry._encoders["json"] = before[0]
        serialization.registry._decoders["application/json"] = before[1]
