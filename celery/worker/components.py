"""The parts of a worker that every worker has: timer, hub, pool, beat, state file, consumer."""

from __future__ import annotations

import atexit
import os
from typing import Any

from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.asynchronous.timer import Timer as KombuTimer

from celery import bootsteps
from celery._state import _set_task_join_will_block
from celery.exceptions import ImproperlyConfigured
from celery.platforms import IS_WINDOWS
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker._hub import Hub as EventLoop
from celery.worker._results import Results
from celery.worker._slots import Slots

__all__ = ("Beat", "Consumer", "Hub", "Pool", "StateDB", "Timer")

logger = get_logger(__name__)

#: Pools that patch the interpreter, and the way to ask for one.
GREEN_POOLS = {"eventlet", "gevent"}
ERR_B_GREEN = "-B option doesn't work with eventlet/gevent pools: use standalone beat instead."
W_POOL_SETTING = (
    "The worker_pool setting should not name eventlet or gevent: modules are patched before "
    "the settings are read, so give the pool on the command line, with -P."
)

#: Tasks that a pool of processes is given ahead, for each process, while tasks are short.
FURTHER_SLOTS = 2

#: Longest nap of the timer in an event loop, in seconds.
MAX_TIMER_INTERVAL_S = 10.0


class Timer(bootsteps.Step):
    """The timer of the worker: the hub's own, or a thread."""

    name: str

    def create(self, w: Any) -> None:
        """Make the timer; a thread starts with its first entry."""
        if w.use_eventloop:
            w.timer = KombuTimer(max_interval=MAX_TIMER_INTERVAL_S)
            return
        cls = w.timer_cls or w.pool_cls.Timer
        w.timer = self.instantiate(
            cls,
            max_interval=w.timer_precision,
            on_error=self.on_timer_error,
            on_tick=self.on_timer_tick,
        )

    def on_timer_error(self, exc: BaseException) -> None:
        """Log what a scheduled function raised."""
        logger.error("Timer error: %r", exc, exc_info=exc)

    def on_timer_tick(self, delay: float) -> None:
        """Log that the timer goes to sleep."""
        logger.debug("Timer wake-up! Next ETA %s secs.", delay)


class Hub(bootsteps.StartStopStep):
    """The event loop, where transport and pool can wait together."""

    name: str
    requires = (Timer,)

    def __init__(self, w: Any, **kwargs: Any) -> None:
        w.hub = None
        super().__init__(w, **kwargs)

    def include_if(self, w: Any) -> bool:
        """Take part where there is an event loop."""
        return bool(w.use_eventloop)

    def create(self, w: Any) -> Hub:
        """Make the hub the current event loop of the process."""
        w.hub = get_event_loop()
        if w.hub is None:
            wanted = getattr(w._conninfo, "requires_hub", None) or EventLoop
            w.hub = set_event_loop(wanted(w.timer))
        elif w.hub.timer is not w.timer:
            w.timer = w.hub.timer
        return self

    def start(self, w: Any) -> None:
        """Do nothing: the consumer's last step runs the loop."""

    def stop(self, w: Any) -> None:
        """Close the loop."""
        w.hub.close()

    def terminate(self, w: Any) -> None:
        """Close the loop."""
        w.hub.close()


