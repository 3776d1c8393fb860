"""The rest of a chain that travels undecoded: nobody can tell it from one that was decoded."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from celery._protocol import body, rest
from celery._protocol.rest import Rest

ACCEPT = {"application/json"}
#: Texts that look like the marks by which a body is taken apart.
TRICKY = ['{"task": "x"}', '], "chord": null}]', '}, {"task": ', "\\", '"', '\\"', "é", "__type__"]
VALUES = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(TRICKY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("task"), inner),
    max_leaves=6,
)


def step(name="t.add", args=(), **options):
    return {
        "task": name, "args": list(args), "kwargs": {}, "options": options,
        "subtask_type": None, "immutable": False,
    }  # fmt: skip


def group_of(steps):
    return {**step("celery.group"), "kwargs": {"tasks": steps}, "subtask_type": "group"}


STEPS = st.recursive(
    st.builds(lambda args: step(args=args), st.lists(VALUES, max_size=3)),
    lambda inner: st.builds(group_of, st.lists(inner, max_size=3)),
    max_leaves=5,
)


def call(chain, args=(1,), kwargs=None, chord=None, callbacks=None):
    embed = {"callbacks": callbacks, "errbacks": None, "chain": chain, "chord": chord}
    return list(args), kwargs or {}, embed


def read(text):
    return body.loads(text, "application/json", "utf-8", ACCEPT)


def written(value):
    return body.dumps(value, "json")[2]


@pytest.fixture(autouse=True)
def every_length_is_long(monkeypatch):
    monkeypatch.setattr(rest, "LONG", 0)


@given(st.lists(STEPS, min_size=1, max_size=6), st.lists(VALUES, max_size=2), VALUES)
def test_a_chain_taken_step_by_step_is_the_chain_that_was_sent(steps, args, extra):
    text = written(call(steps, args, {"extra": extra}))
    todo = [*steps]
    while todo:
        got_args, got_kwargs, embed = read(text)
        assert type(embed["chain"]) is Rest
        assert (got_args, got_kwargs) == (args, {"extra": extra})
        following, left = embed["chain"].next()
        assert following == todo.pop()
        again = (args, {"extra": extra}, {**embed, "chain": left})
        text = written(again)
        # The same text as if all had been decoded and encoded.
        assert text == written(call(todo, args, {"extra": extra}))


@given(st.lists(STEPS, min_size=1, max_size=5))
def test_whoever_looks_at_it_sees_a_list(steps):
    make = lambda: read(written(call(steps)))[2]["chain"]  # noqa: E731
    assert list(make()) == make().steps() == steps
    assert make() == steps
    assert len(make()) == len(steps)
    assert make()[-1] == steps[-1]
    assert bool(make())
    assert repr(make()) == repr(steps)
    assert pickle.loads(pickle.dumps(make())) == steps
    assert type(pickle.loads(pickle.dumps(make()))) is list


def test_changes_of_it_are_sent():
    chain = read(written(call([step("a"), step("b"), step("c")])))[2]["chain"]
    del chain[0]
    chain.insert(0, step("x"))
    chain[1] = step("y")
    assert chain.next() == (step("c"), [step("x"), step("y")])
    assert read(written(call(chain)))[2]["chain"] == [step("x"), step("y"), step("c")]
    chain.clear()
    assert not chain


def test_values_that_json_lacks_survive_the_way():
    moment = datetime(2030, 1, 2, tzinfo=UTC)
    args, _, embed = read(written(call([step(args=[moment]), step(args=[moment])], [moment])))
    assert args == [moment]
    following, left = embed["chain"].next()
    assert following["args"] == [moment]
    assert left.next() == (step(args=[moment]), [])


def test_other_serializers_get_a_list():
    args, kwargs, embed = read(written(call([step("a"), step("b")])))
    for serializer in ("pickle", "yaml"):
        content_type, encoding, text = body.dumps((args, kwargs, embed), serializer)
        assert list(body.loads(text, content_type, encoding, {content_type})[2]["chain"]) == [
            step("a"),
            step("b"),
        ]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(call([step()]), separators=(",", ":")),
        json.dumps(call([step()], chord=step("body"))),
        json.dumps(call([dict(reversed(step().items()))])),
        json.dumps([[1], {}, {"chain": [step()], "callbacks": None, "chord": None}]),
        json.dumps([[1], {}, {"callbacks": None, "errbacks": None, "chord": None}]),
        json.dumps(call([])),
        json.dumps(call(None)),
    ],
)
def test_what_is_laid_out_otherwise_is_decoded_as_a_whole(text):
    decoded = read(text)
    assert not isinstance(decoded[2].get("chain"), Rest)
    assert decoded == json.loads(text)


def test_steps_laid_out_otherwise_are_decoded_when_their_turn_comes():
    odd = dict(reversed(step("odd").items()))
    chain = read(written(call([step("first"), odd])))[2]["chain"]
    assert chain.next() == (odd, [step("first")])
    many = group_of([step(str(n)) for n in range(rest.NESTED + 1)])
    chain = read(written(call([step("first"), many])))[2]["chain"]
    assert chain.next() == (many, [step("first")])


@pytest.mark.parametrize("text", ['[[1], {}, {"callbacks": , "chord": null}]', "[[1"])
def test_broken_bodies_are_still_refused(text):
    with pytest.raises(body.DecodeError):
        read(text)


def test_short_bodies_are_decoded_as_a_whole(monkeypatch):
    monkeypatch.undo()
    assert read(written(call([step()])))[2]["chain"] == [step()]
    assert type(read(written(call([step()])))[2]["chain"]) is list
