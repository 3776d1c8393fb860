"""
An entry of the schedule of beat: what to run, when, and when it last ran.

Entries are pickled into the schedule file under their public path in `celery.beat`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.utils.functional import reprcall

from celery.schedules import maybe_schedule, schedule

if TYPE_CHECKING:
    from celery.app.base import Celery


class event_t(NamedTuple):
    """An item of the heap: time (of the monotonic clock) of the next look, priority, entry."""

    time: float
    priority: int
    entry: Any


class BeatLazyFunc:
    """
    Arguments of an entry that are computed when the task is sent.

    Args:
        func: Computes one.
        args: Passed to it.
        kwargs: Passed to it.
    """

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params: dict[str, Any] = {"args": args, "kwargs": kwargs}

    def delay(self) -> Any:
        """Compute the argument."""
        given = self._func_params
        return self._func(*given["args"], **given["kwargs"])

    def __call__(self) -> Any:
        return self.delay()


def _evaluated(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value


def evaluate_args(args: Any) -> list[Any]:
    """Return positional arguments, lazy ones computed."""
    given = _evaluated(args)
    return [_evaluated(each) for each in given] if given else []


def evaluate_kwargs(kwargs: Any) -> dict[str, Any]:
    """Return keyword arguments, lazy ones computed."""
    given = _evaluated(kwargs)
    return {key: _evaluated(each) for key, each in given.items()} if given else {}


#: Positional arguments of the class, as schedule files have them.
_PICKLED = (
    *("name", "task", "last_run_at", "total_run_count"),
    *("schedule", "args", "kwargs", "options"),
)


class ScheduleEntry:
    """
    A task with a schedule.

    Args:
        name: Its key in the schedule.
        task: Name of the task.
        last_run_at: When it last ran; by default now, so that the first run comes one interval
            after the entry was made.
        total_run_count: How often it ran.
        schedule: A schedule, seconds, or a timedelta.
        args: Positional arguments, or a `BeatLazyFunc`.
        kwargs: Keyword arguments.
        options: Options of ``apply_async``.
        relative: See `celery.schedules.schedule`.
        app: The app whose clock and time zone it goes by.
    """

    name: str | None = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: datetime | None = None
    total_run_count = 0

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        relative: bool = False,
        app: Celery | None = None,
    ) -> None:
        self.app = app
        self.name, self.task = name, task
        self.args, self.kwargs, self.options = args, kwargs or {}, options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """Return the current time, as the schedule or else the app has it."""
        clock: Any = self.app if self.schedule is None else self.schedule
        now: datetime = clock.now()
        return now

    _default_now = default_now

    def _counts_from(self, catch_up: bool = False) -> datetime:
        """
        Return the moment to count the next interval from: when the run of now was due, or now.

        Args:
            catch_up: Of several runs that were missed just now, take the first.
        """
        now = self.default_now()
        when = self.schedule
        # Subclasses that know better when they are due, know nothing of this.
        is_interval = isinstance(when, schedule) and type(when).is_due is schedule.is_due
        if not is_interval or self.last_run_at is None:
            return now
        moment: datetime = when.due_at(self.last_run_at, now, catch_up)
        return moment

    def _next_instance(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        # Not `copy.copy`: what is pickled is without the app, and so would be its schedule.
        following = object.__new__(type(self))
        following.__dict__.update(self.__dict__)
        following.last_run_at = last_run_at or self._counts_from()
        following.total_run_count = self.total_run_count + 1
        return following

    def next(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        """Return the entry as it is after a run, at *last_run_at* or now."""
        return self._next_instance(last_run_at)

    def __next__(self) -> ScheduleEntry:
        return self._next_instance()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field) for field in _PICKLED)

    def update(self, other: ScheduleEntry) -> None:
        """Take what *other* says to run, and when; what ran so far stays."""
        for field in ("task", "schedule", "args", "kwargs", "options"):
            setattr(self, field, getattr(other, field))

    def is_due(self) -> tuple[bool, float]:
        """Say whether to run now, and in how many seconds to ask again."""
        if self.schedule is None:
            raise AttributeError(f"the entry {self.name!r} of the beat schedule has no schedule")
        due: tuple[bool, float] = self.schedule.is_due(self.last_run_at)
        return due

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __repr__(self) -> str:
        # Lazy arguments are not computed for this.
        args = (self.args,) if isinstance(self.args, BeatLazyFunc) else self.args or ()
        kwargs = {"**": self.kwargs} if isinstance(self.kwargs, BeatLazyFunc) else self.kwargs or {}
        call = reprcall(self.task, args, kwargs)
        return f"<{type(self).__name__}: {self.name} {call} {self.schedule}"

    # Entries with the same time have to be in some order in the heap.
    def __lt__(self, other: object) -> bool:
        if isinstance(other, ScheduleEntry):
            return (self.name or "") < (other.name or "")
        return NotImplemented

    def __gt__(self, other: object) -> bool:
        if isinstance(other, ScheduleEntry):
            return (self.name or "") > (other.name or "")
        return NotImplemented

    def __le__(self, other: object) -> bool:
        return self == other or self < other

    def __ge__(self, other: object) -> bool:
        return self == other or self > other

    def editable_fields_equal(self, other: ScheduleEntry) -> bool:
        """Say whether both run the same at the same times."""
        return all(
            getattr(self, field) == getattr(other, field)
            for field in ("task", "args", "kwargs", "options", "schedule")
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, ScheduleEntry) and self.editable_fields_equal(other)
        )

    __hash__ = None  # type: ignore[assignment]


for _public in (BeatLazyFunc, ScheduleEntry, event_t):
    _public.__module__ = "celery.beat"
