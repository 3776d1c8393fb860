"""What the worker does about a failed task when no pool process is left to do it.

It stores and announces the failure, tells the chord, or publishes the task anew. Nothing here
settles the message: the request does, which calls this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app import trace as tracing
from celery.exceptions import Retry
from celery.states import FAILURE, RETRY
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.worker._settle import End

if TYPE_CHECKING:
    from celery.worker.request import Request

logger = get_logger("celery.worker.request")


def store(request: Request, end: End, exc: BaseException, einfo: Any) -> None:
    """Store and announce the failure of *request*."""
    task, context = request.task, request._context
    call = request.id, context.args, context.kwargs
    try:
        task.backend.mark_as_failure(
            request.id, exc, einfo.traceback, request=context, store_result=request.store_errors
        )
        if end is End.TIMED_OUT:
            # Hooks of the task run here only for the hard limit.
            task.on_failure(exc, *call, einfo)
            task.after_return(FAILURE, exc, *call, einfo)
    except Exception:
        logger.exception("Cannot store the failure of task %s", request.id)
    signals.task_failure.send(
        sender=task,
        task_id=request.id,
        exception=exc,
        args=context.args,
        kwargs=context.kwargs,
        traceback=text_of(einfo.traceback),
        einfo=einfo,
    )


def tell_chord(request: Request, exc: BaseException) -> None:
    """Let the chord know that the task will not come again, though it asked to."""
    context = request._context
    if context.chord or context.chain:
        try:
            request.task.backend.on_no_value(context, repr(exc))
        except Exception:
            logger.exception("Cannot store that task %s was rejected", request.id)


def try_again(request: Request, exc: BaseException) -> bool:
    """Publish the task anew after a lost process; false when it may not be, or can't."""
    task, context = request.task, request._context
    task.push_request(**vars(context))
    reason: Retry | None = None
    try:
        task.retry(exc=exc)
    except Retry as again:
        reason = again
    except Exception as error:  # noqa: BLE001 - no attempts left, or no broker: it failed
        logger.debug("Task %s is not tried again: %r", request.id, error)
        return False
    finally:
        task.pop_request()
    if reason is None:
        return False
    try:
        einfo = tracing.TraceInfo(RETRY, reason).handle_retry(
            task, context, store_errors=request.store_errors
        )
    except Exception:
        logger.exception("Cannot store the retry of task %s", request.id)
    else:
        request.send_event(
            "task-retried", exception=saferepr(exc), traceback=text_of(einfo.traceback)
        )
    return True


def text_of(traceback: Any) -> str | None:
    """Return *traceback* as events and signals carry it."""
    return None if traceback is None else str(traceback)
