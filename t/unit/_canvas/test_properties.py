"""Any workflow gives the value that its description says, however it is put together and run."""

from __future__ import annotations

import json
import pickle
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from celery import Celery
from celery._canvas.signature import plain
from celery._protocol import rest
from celery.canvas import chain, maybe_signature, signature
from t.harness.flows import (
    FLOWS,
    TASK,
    ids_in,
    nestings,
    piped,
    piped_backwards,
    signature_of,
    value_of,
)
from t.harness.inline import InlineWorker, memory_app

SEQUENCES = st.sampled_from([chain, piped, piped_backwards])


def flow_app(**conf: Any) -> Celery:
    app = memory_app(**conf)

    @app.task(name=TASK, shared=False)
    def wrap(x, name):
        return [name, x]

    return app


SENT = flow_app()
EAGER = flow_app(task_always_eager=True)


@settings(max_examples=80, deadline=None)
@given(flow=FLOWS, sequence=SEQUENCES, frozen=st.booleans(), long=st.sampled_from([0, rest.LONG]))
def test_a_workflow_sent_to_a_worker_gives_its_value(flow, sequence, frozen, long):
    """B-CANV-046, B-CANV-050, B-CANV-054: chains, groups and chords in any nesting.

    Whether the rest of a chain is handed on as text or decoded at each step.
    """
    worker = InlineWorker(SENT)
    sig = signature_of(SENT, flow, sequence)
    promised = sig.freeze() if frozen else None
    result = sig.apply_async((0,))
    with patch.object(rest, "LONG", long):
        ran = worker.run()
    assert result.get(timeout=0) == value_of(flow, 0)
    if promised is not None:
        assert promised == result
        assert promised.get(timeout=0) == value_of(flow, 0)
        assert sorted(sent.id for sent in ran if sent.task == TASK) == sorted(ids_in(sig))
    worker.close()


@settings(max_examples=80, deadline=None)
@given(flow=FLOWS, sequence=SEQUENCES)
def test_a_workflow_run_eagerly_gives_the_same(flow, sequence):
    """B-CALL-046: eager workflows return the values of real ones."""
    result = signature_of(EAGER, flow, sequence).apply_async((0,))
    assert result.get() == value_of(flow, 0)


@pytest.mark.parametrize("depth", range(1, 5))
def test_every_nesting_gives_its_value(depth):
    """B-CALL-046, B-CANV-054: each kind in each place of each kind, run eagerly."""
    for flow in nestings(depth):
        for sequence in (chain, piped):
            result = signature_of(EAGER, flow, sequence).apply_async((0,))
            assert result.get() == value_of(flow, 0), flow


@settings(max_examples=80, deadline=None)
@given(flow=FLOWS, sequence=SEQUENCES)
def test_plain_data_stands_for_the_same_workflow(flow, sequence):
    """B-CANV-002: rebuilt from what a message holds, it is equal, and so is its repr."""
    sig = signature_of(SENT, flow, sequence)
    again = maybe_signature(plain(sig), app=SENT)
    assert again == sig
    assert type(again) is type(sig)
    assert repr(again) == repr(sig)


@settings(max_examples=60, deadline=None)
@given(flow=FLOWS, sequence=SEQUENCES)
def test_a_workflow_survives_json_and_pickle(flow, sequence):
    """B-CANV-002: what comes back from either runs to the same value."""
    sig = signature_of(EAGER, flow, sequence)
    decoded = signature(json.loads(json.dumps(plain(sig))), app=EAGER)
    unpickled = pickle.loads(pickle.dumps(sig))
    assert unpickled == sig
    assert type(unpickled) is type(sig)
    assert json.loads(json.dumps(plain(unpickled))) == json.loads(json.dumps(plain(sig)))
    assert decoded.apply_async((0,)).get() == value_of(flow, 0)
