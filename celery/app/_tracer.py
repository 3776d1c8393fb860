"""The parts of a tracer: what happens around the body of a task.

Each function here is called once for a task, binds what is the same for all its messages, and
returns the function that does one step of an execution. So the steps have names and a screen
each, while a message pays for none of the look-ups. `celery.app.trace.build_tracer` puts them
together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback

from celery import _state, signals
from celery._protocol.rest import Rest
from celery.app import _follow_ups
from celery.app._context import Context, LongChainContext
from celery.app._handover import handover
from celery.app._sealing import Ended, Seal, sealing
from celery.states import IGNORED, REJECTED, RETRY, STARTED, SUCCESS
from celery.utils.collections import LimitedSet
from celery.utils.functional import unless_idle
from celery.utils.log import get_logger
from celery.utils.objects import mro_lookup

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task

logger = get_logger("celery.app.trace")

IGNORE_STATES = frozenset({IGNORED, REJECTED, RETRY})

#: Most successful ids remembered for deduplication (``CELERY_WORKER_SUCCESSFUL_MAX``).
SUCCESSFUL_MAX = int(os.environ.get("CELERY_WORKER_SUCCESSFUL_MAX") or 1000)

#: Seconds for which a successful id counts (``CELERY_WORKER_SUCCESSFUL_EXPIRES``).
SUCCESSFUL_EXPIRES = float(os.environ.get("CELERY_WORKER_SUCCESSFUL_EXPIRES") or 10800)

#: Ids that ended in SUCCESS in this process, for ``worker_deduplicate_successful_tasks``.
successful_requests: LimitedSet = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)

#: How a body ended: what it returned or an `ExceptionInfo`, None or a `TraceInfo`, the seconds it
#: took, the value as text, the state.
Executed = tuple[Any, Any, float, str, str]


def task_has_custom(task: Task, attr: str) -> bool:
    """Say whether the class of *task* or one of its bases overrides the hook *attr*."""
    mro = task.__class__.__mro__
    ours = {cls for cls in mro if cls.__module__ == "celery.app.task"}
    return bool(
        mro_lookup(task.__class__, attr, stop={*ours, object}, monkey_patched=["celery.app.task"])
    )


def task_name(task: Task) -> str:
    """Return the name of *task*, for the log."""
    return task.name or task.__class__.__qualname__


def call_hook(task: Task, req: Context, eager: bool, hook: Callable[..., Any], *args: Any) -> None:
    """Call a hook whose failure must not change the outcome, which is stored by now.

    In eager mode the caller is there to see the error (B-TASK-042).
    """
    try:
        hook(*args)
    except Exception:
        if eager:
            raise
        logger.exception("Task %s[%s]: hook %s raised", task_name(task), req.id, hook.__name__)


def plain_exception(exc: Any) -> Any:
    """Return the exception behind billiard's wrapper, or *exc* itself."""
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A task, and what is known of it before its first message.

    Hooks are None where the class of the task leaves them alone.
    """

    task: Task
    name: str
    app: Celery
    loader: Any
    hostname: str
    eager: bool
    before_start: Callable[..., Any] | None
    on_success: Callable[..., Any] | None
    after_return: Callable[..., Any] | None
    #: A redelivered message is not run again where its task is known to have succeeded.
    deduplicates: bool

    @classmethod
    def of(
        cls, task: Task, *, name: str, app: Celery, loader: Any, hostname: str, eager: bool
    ) -> Traced:
        """Look at *task* once, for all its messages."""

        def own(hook: str) -> Any:
            return getattr(task, hook) if task_has_custom(task, hook) else None

        return cls(
            task=task,
            name=name,
            app=app,
            loader=loader,
            hostname=hostname,
            eager=eager,
            before_start=own("before_start"),
            on_success=own("on_success"),
            after_return=own("after_return"),
            deduplicates=(
                not eager
                and bool(task.acks_late)
                and bool(app.conf.worker_deduplicate_successful_tasks)
                and task.backend.persistent
            ),
        )

    def ignores_result(self, ctx: Context) -> bool:
        """Say whether nothing is stored of the call *ctx*."""
        ignore = ctx.ignore_result
        return bool(self.task.ignore_result if ignore is None else ignore)


def entrance(traced: Traced) -> Callable[..., Context | None]:
    """Return what makes a request current."""
    task, name, deduplicates = traced.task, traced.name, traced.deduplicates
    push_task, push_request = _state._task_stack.push, task.request_stack.push

    def already_succeeded(uuid: str, ctx: Context) -> bool:
        """Say whether a redelivered message belongs to a task that has already succeeded."""
        if not (ctx.delivery_info or {}).get("redelivered"):
            return False
        if uuid in successful_requests:
            return True
        return bool(task.backend.get_state(uuid) == SUCCESS)

    def enter(uuid: str, args: Any, kwargs: Any, request: Any) -> Context | None:
        """Make the request current; None if the task has run already."""
        make = LongChainContext if request and type(request.get("chain")) is Rest else Context
        ctx = make(request or (), args=args, called_directly=False, kwargs=kwargs)
        ctx.id = uuid
        if deduplicates and already_succeeded(uuid, ctx):
            logger.info("Task %s[%s] already succeeded: not run again", name, uuid)
            return None
        push_task(task)
        push_request(ctx)
        return ctx

    return enter


def announcer(traced: Traced) -> Callable[..., None]:
    """Return what tells everybody that the task is about to run."""
    task, hostname, before_start = traced.task, traced.hostname, traced.before_start
    ignores_result = traced.ignores_result
    prerun = signals.task_prerun
    task_init = unless_idle(traced.loader.on_task_init)
    track_started = not traced.eager and bool(task.track_started)

    def announce(uuid: str, args: Any, kwargs: Any, ctx: Context) -> None:
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

    return announce


def seal_of(traced: Traced) -> Callable[[], Seal | None]:
    """Return what asks for the seal of the running task; see `celery.app._sealing`."""
    # A task that runs within another one must not end that one.
    return (lambda: None) if traced.eager else sealing.get


def follower(traced: Traced) -> Callable[..., None]:
    """Return what publishes the follow-ups of a success and stores its result."""
    task, app, ignores_result = traced.task, traced.app, traced.ignores_result
    succeeded, postrun = signals.task_success, signals.task_postrun
    stores_results = not traced.eager or bool(task.store_eager_result)
    inherit_priority = bool(app.conf.task_inherit_parent_priority)
    has_hooks = traced.on_success is not None or traced.after_return is not None
    may_hand_over = not traced.eager and not has_hooks
    sealed = seal_of(traced)

    def leaves_result(ctx: Context) -> bool:
        """Say whether nobody looks at the result before the main process has stored it."""
        return may_hand_over and not (ctx.chord or succeeded.receivers or postrun.receivers)

    def noter(seal: Seal, retval: Any, ctx: Context, stores: bool) -> Callable[..., None]:
        """Return what notes a success of which so much is *unsent*."""

        def note(unsent: list[_follow_ups.FollowUp]) -> None:
            seal(Ended(retval, None, task.backend.current_task_children(ctx), stores, True, unsent))

        return note

    def follow_up(uuid: str, retval: Any, ctx: Context) -> None:
        """Publish what comes next, then store the result, which names it as children."""
        seal, note = sealed(), None
        stores = stores_results and not ignores_result(ctx)
        # The chain not as an attribute, which would decode it.
        if ctx.callbacks or vars(ctx).get("chain"):
            note = None if seal is None else noter(seal, retval, ctx, stores)
            _follow_ups.publish(app, ctx, retval, inherit_priority=inherit_priority, note=note)
        if not (stores or ctx.chord or note):
            return
        # Looked up for each task: pools of threads have one back-end per thread.
        backend = task.backend
        if seal is not None:
            seal(Ended(retval, None, backend.current_task_children(ctx), stores))
        if handover.is_open and stores and leaves_result(ctx) and backend is app.backend:
            document = backend.mark_as_done_later(uuid, retval, ctx)
            if document is not None:
                handover.give(uuid, document)
        else:
            backend.mark_as_done(uuid, retval, ctx, stores)

    return follow_up


def hook_after(traced: Traced, silent: frozenset[str]) -> Callable[..., None] | None:
    """Return what calls ``after_return``, or None for a task without it.

    Args:
        silent: The states that the hook is not told of.
    """
    task, eager = traced.task, traced.eager
    if traced.after_return is None:
        return None

    def returned(uuid: str, args: Any, kwargs: Any, ctx: Context, done: Executed) -> None:
        result, end, _runtime, _retstr, state = done
        if state not in silent:
            outcome = end.retval if end is not None else result
            hook = task.after_return
            call_hook(task, ctx, eager, hook, state, outcome, uuid, args, kwargs, None)

    return returned


def exit_from(traced: Traced) -> Callable[..., None]:
    """Return what announces the end of an execution, and leaves its request."""
    task, eager = traced.task, traced.eager
    postrun = signals.task_postrun
    pop_task, pop_request = _state._task_stack.pop, task.request_stack.pop
    clean_up = _cleaner(traced)

    def leave(uuid: str, args: Any, kwargs: Any, done: Executed | None) -> None:
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
                clean_up()

    return leave


def _cleaner(traced: Traced) -> Callable[[], None]:
    """Return what gives back-end and loader their chance to clean up after a task."""
    task, name = traced.task, traced.name
    clean_up_loader = unless_idle(traced.loader.on_process_cleanup)
    backend_cleans_up: bool | None = None

    def clean_up() -> None:
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

    return clean_up
