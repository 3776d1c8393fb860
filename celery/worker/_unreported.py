"""What becomes of a task whose process was lost after its body, before it reported.

How the body ended is known (`celery.app._sealing`); how much of that has reached the store is not,
and it may still be on its way. So it is stored again, the same, and the request ends accordingly:
one final state, the work is not done again, and no chord waits for ever. Callbacks and the next
step of a chain that were not sent for sure are sent first, under the ids that they had. Hooks and
signals of a success belong to the process, and are not run here.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from celery import _state
from celery.app import _follow_ups
from celery.app._tracer import plain_exception
from celery.concurrency.base import describe
from celery.exceptions import Retry
from celery.result import result_from_tuple
from celery.states import SUCCESS
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr

if TYPE_CHECKING:
    from celery.app._sealing import Ended, UnreportedEnd
    from celery.worker.request import Request

logger = get_logger("celery.worker.request")


def conclude(request: Request, lost: UnreportedEnd) -> bool:
    """End *request* as its process was about to; false when that is not known after all."""
    ended = lost.ended
    logger.warning("Task %s had ended when its process was lost: %s", request, lost)
    if ended.error is not None:
        _fail(request, ended.error, ended.is_done)
        return True
    try:
        value = _store(request, ended) if ended.is_whole else _look(request)
    except LookupError:
        return False
    except Exception as error:
        logger.exception("Cannot do what was left to do for task %s", request.id)
        request.on_failure(describe(error))
        return True
    runtime_s = time() - (request.time_start or time())
    request.on_success((0, saferepr(value, request.task.resultrepr_maxsize), runtime_s))
    return True


def _store(request: Request, ended: Ended) -> Any:
    context = request._context
    context.children.extend(result_from_tuple(child, request.app) for child in ended.children or ())
    if ended.unsent:
        _send(request, ended)
    request.task.backend.mark_as_done(request.id, ended.value, context, ended.stores)
    return ended.value


def _send(request: Request, ended: Ended) -> None:
    logger.warning("Sending what follows on task %s, of which one may be on its way", request)
    app, task, context = request.app, request.task, request._context
    priority = bool(app.conf.task_inherit_parent_priority)
    # What is sent belongs to the task: its stamps, its children.
    _state._task_stack.push(task)
    task._get_stack().push(context)
    try:
        _follow_ups.publish_noted(
            app, context, ended.value, ended.unsent or [], inherit_priority=priority
        )
    finally:
        task.request_stack.pop()
        _state._task_stack.pop()


def _look(request: Request) -> Any:
    """Return the value that the process has stored; it was too much to be kept elsewhere.

    Raises:
        LookupError: It has not, so it is lost.
    """
    backend, context = request.task.backend, request._context
    stored = backend.get_task_meta(request.id, cache=False)
    if stored["status"] != SUCCESS:
        raise LookupError(request.id)
    if context.chord:
        backend.on_chord_part_return(context, SUCCESS, stored["result"])
    return stored["result"]


def _fail(request: Request, error: Any, is_stored: bool) -> None:
    reason = plain_exception(error.exception)
    if isinstance(reason, Retry):
        try:
            request.task.backend.mark_as_retry(
                request.id,
                reason.exc or reason,
                error.traceback,
                request=request._context,
                store_result=request.store_errors,
            )
        except Exception:
            logger.exception("Cannot store the retry of task %s", request.id)
    # Stores what is no retry, and not stored yet.
    request.on_failure(error, return_ok=is_stored)
