"""The table of result back-ends in the guide, and what the conformance suite declares."""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.util import find_spec

import pytest

from celery.app.backends import BACKEND_ALIASES
from t.contract import table
from t.contract.backends import BACKENDS

SUITE = table.TABLE.parents[2] / table.SUITE
EXTRAS = table.TABLE.parents[2] / "requirements" / "extras"
GUIDE = table.TABLE.with_name("backends.rst")


def test_the_table_of_the_guide_says_what_the_suite_declares():
    """Run the suite with ``--write-backends-table`` to write it."""
    assert table.TABLE.read_text(encoding="utf-8") == table.table(list(BACKENDS))


@pytest.mark.parametrize("column", table.COLUMNS, ids=lambda column: column.heading)
def test_what_vouches_for_a_word_is_a_test_of_the_suite(column):
    known = set(re.findall(r"^def (test_\w+)\(case", SUITE.read_text(), re.MULTILINE))
    known |= set(re.findall(r"^def (test_\w+)\(chord", SUITE.read_text(), re.MULTILINE))
    proofs = {test for tests in column.proofs.values() for test in tests}

    assert proofs <= known


@pytest.mark.parametrize(
    ("outcomes", "proved"),
    [
        (["passed"], True),
        (["passed", "skipped"], True),
        (["skipped"], False),
        (["passed", "failed"], False),
        ([], False),
    ],
)
def test_a_row_needs_a_run_in_which_all_that_vouches_for_it_passed(outcomes, proved):
    run = table.Run()
    tests = {
        test
        for column in table.COLUMNS
        for test in column.proofs.get(column.word(BACKENDS["redis"]), ())
    }
    first = min(tests)
    for test in tests - {first}:
        run.note(f"{table.SUITE}::{test}[redis-None]", "passed")
    for outcome in outcomes:
        run.note(f"{table.SUITE}::{first}[redis]", outcome)

    assert (run.unproved("redis") == []) is proved
    assert not run.has_seen("rpc")


def test_every_extra_that_the_guide_names_exists():
    named = set(re.findall(r"Extra(?:s)? ``(\w+)``", GUIDE.read_text(encoding="utf-8")))

    assert named
    assert named <= {path.stem for path in EXTRAS.glob("*.txt")}


def test_the_guide_has_a_place_for_every_back_end():
    page = GUIDE.read_text(encoding="utf-8")
    aliases = defaultdict(set)
    for alias, path in BACKEND_ALIASES.items():
        aliases[re.split("[:.]", path)[2]].add(alias)

    missing = [
        module
        for module, names in aliases.items()
        if find_spec(f"celery.backends.{module}")
        and not any(re.search(rf"``{re.escape(name)}(\+\w+)*:", page) for name in names)
    ]
    assert missing == []
