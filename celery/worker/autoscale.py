"""Grow the pool while tasks wait, and shrink it when it has been idle for a while."""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger
from celery.utils.threads import bgThread
from celery.worker import state
from celery.worker.components import Pool

__all__ = ("Autoscaler", "WorkerComponent")

logger = get_logger(__name__)

#: Seconds without work before the pool shrinks (environment ``AUTOSCALE_KEEPALIVE``).
AUTOSCALE_KEEPALIVE = float(os.environ.get("AUTOSCALE_KEEPALIVE") or 30)

#: Seconds between two looks.
LOOK_INTERVAL_S = 1.0


class WorkerComponent(bootsteps.StartStopStep):
    """Runs the autoscaler: on the event loop, or in a thread of its own."""

    name: str
    label = "Autoscaler"
    conditional = True
    requires = (Pool,)

    def __init__(self, w: Any, **kwargs: Any) -> None:
        self.enabled = bool(w.autoscale)
        w.autoscaler = None
        super().__init__(w, **kwargs)

    def include_if(self, w: Any) -> bool:
        """Take part if asked for, with a pool that can change its size."""
        if self.enabled and not _can_grow(w.pool_cls):
            logger.warning(
                "--autoscale has no effect: the pool %s cannot change its size.",
                w.pool_cls.__module__,
            )
            return False
        return self.enabled

    def create(self, w: Any) -> Any:
        """Build the autoscaler; the step starts it where there is no event loop."""
        scaler = w.autoscaler = self.instantiate(
            w.autoscaler_cls,
            w.pool,
            w.max_concurrency,
            w.min_concurrency,
            worker=w,
            mutex=threading.RLock(),
        )
        return scaler if not w.use_eventloop else None

    def start(self, w: Any) -> None:
        """Start the thread, and listen for tasks either way."""
        if self.obj is not None:
            w.consumer.on_task_message.add(self.obj.on_task_received)
            self.obj.start()

    def register_with_event_loop(self, w: Any, hub: Any) -> None:
        """Look at each task that comes, and now and then."""
        w.consumer.on_task_message.add(w.autoscaler.on_task_received)
        hub.call_repeatedly(min(LOOK_INTERVAL_S, w.autoscaler.keepalive), w.autoscaler.maybe_scale)

    def info(self, w: Any) -> dict[str, Any]:
        """Return bounds and present size."""
        return {"autoscaler": w.autoscaler.info()}


def _can_grow(pool_cls: Any) -> bool:
    """Say whether pools of this class can change their size."""
    return hasattr(pool_cls, "grow") or bool(pool_cls.uses_semaphore)


class Autoscaler(bgThread):
    """Keeps the size of *pool* between two bounds, following the reserved tasks.

    Args:
        keepalive: Seconds after the last task or growth before it shrinks.
        mutex: Lock around every change.
    """

    def __init__(
        self,
        pool: Any,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: Any = None,
        keepalive: float = AUTOSCALE_KEEPALIVE,
        mutex: Any = None,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.mutex = mutex or threading.Lock()
        self.max_concurrency = max_concurrency
        self.min_concurrency = min_concurrency
        self.keepalive = keepalive
        self.worker = worker
        self._last_busy: float | None = None
        self._nap = threading.Event()
        assert self.keepalive, "cannot scale down too fast."

    def body(self) -> None:
        """Look once, then nap; the thread calls this over and over."""
        with self.mutex:
            self.maybe_scale()
        self._nap.wait(LOOK_INTERVAL_S)

    def stop(self) -> None:
        """End the thread."""
        self._nap.set()
        super().stop()

    def on_task_received(self, req: Any) -> None:
        """Note that there is work, and grow if it has to wait."""
        self._last_busy = monotonic()
        self.maybe_scale(req)

    def maybe_scale(self, req: Any = None) -> bool | None:
        """Grow or shrink if need be; returns True if so."""
        size = self.processes
        wanted = max(min(self.qty, self.max_concurrency), self.min_concurrency)
        if wanted > size:
            self.scale_up(wanted - size)
            return True
        if wanted < size:
            return self.scale_down(size - wanted)
        return None

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:
        """Set the bounds; the pool follows at once where it lies outside of them."""
        with self.mutex:
            if max is not None:
                if max < self.processes:
                    self._shrink(self.processes - max)
                self.max_concurrency = max
            if min is not None:
                if min > self.processes:
                    self._grow(min - self.processes)
                self.min_concurrency = min
            return self.max_concurrency, self.min_concurrency

    def scale_up(self, n: int) -> None:
        """Add *n* processes."""
        self._last_busy = monotonic()
        self._grow(n)

    def scale_down(self, n: int) -> bool | None:
        """Take *n* processes away, unless there was work within `keepalive`."""
        if self._last_busy is not None and monotonic() - self._last_busy > self.keepalive:
            self._shrink(n)
            return True
        return None

    def _grow(self, n: int) -> None:
        logger.info("Scaling up %s processes.", n)
        self.pool.grow(n)
        self._follow(n)

    def _shrink(self, n: int) -> None:
        logger.info("Scaling down %s processes.", n)
        before = self.processes
        try:
            self.pool.shrink(n)
        except ValueError:
            logger.debug("Autoscaler won't scale down: all processes busy.")
        except Exception:
            logger.exception("Autoscaler: scale down failed")
        else:
            # Only idle processes leave, so these may be fewer.
            self._follow(self.processes - before)

    def _follow(self, by: int) -> None:
        if self.worker is not None and self.worker.consumer is not None:
            self.worker.consumer.update_prefetch_count(by)

    def info(self) -> dict[str, Any]:
        """Return bounds, present size, and how many tasks are reserved."""
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": self.qty,
        }

    @property
    def qty(self) -> int:
        """Tasks that run or wait to run."""
        return len(state.reserved_requests)

    @property
    def processes(self) -> int:
        """Size of the pool."""
        return int(self.pool.num_processes)
