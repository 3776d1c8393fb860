"""The books of a run with faults: what was published, what started, ended and was stored.

Tasks append one line for each start and each end to a file, each in one system call, so that
nothing of it is lost with the process. `Ledger` reads it; `Ledger.verdict` says what the fault
did: which tasks were lost and which ran more than once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from celery import states

#: Seconds between two looks into the file.
LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Runs:
    """What the file says so far."""

    #: Task ids, one for each start, in the order of the starts.
    starts: list[str]
    ends: list[str]
    #: Process that started a task last.
    pids: dict[str, int]
    #: Process of each start.
    starters: list[int]

    @property
    def running(self) -> set[str]:
        """Ids that started more often than they ended."""
        return set(Counter(self.starts) - Counter(self.ends))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the published tasks."""

    published: int
    #: No run of these came to its end, and no failure was stored.
    lost: frozenset[str]
    #: Those of the lost that never started.
    lost_unstarted: frozenset[str]
    #: A failure was stored.
    failed: frozenset[str]
    #: Started more than once.
    duplicated: frozenset[str]
    #: Those of the duplicated that were not in flight at the fault.
    duplicated_without_need: frozenset[str]
    #: Ended, but the result store does not know.
    unstored: frozenset[str]

    def __str__(self) -> str:
        return (
            f"{self.published} published, {len(self.lost)} lost "
            f"({len(self.lost_unstarted)} unstarted), {len(self.failed)} failed, "
            f"{len(self.duplicated)} duplicated ({len(self.duplicated_without_need)} without "
            f"need), {len(self.unstored)} not stored"
        )


class Ledger:
    """The published ids beside the file that tasks write.

    Args:
        path: Of the file; it is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.published: list[str] = []
        self._held: set[str] = set()
        self._fault_at: int | None = None
        self._ended_before: list[str] = []
        self._window = 0
        self._sleepers: frozenset[int] = frozenset()

    def runs(self) -> Runs:
        """Read the file."""
        starts: list[str] = []
        ends: list[str] = []
        pids: dict[str, int] = {}
        starters: list[int] = []
        # What follows the last line feed is a line being written.
        for line in self.path.read_text().split("\n")[:-1]:
            kind, task_id, pid = line.split()
            if kind == "start":
                starts.append(task_id)
                pids[task_id] = int(pid)
                starters.append(int(pid))
            else:
                ends.append(task_id)
        return Runs(starts, ends, pids, starters)

    def wait_until(self, condition: Callable[[Runs], bool], timeout_s: float) -> bool:
        """Wait for *condition*; returns whether it came true within *timeout_s*."""
        end = time.monotonic() + timeout_s
        pause = threading.Event()
        while not condition(self.runs()):
            if time.monotonic() > end:
                return False
            pause.wait(LOOK_S)
        return True

    def fault_happens(
        self, window: int, received: Iterable[str] = (), sleepers: Iterable[int] = ()
    ) -> None:
        """Note where in the file the fault is.

        Args:
            window: How many tasks a worker may hold. As many starts before and after this
                point count as in flight, beside what runs: those before may not be acknowledged
                yet, and a worker that lives on runs those it holds, which the broker delivers
                again.
            received: Ids that a worker has got; those that have not ended are in flight.
            sleepers: Processes of a worker that lives on, and to which messages may have been sent
                that it has not read: the first it starts after this point are of these.
        """
        self._sleepers = frozenset(sleepers)
        runs = self.runs()
        self._held = runs.running | (set(received) - set(runs.ends))
        self._fault_at = len(runs.starts)
        self._ended_before = runs.ends
        self._window = window

    def in_flight(self) -> set[str]:
        """Return the ids that workers held at the fault, or may have held."""
        if self._fault_at is None:
            return set()
        # Second runs are left out, they would hide first ones.
        runs = self.runs()
        starts = runs.starts
        firsts = list(dict.fromkeys(starts))
        before = len(set(starts[: self._fault_at]))
        around = firsts[max(0, before - self._window) : before + self._window]
        unread = [
            task_id
            for task_id, pid in zip(
                starts[self._fault_at :], runs.starters[self._fault_at :], strict=True
            )
            if pid in self._sleepers
        ]
        return self._held | set(around) | set(unread[: self._window])

    def started_before_fault(self) -> set[str]:
        """Return the ids of the starts up to the fault."""
        return set(self.runs().starts[: self._fault_at])

    def unwritten_at_fault(self, verdict: Verdict) -> set[str]:
        """Return the ended tasks whose results the worker may have held at the fault.

        It writes results in about the order in which tasks end. So these are the last, up to
        those whose results must have come from it.
        """
        found: set[str] = set()
        written = 0
        for task_id in reversed(self._ended_before):
            if task_id in verdict.unstored:
                found.add(task_id)
            elif task_id not in verdict.duplicated:
                written += 1
                if written > self._window:
                    break
        return found

    def verdict(self, stored: Mapping[str, str], held: Iterable[str] = ()) -> Verdict:
        """Compare what was published with what happened.

        Args:
            stored: State of each published task in the result store.
            held: Ids of messages that the broker still keeps; those whose task has run would
                run again.
        """
        runs = self.runs()
        published = set(self.published)
        counts = Counter(runs.starts)
        ended = set(runs.ends)
        failed = {task_id for task_id in published if stored[task_id] in states.EXCEPTION_STATES}
        again = {task_id for task_id, count in counts.items() if count > 1}
        again |= {task_id for task_id in held if task_id in counts}
        lost = published - ended - failed
        return Verdict(
            published=len(published),
            lost=frozenset(lost),
            lost_unstarted=frozenset(lost - set(counts)),
            failed=frozenset(failed),
            duplicated=frozenset(again),
            duplicated_without_need=frozenset(again - self.in_flight()),
            unstored=frozenset(
                task_id for task_id in ended & published if stored[task_id] != states.SUCCESS
            ),
        )
