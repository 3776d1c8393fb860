"""
The scheduler of periodic tasks.

A `ScheduleEntry` is a task with a schedule and its last run.  A `Scheduler` keeps entries in a heap
by the time of their next run; its method `~Scheduler.tick` looks at the first of them, sends it if
it is due, and says how long nothing will happen.  A `Service` calls that for ever.

`PersistentScheduler` keeps the times of the last runs in a file.  Other packages subclass
`Scheduler`, and wrap `Scheduler.tick` and `Scheduler.apply_entry`.  Entries and the answer to
``ping`` live in `celery._beat`.
"""

from __future__ import annotations

import copy
import dbm
import heapq
import os
import shelve
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypeAlias

from billiard.context import Process
from kombu.utils.functional import maybe_evaluate

from celery import __version__, platforms, signals
from celery._beat.entry import BeatLazyFunc as BeatLazyFunc
from celery._beat.entry import ScheduleEntry, evaluate_args, evaluate_kwargs
from celery._beat.entry import event_t as event_t
from celery._beat.pidbox import BeatPidbox
from celery.schedules import crontab
from celery.utils.functional import is_numeric_value
from celery.utils.imports import load_extension_class_names, symbol_by_name
from celery.utils.log import get_logger, iter_open_logger_fds
from celery.utils.nodenames import default_nodename, host_format
from celery.utils.time import humanize_seconds

if TYPE_CHECKING:
    from kombu.connection import Connection

    from celery.app.base import Celery

__all__ = (
    "BeatPidbox",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
)

logger = get_logger(__name__)

#: Seconds after which to look at the schedule again at the latest.
DEFAULT_MAX_INTERVAL = 300

NODENAME_DEFAULT = "celerybeat"

#: Wakes up this long (in seconds) before the time, for waking up takes time as well.
_DRIFT = -0.010

Schedule: TypeAlias = dict[str, "ScheduleEntry"]


class SchedulingError(Exception):
    """A task could not be sent."""


