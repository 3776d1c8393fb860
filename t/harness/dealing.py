"""How a run with ``--dist loadfile`` deals tests out to its processes, so that all end together.

A file stays with one process, which shares servers and workers among its tests. pytest-xdist
begins with the files of most tests; here those that take longest come first, whatever their number.
Last come the single tests of files that share nothing but servers, which every process has anyway:
they fill the time in which processes would wait for the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

#: Files that take long, the longest first.
BEGUN_FIRST: tuple[str, ...] = ()

#: Files whose tests may run in different processes.
APART: frozenset[str] = frozenset({"t/faults/test_faults.py"})


def by_time(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return tests in the order in which they are dealt out; those of a file keep theirs."""
    ranks = {path: rank - len(BEGUN_FIRST) for rank, path in enumerate(BEGUN_FIRST)}

    def rank(item: pytest.Item) -> int:
        path = file_of(item.nodeid)
        return 1 if path in APART else ranks.get(path, 0)

    return sorted(items, key=rank)


def file_of(nodeid: str) -> str:
    """Return the path of the file of a test."""
    return nodeid.partition("::")[0]


class Dealer(LoadFileScheduling):
    """Deals out whole files in the order of the tests, and single tests of some."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        path = file_of(nodeid)
        return nodeid if path in APART else path
