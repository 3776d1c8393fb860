"""What is called when a task has failed: its errbacks, directly or as messages.

An errback that takes ``(request, exc, traceback)`` is called here and now, in the process that saw
the failure. One that takes the id of the failed task, is bound, or is unknown here is published.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.canvas import Signature

logger = logging.getLogger(__name__)


def takes_the_request(task: Task) -> bool:
    """Say whether *task*, used as an errback, is called with ``(request, exc, traceback)``."""
    # From the class: an instance would fill the first parameter in.
    function = getattr(type(task), "__wrapped__", None)
    if function is None:
        return _takes_more_than_one(_parameters(task.run))
    # The head lacks the task itself, which a bound function takes first.
    head = _parameters(task.__header__ or function)
    is_bound = len(_parameters(function)) > len(head)
    return not is_bound and _takes_more_than_one(head)


def _parameters(fun: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(fun, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        # Some callables don't tell; then the id is all they get.
        return []


def _takes_more_than_one(parameters: list[inspect.Parameter]) -> bool:
    positional = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return positional > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def call(app: Celery, request: Any, exc: BaseException, traceback: str | None) -> None:
    """Call or publish the errbacks of *request*.

    An errback that fails is logged and does not keep the others from running.
    """
    for errback in request.errbacks or ():
        signature: Signature = app.signature(errback)
        task = app.tasks.get(signature.task)
        try:
            if task is not None and takes_the_request(task):
                signature(request, exc, traceback)
            else:
                _publish(app, request, signature)
        except Exception:
            logger.exception("Errback %s of task %s failed", signature.task, request.id)


def _publish(app: Celery, request: Any, errback: Signature) -> None:
    # Imported when first needed: a process that only reads results has no use for canvas.
    from celery.canvas import group

    task_id = request.id
    root_id = getattr(request, "root_id", None) or task_id
    # A group of one: that is what workers of other versions send.
    alone = group([errback], app=app)
    if app.conf.task_always_eager or getattr(request, "is_eager", False):
        alone.apply((task_id,), parent_id=task_id, root_id=root_id)
    else:
        alone.apply_async((task_id,), parent_id=task_id, root_id=root_id)
