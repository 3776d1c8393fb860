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

#: Files that take a minute or more, the longest first.
BEGUN_FIRST = (
    "t/contract/test_backend.py",
    "t/contract/test_pool.py",
    "t/contract/test_amqp_transport.py",
    "t/integration/brokers/test_brokers.py",
    "t/integration/test_ledger.py",
    "t/integration/worker/test_pool_stress.py",
    "t/integration/worker/test_shutdown.py",
    "t/integration/worker/test_connection.py",
    "t/integration/canvas/test_members.py",
    "t/integration/canvas/test_failures.py",
    "t/integration/cli/test_golden.py",
    "t/integration/cli/test_monitor.py",
    "t/interop/test_calls.py",
    "t/interop/test_beat_plugins.py",
    "t/interop/test_flower.py",
    "t/interop/test_control.py",
)

#: Files whose tests may run in different processes.
APART = frozenset({"t/faults/test_faults.py"})


def by_time(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return tests in the order in which they are dealt out; those of a file keep theirs."""
    ranks = dict(zip(BEGUN_FIRST, range(len(BEGUN_FIRST)), strict=True))
    others, last = len(ranks), len(ranks) + 1

    def rank(item: pytest.Item) -> int:
        path = file_of(item.nodeid)
        return last if path in APART else ranks.get(path, others)

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
