"""Every fault that matters, once, on each broker: nothing is lost, little runs again.

The rules are those of `t.faults.scenarios.complain`: acknowledged late, nothing is lost and only
what was in flight runs again; acknowledged early, only what had started may be lost, and only
if the worker itself died.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from t.faults.scenarios import Broker, Scenario, run_scenario

#: Fault, pools with late acknowledgement, pools with early acknowledgement.
TABLE = [
    ("kill", ["prefork", "threads", "solo"], ["prefork"]),
    ("freeze", ["prefork"], []),
    ("freeze_idle", ["prefork"], []),
    ("term", ["prefork", "solo"], ["threads"]),
    ("child", ["prefork"], ["prefork"]),
    ("restart", ["prefork"], []),
    ("disconnect", ["threads", "solo"], ["prefork"]),
    ("cut", ["prefork"], ["threads"]),
    ("half_open", ["prefork"], []),
    ("blackhole", ["threads"], []),
    ("refuse", ["solo"], ["prefork"]),
    ("delay", ["prefork"], []),
]

SCENARIOS = [
    Scenario(fault, broker, pool, late)
    for fault, late_pools, early_pools in TABLE
    for broker in ("redis", "rabbitmq")
    for late, chosen in ((True, late_pools), (False, early_pools))
    for pool in chosen
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_fault_loses_nothing(
    scenario: Scenario, broker_named: Callable[[str], Broker], tmp_path: Path
) -> None:
    outcome = run_scenario(scenario, broker_named(scenario.broker), tmp_path)

    print(outcome.log)
    assert not outcome.complaints, f"{outcome.verdict}: {'; '.join(outcome.complaints)}"
