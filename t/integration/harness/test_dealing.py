"""How tests are dealt out to the processes of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from t.harness.dealing import APART, BEGUN_FIRST, Dealer, by_time

ROOT = Path(__file__).parents[3]


def test_the_files_that_are_named_exist() -> None:
    assert [path for path in (*BEGUN_FIRST, *APART) if not (ROOT / path).is_file()] == []
    assert APART.isdisjoint(BEGUN_FIRST)


def test_long_files_come_first_and_single_tests_last() -> None:
    [apart] = APART
    items = [
        SimpleNamespace(nodeid=f"{path}::{name}")
        for path in (apart, "t/short.py", BEGUN_FIRST[1], BEGUN_FIRST[0])
        for name in ("test_b", "test_a")
    ]

    dealt = [item.nodeid for item in by_time(items)]  # type: ignore[arg-type]

    assert dealt == [
        f"{path}::{name}"
        for path in (BEGUN_FIRST[0], BEGUN_FIRST[1], "t/short.py", apart)
        for name in ("test_b", "test_a")
    ]


def test_a_file_stays_together_unless_its_tests_share_nothing() -> None:
    split = Dealer._split_scope
    [apart] = APART

    assert split(None, "t/short.py::test[a::b]") == "t/short.py"  # type: ignore[arg-type]
    assert split(None, f"{apart}::test_a") == f"{apart}::test_a"  # type: ignore[arg-type]
