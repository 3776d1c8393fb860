"""Any workflow gives the value that its description says, however it is put together and run."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from celery import Celery
from celery.canvas import chain, group
from t.harness.inline import InlineWorker, memory_app


def flow_app(**conf: Any) -> Celery:
    app = memory_app(**conf)

    @app.task(name="p.wrap", shared=False)
    def wrap(x, name):
        return [name, x]

    return app


SENT = flow_app()
EAGER = flow_app(task_always_eager=True)

#: A workflow is ("task", name), ("chain", flows) or ("group", flows), never shorter than two.
TASKS = st.tuples(st.just("task"), st.integers(0, 9))
FLOWS = st.recursive(
    TASKS,
    lambda flows: st.tuples(
        st.sampled_from(["chain", "group"]), st.lists(flows, min_size=2, max_size=3)
    ),
    max_leaves=8,
)


def expected(flow: Any, x: Any) -> Any:
    kind, parts = flow
    if kind == "task":
        return [parts, x]
    if kind == "chain":
        return reduce(lambda value, part: expected(part, value), parts, x)
    values = []
    for part in parts:
        value = expected(part, x)
        # A group within a group is part of it; one at the end of a chain is a list.
        values += value if part[0] == "group" else [value]
    return values


def signature_of(app: Celery, flow: Any, sequence: Any) -> Any:
    kind, parts = flow
    if kind == "task":
        return app.tasks["p.wrap"].s(parts)
    made = [signature_of(app, part, sequence) for part in parts]
    return group(made) if kind == "group" else sequence(made)


def piped(steps: list[Any]) -> Any:
    return reduce(or_, steps)


@settings(max_examples=80, deadline=None)
@given(flow=FLOWS, sequence=st.sampled_from([chain, piped]), frozen=st.booleans())
def test_a_workflow_sent_to_a_worker_gives_its_value(flow, sequence, frozen):
    """B-CANV-046, B-CANV-050, B-CANV-054: chains, groups and chords in any nesting."""
    worker = InlineWorker(SENT)
    sig = signature_of(SENT, flow, sequence)
    promised = sig.freeze() if frozen else None
    result = sig.apply_async((0,))
    worker.run()
    assert result.get(timeout=0) == expected(flow, 0)
    if promised is not None:
        assert promised == result
        assert promised.get(timeout=0) == expected(flow, 0)
    worker.close()


@settings(max_examples=80, deadline=None)
@given(flow=FLOWS, sequence=st.sampled_from([chain, piped]))
def test_a_workflow_run_eagerly_gives_the_same(flow, sequence):
    """B-CALL-046: eager workflows return the values of real ones."""
    result = signature_of(EAGER, flow, sequence).apply_async((0,))
    assert result.get() == expected(flow, 0)


@settings(max_examples=80, deadline=None)
@given(flow=FLOWS)
def test_plain_data_stands_for_the_same_workflow(flow):
    """B-CANV-002: rebuilt from what a message holds, it is equal, and so is its repr."""
    from celery._canvas.signature import maybe_signature, plain

    sig = signature_of(SENT, flow, chain)
    again = maybe_signature(plain(sig), app=SENT)
    assert again == sig
    assert type(again) is type(sig)
    assert repr(again) == repr(sig)
