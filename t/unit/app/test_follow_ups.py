"""What follows on a success is noted before it is sent, and can be sent from the note."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from celery import Celery, chain, chord, group
from celery.app import _follow_ups
from celery.app.task import Context
from celery.signals import before_task_publish

Sent = list[tuple[str, Any]]


@pytest.fixture
def add(app: Celery) -> Any:
    return app.task(name="follow.add", shared=False)(lambda *args: sum(args))


@pytest.fixture
def sent(app: Celery) -> Any:
    """Ids of what is published, and the values."""
    messages: Sent = []

    def receive(headers: Any, body: Any, **kwargs: Any) -> None:
        messages.append((headers["id"], body[0]))

    before_task_publish.connect(receive)
    yield messages
    before_task_publish.disconnect(receive)


def travelled(sig: Any) -> Any:
    """Return *sig* as a message brings it."""
    return json.loads(json.dumps(sig))


def call(**fields: Any) -> Context:
    return Context(id="lead", root_id="root", **fields)


def lose(app: Celery, ctx: Context, at: int) -> Any:
    """Publish, and return what had been noted before the start number *at*."""
    notes: list[bytes] = []
    _follow_ups.publish(
        app,
        ctx,
        7,
        inherit_priority=False,
        note=lambda unsent: notes.append(pickle.dumps(unsent)),
    )
    return pickle.loads(notes[at])


def test_what_was_sent_is_no_longer_noted(app: Celery, add: Any, sent: Sent) -> None:
    ctx = call(
        callbacks=[travelled(add.s(1)), travelled(add.s(2))],
        chain=[travelled(add.s(4)), travelled(add.s(3))],
    )
    (group_sig, _), (step, rest) = lose(app, ctx, 0)

    assert [list(sig["args"]) for sig in group_sig["kwargs"]["tasks"]] == [[1], [2]]
    assert (list(step["args"]), [list(each["args"]) for each in rest]) == ([3], [[4]])
    assert [list(sig["args"]) for sig, _ in lose(app, ctx, 1)] == [[3]]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda add: add.s(1), id="task"),
        pytest.param(lambda add: group(add.s(1), add.s(2)), id="group"),
        pytest.param(lambda add: chord([add.s(1), add.s(2)], add.s()), id="chord"),
        pytest.param(lambda add: chain(add.s(1), group(add.s(2), add.s(3)), add.s()), id="chain"),
        pytest.param(lambda add: group(chain(add.s(1), add.s(2)), add.s(3)), id="nested"),
    ],
)
@pytest.mark.parametrize("place", ["callback", "step"])
def test_what_is_sent_from_the_note_has_the_same_ids_and_values(
    app: Celery, add: Any, sent: Sent, make: Any, place: str
) -> None:
    sig = travelled(make(add))
    last = travelled(add.s(9).set(task_id="last"))
    ctx = call(callbacks=[sig]) if place == "callback" else call(chain=[last, sig])
    unsent = lose(app, ctx, 0)
    first = list(sent)
    sent.clear()
    _follow_ups.publish_noted(app, ctx, 7, unsent, inherit_priority=False)

    assert first
    assert sent == first


def test_a_chain_that_the_task_has_cut_off_stays_cut_off(app: Celery, add: Any, sent: Sent) -> None:
    ctx = call(callbacks=[travelled(add.s(1))], chain=[travelled(add.s(3))])
    ctx.chain = None
    unsent = lose(app, ctx, 0)
    sent.clear()
    in_main = call(callbacks=[travelled(add.s(1))], chain=[travelled(add.s(3))])
    _follow_ups.publish_noted(app, in_main, 7, unsent, inherit_priority=False)

    assert [list(value) for _, value in sent] == [[7, 1]]
