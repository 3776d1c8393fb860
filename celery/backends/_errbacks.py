"""What is called when a task has failed: its errbacks, directly or as messages.

An errback that takes ``(request, exc, traceback)`` is called here and now, in the process that saw
the failure. One that takes the id of the failed task, is bound, or is unknown here is published.
"""

from __future__ import annotations

import inspect
import logging
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.canvas import Signature

logger = logging.getLogger(__name__)


def takes_the_request(task: Task) -> bool:
    """Say whether *task*, used as an errback, is called with ``(request, exc, traceback)``."""
    run = task.run
    if isinstance(run, MethodType) and hasattr(task, "__wrapped__"):
        # A function that was decorated with bind=True; it expects the task first.
        return False
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return positional > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def call(app: Celery, request: Any, exc: BaseException, traceback: str | None) -> None:
    """Call or publish the errbacks of *request*.

    An errback that fails is logged and does not keep the others from running.
    """
    to_publish = []
    for errback in request.errbacks or ():
        signature: Signature = app.signature(errback)
        task = app.tasks.get(signature.task)
        if task is None or not takes_the_request(task):
            to_publish.append(signature)
            continue
        try:
            signature(request, exc, traceback)
        except Exception:
            logger.exception("Errback %s of task %s failed", signature.task, request.id)
    if to_publish:
        try:
            _publish(app, request, to_publish)
        except Exception:
            logger.exception("Errbacks of task %s could not be sent", request.id)


def _publish(app: Celery, request: Any, errbacks: list[Signature]) -> None:
    # Imported when first needed: a process that only reads results has no use for canvas.
    from celery.canvas import group

    task_id = request.id
    root_id = getattr(request, "root_id", None) or task_id
    together = group(errbacks, app=app)
    if app.conf.task_always_eager or getattr(request, "is_eager", False):
        together.apply((task_id,), parent_id=task_id, root_id=root_id)
    else:
        together.apply_async((task_id,), parent_id=task_id, root_id=root_id)
