"""What is done about an error that the machinery around a task body raised, not the body.

`celery.app.trace` calls this at the border between pool and task.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from kombu.exceptions import EncodeError

from celery import signals
from celery.app._context import Context
from celery.app._tracer import plain_exception
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.task import Task

logger = get_logger("celery.app.trace")


def send_signal(
    task: Task, uuid: str, args: Any, kwargs: Any, request: Any, exc: BaseException
) -> None:
    """Tell the receivers of ``task_internal_error``."""
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


def store(task: Task, uuid: str, einfo: Any, request: Any) -> None:
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
