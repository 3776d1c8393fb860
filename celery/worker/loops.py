"""The loops in which a consumer spends its life.

`asynloop` runs on a kombu hub, with transports and pools that can wait together;
`synloop` blocks on the connection, with all others. Both raise what the connection raises,
and `WorkerShutdown` or `WorkerTerminate` when the worker is to stop; a warm stop first
lets running tasks end, with the loop still answering broker, pool and remote commands.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.exceptions import WorkerLostError, WorkerShutdown, WorkerTerminate
from celery.utils.functional import noop
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker._polling import Polling, rings

__all__ = ("asynloop", "synloop")

logger = get_logger(__name__)

#: Seconds for which `synloop` waits for a message before it looks at other things.
DRAIN_TIMEOUT_S = 1.0

#: The same once it no longer consumes, and waits for tasks to end.
FINISH_TIMEOUT_S = 0.05

#: Seconds for which a cold shutdown waits to hear how the tasks that it cancels have ended.
CANCEL_TIMEOUT_S = 2.0


def asynloop(
    obj: Any,
    connection: Any,
    consumer: Any,
    blueprint: Any,
    hub: Any,
    qos: Any,
    heartbeat: float | None,
    clock: Any,
    hbrate: float = 2.0,
) -> None:
    """Consume on an event loop.

    Args:
        obj: The consumer of the worker.
        consumer: The kombu consumer of task messages.
        heartbeat: Seconds between the broker's heartbeats, None or 0 for none.
        hbrate: Looks at them for each interval.
    """
    consumer.on_message = obj.create_task_handler()
    obj.controller.register_with_event_loop(hub)
    obj.register_with_event_loop(hub)
    # A pool that could not start its processes would let us collect messages for nobody.
    if not obj.restart_count and not obj.pool.did_start_ok():
        raise WorkerLostError("Could not start worker processes")
    consumer.consume()

    def follow_prefetch() -> None:
        # Messages that come while the broker is told may change it once more, and the broker
        # may send nothing else until it knows.
        while qos.prev != qos.value:
            qos.update()

    for begin in tuple(hub.on_tick):
        # Some transports subscribe in their first tick only, and whoever hears that we are
        # ready may send us a command at once.
        begin()
    obj.on_ready()
    hub.propagate_errors = (*obj.connection_errors, *obj.channel_errors)
    turn = _hub_turns(hub)
    tolerance = _Tolerance(hub.propagate_errors)
    try:
        with (
            _awake(obj, hub),
            _watched(obj, connection, heartbeat, hbrate) as check,
            _finishing(obj, consumer, lambda timeout: (turn(timeout), check())),
        ):
            while blueprint.state == bootsteps.RUN and obj.connection:
                state.maybe_shutdown()
                if obj.may_look_ahead:
                    obj.look_ahead()
                follow_prefetch()
                with tolerance:
                    turn(None)
                obj.recall_revoked()
                if obj.carried:
                    obj.restore_prefetch()
                check()
    finally:
        try:
            hub.reset()
        except Exception:
            logger.exception("Error cleaning up after event loop")


def synloop(
    obj: Any,
    connection: Any,
    consumer: Any,
    blueprint: Any,
    hub: Any,
    qos: Any,
    heartbeat: float | None,
    clock: Any,
    hbrate: float = 2.0,
    **kwargs: Any,
) -> None:
    """Consume by blocking on the connection; see `asynloop` for the arguments."""
    consumer.on_message = obj.create_task_handler()
    consumer.consume()
    obj.on_ready()
    pause = threading.Event()
    tolerance = _Tolerance((*obj.connection_errors, *obj.channel_errors))

    def finish_turn(timeout: float) -> None:
        # Without a task consumer some transports refuse to drain.
        pause.wait(min(timeout, FINISH_TIMEOUT_S))
        obj.perform_pending_operations()

    try:
        with (
            _watched(obj, connection, heartbeat, hbrate) as check,
            _turns(obj, connection) as turn,
            _finishing(obj, consumer, finish_turn),
        ):
            while blueprint.state == bootsteps.RUN and obj.connection:
                state.maybe_shutdown()
                if qos.prev != qos.value:
                    obj.call_locked(qos.update)
                if obj.carried:
                    obj.restore_prefetch()
                obj.perform_pending_operations()
                with tolerance:
                    turn()
                check()
    finally:
        obj.perform_pending_operations()


class _Tolerance:
    """Lets a loop survive what a turn raises, unless that ends it or happens all the time.

    Transports raise on messages that they can't read themselves; the message is gone then, and
    no reason to stop taking others. Ends with the error when there are too many in a second.

    Args:
        ends_loop: Errors to let through: those of the connection.
    """

    #: Errors in one second that are too many.
    TOO_MANY = 50

    def __init__(self, ends_loop: tuple[type[BaseException], ...]) -> None:
        self._ends_loop = ends_loop
        self._recent: deque[float] = deque(maxlen=self.TOO_MANY)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> bool:
        if exc is None or not isinstance(exc, Exception) or isinstance(exc, self._ends_loop):
            return False
        now = monotonic()
        is_flood = len(self._recent) == self.TOO_MANY and now - self._recent[0] < 1
        self._recent.append(now)
        if not is_flood:
            logger.critical("Error in the loop of the consumer: %r", exc, exc_info=exc)
        return not is_flood


def _drain(connection: Any, timeout_s: float) -> None:
    with suppress(TimeoutError):
        _drain_or_tell(connection, timeout_s)


def _drain_or_tell(connection: Any, timeout_s: float) -> None:
    """Wait for one message; raises TimeoutError when none came."""
    try:
        connection.drain_events(timeout=timeout_s)
    except TimeoutError:
        raise
    except OSError as exc:
        # What some drivers raise when nothing came.
        if exc.errno not in (errno.EINTR, errno.EAGAIN):
            raise
        raise TimeoutError from exc


def _hub_turns(hub: Any) -> Callable[[float | None], None]:
    """Return a function that runs one turn of *hub*, within some seconds or its own time."""
    loop: list[Any] = [hub.create_loop()]

    def turn(timeout: float | None) -> None:
        bound = None if timeout is None else hub.call_later(timeout, noop)
        try:
            next(loop[0])
        except StopIteration:
            loop[0] = hub.create_loop()
        except BaseException:
            # A generator that raised is at its end, but the loop may have to go on.
            loop[0] = hub.create_loop()
            raise
        finally:
            if bound is not None:
                bound.cancel()

    return turn


@contextmanager
def _finishing(obj: Any, consumer: Any, turn: Callable[[float], Any]) -> Iterator[None]:
    """Let running tasks end, as far as the way of stopping allows, before the loop ends."""
    obj.turn = turn
    try:
        try:
            yield
        except WorkerShutdown:
            bootsteps._quietly(consumer.cancel)
            obj.on_close()
            if obj.is_busy():
                logger.info("Waiting for the tasks that run to end.")
            while obj.is_busy():
                if state.is_terminating():
                    state.maybe_shutdown()
                obj.take_turn(DRAIN_TIMEOUT_S)
            raise
    except WorkerTerminate:
        bootsteps._quietly(consumer.cancel)
        obj.controller.wait_for_soft_shutdown()
        # Nothing else must begin in the place of what is cancelled.
        obj.on_close()
        obj.cancel_active_requests()
        obj.await_cancelled(CANCEL_TIMEOUT_S)
        raise
    finally:
        obj.turn = None


@contextmanager
def _watched(
    obj: Any, connection: Any, heartbeat: float | None, rate: float
) -> Iterator[Callable[[], None]]:
    """Check the broker's heartbeats, *rate* times an interval.

    Gives a function that raises what a check raised: in the loop, rather than in the timer,
    it is seen as the loss of the connection that it is.
    """
    lost: list[BaseException] = []

    def beat() -> None:
        try:
            obj.call_locked(connection.heartbeat_check, rate)
        except obj.connection_errors as exc:
            lost.append(exc)

    def check() -> None:
        if lost:
            raise lost[0]

    if not heartbeat or not connection.supports_heartbeats:
        yield check
        return
    watch = obj.timer.call_repeatedly(heartbeat / rate, beat)
    try:
        yield check
    finally:
        watch.cancel()


@contextmanager
def _awake(obj: Any, hub: Any) -> Iterator[None]:
    """Let *hub* be woken, by a signal and by ``obj.wake``."""
    with rings(obj) as bell:
        hub.add_reader(bell.reader, bell.quiet)
        try:
            yield
        finally:
            hub.remove_reader(bell.reader)


@contextmanager
def _turns(obj: Any, connection: Any) -> Iterator[Callable[[], None]]:
    """Give a function that waits for messages, for a while at most."""
    interval = getattr(connection.transport, "polling_interval", None)
    if not interval:
        yield partial(_drain, connection, DRAIN_TIMEOUT_S)
        return
    with rings(obj) as bell:
        drain = partial(_drain_or_tell, connection)
        yield Polling(drain, bell.wait, min(interval, DRAIN_TIMEOUT_S)).turn
