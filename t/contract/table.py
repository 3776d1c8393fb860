"""The table of result back-ends in the guide: what they declare, written when a run has proved it.

``pytest t/contract/test_backend.py --write-backends-table`` runs the conformance suite and writes
the table. A row is what the back-end declares; it is written only if the tests that vouch for each
word in it passed in that run. Rows of back-ends that had no test in it (``-k``) stay while they
still say what is declared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from t.contract.backends import BACKENDS, Features

TABLE = Path(__file__).resolve().parents[2] / "docs" / "userguide" / "_backends_table.rst"
SUITE = "t/contract/test_backend.py"
NODE = re.compile(rf"{re.escape(SUITE)}::(?P<test>\w+)\[(?P<params>.*)\]$")


@dataclass(frozen=True)
class Column:
    """A question to all back-ends."""

    heading: str
    #: The answer, as declared.
    word: Callable[[Features], str]
    #: Tests that vouch for an answer; an answer without any claims nothing.
    proofs: dict[str, tuple[str, ...]]

    def answer(self, features: Features) -> str:
        """Return the answer, of which limits may take something away."""
        word = self.word(features)
        return word if set(self.proofs.get(word, ())).isdisjoint(features.limits) else "in part"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


EXPIRY = {
    "ttl": "by itself",
    "cleanup": "clean-up",
    "client": "with client",
    "service": "by service",
}

COLUMNS = (
    Column(
        "values",
        lambda _: "yes",
        {"yes": (
            "test_a_value_comes_back_as_it_was", "test_typed_values_survive_json",
            "test_a_big_value_comes_back", "test_pickled_results_come_back_with_their_objects",
        )},
    ),
    Column(
        "errors",
        lambda _: "yes",
        {"yes": (
            "test_an_error_comes_back_with_its_type_and_arguments",
            "test_waiting_raises_the_stored_error",
            "test_retry_stores_its_reason_and_traceback", "test_revoked_stores_its_reason",
        )},
    ),
    Column(
        "the call",
        lambda features: _yes(features.keeps_the_call),
        {"yes": (
            "test_extended_results_tell_how_the_task_was_called",
            "test_a_document_names_task_group_parent_and_children",
            "test_the_end_is_dated_in_utc_whatever_the_zone_of_the_app",
        )},
    ),
    Column(
        "kept",
        lambda features: "yes" if features.stores else "for one",
        {
            "yes": ("test_existence_is_told_without_reading", "test_a_group_may_be_saved_twice"),
            "for one": ("test_a_result_is_fetched_once_where_it_is_a_message",),
        },
    ),
    Column(
        "success stays",
        lambda features: _yes(features.stores and features.success_stays),
        {"yes": (
            "test_a_stored_success_is_final",
            "test_concurrent_writers_cannot_take_a_success_back",
            "test_a_retry_that_is_stored_late_does_not_hide_the_end",
        )},
    ),
    Column(
        "pushed",
        lambda features: _yes(features.pushes_results),
        {"yes": ("test_states_on_the_way_are_shown_to_on_message",)},
    ),
    Column(
        "chords",
        lambda features: (
            "counted" if features.counts_chords else "polled" if features.chords else "no"
        ),
        {
            "counted": (
                "test_the_body_gets_the_values_in_the_order_of_the_header",
                "test_header_tasks_that_end_at_once_start_the_body_once",
            ),
            "polled": ("test_chords_are_polled_where_the_store_cannot_count",),
            "no": ("test_chords_are_refused_where_nobody_could_read_the_parts",),
        },
    ),
    Column(
        "forget",
        lambda _: "yes",
        {"yes": ("test_a_forgotten_result_is_pending",)},
    ),
    Column(
        "expiry",
        lambda features: EXPIRY[features.expiry],
        {"by itself": ("test_results_expire",), "clean-up": ("test_results_expire",)},
    ),
    Column(
        "compressed",
        lambda features: _yes(features.compresses),
        {"yes": ("test_a_compressed_success_is_final_too",)},
    ),
    Column(
        "reconnects",
        lambda features: "yes" if features.server else "",
        {"yes": ("test_results_are_stored_and_read_after_the_server_was_restarted",)},
    ),
)  # fmt: skip


def row(name: str) -> list[str]:
    """Return the row of a back-end, as declared."""
    features = BACKENDS[name]
    return [name, *(column.answer(features) for column in COLUMNS), features.tested_on]


def table(names: list[str]) -> str:
    """Return the rows of these back-ends as reStructuredText, each on a line of its own."""
    heading = ["back-end", *(column.heading for column in COLUMNS), "tested on"]
    rows = "".join(f"   {', '.join(row(name))}\n" for name in names)
    return f".. csv-table::\n   :header: {', '.join(heading)}\n\n{rows}"


def rows_of_page() -> dict[str, list[str]]:
    """Return the rows that the page has, by back-end."""
    lines = TABLE.read_text(encoding="utf-8").split("\n\n", 1)[1].splitlines()
    found = [line.strip().split(", ") for line in lines]
    return {cells[0]: cells for cells in found}


@dataclass
class Run:
    """What a run of the suite has shown."""

    #: By back-end and test, the outcomes of its forms.
    outcomes: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, node_id: str, outcome: str) -> None:
        """Take note of a test that ended."""
        found = NODE.search(node_id)
        if found is None:
            return
        for name in BACKENDS:
            # The other parameters stand in front of it, or behind.
            if re.search(rf"(^|-){re.escape(name)}($|-)", found["params"]):
                self.outcomes[name, found["test"]].add(outcome)

    def has_seen(self, name: str) -> bool:
        """Say whether the run had tests of a back-end."""
        return any(seen == name for seen, _ in self.outcomes)

    def unproved(self, name: str) -> list[str]:
        """Return the words in the row of a back-end that nothing in this run vouches for."""
        features = BACKENDS[name]
        return [
            f"{column.heading}: {column.answer(features)} ({test})"
            for column in COLUMNS
            for test in column.proofs.get(column.answer(features), ())
            if not self._vouches(name, test)
        ]

    def _vouches(self, name: str, test: str) -> bool:
        # Some forms of a test may be skipped: they are for what a back-end does not declare.
        seen = self.outcomes.get((name, test), set())
        return "passed" in seen and "failed" not in seen
