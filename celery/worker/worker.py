"""The worker: its options, its parts, its life.

`WorkController` is what runs inside any program; `celery.apps.worker.Worker` adds what a
program of its own needs: banner, logging, signals. Everything else is done by the boot
steps that the `WorkController.Blueprint` lists.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard import cpu_count
from kombu.utils.compat import detect_environment

from celery import _state, bootsteps, concurrency, signals
from celery.bootsteps import RUN, TERMINATE
from celery.exceptions import (
    ImproperlyConfigured,
    TaskRevokedError,
    WorkerShutdown,
    WorkerTerminate,
)
from celery.platforms import EX_FAILURE, IS_WINDOWS, create_pidlock
from celery.utils.imports import reload_from_cwd
from celery.utils.log import get_logger, mlevel
from celery.utils.nodenames import default_nodename, worker_direct
from celery.utils.sysinfo import cpu_budget, is_auto_concurrency
from celery.utils.text import str_to_list
from celery.worker import state

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.request import Request

__all__ = ("WorkController",)

logger = get_logger(__name__)

#: Seconds allowed for goodbyes on a connection while shutting down.
SHUTDOWN_SOCKET_TIMEOUT = 5.0

SELECT_UNKNOWN_QUEUE = (
    "Cannot consume from the queue {0!r}: it is not among those that task_queues defines. "
    "Define it there, or set task_create_missing_queues. ({1})"
)
DESELECT_UNKNOWN_QUEUE = (
    "Cannot exclude the queue {0!r}: it is not among those that task_queues defines. "
    "Define it there, or set task_create_missing_queues. ({1})"
)


class WorkController:
    """A worker that runs in the calling thread.

    Args:
        app: The app; the current one by default.
        hostname: Node name; ``celery@HOST`` by default.
        kwargs: Options of `setup_defaults`, `setup_instance` and of the boot steps.
    """

    app: Any = None
    pidlock: Any = None
    blueprint: Any = None
    pool: Any = None
    #: Slots of the pool (`celery.worker._slots.Slots`), None when tasks run in the loop.
    semaphore: Any = None
    #: What the process should exit with; None until the worker was stopped with a code.
    exitcode: int | None = None

    consumer: Any = None
    autoscale: Any = None
    concurrency: Any = None
    loglevel: Any = None
    pool_cls: Any = None
    #: Counts for metrics (`celery.worker.health_metrics.Tally`), None without health checks.
    tally: Any = None
    _persistence: Any = None
    timer: Any = None
    hub: Any = None

    class Blueprint(bootsteps.Blueprint):
        """The steps of a worker."""

        name = "Worker"
        default_steps = (
            "celery.worker.components:Hub",
            "celery.worker.components:Pool",
            "celery.worker.components:Beat",
            "celery.worker.components:Timer",
            "celery.worker.components:StateDB",
            "celery.worker.components:Consumer",
            "celery.worker.autoscale:WorkerComponent",
            "celery.worker.health:Health",
        )

    def __init__(self, app: Celery | None = None, hostname: str | None = None, **kwargs: Any):
        self.app = _state.app_or_default(app or self.app)
        self.hostname = default_nodename(hostname)
        self.startup_time = datetime.now(UTC)
        self.app.loader.init_worker()
        self.on_before_init(**kwargs)
        self.setup_defaults(**kwargs)
        self.on_after_init(**kwargs)
        self.setup_instance(**self.prepare_args(**kwargs))

    # -- set-up

    def setup_instance(
        self,
        queues: Any = None,
        ready_callback: Callable[[Any], Any] | None = None,
        pidfile: str | None = None,
        include: Any = None,
        use_eventloop: bool | None = None,
        exclude_queues: Any = None,
        **kwargs: Any,
    ) -> None:
        """Select queues, import modules, and build the parts.

        Args:
            queues, exclude_queues: Names, as a list or with commas.
            ready_callback: Called with the consumer once it consumes; then
                `on_consumer_ready` is not.
            include: Modules to import, as a list or with commas.
            use_eventloop: None to find out from transport and pool.
        """
        self.pidfile = pidfile
        self.setup_queues(queues, exclude_queues)
        self.setup_includes(str_to_list(include))
        if not self.concurrency:
            self.concurrency = _cpu_count()
        self.loglevel = mlevel(self.loglevel)
        self.ready_callback = ready_callback or self.on_consumer_ready
        self._conninfo = self.app.connection_for_read()
        self.use_eventloop = self.should_use_eventloop() if use_eventloop is None else use_eventloop
        self.options = kwargs
        self._soft_shutdown_done = False
        self._thread: int | None = None
        signals.worker_init.send(sender=self)
        self.pool_cls = concurrency.get_implementation(self.pool_cls)
        self.steps: list[Any] = []
        self.on_init_blueprint()
        self.blueprint = self.Blueprint(
            steps=self.app.steps["worker"],
            on_start=self.on_start,
            on_close=self.on_close,
            on_stopped=self.on_stopped,
        )
        self.blueprint.apply(self, **kwargs)

    def on_init_blueprint(self) -> None:
        """Do something before the parts are built. For subclasses."""

    def on_before_init(self, **kwargs: Any) -> None:
        """Do something before the options are read. For subclasses."""

    def on_after_init(self, **kwargs: Any) -> None:
        """Do something when the options have been read. For subclasses."""

    def prepare_args(self, **kwargs: Any) -> dict[str, Any]:
        """Return the options for `setup_instance`. For subclasses."""
        return kwargs

    def setup_defaults(
        self,
        concurrency: Any = None,
        loglevel: Any = "WARN",
        logfile: str | None = None,
        task_events: bool | None = None,
        pool: Any = None,
        consumer_cls: Any = None,
        timer_cls: Any = None,
        timer_precision: float | None = None,
        autoscaler_cls: Any = None,
        pool_putlocks: bool | None = None,
        pool_restarts: bool | None = None,
        optimization: str | None = None,
        O: str | None = None,  # noqa: E741 - the name of the command line option
        statedb: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        scheduler: Any = None,
        pool_cls: Any = None,
        state_db: str | None = None,
        task_time_limit: float | None = None,
        task_soft_time_limit: float | None = None,
        scheduler_cls: Any = None,
        schedule_filename: str | None = None,
        max_tasks_per_child: int | None = None,
        prefetch_multiplier: int | None = None,
        disable_rate_limits: bool | None = None,
        worker_lost_wait: float | None = None,
        max_memory_per_child: int | None = None,
        pool_start_method: str | None = None,
        **_kw: Any,
    ) -> None:
        """Take each option from here, or else from its setting."""
        conf = self.app.conf

        def either(setting: str, *values: Any) -> Any:
            for value in values:
                if value is not None:
                    return value
            return conf[setting]

        self.loglevel = loglevel
        self.logfile = logfile
        self.pool_cls = either("worker_pool", pool, pool_cls)
        self.concurrency = self._resolve_concurrency(either("worker_concurrency", concurrency))
        self.task_events = either("worker_send_task_events", task_events)
        self.consumer_cls = either("worker_consumer", consumer_cls)
        self.timer_cls = either("worker_timer", timer_cls)
        self.timer_precision = either("worker_timer_precision", timer_precision)
        self.optimization = optimization or O
        self.autoscaler_cls = either("worker_autoscaler", autoscaler_cls)
        self.pool_putlocks = either("worker_pool_putlocks", pool_putlocks)
        self.pool_restarts = either("worker_pool_restarts", pool_restarts)
        self.pool_start_method = either("worker_pool_start_method", pool_start_method)
        self.statedb = either("worker_state_db", statedb, state_db)
        self.schedule_filename = either("beat_schedule_filename", schedule_filename)
        self.scheduler = either("beat_scheduler", scheduler, scheduler_cls)
        self.time_limit = either("task_time_limit", time_limit, task_time_limit)
        self.soft_time_limit = either("task_soft_time_limit", soft_time_limit, task_soft_time_limit)
        self.max_tasks_per_child = either("worker_max_tasks_per_child", max_tasks_per_child)
        self.max_memory_per_child = either("worker_max_memory_per_child", max_memory_per_child)
        self.prefetch_multiplier = int(
            either("worker_prefetch_multiplier", prefetch_multiplier) or 0
        )
        self.disable_rate_limits = either("worker_disable_rate_limits", disable_rate_limits)
        self.worker_lost_wait = either("worker_lost_wait", worker_lost_wait)
        if _kw.get("disable_prefetch"):
            conf.worker_disable_prefetch = True

    def _resolve_concurrency(self, wanted: Any) -> int | None:
        """Turn ``auto`` into a number, and say in the log how it came about."""
        if not is_auto_concurrency(wanted):
            return int(wanted) if wanted else None
        kind = _pool_name(self.pool_cls)
        budget = cpu_budget(use_cgroup_quota=kind == "prefork")
        if kind != "prefork":
            quota = "cgroup cpu quota not considered"
        elif budget.quota is None:
            quota = "no cgroup cpu quota found"
        else:
            quota = f"cgroup cpu quota={budget.quota:g}"
        self._concurrency_note = (
            "worker_concurrency='auto' resolved to %s (pool=%s, %s, available cpus=%s).",
            budget.count,
            kind,
            quota,
            budget.available,
        )
        return int(budget.count)

    _concurrency_note: tuple[Any, ...] | None = None

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Select the queues to consume from.

        Raises:
            ImproperlyConfigured: One is not defined, and missing ones are not created.
        """
        queues = self.app.amqp.queues
        try:
            queues.select(str_to_list(include))
        except KeyError as exc:
            raise ImproperlyConfigured(SELECT_UNKNOWN_QUEUE.format(include, exc)) from exc
        try:
            queues.deselect(str_to_list(exclude))
        except KeyError as exc:
            raise ImproperlyConfigured(DESELECT_UNKNOWN_QUEUE.format(exclude, exc)) from exc
        if self.app.conf.worker_direct:
            queues.select_add(worker_direct(self.hostname))

    def setup_includes(self, includes: Any) -> None:
        """Import *includes*, and let pool processes know all modules with tasks."""
        known = list(self.app.conf.include or ())
        for module in includes or ():
            self.app.loader.import_task_module(module)
            if module not in known:
                known.append(module)
        self.include = includes
        for task in self.app.tasks.values():
            module = type(task).__module__
            if module not in known:
                known.append(module)
        self.app.conf.include = tuple(known)

    # -- life

    def start(self) -> None:
        """Run until stopped; returns when everything is down."""
        self._thread = threading.get_ident()
        try:
            self.blueprint.start(self)
        except WorkerTerminate as exc:
            if isinstance(exc.code, int):
                self.exitcode = exc.code
            self.terminate()
        except WorkerShutdown as exc:
            self.stop(exitcode=exc.code if isinstance(exc.code, int) else None)
        except KeyboardInterrupt:
            self.stop(exitcode=EX_FAILURE)
        except Exception as exc:
            logger.critical("Unrecoverable error: %r", exc, exc_info=True)
            self.stop(exitcode=EX_FAILURE)

    def on_start(self) -> None:
        """Take the pid file."""
        if self._concurrency_note:
            logger.info(*self._concurrency_note)
        if self.pidfile:
            self.pidlock = create_pidlock(self.pidfile)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Do something when the worker consumes. For subclasses."""

    def on_close(self) -> None:
        """Forget what nobody runs: the broker has it."""
        self.app.loader.shutdown_worker()

    def on_stopped(self) -> None:
        """Close what outlives the steps."""
        signals.worker_shutdown.send(sender=self)
        if self.timer is not None:
            self.timer.stop()
        if self.consumer is not None:
            self.consumer.perform_pending_operations()
            self.consumer.shutdown()
        if self._persistence is not None:
            self._persistence.save()
        if self.pidlock:
            self.pidlock.release()

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Stop, letting running tasks finish; returns when down, from any thread.

        Args:
            in_sighandler: Called by a signal handler: do nothing that may not be done there.
            exitcode: What the process should exit with.
        """
        if exitcode is not None:
            self.exitcode = exitcode
        if self._asks_loop(WorkerShutdown):
            return
        if self.blueprint.state == RUN and (not in_sighandler or self.pool.signal_safe):
            self._shutdown(warm=True)
        self.blueprint.join()

    def terminate(self, in_sighandler: bool = False) -> None:
        """Stop at once, after the soft period if there is one; returns when down."""
        if self._asks_loop(WorkerTerminate):
            return
        if self.blueprint.state not in (None, TERMINATE):
            self.wait_for_soft_shutdown()
            if not in_sighandler or self.pool.signal_safe:
                self._shutdown(warm=False)

    def _asks_loop(self, how: type[SystemExit]) -> bool:
        """From another thread, have the loop raise what stops the worker, and wait for that."""
        consumer = self.consumer
        if (
            self.blueprint.state != RUN
            or consumer is None
            or self._thread in (None, threading.get_ident())
        ):
            return False

        def leave() -> None:
            raise how(self.exitcode or 0)

        consumer.call_soon(leave)
        self.blueprint.join()
        return True

    def signal_consumer_close(self) -> None:
        """Let the loop end with its present turn."""
        if self.consumer is not None:
            self.consumer.blueprint.state = bootsteps.CLOSE

    def _shutdown(self, warm: bool) -> None:
        # Its messages go back to the broker when the consumer is stopped, before the pool.
        self.blueprint.stop(self, terminate=not warm)
        self.blueprint.join()

    def wait_for_soft_shutdown(self) -> None:
        """Before ending running tasks, give them ``worker_soft_shutdown_timeout`` seconds.

        It is over as soon as nothing runs any more. With
        ``worker_enable_soft_shutdown_on_idle`` the whole time is waited, whatever runs.
        """
        conf = self.app.conf
        timeout = conf.worker_soft_shutdown_timeout or 0
        on_idle = conf.worker_enable_soft_shutdown_on_idle
        if self._soft_shutdown_done or timeout <= 0:
            return
        self._soft_shutdown_done = True
        if not state.active_requests and not on_idle:
            return
        logger.warning("Initiating Soft Shutdown, terminating in %s seconds", timeout)
        if state.active_requests:
            logger.warning("Waiting for %s running tasks.", len(state.active_requests))
        deadline = monotonic() + timeout
        cancelled = False
        while monotonic() < deadline and (on_idle or cancelled or state.active_requests):
            if self._hurries and not cancelled:
                cancelled = True
                self.consumer.cancel_active_requests()
            self.consumer.take_turn(deadline - monotonic())

    _hurries = False

    def hurry_soft_shutdown(self) -> None:
        """Have the tasks cancelled for which a soft shutdown waits; from a signal handler."""
        self._hurries = True

    def should_use_eventloop(self) -> bool:
        """Say whether transport and pool can wait together on one event loop."""
        return bool(
            detect_environment() == "default"
            and self._conninfo.transport.implements.asynchronous
            and not IS_WINDOWS
        )

    def register_with_event_loop(self, hub: Any) -> None:
        """Let every part register with *hub*."""
        self.blueprint.send_all(
            self, "register_with_event_loop", args=(hub,), description="hub.register"
        )

    # -- tasks

    def _process_task(self, req: Request) -> bool:
        """Hand *req* to the pool; returns False if the pool did not take it."""
        try:
            req.execute_using_pool(self.pool)
        except TaskRevokedError:
            return False
        except Exception:
            logger.exception("Cannot hand task %s to the pool", req)
            return False
        return True

    def _process_task_in_slot(self, req: Request) -> None:
        """Hand *req* to the pool as soon as a slot is free."""
        self.semaphore.acquire(
            self._process_task_holding_slot, req, getattr(req, "expires", None) is not None
        )

    def _process_task_holding_slot(self, req: Request) -> bool:
        req._slot = self._release_slot
        taken = self._process_task(req)
        if not taken:
            req._slot = None
        return taken

    def _release_slot(self, runtime_s: float | None = None) -> None:
        if not self.pool.is_green:
            self.semaphore.release(runtime_s)
            return
        # Whoever ends is still counted by the pool, and may not wait for itself.
        self._ended_in_pool += 1
        if self._ended_in_pool == 1:
            self.timer.call_after(0, self._release_slots)

    _ended_in_pool = 0

    def _release_slots(self) -> None:
        """Give back the slots of all that have ended; one green thread is enough for that."""
        ended, self._ended_in_pool = self._ended_in_pool, 0
        for _ in range(ended):
            self.semaphore.release()

    # -- for remote control

    def reload(
        self,
        modules: Iterable[str] | None = None,
        reload: bool = False,
        reloader: Callable[..., Any] | None = None,
    ) -> None:
        """Import *modules* (all with tasks by default), anew if asked to, and restart the pool."""
        for module in self.app.loader.task_modules if modules is None else modules:
            if module not in sys.modules:
                logger.debug("importing module %s", module)
                self.app.loader.import_from_cwd(module)
            elif reload:
                logger.debug("reloading module %s", module)
                reload_from_cwd(sys.modules[module], reloader)
        if self.consumer is not None:
            self.consumer.update_strategies()
            self.consumer.reset_rate_limits()
        try:
            self.pool.restart()
        except NotImplementedError:
            logger.debug("the pool cannot restart")

    def info(self) -> dict[str, Any]:
        """Return counts, process id, clock and age."""
        uptime = datetime.now(UTC) - self.startup_time
        return {
            "total": dict(self.state.total_count),
            "pid": os.getpid(),
            "clock": str(self.app.clock),
            "uptime": round(uptime.total_seconds()),
        }

    def rusage(self) -> dict[str, Any]:
        """Return what the process has used of the machine.

        Raises:
            NotImplementedError: This platform does not tell.
        """
        try:
            import resource
        except ImportError as exc:
            raise NotImplementedError("rusage is not supported by this platform") from exc
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            field.removeprefix("ru_"): getattr(used, field)
            for field in dir(used)
            if field.startswith("ru_")
        }

    def stats(self) -> dict[str, Any]:
        """Return everything that the remote command ``stats`` shows."""
        stats = self.info()
        stats.update(self.blueprint.info(self))
        stats.update(self.consumer.blueprint.info(self.consumer))
        try:
            stats["rusage"] = self.rusage()
        except NotImplementedError:
            stats["rusage"] = "N/A"
        return stats

    def __repr__(self) -> str:
        words = self.blueprint.human_state() if self.blueprint else "initializing"
        return f"<Worker: {self.hostname} ({words})>"

    def __str__(self) -> str:
        return self.hostname

    @property
    def state(self) -> Any:
        """The registers of this process."""
        return state


def _cpu_count() -> int:
    try:
        return int(cpu_count())
    except NotImplementedError:
        return 2


def _pool_name(pool_cls: Any) -> str:
    """Return the short name of a pool class, or of what names one."""
    if isinstance(pool_cls, str):
        return pool_cls
    return str(pool_cls.__module__).rpartition(".")[2]
