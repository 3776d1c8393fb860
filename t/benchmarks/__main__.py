"""``python -m t.benchmarks``: this library beside others, on servers of its own.

Peers take turns within each round, so that a machine that is slow for a while is so for all of
them; the median of the rounds is shown, and its ratio to the first peer. What to make of it
stands in ``docs/internals/performance.rst``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from t.benchmarks.bed import LIBRARIES, Bed, Peer, make_servers
from t.benchmarks.workloads import AT_ONCE, STORING, WORKLOADS

#: Workload, figure, peer: values of the rounds.
Table = dict[tuple[str, str], dict[str, list[float]]]


def main() -> None:
    """Run what the command line asks for, and print a table after each workload."""
    parser = argparse.ArgumentParser(
        prog="python -m t.benchmarks", description="Measure task queues side by side."
    )
    parser.add_argument(
        "--peer", action="append", type=Peer.parse, metavar="PEER", required=True,
        help=f"mine, or LIBRARY=VENV, with a pool mine:asyncio; libraries: {', '.join(LIBRARIES)}",
    )  # fmt: skip
    parser.add_argument(
        "--workload", default="drain", metavar="NAMES", help=f"some of {','.join(WORKLOADS)}"
    )
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--count", type=int, default=20_000, help="tasks of a workload")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = options.workload.split(",")
    if unknown := set(names) - WORKLOADS.keys():
        parser.error(f"no workload {', '.join(sorted(unknown))}")

    servers = make_servers(options.broker)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_quick_folder())))
        for server in servers.values():
            stack.enter_context(server)
        for name in names:
            table: Table = defaultdict(lambda: defaultdict(list))
            for _ in range(options.rounds):
                for peer in options.peer:
                    if options.broker not in LIBRARIES[peer.library][1]:
                        continue
                    bed = Bed(
                        peer, options.broker, servers, folder,
                        results=name in STORING, at_once=AT_ONCE.get(name, 0),
                    )  # fmt: skip
                    for figure, value in (WORKLOADS[name](bed, options.count) or {}).items():
                        table[name, figure][peer.label].append(value)
            print(render(table, [peer.label for peer in options.peer]), flush=True)


def _quick_folder() -> str | None:
    """Return a folder in memory where there is one: tasks write to it."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def render(table: Table, peers: list[str]) -> str:
    """Return medians, and behind each its ratio to the first peer's."""
    lines = []
    for (name, figure), values in table.items():
        cells = []
        first = statistics.median(values[peers[0]]) if values[peers[0]] else 0.0
        for peer in peers:
            if not values[peer]:
                cells.append(f"{peer} -")
                continue
            median = statistics.median(values[peer])
            ratio = f" (x {median / first:.2f})" if first > 0 and peer != peers[0] else ""
            cells.append(f"{peer} {median:,.4g}{ratio}")
        lines.append(f"{name:14}{figure:16}" + "   ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
