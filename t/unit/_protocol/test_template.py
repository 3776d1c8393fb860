"""Messages written by filling in what differs."""

from __future__ import annotations

import json

import pytest
from amqp.basic_message import Message
from amqp.serialization import dumps
from hypothesis import given, strategies as st

from celery._protocol.template import MARKS, Blanks, JSONTemplate, TableTemplate, Unfit

values = st.none() | st.integers(-(2**31), 2**31) | st.text(max_size=30)
blanks = st.builds(Blanks, *(values for _ in Blanks._fields))


@given(blanks)
def test_a_json_template_writes_what_the_encoder_would(given_blanks):
    def message(blank: Blanks) -> str:
        return json.dumps(
            {"%s 100%": "%", "a": blank.id, "b": [blank.root_id, {"c": blank.group_index}],
             "again": blank.id, "body": blank.body}
        )  # fmt: skip

    assert JSONTemplate(message(MARKS)).fill(given_blanks) == message(given_blanks)


@given(blanks, st.text(max_size=20), st.text(max_size=20))
def test_a_table_template_writes_what_the_library_would(given_blanks, reply_to, correlation_id):
    def message(blank: Blanks, reply_to: str, correlation_id: str) -> Message:
        return Message(
            content_type="application/json",
            application_headers={"id": blank.id, "100%": "%d", "n": blank.group_index, "z": [1]},
            delivery_mode=2,
            reply_to=reply_to,
            correlation_id=correlation_id,
        )

    sample = message(MARKS, MARKS.reply_to, MARKS.parent_id)
    template = TableTemplate(
        sample._serialize_properties(), dumps("F", [sample.properties["application_headers"]])
    )
    filled = given_blanks._replace(reply_to=reply_to, parent_id=correlation_id)
    wanted = message(filled, reply_to, correlation_id)._serialize_properties()
    assert template.fill(filled) == wanted


def test_what_a_template_can_not_write_is_refused():
    template = JSONTemplate(json.dumps([MARKS.id, MARKS.eta]))
    with pytest.raises(Unfit):
        template.fill(Blanks(*[object()] * len(Blanks._fields)))
    with pytest.raises(Unfit):
        JSONTemplate(json.dumps(f"in a longer {MARKS.id} text"))


def test_one_blank_is_enough():
    assert JSONTemplate(json.dumps({"id": MARKS.id})).fill(MARKS._replace(id="x")) == '{"id": "x"}'
