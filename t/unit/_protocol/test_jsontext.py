"""JSON as kombu writes and reads it."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest
from kombu.utils import json as kombu_json

from celery._protocol import jsontext

VALUES: list[Any] = [
    None, True, 0, -1, 2**80, 1.5, float("inf"), "", "text", 'quote " and \\ and é \U0001f600 \x00',
    "\ud800", [], {}, [1, [2, {"a": [None, {"b": "c"}]}]], {"a": 1, "b": (1, 2)}, {1: "n", None: 2},
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC), datetime.date(2026, 1, 2),
    uuid.UUID(int=7), Decimal("1.10"), {"deep": [uuid.UUID(int=8)]}, [{"__type__": "not a tag"}],
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_is_written_and_read_as_kombu_does(value: Any) -> None:
    text = jsontext.encode(value)

    assert text == kombu_json.dumps(value)
    if "not a tag" not in text:
        assert repr(jsontext.decode(text)) == repr(kombu_json.loads(text))


@pytest.mark.parametrize("text", [" [1, 2] ", '\n{"a": 1}\n', "[1, 2]\n"])
def test_blanks_around_a_value_are_skipped(text: str) -> None:
    assert jsontext.decode(text) == kombu_json.loads(text)


@pytest.mark.parametrize("text", ["", " ", "[1", "[1] 2", "nul", "{1: 2}"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        jsontext.decode(text)


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError):
        jsontext.encode([object()])


def test_a_cycle_ends_and_does_no_harm_to_what_follows() -> None:
    cycle: list[Any] = []
    cycle.append({"again": cycle})

    for _ in range(2):
        with pytest.raises((RecursionError, ValueError)):
            jsontext.encode(cycle)
    assert jsontext.encode([1]) == "[1]"
