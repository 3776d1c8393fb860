"""
The scheduler: what is due, in order, and how it is sent.

`celery.beat` is the public face.  Other packages subclass `Scheduler`, and wrap `Scheduler.tick`
and `Scheduler.apply_entry`.
"""

from __future__ import annotations

import copy
import heapq
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from kombu.utils.functional import maybe_evaluate

from celery._beat.entry import ScheduleEntry, evaluate_args, evaluate_kwargs, event_t
from celery.schedules import crontab
from celery.utils.functional import is_numeric_value
from celery.utils.log import get_logger
from celery.utils.objects import lasting_property
from celery.utils.time import humanize_seconds

if TYPE_CHECKING:
    from kombu.connection import Connection

    from celery.app.base import Celery

__all__ = ("DEFAULT_MAX_INTERVAL", "Scheduler", "SchedulingError")

logger = get_logger("celery.beat")

#: Seconds after which to look at the schedule again at the latest.
DEFAULT_MAX_INTERVAL = 300

#: Wakes up this long (in seconds) before the time, for waking up takes time as well.
_DRIFT = -0.010

Schedule: TypeAlias = dict[str, ScheduleEntry]


class SchedulingError(Exception):
    """A task could not be sent."""


class Unpublished(SchedulingError):
    """The same, but its arguments are not at fault."""


