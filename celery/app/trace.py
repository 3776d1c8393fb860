"""Run one task: the straight line that every execution follows.

`build_tracer` binds everything a task needs once and returns the function that
pools call for each message. One execution is: enter the request, announce it, run
the body, conclude (follow-ups, stored state, hooks, signals, log), leave the request.
The order of these steps is behaviour that users rely on (see
``docs/internals/life-of-a-message.rst``); what an exception *means* is decided in
`celery.app._outcome`.

Monitoring packages replace `build_tracer`, so callers look it up on this module.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from kombu.exceptions import EncodeError
from kombu.serialization import prepare_accept_content

from celery import _state, canvas, signals
from celery._protocol.body import loads as loads_message
from celery._protocol.rest import Rest
from celery.app import _coroutines, _outcome
from celery.app._context import Context, LongChainContext
from celery.app._handover import handover
from celery.app._outcome import (
    LOG_FAILURE as LOG_FAILURE,
    LOG_IGNORED as LOG_IGNORED,
    LOG_INTERNAL_ERROR as LOG_INTERNAL_ERROR,
    LOG_RECEIVED as LOG_RECEIVED,
    LOG_REJECTED as LOG_REJECTED,
    LOG_RETRY,
    LOG_SUCCESS,
    Outcome,
    log_policy_expected as log_policy_expected,
    log_policy_ignore as log_policy_ignore,
    log_policy_internal as log_policy_internal,
    log_policy_reject as log_policy_reject,
    log_policy_t,
    log_policy_unexpected as log_policy_unexpected,
)
from celery.app._sealing import sealing
from celery.exceptions import Ignore, InvalidTaskError, Reject
from celery.local import maybe_evaluate
from celery.states import (
    EXCEPTION_STATES as EXCEPTION_STATES,
    FAILURE,
    IGNORED,
    REJECTED,
    RETRY,
    STARTED,
    SUCCESS,
)
from celery.utils.collections import LimitedSet
from celery.utils.functional import is_coroutine_function, unless_idle
from celery.utils.log import get_logger
from celery.utils.nodenames import gethostname
from celery.utils.objects import mro_lookup
from celery.utils.saferepr import saferepr
from celery.utils.serialization import get_pickleable_exception

if TYPE_CHECKING:
    from types import TracebackType

    from celery.app.base import Celery
    from celery.app.task import Task

__all__ = (
    "TraceInfo",
    "build_tracer",
    "reset_worker_optimizations",
    "setup_worker_optimizations",
    "trace_task",
)

logger = get_logger(__name__)

IGNORE_STATES = frozenset({IGNORED, REJECTED, RETRY})

#: Ids that ended in SUCCESS in this process, for ``worker_deduplicate_successful_tasks``.
#: Bounded by ``CELERY_WORKER_SUCCESSFUL_MAX`` entries and ``…_EXPIRES`` seconds.
successful_requests: LimitedSet = LimitedSet(maxlen=1000, expires=10800)

before_publish, after_publish = signals.before_task_publish, signals.after_task_publish
send_prerun = signals.task_prerun.send
send_postrun = signals.task_postrun.send
send_success = signals.task_success.send

#: What an optimised worker process keeps at hand: (task registry, accepted content, node name).
_localized: list[Any] = []

#: Which template a policy logs with; looked up when used, because users assign the templates.
_TEMPLATES = {
    "rejected": "LOG_REJECTED",
    "ignored": "LOG_IGNORED",
    "INTERNAL ERROR": "LOG_INTERNAL_ERROR",
    "raised expected": "LOG_FAILURE",
    "raised unexpected": "LOG_FAILURE",
}

Tracer = Callable[..., "trace_ok_t"]

#: How a body ended: what it returned or an `ExceptionInfo`, None or a `TraceInfo`, the seconds it
#: took, the value as text, the state.
Executed = tuple[Any, Any, float, str, str]

#: One execution cut in two: yields the coroutine to run, is sent its value or thrown its error,
#: and returns what the pool is answered.
Steps = Generator[Any, Any, tuple[int, Any, float]]


class trace_ok_t(NamedTuple):
    """How one execution ended.

    ``retval`` is the value returned, or an `ExceptionInfo`; ``info`` is None on success,
    else the `TraceInfo`; ``runtime`` is in seconds; ``retstr`` the repr of the value.
    """

    retval: Any
    info: TraceInfo | None
    runtime: float
    retstr: str


def info(fmt: str, context: Mapping[str, Any]) -> None:
    """Log the end of a task at INFO; *fmt* is one of the ``LOG_…`` templates."""
    logger.info(fmt, context, extra={"data": context})


def get_log_policy(task: Task, einfo: Any, exc: BaseException) -> log_policy_t:
    """Choose how the failure *exc* of *task* is logged."""
    return _outcome.failure_policy(exc, task.throws, internal=bool(einfo.internal))


def get_task_name(request: Any, default: str) -> str:
    """Return the name shown in logs: the ``shadow`` of the call, else *default*."""
    return getattr(request, "shadow", None) or default


def task_has_custom(task: Task, attr: str) -> bool:
    """Say whether the class of *task* or one of its bases overrides the hook *attr*."""
    mro = task.__class__.__mro__
    ours = {cls for cls in mro if cls.__module__ == "celery.app.task"}
    return bool(
        mro_lookup(task.__class__, attr, stop={*ours, object}, monkey_patched=["celery.app.task"])
    )


def traceback_clear(exc: BaseException | None = None) -> None:
    """Release what the frames of a handled exception hold on to.

    Args:
        exc: The exception; None for the one being handled.
    """
    tb: TracebackType | None = (
        exc.__traceback__ if isinstance(exc, BaseException) else sys.exc_info()[2]
    )
    while tb is not None:
        # A frame that still runs keeps its variables.
        with suppress(RuntimeError):
            tb.tb_frame.clear()
        tb = tb.tb_next


class TraceInfo:
    """What ended a task otherwise than by a return: its state and the exception."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval

    def handle_error_state(
        self, task: Task, req: Context, eager: bool = False, call_errbacks: bool = True
    ) -> Any:
        """Store, hook, signal and log this end; returns the `ExceptionInfo`."""
        ignored = task.ignore_result if req.ignore_result is None else req.ignore_result
        if eager and not task.store_eager_result:
            store_errors = False
        else:
            store_errors = not ignored or bool(task.store_errors_even_if_ignored)
        if self.state == RETRY:
            return self.handle_retry(task, req, store_errors=store_errors, eager=eager)
        return self.handle_failure(
            task, req, store_errors=store_errors, call_errbacks=call_errbacks, eager=eager
        )

    def handle_reject(self, task: Task, req: Context, **kwargs: Any) -> Any:
        """Log a `Reject`; its message is settled by the worker, not here."""
        return self._log_error(task, req, ExceptionInfo(internal=True))

    def handle_ignore(self, task: Task, req: Context, **kwargs: Any) -> Any:
        """Log an `Ignore`; nothing is stored, but no chord must wait for its value."""
        if (req.chord or req.chain) and not (req.is_eager or req._replaced):
            task.backend.on_no_value(req, repr(self.retval))
        return self._log_error(task, req, ExceptionInfo(internal=True))

    def handle_retry(
        self,
        task: Task,
        req: Context,
        store_errors: bool = True,
        eager: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Store RETRY with the reason of the retry; its message is already published."""
        reason = self.retval
        einfo = ExceptionInfo((type(reason), reason, reason.__traceback__))
        try:
            task.backend.mark_as_retry(
                req.id,
                reason.exc if reason.exc is not None else reason,
                einfo.traceback,
                request=req,
                store_result=store_errors,
            )
            call_hook(
                task, req, eager, task.on_retry, reason.exc, req.id, req.args, req.kwargs, einfo
            )
            signals.task_retry.send(sender=task, request=req, reason=reason, einfo=einfo)
            info(
                LOG_RETRY,
                {"id": req.id, "name": get_task_name(req, _name(task)), "exc": str(reason)},
            )
        finally:
            einfo.tb = None
        return einfo

    def handle_failure(
        self,
        task: Task,
        req: Context,
        store_errors: bool = True,
        call_errbacks: bool = True,
        eager: bool = False,
    ) -> Any:
        """Store FAILURE and call the errbacks, then hook, signal and log."""
        cause = plain_exception(self.retval)
        einfo = ExceptionInfo((type(cause), cause, cause.__traceback__))
        portable = get_pickleable_exception(cause)
        if portable is not cause:
            # What can't travel to the parent is replaced by its description.
            einfo.exception = ExceptionWithTraceback(portable, einfo.traceback)
            einfo.type = type(portable)
        task.backend.mark_as_failure(
            req.id,
            cause,
            einfo.traceback,
            request=req,
            store_result=store_errors,
            call_errbacks=call_errbacks,
        )
        call_hook(task, req, eager, task.on_failure, cause, req.id, req.args, req.kwargs, einfo)
        signals.task_failure.send(
            sender=task,
            task_id=req.id,
            exception=cause,
            args=req.args,
            kwargs=req.kwargs,
            traceback=cause.__traceback__,
            einfo=einfo,
        )
        self._log_error(task, req, einfo)
        return einfo

    def _log_error(self, task: Task, req: Context, einfo: Any) -> Any:
        exc = self.retval
        policy = get_log_policy(task, einfo, exc)
        context = {
            "hostname": req.hostname,
            "id": req.id,
            "name": get_task_name(req, _name(task)),
            "exc": str(exc) if isinstance(exc, Reject) else saferepr(exc),
            "traceback": einfo.traceback,
            "args": req.get("argsrepr") or saferepr(req.args),
            "kwargs": req.get("kwargsrepr") or saferepr(req.kwargs),
            "description": policy.description,
            "internal": einfo.internal,
        }
        logger.log(
            policy.severity,
            globals().get(_TEMPLATES.get(policy.description, ""), policy.format),
            context,
            exc_info=(type(exc), exc, exc.__traceback__) if policy.traceback else None,
            extra={"data": context},
        )
        return einfo


def call_hook(task: Task, req: Context, eager: bool, hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook whose failure must not change the outcome, which is stored by now.

    In eager mode the caller is there to see the error (B-TASK-042).
    """
    try:
        hook(*args)
    except Exception:
        if eager:
            raise
        logger.exception("Task %s[%s]: hook %s raised", _name(task), req.id, hook.__name__)


def plain_exception(exc: Any) -> Any:
    """Return the exception behind billiard's wrapper, or *exc* itself."""
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc


def _name(task: Task) -> str:
    return task.name or task.__class__.__qualname__


def _follow_up(ctx: Context, sig: Any, retval: Any, **options: Any) -> None:
    """Start one signature that follows a task, here and now when the task ran eagerly."""
    if ctx.is_eager:
        sig.apply((retval,), **options)
        return
    sig.apply_async((retval,), **options)


def _persistent(app: Celery, sig: Any) -> Any:
    """Return *sig* with a retry policy that ends, and that covers refusals of the broker."""
    if sig.subtask_type is not None:
        # Composites publish several messages, each with the policy of its own task.
        return sig
    return sig.clone(retry_policy=app.amqp.follow_up_policy(sig.options.get("retry_policy")))


def _publish_callbacks(app: Celery, ctx: Context, retval: Any, priority: int | None) -> None:
    """Send the callbacks of a task that succeeded; several go out as one group."""
    options = {"parent_id": ctx.id, "root_id": ctx.root_id or ctx.id, "priority": priority}
    sigs = [
        _persistent(app, canvas.maybe_signature(callback, app=app))
        for callback in ctx.callbacks or ()
    ]
    if len(sigs) > 1:
        # A group inside a group would be taken apart; it stays one of its own.
        groups = [sig for sig in sigs if isinstance(sig, canvas.group)]
        single = [sig for sig in sigs if not isinstance(sig, canvas.group)]
        sigs = [*groups, canvas.group(single, app=app)] if len(single) > 1 else groups + single
    for sig in sigs:
        _follow_up(ctx, sig, retval, **options)


def _publish_chain(app: Celery, ctx: Context, retval: Any, priority: int | None) -> None:
    """Send the next task of the chain, which takes the rest of it along."""
    chain: Any = vars(ctx)["chain"]
    if type(chain) is Rest and not (before_publish.receivers or after_publish.receivers):
        step, rest = chain.next()
    else:
        # Receivers of these signals are shown the body, as plain data.
        *rest, step = list(ctx.chain or ())
    _follow_up(
        ctx,
        _persistent(app, canvas.maybe_signature(step, app=app)),
        retval,
        chain=rest,
        parent_id=ctx.id,
        root_id=ctx.root_id or ctx.id,
        priority=priority,
    )


def _inherited_priority(ctx: Context) -> int | None:
    delivery = ctx.delivery_info
    return delivery.get("priority") if delivery else None


def build_tracer(
    name: str,
    task: Task,
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    Info: type[TraceInfo] = TraceInfo,
    eager: bool = False,
    propagate: bool = False,
    app: Celery | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    IGNORE_STATES: frozenset[str] = IGNORE_STATES,
) -> Tracer:
    """Return the function that executes *task* for one message.

    Args:
        name: Name of the task, for the log.
        hostname: Node name; None for the name of this machine.
        eager: Runs in the caller's process: results are stored only with
            ``task_store_eager_result``, and errors in hooks reach the caller.
        propagate: Raise what the body raises (``task_eager_propagates``).

    Returns:
        ``trace_task(uuid, args, kwargs, request=None) -> trace_ok_t``. It raises only
        `SystemExit` and `KeyboardInterrupt`; with *propagate*, also what the body raised.
    """
    task = maybe_evaluate(task)
    app = app or task.app
    loader = loader or app.loader
    conf = app.conf
    hostname = hostname or gethostname()
    # A class with a __call__ of its own decides itself how its body is run.
    body = task if task_has_custom(task, "__call__") else task.run
    before_start = task.before_start if task_has_custom(task, "before_start") else None
    on_success = task.on_success if task_has_custom(task, "on_success") else None
    after_return = task.after_return if task_has_custom(task, "after_return") else None
    track_started = not eager and bool(task.track_started)
    stores_results = not eager or bool(task.store_eager_result)
    deduplicate = (
        not eager
        and bool(task.acks_late)
        and bool(conf.worker_deduplicate_successful_tasks)
        and task.backend.persistent
    )
    may_hand_over = not eager and on_success is None and after_return is None
    inherit_priority = bool(conf.task_inherit_parent_priority)
    task_init = unless_idle(loader.on_task_init)
    clean_up_loader = unless_idle(loader.on_process_cleanup)
    backend_cleans_up: bool | None = None
    reprsize = task.resultrepr_maxsize
    push_task, pop_task = _state._task_stack.push, _state._task_stack.pop
    push_request, pop_request = task.request_stack.push, task.request_stack.pop
    prerun, postrun, succeeded = signals.task_prerun, signals.task_postrun, signals.task_success
    info_enabled = logger.isEnabledFor
    # A task that runs within another one must not end that one.
    sealed: Callable[[], Any] = (lambda: None) if eager else sealing.get

    def already_succeeded(uuid: str, ctx: Context) -> bool:
        """Say whether a redelivered message belongs to a task that has already succeeded."""
        if not (ctx.delivery_info or {}).get("redelivered"):
            return False
        if uuid in successful_requests:
            return True
        return bool(task.backend.get_state(uuid) == SUCCESS)

    def announce(uuid: str, args: Any, kwargs: Any, ctx: Context) -> None:
        """Tell everybody that the task is about to run."""
        if prerun.receivers:
            prerun.send(sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs)
        if task_init is not None:
            task_init(uuid, task)
        if track_started and not ignores_result(ctx):
            # The pid of this child, not of the process that built the tracer.
            meta = {"pid": os.getpid(), "hostname": hostname}
            task.backend.store_result(uuid, meta, STARTED, request=ctx)
        if before_start is not None:
            before_start(uuid, args, kwargs)

    def ignores_result(ctx: Context) -> bool:
        ignore = ctx.ignore_result
        return bool(task.ignore_result if ignore is None else ignore)

    def follow_up(uuid: str, retval: Any, ctx: Context) -> None:
        """Publish what comes next, then store the result, which names it as children."""
        # The chain not as an attribute, which would decode it.
        chain = vars(ctx).get("chain")
        if ctx.callbacks or chain:
            priority = _inherited_priority(ctx) if inherit_priority else None
            if ctx.callbacks:
                _publish_callbacks(app, ctx, retval, priority)
            if chain:
                _publish_chain(app, ctx, retval, priority)
        stores = stores_results and not ignores_result(ctx)
        if not (stores or ctx.chord):
            return
        # Looked up for each task: pools of threads have one back-end per thread.
        backend = task.backend
        if handover.is_open and stores and leaves_result(ctx) and backend is app.backend:
            document = backend.mark_as_done_later(uuid, retval, ctx)
            if document is not None:
                handover.give(uuid, document)
        else:
            backend.mark_as_done(uuid, retval, ctx, stores)

    def leaves_result(ctx: Context) -> bool:
        """Say whether nobody looks at the result before the main process has stored it."""
        return may_hand_over and not (ctx.chord or succeeded.receivers or postrun.receivers)

    def report_success(
        uuid: str, args: Any, kwargs: Any, retval: Any, ctx: Context, runtime: float, retstr: str
    ) -> None:
        """Run the hook, signal and log line of a success; the state is already stored."""
        if on_success is not None:
            call_hook(task, ctx, eager, on_success, retval, uuid, args, kwargs)
        if succeeded.receivers:
            succeeded.send(sender=task, result=retval, runtime=runtime)
        if info_enabled(logging.INFO):
            info(
                LOG_SUCCESS,
                {
                    "id": uuid,
                    "name": get_task_name(ctx, name),
                    "return_value": retstr,
                    "runtime": runtime,
                    "args": ctx.get("argsrepr") or saferepr(args),
                    "kwargs": ctx.get("kwargsrepr") or saferepr(kwargs),
                },
            )
        if deduplicate:
            successful_requests.add(uuid)

    def conclude_error(exc: BaseException, ctx: Context) -> tuple[TraceInfo, Any]:
        """Do what the end *exc* of the body asks for."""
        outcome = _outcome.classify(exc)
        end = Info(outcome.value, exc)
        if outcome is Outcome.IGNORED:
            return end, end.handle_ignore(task, ctx)
        if outcome is Outcome.REJECTED:
            return end, end.handle_reject(task, ctx)
        return end, end.handle_error_state(task, ctx, eager=eager)

    def cleanup() -> None:
        nonlocal backend_cleans_up
        try:
            if backend_cleans_up is None:
                # All back-ends of the task, one for each thread, are of one class.
                backend_cleans_up = unless_idle(task.backend.process_cleanup) is not None
            if backend_cleans_up:
                task.backend.process_cleanup()
            if clean_up_loader is not None:
                clean_up_loader()
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except Exception:
            logger.exception("Process cleanup failed after task %s", name)

    def run(uuid: str, args: Any, kwargs: Any, ctx: Context) -> Executed:
        """Run the body and conclude."""
        started = monotonic()
        try:
            announce(uuid, args, kwargs, ctx)
            retval = body(*args, **kwargs)
            if type(retval) is CoroutineType:
                retval = _coroutines.complete(retval)
            if (seal := sealed()) is not None:
                seal()
            follow_up(uuid, retval, ctx)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if propagate and not isinstance(exc, (Ignore, Reject)):
                raise
            if (seal := sealed()) is not None:
                seal()
            end, einfo = conclude_error(exc, ctx)
            traceback_clear(exc)
            return einfo, end, monotonic() - started, "", end.state
        runtime = monotonic() - started
        retstr = saferepr(retval, reprsize)
        report_success(uuid, args, kwargs, retval, ctx, runtime, retstr)
        return retval, None, runtime, retstr, SUCCESS

    def run_steps(uuid: str, args: Any, kwargs: Any, ctx: Context) -> Generator[Any, Any, Executed]:
        """Do what `run` does, with the coroutine run by the caller."""
        started = monotonic()
        try:
            announce(uuid, args, kwargs, ctx)
            retval = yield body(*args, **kwargs)
            follow_up(uuid, retval, ctx)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - the border to task code
            end, einfo = conclude_error(exc, ctx)
            traceback_clear(exc)
            return einfo, end, monotonic() - started, "", end.state
        runtime = monotonic() - started
        retstr = saferepr(retval, reprsize)
        report_success(uuid, args, kwargs, retval, ctx, runtime, retstr)
        return retval, None, runtime, retstr, SUCCESS

    def enter(uuid: str, args: Any, kwargs: Any, request: Any) -> Context | None:
        """Make the request current; None if the task has run already."""
        make = LongChainContext if request and type(request.get("chain")) is Rest else Context
        ctx = make(request or (), args=args, called_directly=False, kwargs=kwargs)
        ctx.id = uuid
        if deduplicate and already_succeeded(uuid, ctx):
            logger.info("Task %s[%s] already succeeded: not run again", name, uuid)
            return None
        push_task(task)
        push_request(ctx)
        return ctx

    def refuse(error: InvalidTaskError, ctx: Context) -> Executed:
        """Conclude a call that can't be made."""
        try:
            # Described with a traceback, which only a raised error has.
            raise error
        except InvalidTaskError as exc:
            end, einfo = conclude_error(exc, ctx)
        return einfo, end, 0.0, "", end.state

    def returned(uuid: str, args: Any, kwargs: Any, ctx: Context, done: Executed) -> None:
        result, end, _runtime, _retstr, state = done
        if state not in IGNORE_STATES:
            outcome = end.retval if end is not None else result
            hook = task.after_return
            call_hook(task, ctx, eager, hook, state, outcome, uuid, args, kwargs, None)

    def leave(uuid: str, args: Any, kwargs: Any, done: Executed | None) -> None:
        """Announce the end; the request is current no more."""
        try:
            if postrun.receivers:
                result, state = (None, None) if done is None else (done[0], done[4])
                postrun.send(
                    sender=task,
                    task_id=uuid,
                    task=task,
                    args=args,
                    kwargs=kwargs,
                    retval=plain_exception(result.exception)
                    if isinstance(result, ExceptionInfo)
                    else result,
                    state=state,
                )
        finally:
            pop_task()
            pop_request()
            if not eager:
                cleanup()

    def trace_task(uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        done: Executed | None = None
        bad_call = None if type(kwargs) is dict else _outcome.argument_error(kwargs)
        ctx = enter(uuid, args, kwargs, request)
        if ctx is None:
            return trace_ok_t(None, None, 0.0, "")
        try:
            if bad_call is not None:
                done = refuse(bad_call, ctx)
                return trace_ok_t(*done[:4])
            done = run(uuid, args, kwargs, ctx)
            if after_return is not None:
                returned(uuid, args, kwargs, ctx, done)
            return trace_ok_t(*done[:4])
        finally:
            leave(uuid, args, kwargs, done)

    def steps(
        uuid: str, args: Any, kwargs: Any, request: Any = None
    ) -> Generator[Any, Any, trace_ok_t]:
        """Do what `trace_task` does, with the coroutine run by the caller."""
        done: Executed | None = None
        bad_call = None if type(kwargs) is dict else _outcome.argument_error(kwargs)
        ctx = enter(uuid, args, kwargs, request)
        if ctx is None:
            return trace_ok_t(None, None, 0.0, "")
        try:
            if bad_call is not None:
                done = refuse(bad_call, ctx)
                return trace_ok_t(*done[:4])
            done = yield from run_steps(uuid, args, kwargs, ctx)
            if after_return is not None:
                returned(uuid, args, kwargs, ctx, done)
            return trace_ok_t(*done[:4])
        finally:
            leave(uuid, args, kwargs, done)

    if is_coroutine_function(body):
        setattr(trace_task, "steps", steps)  # noqa: B010 - a function has no such field by type

    return trace_task


def trace_task(
    task: Task, uuid: str, args: Any, kwargs: Any, request: Any = None, **opts: Any
) -> trace_ok_t:
    """Execute *task* once; the tracer is built on first use and kept on the task.

    What goes wrong outside the body is reported and returned, never raised.
    """
    try:
        tracer = task.__trace__
        if tracer is None:
            tracer = task.__trace__ = build_tracer(_name(task), task, **opts)
        return tracer(uuid, args, kwargs, request)
    except Exception as exc:  # noqa: BLE001 - the border between pool and task
        return _internal_error(task, uuid, args, kwargs, request, exc)


def _internal_error(
    task: Task, uuid: str, args: Any, kwargs: Any, request: Any, exc: BaseException
) -> trace_ok_t:
    """Report *exc*, which the machinery around the body raised, and say that the task failed."""
    _signal_internal_error(task, uuid, args, kwargs, request, exc)
    einfo = report_internal_error(task, exc)
    _store_internal_error(task, uuid, einfo, request)
    return trace_ok_t(einfo, TraceInfo(FAILURE, exc), 0.0, "")


def _signal_internal_error(
    task: Task, uuid: str, args: Any, kwargs: Any, request: Any, exc: BaseException
) -> None:
    einfo = ExceptionInfo((type(exc), exc, exc.__traceback__))
    signals.task_internal_error.send(
        sender=task,
        task_id=uuid,
        args=args,
        kwargs=kwargs,
        request=request,
        exception=exc,
        traceback=exc.__traceback__,
        einfo=einfo,
    )


def _store_internal_error(task: Task, uuid: str, einfo: Any, request: Any) -> None:
    """Leave a final state behind even when the machinery around the body failed."""
    try:
        task.backend.mark_as_failure(
            uuid,
            plain_exception(einfo.exception),
            einfo.traceback,
            request=Context(request or ()),
            call_errbacks=False,
        )
    except Exception:
        logger.exception("Cannot store the failure of task %s[%s]", task.name, uuid)


def report_internal_error(task: Task, exc: BaseException) -> Any:
    """Warn that *exc* was raised around a task body, not by it; returns its `ExceptionInfo`."""
    einfo = ExceptionInfo((type(exc), exc, exc.__traceback__))
    if isinstance(exc, EncodeError):
        # An unserializable value is the task's own doing; say no more than that.
        return einfo
    warnings.warn(
        f"Exception raised outside body of task {task.name}: {exc!r}\n{einfo.traceback}",
        RuntimeWarning,
        stacklevel=2,
    )
    return einfo


def trace_task_ret(
    name: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any] = loads_message,
    app: Celery | None = None,
    **extra_request: Any,
) -> tuple[int, Any, float]:
    """Execute a message in a pool process; the form that any pool can call.

    Args:
        body: The undecoded body; with *content_type* None the decoded one.

    Returns:
        ``(failed, value, runtime)``: with *failed* 1 the value is an `ExceptionInfo`,
        with 0 the repr of the result.
    """
    app = app or _state.get_current_app()
    return _execute(
        app.tasks[name], uuid, request, body, content_type, content_encoding, loads,
        app.amqp.accept_content, extra_request,
    )  # fmt: skip


def fast_trace_task(
    task: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any] = loads_message,
    _loc: list[Any] | None = None,
    hostname: str | None = None,
    **_: Any,
) -> tuple[int, Any, float]:
    """Execute a message in a process that `setup_worker_optimizations` prepared."""
    tasks, accept, _node = _loc or _localized
    return _execute(
        tasks[task], uuid, request, body, content_type, content_encoding, loads, accept, None
    )


