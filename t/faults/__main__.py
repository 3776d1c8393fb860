"""``python -m t.faults``: the short form without pytest, also against another celery.

The client stays the one of this tree; it speaks the same protocol. Only the workers run with the
other interpreter.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from t.faults.report import table
from t.faults.scenarios import BROKERS, SCENARIOS, Broker, Load, run_scenario, scenario_drawn


def main() -> int:
    """Run the chosen scenarios and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m t.faults", description="Break things.")
    parser.add_argument(
        "--against",
        metavar="PYTHON",
        default=sys.executable,
        help="interpreter with the celery that the workers run",
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="of scenario names")
    parser.add_argument(
        "--seed", type=int, action="append", default=[], help="draw what the long form drew by it"
    )
    parser.add_argument("--logs", action="store_true", help="print logs of broken runs")
    options = parser.parse_args()

    # Others have no embedded broker.
    possible = BROKERS if options.against == sys.executable else BROKERS.keys() - {"embedded"}
    known = [(scenario, Load()) for scenario in SCENARIOS]
    if options.seed:
        draws = map(random.Random, options.seed)
        known = [(scenario_drawn(draw), Load.drawn(draw)) for draw in draws]
    chosen = [
        (scenario, load)
        for scenario, load in known
        if scenario.broker in possible and re.search(options.only, str(scenario))
    ]
    outcomes = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        brokers: dict[str, Broker] = {}
        for number, (scenario, load) in enumerate(chosen):
            if scenario.broker not in brokers:
                broker = BROKERS[scenario.broker]()
                stack.enter_context(broker.server)
                brokers[scenario.broker] = broker
            place = folder / f"{number}-{scenario}"
            place.mkdir()
            outcome = run_scenario(
                scenario, brokers[scenario.broker], place, load=load, python=options.against
            )
            outcomes.append(outcome)
            print(scenario, outcome.verdict, *outcome.complaints, sep=": ", flush=True)
            if outcome.complaints and options.logs:
                print(outcome.log)
    print(table(outcomes))
    return 1 if any(outcome.complaints for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
