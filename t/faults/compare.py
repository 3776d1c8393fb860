"""``python -m t.faults.compare``: what a fault costs, with this library and with others.

A peer is ``mine``, or ``celery``, ``dramatiq`` or ``taskiq`` and a virtual environment that has it:
``--peer taskiq=VENV``. All acknowledge when a task has ended, and run two at a time.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from t.faults.peers import FAULTS, LIBRARIES, run_peer
from t.faults.scenarios import BROKERS, STEP_S, Broker, Outcome, Scenario, run_scenario

#: All of them on both brokers, acknowledged late.
SCENARIOS = [
    Scenario(fault, broker, "prefork", late=True)
    for fault in FAULTS
    for broker in ("redis", "rabbitmq")
    if (fault, broker) != ("half_open", "redis")
]


def peer(text: str) -> tuple[str, str]:
    """Read a peer of the command line: name and interpreter.

    Raises:
        ValueError: There is none of that name.
    """
    name, _, venv = text.partition("=")
    if name == "mine":
        return name, sys.executable
    python = Path(venv).absolute() / "bin" / "python"
    if name not in {"celery", *LIBRARIES} or not python.exists():
        raise ValueError(f"no peer: {text!r}")
    return name, str(python)


def told(outcome: Outcome | None) -> str:
    """Say what a fault cost: tasks lost, tasks that ran again; or that none ran any more."""
    if outcome is None:
        return ""
    if any("took longer than" in complaint for complaint in outcome.complaints):
        return f"none in {STEP_S:.0f} s"
    return f"{len(outcome.verdict.lost)} / {len(outcome.verdict.duplicated)}"


def table(outcomes: dict[tuple[str, Scenario], Outcome], names: list[str]) -> str:
    """Return the costs of each fault, one column for each peer."""
    scenarios = dict.fromkeys(scenario for _, scenario in outcomes)
    rows = [["fault, broker", *names]]
    for scenario in scenarios:
        cells = [told(outcomes.get((name, scenario))) for name in names]
        rows.append([f"{scenario.fault}, {scenario.broker}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main() -> None:
    """Run what the command line asks for, and print the table: lost / ran again."""
    parser = argparse.ArgumentParser(prog="python -m t.faults.compare")
    parser.add_argument("--peer", action="append", type=peer, metavar="PEER", required=True)
    parser.add_argument("--only", metavar="REGEX", default="", help="of scenario names")
    parser.add_argument("--logs", action="store_true", help="print logs where tasks were lost")
    options = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if re.search(options.only, str(scenario))]
    outcomes: dict[tuple[str, Scenario], Outcome] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        brokers: dict[str, Broker] = {}
        for scenario in chosen:
            if scenario.broker not in brokers:
                brokers[scenario.broker] = broker = BROKERS[scenario.broker]()
                stack.enter_context(broker.server)
            for name, python in options.peer:
                place = folder / f"{scenario}-{name}"
                place.mkdir()
                broker = brokers[scenario.broker]
                if name in LIBRARIES:
                    outcome = run_peer(LIBRARIES[name], python, scenario, broker, place)
                else:
                    outcome = run_scenario(scenario, broker, place, python=python)
                outcomes[name, scenario] = outcome
                print(name, scenario, outcome.verdict, *outcome.complaints, sep=": ", flush=True)
                if options.logs and outcome.verdict.lost:
                    print(outcome.log)
    print(table(outcomes, [name for name, _ in options.peer]))


if __name__ == "__main__":
    main()
