"""
What the terminal monitor shows, as lines of styled text: pure functions of a state and a size.

`celery.events.cursesmon` draws these lines and obeys the keys. A line is a list of pieces, each a
text and the name of a style: one of `STYLES` or of the states of tasks.
"""

from __future__ import annotations

import time
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from celery import states
from celery.utils.text import abbr, abbrtask

if TYPE_CHECKING:
    from celery.events.state import State, Task, Worker

__all__ = ("Line", "Rates")

Line = list[tuple[str, str]]

STYLES = ("plain", "bold", "dim", "title", "selected", "good", "bad")

#: States in the order of a task's life.
STATES = (
    states.PENDING,
    states.RECEIVED,
    states.STARTED,
    states.RETRY,
    states.SUCCESS,
    states.FAILURE,
    states.REVOKED,
    states.REJECTED,
)

#: Seconds over which a rate is the mean.
MEAN_OVER_S = 10

#: Kinds of events whose rates are shown, with the word for each.
RATED = {"task-received": "in", "task-succeeded": "done", "task-failed": "failed"}

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=*#@"


class Rates:
    """
    How many events of each type came in each of the last seconds.

    Args:
        length: Seconds that are remembered.
        clock: Tells the time, in seconds.
    """

    def __init__(self, length: int = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._length = length
        self._second = int(clock())
        self._counts: deque[Counter[str]] = deque([Counter()], maxlen=length + 1)

    def note(self, state: Any, event: dict[str, Any]) -> None:
        """Count one event; has the shape of a callback of `State`."""
        self._move_on()
        self._counts[-1][event["type"]] += 1

    def _move_on(self) -> None:
        now = int(self._clock())
        for _ in range(min(now - self._second, self._length + 1)):
            self._counts.append(Counter())
        self._second = max(self._second, now)

    def history(self, kind: str | None = None) -> list[int]:
        """Return the counts of a type, or of all, for each full second; the latest comes last."""
        self._move_on()
        full = list(self._counts)[:-1]
        counts = [count.total() if kind is None else count[kind] for count in full]
        return [0] * (self._length - len(counts)) + counts

    def rate(self, kind: str | None = None) -> float:
        """Return the mean of the last seconds, in events a second."""
        return sum(self.history(kind)[-MEAN_OVER_S:]) / MEAN_OVER_S


def sparkline(values: Sequence[int], width: int, bars: str = BARS) -> str:
    """Draw the last *width* values as bars, the greatest of them in full height."""
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0)
    if not most:
        return bars[0] * len(shown)
    top = len(bars) - 1
    return "".join(bars[-(-value * top // most)] for value in shown)


def header(
    state: State, rates: Rates, width: int, *, now: datetime, note: str = "", bars: str = BARS
) -> list[Line]:
    """Return the three lines at the top: the cluster, the rates, the tasks by state."""
    workers = list(state.workers.data.values())
    alive = sum(1 for worker in workers if worker.alive)
    left = f" celery events  workers {alive}/{len(workers)}  {note}"
    right = f"{rates.rate():.0f} events/s  {now:%H:%M:%S} "
    figures: Line = [(" ", "plain")]
    for kind, word in RATED.items():
        figures.append((f"{word} ", "dim"))
        figures.append((f"{rates.rate(kind):.1f}/s  ", "bold"))
    room = width - sum(len(text) for text, _ in figures) - 1
    figures.append((sparkline(rates.history("task-succeeded"), min(room, 60), bars), "good"))
    counts = Counter(task.state for task in list(state.tasks.data.values()))
    by_state: Line = [(" ", "plain")]
    for name in STATES:
        if counts[name]:
            by_state += [(f"{name} ", name), (f"{counts[name]}  ", "plain")]
    if not counts:
        by_state.append(("no tasks yet", "dim"))
    if len(left) + len(right) > width:
        # What there is to be noted matters more.
        right = f"{now:%H:%M:%S} "
    gap = max(width - len(left) - len(right), 1)
    return [[(f"{left}{' ' * gap}{right}"[:width], "title")], figures, by_state]


# -- text in columns


def columns(text: str) -> int:
    """Return how many columns of the terminal *text* takes: two for a wide character."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(text: str, width: int) -> str:
    """Return as much of *text* as *width* columns hold."""
    if text.isascii():
        return text[: max(width, 0)]
    room = width
    for at, character in enumerate(text):
        room -= _columns_of(character)
        if room < 0:
            return text[:at]
    return text


def _fill(text: str, width: int) -> str:
    """Return *text* in exactly *width* columns."""
    shown = cut(text, width)
    return shown + " " * (width - columns(shown))


# -- tables


def matches(task: Task, wanted_state: str | None, text: str) -> bool:
    """Say whether a task is in a state (None for any) and has *text* in its name, id or worker."""
    if wanted_state is not None and task.state != wanted_state:
        return False
    if not text:
        return True
    worker = task.worker.hostname if task.worker is not None else ""
    return any(text in (part or "") for part in (task.name, task.uuid, worker))


TASK_COLUMNS = ("TASK", "ID", "WORKER", "TIME", "RUNTIME", "STATE")


def task_widths(width: int) -> tuple[int, ...]:
    """Share *width* among the columns; ids are cut before the rest is."""
    fixed = (8, 7, 8)
    room = max(width - sum(fixed) - len(TASK_COLUMNS) - 1, 24)
    name = max(room * 2 // 5, 8)
    worker = max(room // 4, 8)
    uuid = max(min(room - name - worker, 36), 8)
    return (room - uuid - worker, uuid, worker, *fixed)


def task_header(width: int) -> Line:
    """Return the titles of the columns."""
    return [(_row(TASK_COLUMNS, task_widths(width)), "bold")]


def task_line(task: Task, width: int, *, selected: bool = False) -> Line:
    """Return one row of the table of tasks."""
    name, uuid, worker, *_ = widths = task_widths(width)
    cells = (
        abbrtask(task.name or "(unknown)", name),
        (task.uuid or "")[:uuid],
        abbr(task.worker.hostname or "" if task.worker is not None else "", worker),
        _time_of_day(task.timestamp),
        _duration(task.runtime),
    )
    row = _row(cells, widths[:-1])
    style = "selected" if selected else "plain"
    return [
        (row + " ", style),
        (abbr(task.state, 8).ljust(8), "selected" if selected else task.state),
    ]


WORKER_COLUMNS = ("WORKER", "STATUS", "ACTIVE", "PROCESSED", "LOAD", "SEEN")


def worker_widths(width: int) -> tuple[int, ...]:
    """Share *width* among the columns."""
    fixed = (8, 7, 10, 15, 8)
    return (max(width - sum(fixed) - len(WORKER_COLUMNS) - 1, 16), *fixed)


def worker_header(width: int) -> Line:
    """Return the titles of the columns."""
    return [(_row(WORKER_COLUMNS, worker_widths(width)), "bold")]


def worker_line(worker: Worker, width: int, *, selected: bool = False) -> Line:
    """Return one row of the table of workers."""
    name, status, *rest = widths = worker_widths(width)
    alive = worker.alive
    cells = (
        "-" if worker.active is None else worker.active,
        "-" if worker.processed is None else worker.processed,
        " ".join(f"{load:.1f}" for load in worker.loadavg or ()),
        _time_of_day(worker.heartbeats[-1] if worker.heartbeats else None),
    )
    plain = "selected" if selected else "plain"
    return [
        (_row((abbr(worker.hostname or "", name),), widths[:1]) + " ", plain),
        (_row(("online" if alive else "offline",), (status,)).lstrip() + " ",
         "selected" if selected else "good" if alive else "bad"),
        (_row(cells, rest).lstrip(), plain),
    ]  # fmt: skip


def _row(cells: Iterable[Any], widths: Iterable[int]) -> str:
    pairs = zip(cells, widths, strict=False)
    return " " + " ".join(_fill(printable(str(cell)), width) for cell, width in pairs)


def _time_of_day(timestamp: float | None) -> str:
    if not timestamp:
        return ""
    return f"{datetime.fromtimestamp(timestamp).astimezone():%H:%M:%S}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f}s" if seconds >= 1 else f"{seconds * 1000:.3g}ms"


def window(position: int, count: int, height: int, offset: int) -> int:
    """Return the first of *height* visible rows, moved from *offset* as little as possible."""
    if position < offset:
        offset = position
    elif position >= offset + height:
        offset = position - height + 1
    return max(min(offset, count - height), 0)


# -- one task, one worker


def task_details(task: Task, width: int) -> list[Line]:
    """Return all that is known about a task, folded to *width*."""
    worker = task.worker.hostname if task.worker is not None else None
    facts: list[tuple[str, Any]] = [
        ("task", task.name),
        ("id", task.uuid),
        ("state", task.state),
        ("worker", worker),
        ("client", task.client),
        *((word, _moment(getattr(task, word))) for word in _MOMENTS),
        ("runtime", None if task.runtime is None else f"{task.runtime:.6g} s"),
        ("args", task.args),
        ("kwargs", task.kwargs),
        ("result", task.result),
        ("exception", task.exception),
        ("eta", task.eta),
        ("expires", task.expires),
        ("retries", task.retries or None),
        ("exchange", task.exchange),
        ("routing key", task.routing_key),
        ("root", task.root_id if task.root_id != task.uuid else None),
        ("parent", task.parent_id),
        ("children", ", ".join(str(child.uuid) for child in task.children) or None),
    ]
    lines: list[Line] = []
    for title, value in facts:
        if value is not None:
            lines += _fact(title, str(value), width, task.state if title == "state" else "plain")
    if task.traceback:
        lines += [[], [(" traceback", "dim")], *text_lines(task.traceback, width)]
    return lines


_MOMENTS = ("sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected")


def _moment(timestamp: float | None) -> str | None:
    if timestamp is None:
        return None
    return f"{datetime.fromtimestamp(timestamp).astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _fact(title: str, value: str, width: int, style: str) -> list[Line]:
    first, *rest = _folded(value, max(width - 15, 10)) or [""]
    lines: list[Line] = [[(f" {title:<12} ", "dim"), (first, style)]]
    return lines + [[(" " * 14 + part, style)] for part in rest]


def text_lines(text: str, width: int) -> list[Line]:
    """Return *text*, folded to *width*."""
    return [[(f" {part}", "plain")] for part in _folded(text, max(width - 2, 10))]


def _folded(text: str, width: int) -> list[str]:
    return [
        part
        for line in text.expandtabs(4).splitlines()
        for words in wrap(
            printable(line),
            width,
            drop_whitespace=False,
            replace_whitespace=False,
            break_on_hyphens=False,
        )
        or [""]
        for part in _split(words, width)
    ]


def _split(text: str, width: int) -> Iterator[str]:
    """Yield *text* in parts of at most *width* columns; `wrap` counts characters."""
    while (first := cut(text, width)) != text:
        yield first
        text = text[len(first) :]
    yield text


def printable(text: str) -> str:
    """Replace what would move the cursor or end a C string."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "·" for c in text)


def reply_lines(replies: Any, width: int) -> list[Line]:
    """Return what workers replied to a remote command."""
    if not replies:
        return [[(" No worker replied within a second.", "bad")]]
    lines: list[Line] = []
    for each in replies:
        for node, answer in each.items():
            verdict, text = ("OK", "good"), answer
            if isinstance(answer, dict) and "error" in answer:
                verdict, text = ("ERROR", "bad"), answer["error"]
            elif isinstance(answer, dict) and "ok" in answer:
                text = answer["ok"]
            elif answer in ({}, []):
                text = "nothing"
            lines.append([(f" {node}: ", "bold"), verdict])
            lines += text_lines(str(text), width)
    return lines