def beat_nodename(hostname: str | None = None) -> str:
    """Return the node name of this beat, formats such as ``%h`` expanded."""
    return default_nodename(host_format(hostname or ""), NODENAME_DEFAULT)


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

    def _when(self, wait: float) -> float:
        return time.monotonic() + (self.adjust(wait) or 0)

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
        if set(old_schedules.keys()) != set(new_schedules.keys()):
            return False
        return all(
            (new := new_schedules[name]) is entry or new == entry
            for name, entry in old_schedules.items()
        )

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
        try:
            args, kwds = evaluate_args(entry.args), evaluate_kwargs(entry.kwargs)
            if task is not None:
                return task.apply_async(args, kwds, producer=producer, **options)
            return self.send_task(entry.task, args, kwds, producer=producer, **options)
        except Exception as exc:
            raise SchedulingError(f"cannot send the task of entry {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task by name."""
        return self.app.send_task(*args, **kwargs)

    def reserve(self, entry: Any) -> Any:
        """Note that *entry* runs now; return it as it is after that."""
        following = self.schedule[entry.name] = next(entry)
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

    @cached_property
    def connection(self) -> Any:
        """Our connection to the broker."""
        return self.app.connection_for_write()

    @cached_property
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


class PersistentScheduler(Scheduler):
    """
    Keeps the schedule in a file, so that last runs survive a restart.

    Only one process may use the file.  It may have a suffix that the database library adds.
    """

    persistence: Any = shelve
    known_suffixes = ("", ".db", ".dat", ".bak", ".dir")

    _store: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: str = kwargs.get("schedule_filename") or ""
        super().__init__(*args, **kwargs)

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            with platforms.ignore_errno("ENOENT"):
                os.remove(self.schedule_filename + suffix)

    def _open_schedule(self) -> Any:
        return self.persistence.open(self.schedule_filename, writeback=True)

    def _destroy_open_corrupted_schedule(self, exc: BaseException) -> Any:
        self.logger.error(
            "beat: The schedule file %r can't be read (%r) and is made anew;"
            " the times of the last runs are lost",
            self.schedule_filename,
            exc,
        )
        self._close_store()
        self._remove_db()
        return self._open_schedule()

    def setup_schedule(self) -> None:
        """Open the file, and bring what it has into line with the settings."""
        directory = os.path.dirname(os.path.abspath(self.schedule_filename))
        if not os.path.isdir(directory):
            raise FileNotFoundError(
                f"the directory of the schedule file does not exist: {directory!r}"
            )
        try:
            self._store = self._open_schedule()
            # What is damaged shows when it is read.
            self._store.keys()
            self._store.get("entries")
        except (*dbm.error, UnpicklingError, ValueError, TypeError, KeyError, EOFError) as exc:
            if isinstance(exc, PermissionError):
                raise
            self._store = self._destroy_open_corrupted_schedule(exc)
        except (AttributeError, ImportError) as exc:
            # An entry has a class that is no longer there.
            self._store = self._destroy_open_corrupted_schedule(exc)
        self._discard_if_outdated()
        entries = self._store.setdefault("entries", {})
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._store.update(self._written_under(), __version__=__version__)
        self.sync()
        self.logger.debug(
            "Current schedule:\n%s", "\n".join(repr(entry) for entry in entries.values())
        )

    def _discard_if_outdated(self) -> None:
        """Forget all last runs if they are in another time zone."""
        store = self._store
        if "entries" not in store:
            return
        for key, now in self._written_under().items():
            if key not in store or store[key] != now:
                self.logger.warning(
                    "beat: Reset: %s was %r when the schedule file was written, and is %r now",
                    key,
                    store.get(key),
                    now,
                )
                store.clear()
                return

    def _written_under(self) -> dict[str, Any]:
        """Return the settings that give the times in the file their meaning."""
        conf = self.app.conf
        return {"tz": conf.timezone, "utc_enabled": conf.enable_utc}

    def get_schedule(self) -> Any:
        """Return the entries of the file."""
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        """Replace the entries of the file."""
        self._store["entries"] = schedule

    schedule = property(
        lambda self: self.get_schedule(), lambda self, schedule: self.set_schedule(schedule)
    )

    def sync(self) -> None:
        """Write the file."""
        if self._store is not None:
            self._store.sync()

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except (*dbm.error, ValueError) as exc:
                self.logger.debug("beat: while closing the schedule file: %r", exc)

    def close(self) -> None:
        """Write the file and close it; harmless twice."""
        self.sync()
        self._close_store()

    @property
    def info(self) -> str:
        """Where the file is."""
        return f"    . db -> {self.schedule_filename}"


class Service:
    """
    Runs a scheduler until it is stopped.

    Args:
        app: Whose tasks they are.
        max_interval: Seconds after which to look at the schedule again at the latest.
        schedule_filename: For the scheduler; by default from the settings.
        scheduler_cls: Class of the scheduler; by default from the settings.
        remote_control: Answer ``ping``; by default from the settings.
        hostname: Node name for that.
    """

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Celery,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or app.conf.beat_scheduler or self.scheduler_cls
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.remote_control: bool = (
            app.conf.beat_enable_remote_control if remote_control is None else remote_control
        )
        self.hostname = beat_nodename(hostname)
        self.effective_max_interval: float = self.max_interval or DEFAULT_MAX_INTERVAL
        self.last_tick_at = time.monotonic()
        self._is_shutdown = threading.Event()
        self._is_stopped = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.app,
            self.max_interval,
            self.schedule_filename,
            self.scheduler_cls,
            self.remote_control,
            self.hostname,
        )

    def start(self, embedded_process: bool = False) -> None:
        """
        Run until `stop`.

        Args:
            embedded_process: We are a child of a worker.
        """
        logger.info("beat: Starting...")
        pidbox: BeatPidbox | None = None
        try:
            scheduler = self.scheduler
            self.effective_max_interval = scheduler.max_interval
            logger.debug(
                "beat: Ticking with max interval->%s", humanize_seconds(scheduler.max_interval)
            )
            signals.beat_init.send(sender=self)
            if embedded_process:
                signals.beat_embedded_init.send(sender=self)
                platforms.set_process_title("celery beat")
            elif self.remote_control:
                pidbox = BeatPidbox(self)
                pidbox.start()
            self._loop(scheduler)
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown.set()
        finally:
            if pidbox is not None:
                pidbox.stop()
            self.sync()

    def _loop(self, scheduler: Any) -> None:
        while not self._is_shutdown.is_set():
            interval = scheduler.tick()
            self.last_tick_at = time.monotonic()
            if interval and interval > 0.0:
                logger.debug(
                    "beat: Waking up %s.", humanize_seconds(interval, prefix="in", sep=" ")
                )
                if scheduler.should_sync():
                    scheduler._do_sync()
                self._is_shutdown.wait(interval)

    def sync(self) -> None:
        """Save the schedule for the last time, and tell who waits in `stop`."""
        try:
            if "scheduler" in self.__dict__:
                self.scheduler.close()
        finally:
            self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """
        End it.

        Args:
            wait: Return when it has ended.
        """
        logger.info("beat: Shutting down...")
        self._is_shutdown.set()
        if wait:
            self._is_stopped.wait()

    def get_scheduler(
        self, lazy: bool = False, extension_namespace: str = "celery.beat_schedulers"
    ) -> Any:
        """Make the scheduler; its class may be a name that an installed package registered."""
        aliases = dict(load_extension_class_names(extension_namespace))
        return symbol_by_name(self.scheduler_cls, aliases=aliases)(
            app=self.app,
            schedule_filename=self.schedule_filename,
            max_interval=self.max_interval,
            lazy=lazy,
        )

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, made at first use."""
        return self.get_scheduler()


class _EmbeddedThread(threading.Thread):
    """Runs a service in a thread of this process."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **kwargs)

    def run(self) -> None:
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        started = self.ident is not None
        self.service.stop(wait=started)


