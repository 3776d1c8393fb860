"""The consumer: one broker connection after another, and the messages on it.

`Consumer.start` runs the steps; the last one, `Evloop`, consumes until the worker stops or
the connection is lost. In the latter case all steps are stopped and started again on a new
connection, while the pool goes on with what it has.

A message goes to the strategy of its task. One that is no task, or an unknown one, is
logged, settled and told of by a signal; none may end the loop.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from billiard.common import restart_state
from billiard.exceptions import RestartFreqExceeded
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from celery import bootsteps
from celery.exceptions import (
    CPendingDeprecationWarning,
)
from celery.utils.functional import noop
from celery.utils.log import get_logger
from celery.utils.nodenames import gethostname
from celery.utils.time import humanize_seconds
from celery.worker import loops, state
from celery.worker.consumer._messages import (
    INVALID_TASK_ERROR as INVALID_TASK_ERROR,
    MESSAGE_DECODE_ERROR as MESSAGE_DECODE_ERROR,
    MESSAGE_REPORT as MESSAGE_REPORT,
    UNKNOWN_FORMAT as UNKNOWN_FORMAT,
    UNKNOWN_TASK_ERROR as UNKNOWN_TASK_ERROR,
    TaskMessages,
    dump_body,
)
from celery.worker.consumer._packed import Packed
from celery.worker.consumer._prefetch import Prefetch
from celery.worker.consumer._survivors import REMEMBERED_S, Survivors
from celery.worker.consumer._waiting import NO_TIMER, RateBucket, Waiting
from celery.worker.state import active_requests, maybe_shutdown, reserved_requests

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.request import Request

__all__ = ("Consumer", "Evloop", "dump_body")

CLOSE = bootsteps.CLOSE
TERMINATE = bootsteps.TERMINATE
STOP_CONDITIONS = {CLOSE, TERMINATE}

logger = get_logger(__name__)

#: Seconds allowed for what a lost connection leaves behind.
COLLECT_SOCKET_TIMEOUT = 5.0

#: Seconds that an AMQP broker may take to answer a command, where heartbeats don't say less.
ANSWER_TIMEOUT_S = 30.0

#: Seconds between looks whether a broker is back, beside the attempts that are counted.
LOOK_FOR_BROKER_S = 2.0

#: Seconds for which events of tasks wait for others, to be sent together.
FLUSH_EVENTS_WITHIN_S = 0.1

#: Missed heartbeats after which a broker counts as gone.
SILENT_BEATS = 2

CONNECTION_RETRY = (
    "consumer: Connection to broker lost. Trying to re-establish the connection... (%s)"
)
CONNECTION_RETRY_STEP = "Trying again {when}... ({retries}/{max_retries})"
CONNECTION_ERROR = "consumer: Cannot connect to %s: %s.\n%s\n"
NO_BROKER_SET = (
    "No broker is set (broker_url), so the worker looks for RabbitMQ on this machine. To start at"
    ' once without a server, set one in a file: broker_url = "sqlite:///celery.db"'
)
NO_CONNECTION_RETRY = (
    "Connecting to the message broker again has been disabled (app.conf.%s=False). Shutting down."
)

CONNECTION_FAILOVER = "Will retry using next failover."

TERMINATING_TASK_ON_RESTART_AFTER_A_CONNECTION_LOSS = """\
Task %s cannot be acknowledged after a connection loss since late acknowledgement is enabled
for it. It is cancelled here, and will run again when the broker delivers it again.
"""

CANCEL_TASKS_BY_DEFAULT = """\
Tasks with late acknowledgement that run when the connection is lost run on, and are delivered
again all the same: each may run twice. From version 6.0 on they are cancelled instead; set
worker_cancel_long_running_tasks_on_connection_loss to choose that now.
"""


class _Connected(Exception):
    """Ends the pause before the next attempt to connect."""


class Consumer(TaskMessages, Waiting, Prefetch):
    """Consumes task messages, through lost connections, until stopped.

    Args:
        on_task_request: Called with each request that may run now.
        init_callback: Called with the consumer once it is ready, the first time.
        hub: The event loop, or None to block on the connection instead.
        amqheartbeat: Seconds between the broker's heartbeats; None for the setting.
        worker_options: Options of the worker, for the steps.
        initial_prefetch_count: Messages the broker may send ahead of acknowledgements.
        prefetch_multiplier: That many for each process of the pool.
    """

    Strategies = dict

    init_callback: Any = None
    pool: Any = None
    timer: Any = None
    restart_count = -1
    #: Sizes of the timer's queue before the steps start, to tell whether any was added.
    timer_entries_before_start: Any = None
    timer_entries_registered: Any = None
    first_connection_attempt = True
    broker_connection_retry_attempt = 0

    connection: Any = None
    event_dispatcher: Any = None
    task_consumer: Any = None
    qos: Any = None
    qos_global: bool | None = None
    heart: Any = None
    gossip: Any = None
    #: Runs one turn of the loop, within some seconds; None outside of the loop.
    turn: Callable[[float], Any] | None = None

    #: Whether messages of the last connection can still be settled.
    _claims_kept = False
    _loop_thread: int | None = None
    _was_ready = False
    #: Sizes of the registers of revoked ids and stamps when last looked at.
    _revoked_seen = (0, 0)
    _flush_due = False
    _settling_due = False

    class Blueprint(bootsteps.Blueprint):
        """The steps of a consumer."""

        name = "Consumer"
        default_steps = (
            "celery.worker.consumer.connection:Connection",
            "celery.worker.consumer.mingle:Mingle",
            "celery.worker.consumer.events:Events",
            "celery.worker.consumer.gossip:Gossip",
            "celery.worker.consumer.heart:Heart",
            "celery.worker.consumer.control:Control",
            "celery.worker.consumer.tasks:Tasks",
            "celery.worker.consumer.delayed_delivery:DelayedDelivery",
            "celery.worker.consumer.consumer:Evloop",
            "celery.worker.consumer.agent:Agent",
        )

        def shutdown(self, parent: Any) -> None:
            """Let every step end for good."""
            self.send_all(parent, "shutdown", propagate=False)

    def __init__(
        self,
        on_task_request: Callable[[Request], Any],
        init_callback: Callable[[Any], Any] = noop,
        hostname: str | None = None,
        pool: Any = None,
        app: Celery | None = None,
        timer: Any = None,
        controller: Any = None,
        hub: Any = None,
        amqheartbeat: float | None = None,
        worker_options: dict[str, Any] | None = None,
        disable_rate_limits: bool = False,
        initial_prefetch_count: int = 2,
        prefetch_multiplier: int = 1,
        **kwargs: Any,
    ) -> None:
        assert app is not None
        self.app: Celery = app
        self.controller = controller
        #: Stores what pool processes leave to this one; None where they do it all.
        self.results = getattr(controller, "results", None)
        #: Counts for metrics, None when nobody wants them.
        self.tally = getattr(controller, "tally", None)
        self.init_callback = init_callback
        self.hostname = hostname or gethostname()
        self.pid = os.getpid()
        self.pool = pool
        self.timer = timer
        self.hub = hub
        self.on_task_request = on_task_request
        self.on_task_message: set[Callable[[Request], Any]] = set()
        self.disable_rate_limits = disable_rate_limits
        self.initial_prefetch_count = initial_prefetch_count
        self.prefetch_multiplier = prefetch_multiplier
        self.strategies: dict[str, Any] = self.Strategies()
        self.task_buckets: dict[str, RateBucket | None] = {}

        self.conninfo = app.connection_for_read()
        self.connection_errors: tuple[type[BaseException], ...] = self.conninfo.connection_errors
        self.channel_errors: tuple[type[BaseException], ...] = self.conninfo.channel_errors

        self._restart_state = restart_state(maxR=5, maxT=1)
        #: Held while something is written to the connection, where others than the loop do so.
        self.io_lock = threading.RLock()
        self._pending: deque[Callable[[], Any]] = deque()
        self._rate_lock = threading.RLock()
        #: Timer entries of requests that wait for their ETA.
        self._held: dict[Request, Any] = {}
        #: Messages that do so, put away; and when the timer looks at them, with its entry.
        self._packed = Packed()
        self._packed_timer = NO_TIMER
        #: Requests that were running when the connection was lost.
        self.carried: set[Request] = set()
        #: Cancelled for good, while threads that can't be ended still run them.
        self.abandoned: list[Request] = []
        #: The same, and those about to run, as their messages may come again.
        self.survivors = Survivors()
        #: Called now and then while connecting, when the loop does not turn.
        self.on_connecting: Callable[[], Any] = noop
        #: Has the loop begin its next turn now, where it pauses or is about to.
        self.wake: Callable[[], Any] = noop

        self.loop = loops.synloop if hub is None else loops.asynloop
        self.amqheartbeat = app.conf.broker_heartbeat if amqheartbeat is None else amqheartbeat
        self.amqheartbeat_rate = app.conf.broker_heartbeat_checkrate

        self.steps: list[Any] = []
        self.blueprint = self.Blueprint(steps=app.steps["consumer"], on_close=self.on_close)
        self.blueprint.apply(self, **{**(worker_options or {}), **kwargs})

    # -- calls from other threads

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have *p* called by the thread of the loop: at once in it, else with its next turn."""
        call = partial(p, *args, **kwargs) if args or kwargs else p
        if threading.get_ident() == self._loop_thread:
            return call()
        if self.hub is not None:
            self.hub.call_soon(call)
        else:
            self._pending.append(call)
            self.wake()
        return call

    def call_soon_ack(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do as `call_soon` does; for settling a message, of which many come at a time."""
        if self.hub is None or threading.get_ident() == self._loop_thread:
            return self.call_soon(p, *args, **kwargs)
        call = partial(p, *args, **kwargs)
        self._pending.append(call)
        if not self._settling_due:
            self._settling_due = True
            self.hub.call_soon(self.perform_pending_operations)
        return call

    def call_locked(self, p: Callable[..., Any], *args: Any) -> Any:
        """Call *p*, which writes to the connection, while nobody else does."""
        with self.io_lock:
            return p(*args)

    def perform_pending_operations(self) -> None:
        """Make the calls that other threads left to the loop."""
        # First, so that what comes from now on is not left behind.
        self._settling_due = False
        pending = self._pending
        while pending:
            call = pending.popleft()
            try:
                call()
            except Exception:
                logger.exception("Error in pending operation")

    # -- life

    def start(self) -> None:
        """Consume, with as many connections as it takes; returns when stopped."""
        blueprint = self.blueprint
        while blueprint.state not in STOP_CONDITIONS:
            maybe_shutdown()
            self._brake()
            self.restart_count += 1
            # What was planned may have been lost with the loop.
            self._flush_due = self._settling_due = False
            try:
                blueprint.start(self)
            except self.connection_errors as exc:
                if blueprint.state in STOP_CONDITIONS:
                    return
                self._on_connection_error(exc)
            except self.channel_errors as exc:
                if not self.app.conf.broker_channel_error_retry:
                    raise
                self._on_connection_error(exc)

    def _brake(self) -> None:
        """Pause when the connection is lost over and over."""
        if self.restart_count < 0:
            return
        try:
            self._restart_state.step()
        except RestartFreqExceeded as exc:
            logger.critical("Frequent restarts detected: %r", exc, exc_info=True)
            sleep(1)

    def _on_connection_error(self, exc: BaseException) -> None:
        self.broker_connection_retry_attempt += 1
        # Requests that are not running belong to the lost connection.
        self.on_close()
        if self.connection is None:
            self.on_connection_error_before_connected(exc)
        else:
            self.on_connection_error_after_connected(exc)
        self._note_survivors()
        self.blueprint.restart(self)
        self._reduce_prefetch()

    def _note_survivors(self) -> None:
        """Remember what the pool still has, where the broker gives it back at once."""
        if self.conninfo.transport.driver_type != "amqp":
            return
        waiting = [request for request in reserved_requests if request.is_in_pool()]
        self.survivors.note({*active_requests, *waiting})
        self._forget_survivors()

    def _forget_survivors(self) -> None:
        if self.survivors.forget_old():
            self.timer.call_after(REMEMBERED_S, self._forget_survivors)

    def on_connection_error_before_connected(self, exc: BaseException) -> None:
        """Decide about an error that `ensure_connected` let pass: there are no more attempts.

        Raises:
            BaseException: *exc*; whoever runs the worker has to know.
        """
        raise exc

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Log a lost connection, drop it, and see to the tasks that it takes with it."""
        if not self.app.conf.broker_connection_retry:
            logger.critical(NO_CONNECTION_RETRY, "broker_connection_retry")
            raise exc
        logger.warning(CONNECTION_RETRY, repr(exc), exc_info=exc)
        self._claims_kept = self._keep_claims()
        try:
            self.connection.collect(socket_timeout=COLLECT_SOCKET_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - the connection is dead anyway
            logger.debug("while collecting the lost connection: %r", error)
        # From here on a failure means that the broker can't be reached, see `_on_connection_error`.
        self.connection = None
        if self._claims_kept:
            return
        if self.app.conf.worker_cancel_long_running_tasks_on_connection_loss:
            for request in tuple(active_requests):
                if request.task.acks_late and not request.acknowledged:
                    logger.warning(TERMINATING_TASK_ON_RESTART_AFTER_A_CONNECTION_LOSS, request)
                    self._cancel(request)
        else:
            warnings.warn(CANCEL_TASKS_BY_DEFAULT, CPendingDeprecationWarning, stacklevel=2)

    def _keep_claims(self) -> bool:
        """Let the channel hold what still runs beyond its connection; False if it can't."""
        keep = getattr(self._task_channel(), "keep_claims", None)
        if keep is None:
            return False
        running = [
            request.message.delivery_tag
            for request in list(reserved_requests)
            if not request.acknowledged
        ]
        return bool(keep(running))

    def cancel_active_requests(self) -> None:
        """Cancel every request that is running, as the worker ends."""
        if self.results is not None:
            # These have ended, and only wait for the store.
            self.results.finish()
        for request in tuple(active_requests):
            self._cancel(request, for_good=True)

    def await_cancelled(self, timeout: float) -> None:
        """Let the loop work until the cancelled requests have ended, for *timeout* seconds."""
        deadline = monotonic() + timeout
        if self._is_cancelling():
            logger.info("Waiting for the tasks that were cancelled to end.")
        while self._is_cancelling() and (left := deadline - monotonic()) > 0:
            self.take_turn(left)

    def _is_cancelling(self) -> bool:
        return any(request.is_being_cancelled() for request in tuple(active_requests))

    def recall_revoked(self) -> None:
        """Take back from the pool what it has not begun and what was revoked meanwhile."""
        slots = getattr(self.controller, "semaphore", None)
        if slots is None or slots.taken <= slots.limit:
            return
        seen = len(state.revoked), sum(map(len, state.revoked_stamps.values()))
        if seen == self._revoked_seen:
            return
        self._revoked_seen = seen
        if seen[0] >= state.revoked.maxlen:
            # The set forgets one for each that it takes, so its size tells no more.
            slots.stay_strict()
        for request in list(reserved_requests):
            request.give_up_if_revoked()

    def is_busy(self) -> bool:
        """Say whether the pool has a task that began, or is about to."""
        slots = getattr(self.controller, "semaphore", None)
        return bool(active_requests) or (slots is not None and slots.taken > 0)

    def take_turn(self, timeout: float) -> None:
        """Let the loop work for up to *timeout* seconds, from within it."""
        if self.turn is not None:
            self.turn(timeout)

    def _cancel(self, request: Request, for_good: bool = False) -> None:
        try:
            request.cancel(self.pool)
        except NotImplementedError:
            if for_good and request.abandon():
                self.abandoned.append(request)
            elif not request.is_being_cancelled():
                logger.warning("The pool cannot cancel %s; it runs on.", request)

    def register_with_event_loop(self, hub: Any) -> None:
        """Let every step register with *hub*."""
        self.blueprint.send_all(
            self, "register_with_event_loop", args=(hub,), description="Hub.register"
        )

    def stop(self) -> None:
        """Stop; what is not settled goes back to the broker."""
        self.blueprint.stop(self)

    def shutdown(self) -> None:
        """Let every step end for good."""
        self.blueprint.shutdown(self)

    def on_ready(self) -> None:
        """Tell whoever waits for the worker that it consumes."""
        callback, self.init_callback = self.init_callback, None
        if callback is not None:
            callback(self)

    def on_close(self) -> None:
        """Forget what is not running: the broker delivers it again."""
        self.forget_held()
        if self.controller is not None and getattr(self.controller, "semaphore", None):
            self.controller.semaphore.clear()
        with self._rate_lock:
            for bucket in self.task_buckets.values():
                if bucket is not None:
                    bucket.clear()
        if self.pool is not None:
            self.pool.flush()
        for request in [*state.scheduled_requests, *reserved_requests]:
            if request not in active_requests and not request.is_in_pool():
                state.task_forgotten(request)
                request.free_slot()

    # -- the connection

    def loop_args(self) -> tuple[Any, ...]:
        """Return the arguments of the loop."""
        return (
            self,
            self.connection,
            self.task_consumer,
            self.blueprint,
            self.hub,
            self.qos,
            self.amqheartbeat,
            self.app.clock,
            self.amqheartbeat_rate,
        )

    def connect(self) -> Any:
        """Return a connection that works, registered with the event loop if there is one."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        if self.hub is not None:
            connection.transport.register_with_event_loop(connection.connection, self.hub)
        return connection

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Return a connection to consume from."""
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        if heartbeat and connection.transport.driver_name == "py-amqp":
            # While the loop waits for the answer to a command it can't look at heartbeats, so
            # that wait has to end by itself when the network swallows the command.
            bound = {"read_timeout": min(SILENT_BEATS * heartbeat, ANSWER_TIMEOUT_S)}
            connection.transport_options = {**bound, **(connection.transport_options or {})}
        return self.ensure_connected(connection)

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Return a connection to publish to."""
        return self.ensure_connected(self.app.connection_for_write(url=url, heartbeat=heartbeat))

    def ensure_connected(self, conn: Any) -> Any:
        """Connect *conn*, trying again as the settings ask for; returns it."""
        conf = self.app.conf
        attempts = [0]

        def report(exc: BaseException, interval: float, next_step: str | None = None) -> None:
            if interval == 0 and getattr(conn, "alt", None):
                next_step = CONNECTION_FAILOVER
            attempts[0] += 1
            step = next_step or CONNECTION_RETRY_STEP.format(
                when=humanize_seconds(interval, "in", " "),
                retries=attempts[0],
                max_retries=conf.broker_connection_max_retries,
            )
            url = maybe_sanitize_url(conn.as_uri())
            # Some transports name the broker themselves.
            why = str(exc).removeprefix(f"{url}: ").rstrip(".")
            logger.error(CONNECTION_ERROR, url, why, step)
            if attempts[0] == 1 and not (conf.broker_url or conf.broker_read_url):
                logger.error(NO_BROKER_SET)

        deciding = self._retry_setting()
        if not getattr(conf, deciding):
            self.first_connection_attempt = False
            try:
                conn.connect()
            except Exception:
                logger.critical(NO_CONNECTION_RETRY, deciding)
                raise
            return conn

        look_at = monotonic() + LOOK_FOR_BROKER_S

        def before_next_attempt() -> None:
            nonlocal look_at
            self.on_connecting()
            maybe_shutdown()
            # The pauses between attempts grow up to half a minute, and the broker may be back.
            if monotonic() >= look_at:
                with suppress(*self.connection_errors, OperationalError):
                    conn.ensure_connection(max_retries=0)
                    raise _Connected
                look_at = monotonic() + LOOK_FOR_BROKER_S

        with suppress(_Connected):
            conn.ensure_connection(
                report,
                conf.broker_connection_max_retries,
                callback=before_next_attempt,
            )
        self.first_connection_attempt = False
        self.broker_connection_retry_attempt = 0
        return conn

    def _retry_setting(self) -> str:
        """Return the name of the setting that decides about further attempts to connect."""
        conf = self.app.conf
        if not self.first_connection_attempt:
            return "broker_connection_retry"
        if conf.broker_connection_retry_on_startup is not None:
            return "broker_connection_retry_on_startup"
        if conf.broker_connection_retry:
            warnings.warn(
                "broker_connection_retry will no longer decide about retries at start-up in "
                "version 6.0: set broker_connection_retry_on_startup for those.",
                CPendingDeprecationWarning,
                stacklevel=3,
            )
        return "broker_connection_retry"

    def on_send_event_buffered(self) -> None:
        """Flush the buffered events soon."""
        if self.hub is not None and not self._flush_due:
            self._flush_due = True
            self.hub.call_later(FLUSH_EVENTS_WITHIN_S, self._flush_events)

    def _flush_events(self) -> None:
        self._flush_due = False
        if self.event_dispatcher is not None:
            self.event_dispatcher.flush()

    # -- queues

    def add_task_queue(
        self,
        queue: Any,
        exchange: Any = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> None:
        """Consume from one more queue, also after lost connections."""
        consumer = self.task_consumer
        queues = self.app.amqp.queues
        if queue in queues:
            declared = queues[queue]
        else:
            exchange = queue if exchange is None else exchange
            exchange_type = "direct" if exchange_type is None else exchange_type
            declared = queues.select_add(
                queue,
                exchange=exchange,
                exchange_type=exchange_type,
                routing_key=queue if routing_key is None else routing_key,
                **options,
            )
        if queue not in queues.consume_from:
            queues.select_add(declared)
        if not consumer.consuming_from(queue):
            consumer.add_queue(declared)
            consumer.consume()
            logger.info("Started consuming from %s", queue)

    def cancel_task_queue(self, queue: Any) -> None:
        """Stop consuming from a queue, also after lost connections."""
        logger.info("Canceling queue %s", queue)
        self.app.amqp.queues.deselect(queue)
        self.task_consumer.cancel_by_queue(queue)

    def __repr__(self) -> str:
        return f"<Consumer: {self.hostname} ({self.blueprint.human_state()})>"


class Evloop(bootsteps.StartStopStep):
    """The last step: runs the loop."""

    name: str
    label = "event loop"
    last = True

    def start(self, c: Any) -> None:
        """Consume until the connection is lost or the worker stops."""
        self.patch_all(c)
        c._loop_thread = threading.get_ident()
        c._was_ready = True
        c.loop(*c.loop_args())

    def patch_all(self, c: Any) -> None:
        """Drop calls that were meant for the last connection, unless they still can be made."""
        if c._claims_kept:
            c.perform_pending_operations()
        c._pending.clear()
