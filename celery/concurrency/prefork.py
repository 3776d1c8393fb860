"""
The pool of child processes, which is the default.

`TaskPool` fits `celery.concurrency.asynpool` to the port of `celery.concurrency.base`.
`process_initializer` and `process_destructor` are what a child runs first and last; tools replace
them here, so they are looked up when the pool starts.
"""

from __future__ import annotations

import gc
import logging
import os
from typing import TYPE_CHECKING, Any

import billiard
from billiard import pool as billiard_pool

from celery import _state, platforms, signals
from celery._transport import farewell
from celery.app import trace
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.base import BasePool
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("TaskPool", "process_destructor", "process_initializer")

logger = get_logger(__name__)

#: Signals of the main process whose handlers mean nothing in a child.
WORKER_SIGRESET = {"SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1"}

#: Ctrl+C goes to the whole foreground group, but only the main process decides what it means.
WORKER_SIGIGNORE = {"SIGINT"}


def process_initializer(app: Celery, hostname: str) -> None:
    """Make a child ready to run tasks of *app* under the node name *hostname*."""
    _state._set_task_join_will_block(True)
    platforms.signals.reset(*WORKER_SIGRESET)
    platforms.signals.ignore(*WORKER_SIGIGNORE)
    platforms.set_mp_process_title("celeryd", hostname=hostname)
    app.loader.init_worker()
    app.loader.init_worker_process()
    _set_up_logging(app, hostname)
    trace.setup_worker_optimizations(app, hostname)
    app.set_current()
    app.set_default()
    app.finalize()
    for name, task in app.tasks.items():
        tracer = trace.build_tracer(name, task, app.loader, hostname, app=app)
        setattr(task, "__trace__", tracer)  # noqa: B010 - typed as the class' own
    signals.worker_process_init.send(sender=hostname)
    # What exists now lives as long as the process; no collection needs to walk it again.
    gc.freeze()


def process_destructor(pid: int, exitcode: int) -> None:
    """Announce that this child is about to leave, and see its messages off."""
    try:
        signals.worker_process_shutdown.send(sender=None, pid=pid, exitcode=exitcode)
    finally:
        farewell.close_all()


def _set_up_logging(app: Celery, hostname: str) -> None:
    """Log the way the main process was told to, as it wrote down in the environment."""
    environ = os.environ
    level = environ.get("CELERY_LOG_LEVEL") or logging.WARNING
    app.log.setup(
        int(level),
        environ.get("CELERY_LOG_FILE") or None,
        bool(environ.get("CELERY_LOG_REDIRECT")),
        environ.get("CELERY_LOG_REDIRECT_LEVEL") or None,
        hostname=hostname,
    )


class TaskPool(BasePool):
    """Run calls in *limit* child processes."""

    Pool = AsynPool

    #: For code that names it; `Pool` serves blocking consumers as well, from a thread.
    BlockingPool = billiard_pool.Pool

    uses_semaphore = True
    recycles = True
    reports_terminated = True
    enforces_soft_limit = True
    enforces_hard_limit = True

    #: Counters of the last `info`.
    write_stats: dict[str, Any] | None = None

    _pool: AsynPool | None = None

    def on_start(self) -> None:
        """Start the children and bind the methods on the path of a task."""
        options = dict(self.options)
        proc_alive_timeout = None
        app = self.app
        method = "fork" if self.forking_enable else "spawn"
        if app is not None:
            proc_alive_timeout = app.conf.worker_proc_alive_timeout
            if self.forking_enable:
                method = app.conf.worker_pool_start_method
        options.setdefault("initializer", process_initializer)
        options.setdefault("on_process_exit", process_destructor)
        options.setdefault("proc_alive_timeout", proc_alive_timeout)
        options.setdefault("context", billiard.get_context(method))
        options.setdefault("putlocks", self.putlocks and options.get("threads", True))
        pool = self._pool = self.Pool(processes=self.limit, **options)
        self.on_apply = pool.apply_async  # type: ignore[method-assign]
        if not (pool.putlocks or self.callbacks_propagate):
            # What the port adds to a call means nothing then.
            self.apply_async = pool.apply_async  # type: ignore[assignment,method-assign]
        self.terminate_job = pool.terminate_job  # type: ignore[method-assign]
        self.maintain_pool = pool.maintain_pool  # type: ignore[method-assign]
        self.flush = pool.flush  # type: ignore[method-assign]
        self.grow = pool.grow
        self.shrink = pool.shrink

    def restart(self) -> None:
        """Replace every child by a new one, as soon as it has no job."""
        if self._pool is not None:
            self._pool.restart()

    def did_start_ok(self) -> bool:
        """Say whether no child died while it started."""
        return self._pool is not None and self._pool.did_start_ok()

    def register_with_event_loop(self, loop: Any) -> None:
        """Do I/O on the hub *loop*; called again whenever the hub was reset."""
        if self._pool is not None:
            self._pool.register_with_event_loop(loop)

    def on_close(self) -> None:
        """Take no more calls, and take back those that have not begun."""
        if self._pool is not None:
            self._pool.close()

    def on_stop(self) -> None:
        """Take back what has not begun, wait for what has."""
        if self._pool is not None:
            self._pool.close()
            # A signal handler may raise out of this; then the pool is there to be terminated.
            self._pool.join()
            self._pool = None

    def on_terminate(self) -> None:
        """Stop every child now."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    def _get_info(self) -> dict[str, Any]:
        pool, options = self._pool, self.options
        info = super()._get_info() | {
            "processes": [],
            "max-tasks-per-child": options.get("maxtasksperchild") or "N/A",
            "put-guarded-by-semaphore": self.putlocks,
            "timeouts": [options.get("soft_timeout") or 0, options.get("timeout") or 0],
        }
        if pool is not None:
            self.write_stats = pool.human_write_stats()
            info["max-concurrency"] = pool._processes
            info["processes"] = [process.pid for process in pool._pool]
            info["writes"] = self.write_stats
        return info

    @property
    def num_processes(self) -> int:
        """How many children there are to be."""
        return self._pool._processes if self._pool is not None else self.limit or 0