class Pool(bootsteps.StartStopStep):
    """The pool that runs the tasks, and the slots by which it is filled.

    Args:
        autoscale: Most and least processes, as a pair or as ``"MAX,MIN"``.
    """

    name: str
    requires = (Hub,)

    def __init__(self, w: Any, autoscale: Any = None, **kwargs: Any) -> None:
        w.pool = w.results = None
        w.max_concurrency = None
        w.min_concurrency = w.concurrency
        if isinstance(autoscale, str):
            most, _, least = autoscale.partition(",")
            autoscale = int(most), int(least or 0)
        w.autoscale = autoscale
        if autoscale:
            w.max_concurrency, w.min_concurrency = autoscale
        super().__init__(w, **kwargs)

    def close(self, w: Any) -> None:
        """Give the pool no more tasks."""
        if w.pool is not None:
            w.pool.close()

    def stop(self, w: Any) -> None:
        """Let the tasks end that run; the loop has ended before."""
        if w.results is not None:
            w.results.close()
        super().stop(w)

    def terminate(self, w: Any) -> None:
        """End the tasks that run."""
        if w.results is not None:
            w.results.close()
        if w.pool is not None:
            w.pool.terminate()
            for request in tuple(state.active_requests):
                request.conclude_cancelled()

    def create(self, w: Any) -> Any:
        """Build the pool; its processes start with the step."""
        evented = w.use_eventloop and not IS_WINDOWS
        processes = w.min_concurrency
        w.process_task = w._process_task
        pool = w.pool = self.instantiate(
            w.pool_cls,
            processes,
            initargs=(w.app, w.hostname),
            hostname=w.hostname,
            maxtasksperchild=w.max_tasks_per_child,
            max_memory_per_child=w.max_memory_per_child,
            timeout=w.time_limit,
            soft_timeout=w.soft_time_limit,
            # The slots below hold tasks back; the pool never has to block.
            putlocks=False,
            lost_worker_timeout=w.worker_lost_wait,
            threads=not evented,
            allow_restart=w.pool_restarts,
            forking_enable=w.pool_start_method != "spawn",
            semaphore=None,
            sched_strategy=w.optimization,
            app=w.app,
        )
        if _runs_elsewhere(w.pool_cls):
            w.semaphore = Slots(processes, depth=FURTHER_SLOTS if pool.uses_semaphore else 0)
            w.process_task = w._process_task_in_slot
        if evented and pool.uses_semaphore and w.app.backend.takes_documents:
            w.results = Results(w.app, w.hub, w.semaphore)
        _set_task_join_will_block(pool.task_join_will_block)
        return pool

    def info(self, w: Any) -> dict[str, Any]:
        """Return what the pool tells of itself."""
        return {"pool": w.pool.info if w.pool is not None else "N/A"}

    def register_with_event_loop(self, w: Any, hub: Any) -> None:
        """Have the pool do its I/O on *hub*."""
        w.pool.register_with_event_loop(hub)


def _runs_elsewhere(pool_cls: Any) -> bool:
    """Say whether tasks run beside the loop, so that one can wait for a free slot."""
    return not getattr(pool_cls, "runs_in_call", False)


class Beat(bootsteps.StartStopStep):
    """An embedded scheduler (``-B``).

    Args:
        beat: Whether there is one.
    """

    name: str
    label = "Beat"
    conditional = True

    def __init__(self, w: Any, beat: bool = False, **kwargs: Any) -> None:
        self.enabled = w.beat = bool(beat)
        super().__init__(w, beat=beat, **kwargs)

    def create(self, w: Any) -> Any:
        """Build the scheduler.

        Raises:
            ImproperlyConfigured: The pool is one of green threads.
        """
        if w.pool_cls.__module__.rpartition(".")[2] in GREEN_POOLS:
            raise ImproperlyConfigured(ERR_B_GREEN)
        service = w.beat = self.instantiate(
            "celery.beat:EmbeddedService",
            w.app,
            schedule_filename=w.schedule_filename,
            scheduler_cls=w.scheduler,
        )
        return service


class StateDB(bootsteps.Step):
    """The file that keeps revoked ids over restarts (``--statedb``)."""

    name: str

    def __init__(self, w: Any, **kwargs: Any) -> None:
        self.enabled = bool(w.statedb)
        w._persistence = None
        super().__init__(w, **kwargs)

    def create(self, w: Any) -> None:
        """Read the file, and have it written when the process ends."""
        persistence = w._persistence = w.state.Persistent(w.state, w.statedb, w.app.clock)
        owner = os.getpid()

        def save() -> None:
            # Forked pool processes inherit this, but the file is not theirs.
            if os.getpid() == owner:
                persistence.save()

        atexit.register(save)


class Consumer(bootsteps.StartStopStep):
    """The consumer, which comes last and runs until the worker stops."""

    name: str
    last = True

    def create(self, w: Any) -> Any:
        """Build the consumer from the settings and the worker's options."""
        processes = w.max_concurrency or w.concurrency
        if w.min_concurrency:
            processes = w.min_concurrency
        consumer = w.consumer = self.instantiate(
            w.consumer_cls,
            w.process_task,
            hostname=w.hostname,
            task_events=w.task_events,
            init_callback=w.ready_callback,
            initial_prefetch_count=processes * w.prefetch_multiplier,
            pool=w.pool,
            timer=w.timer,
            app=w.app,
            controller=w,
            hub=w.hub,
            worker_options=w.options,
            disable_rate_limits=w.disable_rate_limits,
            prefetch_multiplier=w.prefetch_multiplier,
        )
        return consumer
