"""What each pool declares it can do; the contract tests hold it to that, and the guide shows it.

``python -m t.contract.pools`` writes the table of the guide anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "docs" / "userguide" / "_pool_features.rst"


@dataclass(frozen=True)
class Features:
    """What a pool declares it can do."""

    name: str
    evented: bool = False
    threads: bool = True
    start_method: str = "fork"
    has_processes: bool = False
    has_hard_limit: bool = False
    has_soft_limit: bool = False
    can_terminate: bool = False
    can_grow: bool = False
    is_concurrent: bool = True
    green: str | None = None
    #: Coroutine functions run on the pool's own loop, and only they can be interrupted.
    has_loop: bool = False
    #: The soft limit is raised in coroutines.
    interrupts_coroutines: bool = False
    #: A coroutine can be terminated.
    terminates_coroutines: bool = False


PREFORK = {
    "has_processes": True, "has_hard_limit": True, "has_soft_limit": True,
    "can_terminate": True, "can_grow": True, "interrupts_coroutines": True,
    "terminates_coroutines": True,
}  # fmt: skip
POOLS = {
    "prefork-hub": Features("prefork", evented=True, threads=False, **PREFORK),
    "prefork-thread": Features("prefork", **PREFORK),
    "prefork-spawn": Features(
        "prefork", evented=True, threads=False, start_method="spawn", **PREFORK
    ),
    "solo": Features("solo", is_concurrent=False, interrupts_coroutines=True),
    "threads": Features("threads", interrupts_coroutines=True),
    "asyncio": Features(
        "asyncio",
        has_loop=True,
        has_hard_limit=True,
        has_soft_limit=True,
        can_terminate=True,
        can_grow=True,
        interrupts_coroutines=True,
        terminates_coroutines=True,
    ),
    "gevent": Features(
        "gevent",
        green="gevent",
        has_hard_limit=True,
        can_terminate=True,
        can_grow=True,
        terminates_coroutines=True,
    ),
    "eventlet": Features(
        "eventlet", green="eventlet", can_terminate=True, can_grow=True, terminates_coroutines=True
    ),
}

#: The columns of the table, and where each pool runs plain functions and coroutines.
COLUMNS = {
    "prefork": ("prefork-hub", "processes", "a loop per child"),
    "threads": ("threads", "threads", "a loop per thread"),
    "asyncio": ("asyncio", "threads", "one loop for all"),
    "gevent": ("gevent", "greenlets", "one loop beside"),
    "eventlet": ("eventlet", "greenlets", "one loop beside"),
    "solo": ("solo", "the worker", "one loop"),
}


def _said(for_all: bool, for_coroutines: bool, has_loop: bool = False) -> str:
    if for_all and not has_loop:
        return "yes"
    return "coroutines" if for_all or for_coroutines else "no"


def rows() -> list[list[str]]:
    """Return the table: a heading, then what every pool can do."""
    pools = [(POOLS[key], where, loop) for key, where, loop in COLUMNS.values()]
    return [
        ["what", *COLUMNS],
        ["plain functions run in", *(where for _, where, _ in pools)],
        ["``async def`` tasks run on", *(loop for *_, loop in pools)],
        ["more than one at a time", *(_said(pool.is_concurrent, False) for pool, *_ in pools)],
        ["soft time limit", *(
            _said(pool.has_soft_limit, pool.interrupts_coroutines, pool.has_loop)
            for pool, *_ in pools
        )],
        ["hard time limit", *(
            _said(pool.has_hard_limit, pool.interrupts_coroutines, pool.has_loop)
            for pool, *_ in pools
        )],
        ["``revoke(terminate=True)``", *(
            _said(pool.can_terminate, pool.terminates_coroutines, pool.has_loop)
            for pool, *_ in pools
        )],
        ["``pool_grow``, autoscale", *(_said(pool.can_grow, False) for pool, *_ in pools)],
        ["replaces its processes", *(_said(pool.has_processes, False) for pool, *_ in pools)],
        ["survives ``sys.exit()``", *("yes" for _ in pools)],
    ]  # fmt: skip


def table() -> str:
    """Return the table as reStructuredText."""
    lines = rows()
    widths = [max(len(row[n]) for row in lines) for n in range(len(lines[0]))]
    rule = "  ".join("=" * width for width in widths)
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    ]
    return "\n".join([rule, text[0], rule, *text[1:], rule]) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table())
