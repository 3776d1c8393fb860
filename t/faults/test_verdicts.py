"""What the verdicts count as in flight, without any worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery import states
from t.harness.ledger import Ledger


@pytest.fixture
def ended(tmp_path: Path) -> Ledger:
    """Tasks ``0`` to ``9`` ended in this order, then the worker died."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.published = [str(number) for number in range(10)]
    lines = [f"{kind} {task_id} 1\n" for task_id in ledger.published for kind in ("start", "end")]
    ledger.path.write_text("".join(lines))
    ledger.fault_happens(window=2)
    return ledger


def unwritten(ledger: Ledger, *unstored: str) -> set[str]:
    stored = {
        task_id: states.PENDING if task_id in unstored else states.SUCCESS
        for task_id in ledger.published
    }
    return ledger.unwritten_at_fault(ledger.verdict(stored))


def test_results_that_a_dying_worker_held_are_those_of_the_last_tasks(ended: Ledger) -> None:
    assert unwritten(ended) == set()
    assert unwritten(ended, *"456789") == set("456789")
    # Two of the later ones were written before it: a worker has a few at once under way.
    assert unwritten(ended, *"579") == set("579")


def test_a_result_that_is_missing_among_others_was_not_held(ended: Ledger) -> None:
    assert unwritten(ended, *"0789") == set("789")


def test_a_task_that_ran_again_says_nothing_about_the_first_worker(ended: Ledger) -> None:
    with ended.path.open("a") as file:
        file.write("start 8 2\nend 8 2\nstart 9 2\nend 9 2\n")

    assert unwritten(ended, *"567") == set("567")
    assert unwritten(ended, *"457") == set("457")
