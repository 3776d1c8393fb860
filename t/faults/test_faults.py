"""Every fault that matters, once, on each broker: nothing is lost, little runs again.

The rules are those of `t.faults.scenarios.complain`: acknowledged late, nothing is lost and only
what was in flight runs again; acknowledged early, only what had started may be lost, and only
if the worker itself died.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from t.faults.report import table
from t.faults.scenarios import (
    SCENARIOS,
    Broker,
    Load,
    Outcome,
    Scenario,
    run_scenario,
    scenario_drawn,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_fault_loses_nothing(
    scenario: Scenario, broker_named: Callable[[str], Broker], tmp_path: Path
) -> None:
    outcome = run_scenario(scenario, broker_named(scenario.broker), tmp_path)

    print(outcome.log)
    assert not outcome.complaints, f"{outcome.verdict}: {'; '.join(outcome.complaints)}"


@pytest.mark.long_faults
@pytest.mark.timeout(0)
def test_a_worker_frozen_while_it_waits_loses_nothing_in_fifty_rounds(
    broker_named: Callable[[str], Broker], tmp_path: Path
) -> None:
    """Each round freezes an idle worker, publishes, and kills it."""
    lost = []
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        scenario = Scenario("freeze_idle", "redis", "prefork", late=bool(number % 2))
        outcome = run_scenario(scenario, broker_named("redis"), folder)
        lost += outcome.complaints
    assert not lost


@pytest.mark.long_faults
@pytest.mark.timeout(0)
def test_an_hour_of_random_faults_loses_nothing(
    broker_named: Callable[[str], Broker],
    minutes: float,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With ``--long-faults`` only; other tests stay out then. Every run prints its seed."""
    outcomes: list[Outcome] = []
    unjudged: list[str] = []
    end = time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < end:
            seed = random.randrange(2**32)
            draw = random.Random(seed)
            scenario, load = scenario_drawn(draw), Load.drawn(draw)
            folder = tmp_path / str(seed)
            folder.mkdir()
            try:
                outcome = run_scenario(scenario, broker_named(scenario.broker), folder, load=load)
            except Exception:  # the others go on; it is told now and in the end
                unjudged.append(f"{seed} {scenario}\n{traceback.format_exc()}")
                with capsys.disabled():
                    print(unjudged[-1])
                continue
            outcomes.append(outcome)
            with capsys.disabled():
                print(f"{seed:10} {scenario} {outcome.verdict} {'; '.join(outcome.complaints)}")
            if outcome.complaints:
                (folder / "worker.log").write_text(outcome.log)
    finally:
        # What half an hour has shown is worth keeping if something else breaks.
        with capsys.disabled():
            print(table(outcomes))
    broken = [str(outcome.scenario) for outcome in outcomes if outcome.complaints]
    assert not unjudged, "\n".join(unjudged)
    assert not broken, f"see worker.log in the folders of {tmp_path}"