class Scheduler:
    """
    Keeps a schedule, and sends what is due.

    Args:
        app: Whose tasks they are.
        schedule: The entries to begin with: a dict, or a promise of one.
        max_interval: Seconds after which to look again at the latest.
        Producer: Class of the producer; by default that of the app.
        lazy: Don't read the schedule yet.
        sync_every_tasks: Save after so many sends.
        kwargs: For subclasses.
    """

    Entry: Any = ScheduleEntry

    #: The schedule, where no subclass keeps it elsewhere.
    data: Any = None

    max_interval: float = DEFAULT_MAX_INTERVAL
    #: Seconds between two saves.
    sync_every = 3 * 60
    sync_every_tasks: int | None = None

    logger = logger

    _last_sync: float | None = None
    _tasks_since_sync = 0

    def __init__(
        self,
        app: Celery,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        conf = app.conf
        self.app = app
        self.Producer = Producer or app.amqp.Producer
        self.data = maybe_evaluate({} if schedule is None else schedule)
        self.max_interval = max_interval or conf.beat_max_loop_interval or self.max_interval
        self._heap: list[event_t] | None = None
        self.old_schedulers: Any = None
        self.sync_every_tasks = (
            conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        )
        self._clock_offset = _wall_ahead_of_monotonic()
        if not lazy:
            self.setup_schedule()

    # -- what is due ------------------------------------------------------------------------------

    def tick(
        self,
        event_t: type[event_t] = event_t,
        min: Callable[..., Any] = min,
        heappop: Callable[..., Any] = heapq.heappop,
        heappush: Callable[..., Any] = heapq.heappush,
    ) -> float:
        """Send the first entry if it is due; return the seconds until the next look."""
        self._refresh_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        first = heappop(heap)
        entry = first.entry
        due, wait = self._ask(entry)
        if due:
            following = self.reserve(entry)
            wait = self._wait_after(following, wait)
            # Back on the heap first: whatever happens to the message, the entry stays scheduled.
            heappush(heap, event_t(self._when(wait), first.priority, following))
            self.apply_entry(entry, producer=self.producer)
            return 0
        heappush(heap, event_t(self._when(wait), first.priority, entry))
        left = heap[0].time - time.monotonic()
        return float(min(max(left, 0), self.max_interval))

    def _refresh_heap(self) -> None:
        """Make the heap anew if the schedule, or the clock of the machine, was changed."""
        schedule = self.schedule
        offset = _wall_ahead_of_monotonic()
        moved = abs(offset - self._clock_offset) > 1.0
        if self._heap is None or moved or not self.schedules_equal(self.old_schedulers, schedule):
            self._clock_offset = offset
            self.old_schedulers = copy.copy(schedule)
            self.populate_heap()

    def _ask(self, entry: Any) -> tuple[bool, float]:
        """Ask an entry whether it is due; one that can't tell is asked again later."""
        try:
            due, wait = self.is_due(entry)
        except Exception:
            if getattr(entry, "schedule", None) is None:
                raise  # nothing will ever come of it: a mistake in the settings
            self.logger.exception(
                "Scheduler: cannot tell whether %s is due; asking again in %s",
                getattr(entry, "name", entry),
                humanize_seconds(self.max_interval),
            )
            return False, self.max_interval
        return due, wait if is_numeric_value(wait) else self.max_interval

    def _wait_after(self, entry: Any, wait: float) -> float:
        """Return the seconds until *entry*, which has run, runs again; *wait* is what it said."""
        return wait

    def _when(self, wait: float) -> float:
        early = self.adjust(wait) or 0
        # The last moment is slept through, too, rather than spent with looking.
        return time.monotonic() + (early if early > 0 else max(wait, 0))

    def populate_heap(
        self,
        event_t: type[event_t] = event_t,
        heapify: Callable[[list[Any]], None] = heapq.heapify,
    ) -> None:
        """Ask all entries when they are due, and put them in order."""
        priority = 5
        heap = []
        for entry in self.schedule.values():
            due, wait = self._ask(entry)
            heap.append(event_t(self._when(0 if due else wait), priority, entry))
        heapify(heap)
        self._heap = heap

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Say whether two schedules have the same entries."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        # Dictionaries find out fast that each has the same objects.
        return dict(old_schedules) == dict(new_schedules)

    def adjust(self, n: float, drift: float = _DRIFT) -> float:
        """Return *n* seconds, less what waking up takes."""
        if n and n > 0:
            return n + drift
        return n

    def is_due(self, entry: Any) -> Any:
        """Ask an entry whether it is due."""
        return entry.is_due()

    # -- sending ----------------------------------------------------------------------------------

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send the task of *entry*; an error is logged."""
        self.logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception:
            self.logger.exception("Message Error: cannot send the task of entry %s", entry.name)
        else:
            self.logger.debug("%s sent. id->%s", entry.task, getattr(result, "id", None))

    def apply_async(
        self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """
        Send the task of *entry*.

        Args:
            entry: The entry.
            producer: Sends the message.
            advance: Note that the entry has run.
            kwargs: Options, besides those of the entry.

        Raises:
            SchedulingError: It could not be sent.
        """
        if advance:
            entry = self.reserve(entry)
        task = self.app.tasks.get(entry.task)
        options = {**(entry.options or {}), **kwargs}
        options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
        kind: type[SchedulingError] = SchedulingError
        try:
            args, kwds = evaluate_args(entry.args), evaluate_kwargs(entry.kwargs)
            kind = Unpublished
            if task is not None:
                return task.apply_async(args, kwds, producer=producer, **options)
            return self.send_task(entry.task, args, kwds, producer=producer, **options)
        except Exception as exc:
            raise kind(f"cannot send the task of entry {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task by name."""
        return self.app.send_task(*args, **kwargs)

    def reserve(self, entry: Any) -> Any:
        """Note that *entry* runs now; return it as it is after that."""
        return self._replace(next(entry))

    def _replace(self, following: Any) -> Any:
        """Put an entry that has run in the place of what it was before."""
        self.schedule[following.name] = following
        if self.old_schedulers is not None:
            # Nothing has changed for the heap; this spares comparing the two at each tick.
            self.old_schedulers[following.name] = following
        return following

    # -- the schedule -----------------------------------------------------------------------------

    def setup_schedule(self) -> None:
        """Read the schedule from the settings."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Any) -> None:
        """Add the entry that cleans the result store, where that does not clean itself."""
        name = "celery.backend_cleanup"
        if not self.app.conf.result_expires or name in data:
            return
        if self.app.backend.supports_autoexpire:
            return
        self.update_from_dict(
            {
                name: {
                    "task": name,
                    "schedule": crontab("0", "4", "*"),
                    "options": {"expires": 12 * 3600},
                }
            }
        )

    def add(self, **kwargs: Any) -> Any:
        """Add an entry; the arguments are those of `ScheduleEntry`."""
        added = self.Entry(**kwargs, app=self.app)
        self.schedule[added.name] = added
        return added

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add entries, given as such or as dicts."""
        made = {name: self._maybe_entry(name, described) for name, described in dict_.items()}
        self.schedule.update(made)

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if not isinstance(entry, self.Entry):
            return self.Entry(**{**entry, "name": name, "app": self.app})
        entry.app = self.app
        return entry

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Make the schedule have the entries of *b*, but keep the last runs of those it has."""
        schedule = self.schedule
        for name in set(schedule) - set(b):
            del schedule[name]
        for name, described in b.items():
            entry = self._maybe_entry(name, described)
            if name in schedule:
                schedule[name].update(entry)
            else:
                schedule[name] = entry

    def get_schedule(self) -> Any:
        """Return the schedule."""
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        """Replace the schedule."""
        self.data = schedule

    @property
    def schedule(self) -> Any:
        """The entries by name."""
        return self.get_schedule()

    @schedule.setter
    def schedule(self, schedule: Any) -> None:
        self.set_schedule(schedule)

    # -- saving -----------------------------------------------------------------------------------

    def should_sync(self) -> bool:
        """Say whether it is time to save."""
        if self._last_sync is None or time.monotonic() - self._last_sync > self.sync_every:
            return True
        return bool(self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)

    def _do_sync(self) -> None:
        try:
            self.logger.debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Save the schedule; nothing to do for one in memory."""

    def close(self) -> None:
        """Save for the last time."""
        self.sync()

    # -- the broker -------------------------------------------------------------------------------

    def _ensure_connected(self) -> Connection:
        def on_error(exc: Exception, interval: float) -> None:
            self.logger.error(
                "beat: Connection error: %s. Trying again in %s seconds...", exc, interval
            )

        retries = self.app.conf.broker_connection_max_retries
        connection: Connection = self.connection.ensure_connection(on_error, retries)
        return connection

    @lasting_property
    def connection(self) -> Any:
        """Our connection to the broker."""
        return self.app.connection_for_write()

    @lasting_property
    def producer(self) -> Any:
        """Sends our messages."""
        return self.Producer(self._ensure_connected(), auto_declare=False)

    @property
    def info(self) -> str:
        """A line for the banner."""
        return ""


def _wall_ahead_of_monotonic() -> float:
    """Return a number that only changes when the clock is set, or the machine slept."""
    return time.time() - time.monotonic()


for _public in (Scheduler, SchedulingError):
    _public.__module__ = "celery.beat"
