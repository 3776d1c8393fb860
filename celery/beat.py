"""
The scheduler of periodic tasks.

A `ScheduleEntry` is a task with a schedule and its last run.  A `Scheduler` keeps entries in a heap
by the time of their next run; its method `~Scheduler.tick` looks at the first of them, sends it if
it is due, and says how long nothing will happen.  A `Service` calls that for ever.

`PersistentScheduler` keeps the times of the last runs in a file or, for several beats, in a shared
store.  All but the service lives in `celery._beat`.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from billiard.context import Process

from celery import platforms, signals
from celery._beat.entry import BeatLazyFunc as BeatLazyFunc, ScheduleEntry, event_t as event_t
from celery._beat.persistent import PersistentScheduler
from celery._beat.pidbox import BeatPidbox
from celery._beat.scheduler import DEFAULT_MAX_INTERVAL, Scheduler, SchedulingError
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import load_extension_class_names, symbol_by_name
from celery.utils.log import get_logger, iter_open_logger_fds
from celery.utils.nodenames import default_nodename, host_format
from celery.utils.objects import lasting_property
from celery.utils.time import humanize_seconds

if TYPE_CHECKING:
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

NODENAME_DEFAULT = "celerybeat"

#: Seconds that a tick may still take after a signal to end.
LAST_TICK_S = 3.0


def beat_nodename(hostname: str | None = None) -> str:
    """Return the node name of this beat, formats such as ``%h`` expanded."""
    return default_nodename(host_format(hostname or ""), NODENAME_DEFAULT)


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
        self._is_ticking = False
        self._has_alarm = False

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
            if self._has_alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _loop(self, scheduler: Any) -> None:
        while not self._is_shutdown.is_set():
            self._is_ticking = True
            interval = scheduler.tick()
            self._is_ticking = False
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

    def end(self, *_: Any) -> None:
        """
        Handle a signal to end.

        A tick that has begun is ended first, so that it is known what was sent; but not for long.

        Raises:
            SystemExit: Nothing has begun, or it has taken too long.
        """
        if self._is_ticking and not self._is_shutdown.is_set() and hasattr(signal, "setitimer"):
            self._is_shutdown.set()
            self._has_alarm = True
            signal.signal(signal.SIGALRM, self.end)
            signal.setitimer(signal.ITIMER_REAL, LAST_TICK_S)
            return
        raise SystemExit

    def get_scheduler(
        self, lazy: bool = False, extension_namespace: str = "celery.beat_schedulers"
    ) -> Any:
        """
        Make the scheduler; its class may be a name that an installed package registered.

        Raises:
            ImproperlyConfigured: There is no such class.
        """
        aliases = dict(load_extension_class_names(extension_namespace))
        try:
            scheduler = symbol_by_name(self.scheduler_cls, aliases=aliases)
        except (ImportError, AttributeError) as exc:
            raise ImproperlyConfigured(
                f"Cannot load the scheduler {self.scheduler_cls!r}: {exc}. "
                "Name a class, as in module:Class."
            ) from exc
        return scheduler(
            app=self.app,
            schedule_filename=self.schedule_filename,
            max_interval=self.max_interval,
            lazy=lazy,
        )

    @lasting_property
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
        platforms.signals.update(TERM=self.service.end, INT=self.service.end)
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
