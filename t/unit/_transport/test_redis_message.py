"""Envelopes of messages on Redis."""

from __future__ import annotations

import sys
from base64 import b64encode
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, strategies as st
from kombu.utils import json as kombu_json

from celery._transport import _redis_message
from celery._transport._redis_message import ClaimedMessage, decode_envelope, encode_envelope

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
special = st.dates() | st.uuids() | st.binary(max_size=10) | st.decimals(allow_nan=False)
values = st.recursive(
    plain | special | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(headers=st.dictionaries(st.text(max_size=10), values, max_size=4))
def test_an_envelope_is_the_text_that_kombu_would_write_and_read(headers: dict[str, Any]) -> None:
    message = {"body": "e30=", "headers": headers, "properties": {"delivery_tag": "t"}}

    text = encode_envelope(message)

    assert text == kombu_json.dumps(message)
    assert decode_envelope(text.encode()) == kombu_json.loads(text)


@given(body=st.binary(min_size=3 * 1024, max_size=3 * 1024 + 2), headers=values)
def test_a_long_body_is_put_in_as_it_is(body: bytes, headers: Any) -> None:
    message = {
        "body": b64encode(body).decode(),
        "headers": {"own": headers},
        "properties": {"body_encoding": "base64"},
    }
    text = encode_envelope(message)

    assert text == kombu_json.dumps(message)
    assert decode_envelope(text.encode()) == kombu_json.loads(text)


def test_a_long_body_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    decode = _redis_message._decoded
    monkeypatch.setattr(
        _redis_message, "_decoded", lambda raw: looked_at.append(len(raw)) or decode(raw)
    )
    message = {"body": "eA==" * 25_000, "headers": {}, "properties": {"body_encoding": "base64"}}

    assert decode_envelope(kombu_json.dumps(message).encode()) == message
    assert sum(looked_at) < 100


@pytest.mark.parametrize(
    "others",
    [
        '"properties": {"body_encoding": "utf-8"}',
        '"properties": {}',
        '"properties": {"body_encoding": "base64"}, "body": "e30="',
    ],
)
@pytest.mark.parametrize("body", ["x" * 5000, r"[\"x\", " * 1000, r"\u00e4\\" * 1000])
def test_a_long_body_of_another_kind_is_decoded_as_json(body: str, others: str) -> None:
    text = f'{{"body": "{body}", {others}}}'

    assert decode_envelope(text.encode()) == kombu_json.loads(text)


@given(data=st.binary(max_size=200))
def test_base64_is_what_the_standard_library_makes_of_it(data: bytes) -> None:
    assert _redis_message.to_base64(data) == b64encode(data)
    assert _redis_message.from_base64(b64encode(data).decode()) == data


def test_without_pybase64_the_standard_library_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybase64", None)
    spec = spec_from_file_location("_redis_message_without", _redis_message.__file__)
    assert spec
    assert spec.loader
    without = module_from_spec(spec)
    spec.loader.exec_module(without)

    assert without.pybase64 is None
    assert without.to_base64(b"x" * 100) == b64encode(b"x" * 100)
    assert without.from_base64(b64encode(b"x" * 100).decode()) == b"x" * 100


def test_a_long_body_of_any_text_is_escaped() -> None:
    message = {"body": '"\\' * 2048, "properties": {"body_encoding": "utf-8"}}
    assert encode_envelope(message) == kombu_json.dumps(message)


def test_values_beyond_json_come_back() -> None:
    values = {
        "when": datetime(2030, 1, 2, 3, 4, tzinfo=UTC),
        "id": UUID(int=7),
        "much": Decimal("1.50"),
    }
    text = encode_envelope({"headers": values, "properties": {}})
    assert decode_envelope(text.encode())["headers"] == values


@pytest.mark.parametrize("raw", [b"", b"\xff", b"{", b"[]", b"1", b'{"body": ""}'])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        decode_envelope(raw)


def test_a_body_that_cannot_be_unpacked_comes_with_the_error() -> None:
    class Channel:
        def decode_body(self, body: Any, encoding: Any) -> Any:
            return body

    payload = {
        "body": b"not packed",
        "headers": {"compression": "application/x-gzip"},
        "properties": {"delivery_info": {}, "delivery_tag": "t"},
    }
    message = ClaimedMessage(payload, Channel(), "t", "q", None)

    ((kind, _, _),) = message.errors
    assert issubclass(kind, Exception)
    assert message.body == b"not packed"
