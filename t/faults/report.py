"""Outcomes of many runs as one table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from t.faults.scenarios import Outcome

_HEAD = (
    "fault", "broker", "pool", "acks", "runs", "published", "lost", "unstarted", "ran again",
    "needless", "recovery", "broken",
)  # fmt: skip


def table(outcomes: Iterable[Outcome]) -> str:
    """Return a table with one row for each kind of scenario; recovery is the worst, in seconds."""
    groups: dict[tuple[str, ...], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kind = outcome.scenario
        acks = "late" if kind.late else "early"
        groups[kind.fault, kind.broker, kind.pool, acks].append(outcome)
    rows = [_HEAD, *(_row(kind, group) for kind, group in sorted(groups.items()))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(kind: tuple[str, ...], group: list[Outcome]) -> tuple[str, ...]:
    verdicts = [outcome.verdict for outcome in group]
    recoveries = [outcome.recovery_s for outcome in group if outcome.recovery_s is not None]
    return (
        *kind,
        str(len(group)),
        str(sum(verdict.published for verdict in verdicts)),
        str(sum(len(verdict.lost) for verdict in verdicts)),
        str(sum(len(verdict.lost_unstarted) for verdict in verdicts)),
        str(sum(len(verdict.duplicated) for verdict in verdicts)),
        str(sum(len(verdict.duplicated_without_need) for verdict in verdicts)),
        f"{max(recoveries):.1f}" if recoveries else "never",
        str(sum(1 for outcome in group if outcome.complaints)),
    )
