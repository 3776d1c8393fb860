"""Serializers, bound once."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, strategies as st
from kombu import serialization
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled
from kombu.utils import json as kombu_json

from celery.backends._codec import decode_json, encode_json, make_codec

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_json_is_written_exactly_as_kombu_writes_it(value):
    assert encode_json(value) == kombu_json.dumps(value)


@given(values)
def test_json_is_read_exactly_as_kombu_reads_it(value):
    text = kombu_json.dumps(value)

    assert decode_json(text) == kombu_json.loads(text)
    assert decode_json(text.encode()) == kombu_json.loads(text)


@pytest.mark.parametrize(
    "value", [Decimal("1.5"), UUID(int=3), datetime(2026, 1, 1, tzinfo=UTC), b"\xff"]
)
def test_typed_values_come_back(value):
    assert decode_json(encode_json({"deep": [value]})) == {"deep": [value]}


def test_what_json_has_no_form_for_is_an_encode_error():
    with pytest.raises(EncodeError):
        encode_json(object())


@pytest.mark.parametrize("payload", [b"\xff\xfe", "{", '{"__type__": "x", "__value__": 1}'])
def test_what_is_not_json_is_a_decode_error(payload):
    with pytest.raises(DecodeError):
        decode_json(payload)


def test_the_short_cut_is_taken_for_the_json_of_kombu():
    codec = make_codec("json", {"application/json"})

    assert codec.encode is encode_json
    assert (codec.content_type, codec.content_encoding) == ("application/json", "utf-8")


def test_a_serializer_that_the_user_registered_is_used():
    serialization.register("shouting", lambda o: json.dumps(o).upper(), json.loads, "x/shout")
    try:
        codec = make_codec("shouting", None)
        assert codec.encode("a") == '"A"'
        assert codec.decode('"A"') == "A"
    finally:
        serialization.unregister("shouting")


def test_content_that_is_not_accepted_is_refused():
    """B-RES-014."""
    codec = make_codec("json", {"application/x-python-serialize"})

    with pytest.raises(ContentDisallowed):
        codec.decode("{}")


def test_an_unknown_serializer_is_named():
    with pytest.raises(SerializerNotInstalled, match="nosuch"):
        make_codec("nosuch", None)
