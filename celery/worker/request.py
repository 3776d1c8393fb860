"""One object per task message in the worker, from its arrival until it is settled.

The strategy makes a `Request`, the pool calls it back: accepted, succeeded, failed, timed
out. Its life has four stages, and every move between them is in one method:

=========  ==========================================================================
received   scheduled, reserved or waiting for the pool
accepted   `Request.on_accepted`: a process runs it; an early message is acknowledged
ended      any of success, failure, retry, time-out, revoked, cancelled; only once
settled    the broker was told; `acknowledged` is true
=========  ==========================================================================

What the broker is told is decided in `celery.worker._settle`. A version 2 body stays
undecoded here: the pool process decodes it. What needs the arguments in this process
(remote inspection, hooks after a lost process) decodes on demand.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError

from celery import signals
from celery._protocol import events
from celery._protocol.message import TASK_HEADERS
from celery.app import trace as tracing
from celery.app._sealing import UnreportedEnd
from celery.app._tracer import plain_exception
from celery.app.task import Context
from celery.concurrency.base import describe
from celery.exceptions import InvalidTaskError, Retry, TaskRevokedError
from celery.platforms import signals as platform_signals
from celery.utils.functional import maybe_list, noop
from celery.utils.log import get_logger
from celery.utils.nodenames import gethostname
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone
from celery.worker import _bound as bound, _failures as failures, _unreported as unreported, state
from celery.worker._acknowledged import Acknowledged
from celery.worker._settle import End, Settlement, classify, stores_failure

if TYPE_CHECKING:
    from celery.app.task import Task
    from celery.worker._results import Results

__all__ = ("Request",)

IS_PYPY = hasattr(sys, "pypy_version_info")

logger = get_logger(__name__)

revoked_tasks = state.revoked
revoked_stamps = state.revoked_stamps
task_accepted = state.task_accepted
task_ready = state.task_ready

send_revoked = signals.task_revoked.send
send_retry = signals.task_retry.send


def tz_or_local(tzinfo: tzinfo | None = None) -> tzinfo:
    """Return *tzinfo*, or the local zone when it is None."""
    return timezone.tz_or_local(tzinfo)


class Request(Acknowledged):
    """A received task message and what became of it.

    Args:
        message: The kombu message.
        on_ack, on_reject: Called with a logger, the errors to be expected of a lost
            connection, and for the latter whether to requeue.
        request_dict: Unused fields of the past; ``headers`` are taken instead.
        body: What the pool is given: undecoded unless *decoded*.
        headers: Fields of the task; by default the headers of the message.
        decoded: *body* is a sequence of args, kwargs and embedded options.
        utc: Naive times are in UTC; otherwise in the app's zone.

    Raises:
        InvalidTaskError: A needed header is missing or of no use.
    """

    __slots__ = (
        "__weakref__",
        "_app",
        "_args",
        "_body",
        "_content_encoding",
        "_content_type",
        "_context_cache",
        "_decoded",
        "_ended",
        "_eta",
        "_eventer",
        "_expires",
        "_hostname",
        "_is_cancelled",
        "_is_storing",
        "_job",
        "_kwargs",
        "_message",
        "_request_dict",
        "_slot",
        "_task",
        "_terminate_on_accept",
        "_terminated_by",
        "_utc",
        "id",
        "name",
        "time_limits",
        "time_start",
        "worker_pid",
    )

    def __init__(
        self,
        message: Any,
        on_ack: Callable[..., Any] = noop,
        hostname: str | None = None,
        eventer: Any = None,
        app: Any = None,
        connection_errors: tuple[type[BaseException], ...] | None = None,
        request_dict: dict[str, Any] | None = None,
        task: Task | None = None,
        on_reject: Callable[..., Any] = noop,
        body: Any = None,
        headers: Mapping[str, Any] | None = None,
        decoded: bool = False,
        utc: bool = True,
        maybe_make_aware: Callable[..., Any] = maybe_make_aware,
        maybe_iso8601: Callable[..., Any] = maybe_iso8601,
        **opts: Any,
    ) -> None:
        if headers is None:
            headers = message.headers
        try:
            self.id: str = headers["id"]
            task_type = headers["task"]
        except KeyError as exc:
            raise InvalidTaskError(f"Task message without the header {exc}") from exc
        self.name: str = headers.get("shadow") or task_type
        self._message = message
        self._app = app
        self._body = message.body if body is None else body
        self._decoded = decoded
        self._utc = utc
        if decoded:
            self._content_type = self._content_encoding = None
        else:
            self._content_type = message.content_type
            self._content_encoding = message.content_encoding
        self._on_ack = on_ack
        self._on_reject = on_reject
        self._hostname = hostname or gethostname()
        self._eventer = eventer
        self._connection_errors = connection_errors or ()
        self._task = task or app.tasks[task_type]
        self._context_cache: Context | None = None
        self._args = self._kwargs = None
        self._job: Any = None
        self._slot: Any = None
        self._terminate_on_accept: Any = None
        self._terminated_by: int | None = None
        self._ended = self._is_storing = self._is_cancelled = self.acknowledged = False
        self.time_start: float | None = None
        self.worker_pid: int | None = None

        limits = headers.get("timelimit")
        self.time_limits: tuple[Any, Any] = (
            _time_limits(limits) if limits and limits != [None, None] else (None, None)
        )
        eta = headers.get("eta")
        self._eta = None if eta is None else self._moment("ETA", eta)
        expires = headers.get("expires")
        self._expires = None if expires is None else self._moment("expires", expires)

        properties = message.properties
        delivered = message.delivery_info
        custom = () if TASK_HEADERS.issuperset(headers) else headers.keys() - TASK_HEADERS
        self._request_dict: dict[str, Any] = {
            **headers,
            "headers": {name: headers[name] for name in custom} if custom else None,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "hostname": self._hostname,
            "delivery_info": {
                "exchange": delivered.get("exchange"),
                "routing_key": delivered.get("routing_key"),
                "priority": properties.get("priority"),
                "redelivered": delivered.get("redelivered", False),
            },
        }

    def _moment(self, what: str, value: Any) -> datetime:
        try:
            moment: Any = maybe_iso8601(value)
            if moment.tzinfo is None:
                zone = UTC if self._utc or self._app is None else self._app.timezone
                moment = maybe_make_aware(moment, zone, naive_as_utc=False)
            return moment  # type: ignore[no-any-return]  # parsed from text
        except (AttributeError, ValueError, TypeError, OverflowError) as exc:
            raise InvalidTaskError(f"invalid {what} value {value!r}: {exc}") from exc

    # -- into the pool

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """Hand the task to *pool* and return the pool's job.

        Raises:
            TaskRevokedError: It was revoked or has expired meanwhile, and is settled.
        """
        if self.revoked():
            raise TaskRevokedError(self.id)
        hard, soft = self.time_limits
        task = self._task
        fast = self._app.use_fast_trace_task
        job = pool.apply_async(
            tracing.fast_trace_task if fast else tracing.trace_task_ret,
            args=(
                self._request_dict["task"],
                self.id,
                self._request_dict,
                self._body,
                self._content_type,
                self._content_encoding,
            ),
            kwargs=None if fast or pool.uses_semaphore else {"app": self._app},
            accept_callback=(
                self.on_accepted_in_call
                if getattr(pool, "runs_in_call", False)
                else self.on_accepted
            ),
            timeout_callback=self._on_pool_timeout,
            callback=self._on_pool_success,
            error_callback=self._on_pool_failure,
            soft_timeout=soft or task.soft_time_limit,
            timeout=hard or task.time_limit,
            correlation_id=self.id,
        )
        if not self._ended:
            # Otherwise it ran within the call, as in the solo pool.
            self._job = job
        return job

    def execute(self, loglevel: int | None = None, logfile: str | None = None) -> Any:
        """Run the task here and now, without a pool; returns its result."""
        if self.revoked():
            return None
        if not self._task.acks_late:
            self.acknowledge()
        args, kwargs, embed = self._payload
        fields = {
            **self._request_dict,
            **(embed or {}),
            "args": args,
            "kwargs": kwargs,
            "loglevel": loglevel,
            "logfile": logfile,
            "is_eager": False,
        }
        done = tracing.trace_task(
            self._task, self.id, args, kwargs, fields, hostname=self._hostname, app=self._app
        )
        if isinstance(done.retval, ExceptionInfo):
            self.on_failure(done.retval, return_ok=True)
        else:
            self.on_success((0, done.retstr, done.runtime))
        return done.retval

    def maybe_expire(self) -> bool:
        """Say whether the task is no longer wanted."""
        return self._expires is not None and datetime.now(UTC) > self._expires

    def is_revoked(self) -> bool:
        """Say whether its id or one of its stamps is revoked."""
        return self.id in revoked_tasks or self._revoked_stamp() is not None

    def revoked(self) -> bool:
        """Say whether the task must not run; if so it is settled, stored and announced."""
        if self._expires is None and self.id not in revoked_tasks and not revoked_stamps:
            return False
        if self._ended:
            return True
        expired = self.maybe_expire()
        if not expired and self.id not in revoked_tasks:
            header = self._revoked_stamp()
            if header is None:
                return False
            logger.info(
                "Discarding revoked task: %s[%s] (revoked by header: %s)",
                self.name,
                self.id,
                header,
            )
        else:
            logger.info("Discarding revoked task: %s[%s]", self.name, self.id)
        self._announce_revoked("expired" if expired else "revoked", False, None, expired)
        return True

    def _revoked_stamp(self) -> dict[str, Any] | None:
        """Return the stamps by which this task is revoked, as far as they match."""
        if not revoked_stamps or not self.stamped_headers:
            return None
        mine = self.stamps
        for name, unwanted in revoked_stamps.items():
            shared = set(maybe_list(mine.get(name) or [])) & set(maybe_list(unwanted))
            if shared:
                values = sorted(shared, key=str)
                return {name: values[0] if len(values) == 1 else values}
        return None

    # -- called back by the pool

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Note that process *pid* runs the task since *time_accepted* (monotonic seconds)."""
        self.worker_pid = pid
        self.time_start = time() - (monotonic() - time_accepted)
        if self._ended:
            return
        task_accepted(self)
        if not self._task.acks_late:
            self.acknowledge()
        self._note_event(events.STARTED, self.id)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Task accepted: %s[%s] pid:%r", self.name, self.id, pid)
        if self._terminate_on_accept is not None:
            self.terminate(*self._terminate_on_accept)

    def on_accepted_in_call(self, pid: int, time_accepted: float) -> None:
        """Do as `on_accepted`, where the body runs before the loop goes on.

        The loop would tell the broker what is acknowledged: after the body, and so never if that
        takes the process with it, and this task and the ones before it would run again.
        """
        self.on_accepted(pid, time_accepted)
        settle_now = getattr(self.message.channel, "settle_now", None)
        if settle_now is None:
            # Those of kombu tell it at once.
            return
        try:
            settle_now()
        except self._connection_errors as exc:
            # As if it had been lost a moment later; the loop will see to that.
            logger.debug("Acknowledgements may be lost with the connection: %r", exc)

    def on_success(self, failed__retval__runtime: tuple[int, Any, float], **kwargs: Any) -> None:
        """Take the answer of the pool process, which may be a failure that it has stored."""
        failed, retval, runtime = failed__retval__runtime
        if failed:
            self.on_failure(retval, return_ok=True)
            return
        if self._ended:
            return
        self._ended = True
        task_ready(self, successful=True)
        if self._task.acks_late:
            self.acknowledge()
        self._note_event(events.SUCCEEDED, self.id, retval, runtime)

    def on_retry(self, exc_info: Any) -> None:
        """Settle a task whose next attempt is published."""
        if self._end():
            self._settle(End.RETRIED)
            reason = plain_exception(exc_info.exception)
            self.send_event(
                "task-retried",
                exception=saferepr(getattr(reason, "exc", None) or reason),
                traceback=failures.text_of(exc_info.traceback),
            )

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Settle a task that did not succeed.

        Args:
            exc_info: What happened, as a billiard `ExceptionInfo`.
            send_failed_event: Send ``task-failed``.
            return_ok: The process answered, so it has stored what is to be stored.
        """
        exc = plain_exception(exc_info.exception)
        if isinstance(exc, Retry):
            self.on_retry(exc_info)
            return
        if isinstance(exc, Terminated):
            if self._terminated_by is not None:
                self._announce_revoked("terminated", True, self._terminated_by, False)
                return
            if self._is_cancelled:
                self._announce_cancelled(emit_retry=False)
                return
        if not self._end():
            return
        end = classify(exc)
        if end is End.IGNORED:
            self._settle(end)
            return
        if (
            end is End.WORKER_LOST
            and self._task.retry_on_worker_lost
            and failures.try_again(self, exc)
        ):
            self._settle(End.RETRIED)
            return
        told = self._decide(end)
        # Stored first: should this process die in between, the message comes again.
        if stores_failure(end, told, traced=return_ok):
            failures.store(self, end, exc, exc_info)
        elif end is End.REJECTED_TO_REQUEUE and told is not Settlement.REQUEUE:
            failures.tell_chord(self, exc)
        self._tell(told)
        if send_failed_event and not (told is Settlement.REQUEUE and end is not End.TIMED_OUT):
            self.send_event(
                "task-failed",
                exception=saferepr(exc),
                traceback=failures.text_of(exc_info.traceback),
            )
        if not return_ok:
            logger.error(
                "Task handler raised error: %r",
                exc,
                exc_info=None if exc.__traceback__ is None else exc,
            )

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Note a time limit of *timeout* seconds: the soft one, or the one that ends it."""
        if soft:
            logger.warning("Soft time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
            return
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
        if not self._end():
            return
        exc = TimeLimitExceeded(timeout)
        einfo = describe(exc)
        failures.store(self, End.TIMED_OUT, exc, einfo)
        self._settle(End.TIMED_OUT)
        self.send_event(
            "task-failed", exception=saferepr(exc), traceback=failures.text_of(einfo.traceback)
        )

    def _end(self) -> bool:
        """Leave the registers; true only for the first caller, who settles the message."""
        if self._ended:
            return False
        self._ended = True
        task_ready(self)
        return True

    # -- ended from outside

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End the running task by *signal* (SIGTERM), or as soon as it is accepted."""
        signum = platform_signals.signum(signal or "TERM")
        if self._ended or self._is_storing:
            return
        if self.time_start is None:
            self._terminate_on_accept = (pool, signal)
            return
        pool.terminate_job(self.worker_pid, signum)
        if getattr(pool, "reports_terminated", False) is True:
            # Not yet: it may have succeeded by now, or refuse to end.
            self._terminated_by = signum
        else:
            self._announce_revoked("terminated", True, signum, False)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End the running task because this worker can't see it through.

        A late acknowledged message goes back to its queue when the connection closes, and
        the task's state stays as it is. An early one is gone; its task has failed.

        Args:
            signal: Signal for the process; SIGTERM by default.
            emit_retry: Announce a late task's coming next attempt as an event.
        """
        if self._ended or self._is_storing or self._is_cancelled:
            return
        if self.time_start is not None:
            pool.terminate_job(self.worker_pid, platform_signals.signum(signal or "TERM"))
            if self.acknowledged and getattr(pool, "reports_terminated", False) is True:
                # Not yet: it may have succeeded by now, and must not fail as well.
                self._is_cancelled = True
                return
        self._announce_cancelled(emit_retry)

    def abandon(self) -> bool:
        """Do as `cancel` for a task that can't be ended: it runs on, and nobody hears of it.

        False where the pool can't do that, and when the body has ended: then the rest is
        waited for.
        """
        abandon = getattr(self._job, "abandon", None)
        if self._ended or self._is_storing or self._is_cancelled or abandon is None:
            return False
        if not abandon():
            self._is_cancelled = True
            return False
        self._announce_cancelled(emit_retry=True)
        return True

    def is_being_cancelled(self) -> bool:
        """Say whether it was cancelled, and the pool has still to tell how it ended."""
        return self._is_cancelled and not self._ended

    def conclude_cancelled(self) -> None:
        """End it if it was cancelled, and the pool that should have told how it ended is gone."""
        if self.is_being_cancelled():
            self._announce_cancelled(emit_retry=False)

    def _announce_cancelled(self, emit_retry: bool) -> None:
        if not self._end():
            return
        self.send_event("task-cancelled")
        if self.acknowledged:
            exc = WorkerLostError("The worker was shut down while the task ran.")
            einfo = describe(exc)
            failures.store(self, End.CANCELLED, exc, einfo)
            self.send_event("task-failed", exception=saferepr(exc), traceback="")
        elif emit_retry:
            self.send_event("task-retried", exception=saferepr(Retry(when=0)), traceback="")

    def _announce_revoked(
        self, reason: str, terminated: bool, signum: int | None, expired: bool
    ) -> None:
        if not self._end():
            return
        self._settle(End.TERMINATED if terminated else End.DISCARDED)
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        try:
            self._task.backend.mark_as_revoked(
                self.id, reason, request=self._context, store_result=self.store_errors
            )
        except Exception:
            logger.exception("Cannot store that task %s is revoked", self.id)
        send_revoked(
            sender=self._task,
            request=self._context,
            terminated=terminated,
            signum=signum,
            expired=expired,
        )

    # -- the slot in the pool that it holds

    def is_in_pool(self) -> bool:
        """Say whether the pool has it and will call back."""
        job = self._job
        return job is not None and not getattr(job, "ready", bool)()

    def withdraw(self) -> bool:
        """Take it back from the pool; false if it has begun, or can't be taken back."""
        withdraw = getattr(self._job, "withdraw", None)
        return withdraw is not None and self.time_start is None and bool(withdraw())

    def give_up_if_revoked(self) -> None:
        """Take a revoked task back from the pool, if it has not begun, and settle it."""
        if self.is_revoked() and self.withdraw():
            self.revoked()
            self.free_slot()

    def has_ended(self) -> bool:
        """Say whether there is an outcome, which may still have to be stored."""
        return self._ended or self._is_storing

    def free_slot(self) -> None:
        """Give back the slot of the pool that it holds, if any."""
        release, self._slot = self._slot, None
        self._job = None
        if release is not None:
            release()

    def _on_pool_success(self, answer: tuple[int, Any, float]) -> None:
        try:
            self.on_success(answer)
        finally:
            self.free_slot()

    def on_stored(self, answer: tuple[int, Any, float]) -> None:
        """Go on after the result, which the process left to this one, is stored."""
        self._is_storing = False
        self._on_pool_success(answer)

    def on_not_stored(self, error: Exception) -> None:
        """Fail after all, like a task whose process can't store its result."""
        self._is_storing = False
        try:
            self.on_failure(describe(error), return_ok=True)
        finally:
            self.free_slot()

    def _on_pool_failure(self, exc_info: Any) -> None:
        lost = plain_exception(exc_info.exception)
        try:
            if not (isinstance(lost, UnreportedEnd) and unreported.conclude(self, lost)):
                self.on_failure(exc_info)
        finally:
            self.free_slot()

    def _on_pool_timeout(self, soft: bool, timeout: float) -> None:
        try:
            self.on_timeout(soft, timeout)
        finally:
            if not soft:
                self.free_slot()


def create_request_cls(
    base: type[Request],
    task: Task,
    pool: Any,
    hostname: str,
    eventer: Any,
    ref: Any = None,
    revoked_tasks: Any = revoked_tasks,
    task_ready: Callable[..., Any] = task_ready,
    trace: Any = None,
    app: Any = None,
    results: Results | None = None,
) -> type[Request]:
    """Return *base* made ready for one task and one pool: what is constant is bound once.

    Args:
        ref: Unused; of the past.
        trace: Function for the pool to call; by default what the app's worker uses.
        results: Stores what pool processes leave to this one; None has them do it all.
    """
    if trace is None:
        trace = (
            tracing.fast_trace_task
            if app is not None and app.use_fast_trace_task
            else tracing.trace_task_ret
        )
    # Remembering each success costs more than all else here, and only this setting reads it.
    remembers = app is None or bool(app.conf.worker_deduplicate_successful_tasks)
    in_process = not getattr(pool, "uses_semaphore", False)
    in_call = bool(getattr(pool, "runs_in_call", False))
    # A pool in this process may serve an app that is not the current one of its thread.
    extra = {"app": app} if in_process and trace is tracing.trace_task_ret else None

    is_plain = base.on_success is Request.on_success and base.on_failure is Request.on_failure
    if not is_plain or trace is not tracing.fast_trace_task:
        results = None

    class TaskRequest(base):  # type: ignore[valid-type,misc]  # the base is a parameter
        """A request of one task, bound to its pool."""

        __slots__ = ()

        execute_using_pool = bound.pool_caller(
            task, pool.apply_async, trace, extra, results, revoked_tasks, revoked_stamps, in_call
        )

    if is_plain:
        TaskRequest._on_pool_success = bound.success_taker(task, task_ready, remembers, results)
    if base.send_event is not Request.send_event:
        TaskRequest._note_event = bound.show_event
    TaskRequest.__name__ = base.__name__
    return TaskRequest


def _time_limits(limits: Any) -> tuple[Any, Any]:
    try:
        hard, soft = limits
    except (TypeError, ValueError) as exc:
        raise InvalidTaskError(f"invalid timelimit value {limits!r}: {exc}") from exc
    for limit in (hard, soft):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
            raise InvalidTaskError(f"invalid timelimit value {limits!r}: not a number")
    return hard, soft