def steps_of(
    name: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any] = loads_message,
    app: Celery | None = None,
    **extra_request: Any,
) -> Steps | None:
    """Return the execution of a message in two steps, for a pool that runs coroutines itself.

    Returns:
        None for a task that isn't a coroutine function: it goes through `trace_task_ret`. What
        runs before the coroutine and after it may block.
    """
    app = app or _state.get_current_app()
    task = app.tasks[name]
    steps = getattr(task.__trace__, "steps", None)
    if steps is None:
        return None
    return _execute_steps(
        task, steps, uuid, request, body, content_type, content_encoding, loads,
        app.amqp.accept_content, extra_request,
    )  # fmt: skip


def fast_steps_of(
    task: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any] = loads_message,
    _loc: list[Any] | None = None,
    hostname: str | None = None,
    **_: Any,
) -> Steps | None:
    """Do what `steps_of` does in a process that `setup_worker_optimizations` prepared."""
    tasks, accept, _node = _loc or _localized
    found = tasks[task]
    steps = getattr(found.__trace__, "steps", None)
    if steps is None:
        return None
    return _execute_steps(
        found, steps, uuid, request, body, content_type, content_encoding, loads, accept, None
    )


def _execute_steps(
    task: Task,
    steps: Callable[..., Generator[Any, Any, trace_ok_t]],
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any],
    accept: Any,
    extra: dict[str, Any] | None,
) -> Steps:
    try:
        args, kwargs = _decoded(request, body, content_type, content_encoding, loads, accept, extra)
    except Exception as exc:  # noqa: BLE001 - whatever a broken body makes a codec raise
        return _undecodable(task, uuid, request, exc)
    try:
        done = yield from steps(uuid, args, kwargs, request)
    except Exception as exc:  # noqa: BLE001 - the border between pool and task
        done = _internal_error(task, uuid, args, kwargs, request, exc)
    return _answer(done)