class _EmbeddedProcess(Process):  # type: ignore[misc]  # billiard is untyped
    """Runs a service in a child process."""

    #: Seconds a child has to save its schedule before it is killed.
    exit_timeout = 10.0

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        super().__init__()
        self.app = app
        self.service = Service(app, **kwargs)
        self.name = "Beat"
        self.daemon = True

    def run(self) -> None:
        # The worker tells us to end by SIGTERM; what ran last has to be saved then.
        platforms.signals.update(TERM=_exit_process, INT=_exit_process)
        platforms.reset_signal("HUP", "QUIT", "USR1", "USR2")
        streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        platforms.close_open_fds(
            [*(each for each in streams if each is not None), *iter_open_logger_fds()]
        )
        self.app.set_default()
        self.app.set_current()
        self.service.start(embedded_process=True)

    def stop(self) -> None:
        self.service.stop()
        if self.pid is not None:
            self.terminate()
            self.join(self.exit_timeout)


def _exit_process(signum: int, frame: Any) -> None:
    raise SystemExit


def EmbeddedService(app: Celery, max_interval: float | None = None, **kwargs: Any) -> Any:
    """
    Make a service that runs beside something else, started and stopped by its methods.

    Args:
        app: Whose tasks they are.
        max_interval: See `Service`.
        kwargs: ``thread=True`` for a thread in place of a child process; the others are those of
            `Service`.
    """
    in_thread = kwargs.pop("thread", False)
    kwargs["remote_control"] = False  # the worker has a mailbox already
    if in_thread:
        return _EmbeddedThread(app, max_interval=1, **kwargs)
    return _EmbeddedProcess(app, max_interval=max_interval, **kwargs)
