"""The table that compares libraries; the runs themselves are made by hand."""

from __future__ import annotations

import pytest

from t.faults.compare import SCENARIOS, peer, table
from t.faults.peers import FAULTS
from t.faults.scenarios import Outcome
from t.harness.ledger import Verdict

NONE: frozenset[str] = frozenset()


def outcome(lost: set[str], again: set[str], *complaints: str) -> Outcome:
    verdict = Verdict(
        published=10, lost=frozenset(lost), lost_unstarted=NONE, failed=NONE,
        duplicated=frozenset(again), duplicated_without_need=NONE, unstored=NONE,
    )  # fmt: skip
    return Outcome(SCENARIOS[0], verdict, [*complaints], None, "")


def test_each_cell_says_what_was_lost_and_what_ran_again() -> None:
    first, second = SCENARIOS[:2]
    outcomes = {
        ("mine", first): outcome(set(), {"a"}),
        ("celery", first): outcome({"a", "b"}, set(), "lost ['a', 'b']"),
        ("mine", second): outcome(set(), set()),
        ("celery", second): outcome({"a"}, set(), "the first task took longer than 30.0 s"),
    }

    lines = [line.split("  ") for line in table(outcomes, ["mine", "celery"]).splitlines()]

    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        ["fault, broker", "mine", "celery"],
        ["kill, redis", "0 / 1", "2 / 0"],
        ["kill, rabbitmq", "0 / 0", "none in 30 s"],
    ]


def test_every_fault_is_compared_on_both_brokers_where_it_can_be() -> None:
    pairs = {(scenario.fault, scenario.broker) for scenario in SCENARIOS}

    assert {fault for fault, _ in pairs} == set(FAULTS)
    assert len(pairs) == 2 * len(FAULTS) - 1


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(ValueError, match="no peer: 'rq=/nowhere'"):
        peer("rq=/nowhere")