def _execute(
    task: Task,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any],
    accept: Any,
    extra: dict[str, Any] | None,
) -> tuple[int, Any, float]:
    try:
        args, kwargs = _decoded(request, body, content_type, content_encoding, loads, accept, extra)
    except Exception as exc:  # noqa: BLE001 - whatever a broken body makes a codec raise
        return _undecodable(task, uuid, request, exc)
    return _answer(trace_task(task, uuid, args, kwargs, request))


def _answer(done: trace_ok_t) -> tuple[int, Any, float]:
    retval, end, runtime, retstr = done
    return (1, retval, runtime) if end is not None else (0, retstr, runtime)


def _decoded(
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    loads: Callable[..., Any],
    accept: Any,
    extra: dict[str, Any] | None,
) -> tuple[Any, Any]:
    """Decode the arguments, and complete the fields of *request*."""
    if content_type:
        args, kwargs, embed = loads(body, content_type, content_encoding, accept=accept)
    else:
        args, kwargs, embed = body
    if extra:
        request.update(extra)
    if embed:
        request.update(embed)
    request["args"], request["kwargs"] = args, kwargs
    return args, kwargs


def _undecodable(
    task: Task, uuid: str, request: dict[str, Any], exc: BaseException
) -> tuple[int, Any, float]:
    """Fail a message whose body can't be decoded, with a stored state and a log line."""
    ctx = Context(request, args=(), kwargs={}, called_directly=False)
    ctx.id = uuid
    einfo = TraceInfo(FAILURE, exc).handle_error_state(task, ctx)
    return 1, einfo, 0.0


def setup_worker_optimizations(app: Celery, hostname: str | None = None) -> None:
    """Prepare this process to run nothing but tasks of *app*.

    Binds the registry and the accepted content, makes *app* current and default, and
    builds no tracer yet: each is built on the task's first run or by the worker.
    """
    hostname = hostname or gethostname()
    app.set_current()
    app.set_default()
    app.finalize()
    _localized[:] = [app._tasks, prepare_accept_content(app.conf.accept_content), hostname]
    app.use_fast_trace_task = True


def reset_worker_optimizations(app: Any = _state.current_app) -> None:
    """Undo `setup_worker_optimizations`; used between tests."""
    app.use_fast_trace_task = False
    _localized.clear()
