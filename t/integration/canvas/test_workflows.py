"""Generated workflows run by a real worker give what the reference says, on both brokers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from celery import Celery
from celery.canvas import chain, chord
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
from t.harness.worker import Journal, WorkerProcess, eventually
from t.integration.canvas.proj import LEDGER_VARIABLE, make_app

WAIT_S = 30
#: The long form takes minutes.
LONG_FORM = bool(os.environ.get("T_LONG"))

#: Chords in chords in chains, five deep.
DEEP = ("task", 1)
for _number in range(5):
    DEEP = ("chain", [("task", 2), ("chord", [DEEP, ("fixed", 3), ("task", 4)]), ("task", 5)])


class Site:
    """A client, and the ledger of a worker that runs its workflows."""

    def __init__(self, app: Celery, journal: Journal) -> None:
        self.app = app
        self.journal = journal
        self.read = 0

    def ran(self, count: int) -> list[str]:
        """Wait for *count* tasks to have run since the last call; return the ids."""
        lines = eventually(lambda: found if len(found := self.new()) >= count else None)
        self.read += len(lines)
        return [line.removeprefix("ran ") for line in lines]

    def new(self) -> list[str]:
        return self.journal.lines[self.read :]


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def site(request, redis_server, tmp_path_factory) -> Iterator[Site]:
    redis = f"redis://127.0.0.1:{redis_server.port}"
    if request.param == "redis":
        broker, backend = f"{redis}/10", f"{redis}/11"
    else:
        broker = request.getfixturevalue("rabbitmq_server").new_url()
        backend = f"{redis}/12"
    conf = {"broker_url": broker, "result_backend": backend}
    journal = Journal(tmp_path_factory.mktemp("flows") / "ledger")
    app = make_app(conf)
    env = {LEDGER_VARIABLE: str(journal)}
    with WorkerProcess("-c", "2", conf=conf, app="t.integration.canvas.proj", env=env):
        yield Site(app, journal)
    app.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@example(flow=DEEP, sequence=chain)
@example(flow=DEEP, sequence=piped_backwards)
@given(flow=FLOWS, sequence=st.sampled_from([chain, piped, piped_backwards]))
def test_a_workflow_gives_its_value_and_runs_with_the_ids_it_was_given(site, flow, sequence):
    """B-CANV-046, B-CANV-050, B-CANV-054: and whichever way its chains are joined."""
    sig = signature_of(site.app, flow, sequence)
    promised = sig.freeze()
    ids = ids_in(sig)
    result = sig.apply_async((0,))
    assert result.get(timeout=WAIT_S) == value_of(flow, 0)
    assert promised.get(timeout=WAIT_S) == value_of(flow, 0)
    assert sorted(site.ran(len(ids))) == sorted(ids)


def test_every_nesting_five_deep_gives_its_value(site):
    """B-CANV-046, B-CANV-050, B-CANV-054: each kind in each place of each kind, all at once.

    Of the thousands that are four and five deep some hundreds, without ``T_LONG``.
    """
    flows = [flow for depth in range(1, 6) for flow in nestings(depth)]
    assert len(flows) == 5 + 25 + 125 + 625 + 3125
    if not LONG_FORM:
        flows = flows[:155] + random.Random(len(flows)).sample(flows[155:], 250)
    sent = [(flow, signature_of(site.app, flow, chain).apply_async((0,))) for flow in flows]
    wrong = [
        (flow, value)
        for flow, result in sent
        if (value := result.get(timeout=100 + len(flows) / 5)) != value_of(flow, 0)
    ]
    assert wrong == []
    site.read = len(site.journal.lines)


def test_a_long_chain_runs_each_step_once_with_its_id(site):
    """B-CANV-029: the rest of it is handed on undecoded, by real processes."""
    wrap = site.app.tasks[TASK]
    ident = site.app.tasks["flow.ident"]
    # `wrap` notes that it ran; its nested values would grow with the chain.
    flow = chain(step for _ in range(100) for step in (wrap.s(7), ident.si(1)))
    promised = flow.freeze()
    ids = ids_in(flow)
    assert flow.apply_async((0,)).get(timeout=WAIT_S) == 1
    assert len(promised.as_list()) == 200
    assert site.ran(100) == ids


SIZES = [0, 1, 2, 100, 10_000, *([100_000] if LONG_FORM else [])]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", SIZES)
def test_a_chord_counts_headers_of_any_size(site, size):
    """B-CANV-050, B-CANV-051: the body gets all values, in the order of the header."""
    ident = site.app.tasks["flow.ident"]
    result = chord([ident.s(n) for n in range(size)])(site.app.tasks["flow.in_order"].s())
    assert result.get(timeout=100 + size / 150) == size
