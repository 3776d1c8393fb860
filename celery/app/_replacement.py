"""A signature takes the place of a running task; for `Task.replace` and `Task.on_replace`.

Its value becomes that of the task: whatever waits for the one, or comes after it, is handed on to
the other, which is sent under the same id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import canvas
from celery.exceptions import ImproperlyConfigured
from celery.result import allow_join_result
from celery.utils.functional import maybe_list

if TYPE_CHECKING:
    from celery.app._context import Context
    from celery.app.base import Celery
    from celery.app.task import Task


def replace(task: Task, sig: Any) -> Any:
    """Send *sig* in place of the running call of *task*; returns its value in eager mode.

    Raises:
        ImproperlyConfigured: *sig* is an empty chain or group, or a part of a chord.
    """
    request = task.request
    sig = _checked(task, sig)
    for callback in maybe_list(request.callbacks) or ():
        sig.link(callback)
    for errback in maybe_list(request.errbacks) or ():
        sig.link_error(errback)
    if request.is_eager:
        task_result = task.on_replace(sig)
        with allow_join_result():
            return task_result.get() if task_result is not None else None
    return task.on_replace(_with_duties(task.app, request, sig))


def _checked(task: Task, sig: Any) -> Any:
    """Return *sig*, made such that it has one value."""
    me = f"{task.name}[{task.request.id}]"
    if "chord" in sig.options:
        raise ImproperlyConfigured(
            f"A signature replacing a task must not be part of a chord: {me}"
        )
    if isinstance(sig, canvas._chain) and not getattr(sig, "tasks", True):
        raise ImproperlyConfigured(f"Cannot replace {me} with an empty chain")
    if not isinstance(sig, canvas.group):
        return sig
    if not sig.tasks:
        raise ImproperlyConfigured(f"Cannot replace {me} with an empty group")
    # A group has many results, a task one: collect them.
    return sig | task.app.tasks["celery.accumulate"].s(index=0)


def _with_duties(app: Celery, request: Context, sig: Any) -> Any:
    """Return *sig* with the place of *request* in its workflow, its stamps and what follows it."""
    sig.set(
        chord=request.chord,
        group_id=request.group,
        group_index=request.group_index,
        root_id=request.root_id,
        replaced_task_nesting=(request.replaced_task_nesting or 0) + 1,
    )
    if request.stamps:
        stamped = list(request.stamped_headers or request.stamps)
        sig.stamp(visitor=None, **dict(request.stamps), stamped_headers=stamped)
    if request.chain:
        # The value of this task is that of *sig*, whatever comes after it.
        sig.freeze(request.id, root_id=request.root_id, parent_id=request.parent_id)
        for following in reversed(request.chain):
            sig |= canvas.maybe_signature(following, app=app)
    return sig


def send(app: Celery, request: Context, sig: Any) -> None:
    """Send *sig* under the id of *request*, which has thereby no value of its own."""
    sig.freeze(
        request.id,
        group_id=request.group,
        chord=request.chord,
        root_id=request.root_id,
        group_index=request.group_index,
        parent_id=request.parent_id,
    )
    for last in sig.awaited():
        # Its value goes to whoever waits for that of this task; what followed it knows whom.
        if last.options["reply_to"] == app.thread_oid:
            last.options["reply_to"] = request.reply_to
    sig.delay()
    request._replaced = True
