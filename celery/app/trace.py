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
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from kombu.serialization import prepare_accept_content

from celery import _state, signals
from celery._protocol.body import loads as loads_message
from celery.app import _coroutines, _internal_errors, _outcome, _tracer
from celery.app._context import Context
from celery.app._internal_errors import report_internal_error as report_internal_error
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
    log_policy_t as log_policy_t,
    log_policy_unexpected as log_policy_unexpected,
)
from celery.app._sealing import Ended, sealed_as
from celery.app._tracer import (
    IGNORE_STATES as IGNORE_STATES,
    Executed,
    Traced,
    call_hook,
    plain_exception as plain_exception,
    successful_requests as successful_requests,
    task_has_custom as task_has_custom,
    task_name,
)
from celery.exceptions import Ignore, InvalidTaskError, Reject
from celery.local import maybe_evaluate
from celery.states import (
    EXCEPTION_STATES as EXCEPTION_STATES,
    FAILURE,
    IGNORED as IGNORED,
    REJECTED as REJECTED,
    RETRY,
    STARTED as STARTED,
    SUCCESS,
)
from celery.utils.functional import is_coroutine_function
from celery.utils.log import get_logger
from celery.utils.nodenames import gethostname
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

#: What replacements of `build_tracer` by other packages import from here, and where it is.
_FOR_OTHERS = {
    "AsyncResult": "celery.result",
    "BackendGetMetaError": "celery.exceptions",
    "Retry": "celery.exceptions",
    "group": "celery.canvas",
    "safe_repr": "kombu.utils.encoding",
    "_task_stack": "celery._state",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _FOR_OTHERS:
        return getattr(import_module(_FOR_OTHERS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


logger = get_logger(__name__)

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
        einfo = ExceptionInfo(internal=True)
        if not req.is_eager:
            sealed_as(Ended(error=einfo))
        return self._log_error(task, req, einfo)

    def handle_ignore(self, task: Task, req: Context, **kwargs: Any) -> Any:
        """Log an `Ignore`; nothing is stored, but no chord must wait for its value."""
        einfo = ExceptionInfo(internal=True)
        if not req.is_eager:
            if (req.chord or req.chain) and not req._replaced:
                task.backend.on_no_value(req, repr(self.retval))
            sealed_as(Ended(error=einfo))
        return self._log_error(task, req, einfo)

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
        if not eager:
            sealed_as(Ended(error=einfo))
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
                {"id": req.id, "name": get_task_name(req, task_name(task)), "exc": str(reason)},
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
        if not eager:
            sealed_as(Ended(error=einfo))
        task.backend.mark_as_failure(
            req.id,
            cause,
            einfo.traceback,
            request=req,
            store_result=store_errors,
            call_errbacks=call_errbacks,
        )
        if not eager and req.errbacks:
            # Should this process vanish in what follows, they must not be called once more.
            sealed_as(Ended(error=einfo, is_done=True))
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
            "name": get_task_name(req, task_name(task)),
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
    traced = Traced.of(
        task,
        name=name,
        app=app,
        loader=loader or app.loader,
        hostname=hostname or gethostname(),
        eager=eager,
    )
    # A class with a __call__ of its own decides itself how its body is run.
    body = task if task_has_custom(task, "__call__") else task.run
    enter, leave = _tracer.entrance(traced), _tracer.exit_from(traced)
    returned = _tracer.hook_after(traced, IGNORE_STATES)
    fail = _failer(traced, Info, monotonic)
    refuse = _refuser(fail)
    run, run_steps = _runners(traced, body, fail, propagate, monotonic)

    def trace_task(uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        done: Executed | None = None
        ctx = enter(uuid, args, kwargs, request)
        if ctx is None:
            return trace_ok_t(None, None, 0.0, "")
        try:
            if type(kwargs) is not dict and (error := _outcome.argument_error(kwargs)):
                done = refuse(error, ctx)
            else:
                done = run(uuid, args, kwargs, ctx)
                if returned is not None:
                    returned(uuid, args, kwargs, ctx, done)
            return trace_ok_t(*done[:4])
        finally:
            leave(uuid, args, kwargs, done)

    if is_coroutine_function(body):
        steps = _stepwise(enter, refuse, run_steps, returned, leave)
        setattr(trace_task, "steps", steps)  # noqa: B010 - a function has no such field by type

    return trace_task


def _stepwise(
    enter: Callable[..., Context | None],
    refuse: Callable[[InvalidTaskError, Context], Executed],
    run_steps: Callable[..., Generator[Any, Any, Executed]],
    returned: Callable[..., None] | None,
    leave: Callable[..., None],
) -> Callable[..., Generator[Any, Any, trace_ok_t]]:
    """Return what does as a tracer does, with the coroutine of the task run by the caller."""

    def steps(
        uuid: str, args: Any, kwargs: Any, request: Any = None
    ) -> Generator[Any, Any, trace_ok_t]:
        # The same as in `build_tracer`, but for one "yield from", which a function can't share.
        done: Executed | None = None
        ctx = enter(uuid, args, kwargs, request)
        if ctx is None:
            return trace_ok_t(None, None, 0.0, "")
        try:
            if type(kwargs) is not dict and (error := _outcome.argument_error(kwargs)):
                done = refuse(error, ctx)
            else:
                done = yield from run_steps(uuid, args, kwargs, ctx)
                if returned is not None:
                    returned(uuid, args, kwargs, ctx, done)
            return trace_ok_t(*done[:4])
        finally:
            leave(uuid, args, kwargs, done)

    return steps


def _runners(
    traced: Traced,
    body: Callable[..., Any],
    fail: Callable[..., Executed],
    propagate: bool,
    monotonic: Callable[[], float],
) -> tuple[Callable[..., Executed], Callable[..., Generator[Any, Any, Executed]]]:
    """Return what runs the body and concludes: here, or with its coroutine run by the caller."""
    announce, follow_up = _tracer.announcer(traced), _tracer.follower(traced)
    succeed = _succeeder(traced, monotonic)
    sealed = _tracer.seal_of(traced)

    def run(uuid: str, args: Any, kwargs: Any, ctx: Context) -> Executed:
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
            return fail(exc, ctx, started)
        return succeed(uuid, args, kwargs, retval, ctx, started)

    def run_steps(uuid: str, args: Any, kwargs: Any, ctx: Context) -> Generator[Any, Any, Executed]:
        started = monotonic()
        try:
            announce(uuid, args, kwargs, ctx)
            retval = yield body(*args, **kwargs)
            follow_up(uuid, retval, ctx)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - the border to task code
            return fail(exc, ctx, started)
        return succeed(uuid, args, kwargs, retval, ctx, started)

    return run, run_steps


def _succeeder(traced: Traced, monotonic: Callable[[], float]) -> Callable[..., Executed]:
    """Return what tells of a success by hook, signal and log; its state is already stored."""
    task, name, eager, on_success = traced.task, traced.name, traced.eager, traced.on_success
    deduplicates = traced.deduplicates
    reprsize = task.resultrepr_maxsize
    succeeded = signals.task_success
    info_enabled = logger.isEnabledFor

    def succeed(
        uuid: str, args: Any, kwargs: Any, retval: Any, ctx: Context, started: float
    ) -> Executed:
        runtime = monotonic() - started
        retstr = saferepr(retval, reprsize)
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
        if deduplicates:
            successful_requests.add(uuid)
        return retval, None, runtime, retstr, SUCCESS

    return succeed


def _failer(
    traced: Traced, Info: type[TraceInfo], monotonic: Callable[[], float]
) -> Callable[..., Executed]:
    """Return what concludes an execution that an exception has ended."""
    task, eager = traced.task, traced.eager

    def fail(exc: BaseException, ctx: Context, started: float | None) -> Executed:
        """Do what *exc* asks for; *started* is None where the body was not reached."""
        outcome = _outcome.classify(exc)
        end = Info(outcome.value, exc)
        if outcome is Outcome.IGNORED:
            einfo = end.handle_ignore(task, ctx)
        elif outcome is Outcome.REJECTED:
            einfo = end.handle_reject(task, ctx)
        else:
            einfo = end.handle_error_state(task, ctx, eager=eager)
        traceback_clear(exc)
        return einfo, end, 0.0 if started is None else monotonic() - started, "", end.state

    return fail


def _refuser(fail: Callable[..., Executed]) -> Callable[[InvalidTaskError, Context], Executed]:
    """Return what concludes a call that can't be made."""

    def refuse(error: InvalidTaskError, ctx: Context) -> Executed:
        try:
            # Described with a traceback, which only a raised error has.
            raise error
        except InvalidTaskError as exc:
            return fail(exc, ctx, None)

    return refuse


def trace_task(
    task: Task, uuid: str, args: Any, kwargs: Any, request: Any = None, **opts: Any
) -> trace_ok_t:
    """Execute *task* once; the tracer is built on first use and kept on the task.

    What goes wrong outside the body is reported and returned, never raised.
    """
    try:
        tracer = task.__trace__
        if tracer is None:
            tracer = task.__trace__ = build_tracer(task_name(task), task, **opts)
        return tracer(uuid, args, kwargs, request)
    except Exception as exc:  # noqa: BLE001 - the border between pool and task
        return _internal_error(task, uuid, args, kwargs, request, exc)


def _internal_error(
    task: Task, uuid: str, args: Any, kwargs: Any, request: Any, exc: BaseException
) -> trace_ok_t:
    """Report *exc*, which the machinery around the body raised, and say that the task failed."""
    _internal_errors.send_signal(task, uuid, args, kwargs, request, exc)
    einfo = report_internal_error(task, exc)
    _internal_errors.store(task, uuid, einfo, request)
    return trace_ok_t(einfo, TraceInfo(FAILURE, exc), 0.0, "")


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
    target: Callable[..., Any],
    name: str,
    uuid: str,
    request: dict[str, Any],
    body: Any,
    content_type: str | None,
    content_encoding: str | None,
    app: Celery | None = None,
    **extra_request: Any,
) -> Steps | None:
    """Return the execution of a message in two steps, for a pool that runs coroutines itself.

    Args:
        target: `fast_trace_task` or `trace_task_ret`, which does it in one.

    Returns:
        None for a task that isn't a coroutine function: *target* runs it. What runs before the
        coroutine and after it may block.
    """
    if target is fast_trace_task:
        tasks, accept, _node = _localized
    else:
        app = app or _state.get_current_app()
        tasks, accept = app.tasks, app.amqp.accept_content
    task = tasks[name]
    steps = getattr(task.__trace__, "steps", None)
    if steps is None:
        return None

    def execute() -> Steps:
        try:
            args, kwargs = _decoded(
                request, body, content_type, content_encoding, loads_message, accept, extra_request
            )
        except Exception as exc:  # noqa: BLE001 - whatever a broken body makes a codec raise
            return _undecodable(task, uuid, request, exc)
        try:
            done = yield from steps(uuid, args, kwargs, request)
        except Exception as exc:  # noqa: BLE001 - the border between pool and task
            done = _internal_error(task, uuid, args, kwargs, request, exc)
        return _answer(done)

    return execute()


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
