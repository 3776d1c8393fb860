"""Calls that run at once, in the process that makes them; for `Task.apply`.

They run as in a worker, down to the way of their arguments through the serializer if
``task_always_eager`` stands for one, but nothing is stored unless settings ask for it, and the
next attempt follows at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from kombu import serialization

from celery import _state, states
from celery.app import trace
from celery.exceptions import Retry
from celery.result import EagerResult
from celery.utils.functional import maybe_list
from celery.utils.nodenames import gethostname

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task


def as_received(
    args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, serializer: str
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return arguments as a worker gets them that reads the message."""
    content_type, encoding, payload = serialization.dumps(
        (list(args or ()), dict(kwargs or {})), serializer
    )
    received: tuple[Sequence[Any], Mapping[str, Any]] = serialization.loads(
        payload, content_type, encoding, accept=[content_type]
    )
    return received


def request_of(
    task: Task, task_id: str, own: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of the request.

    Args:
        own: Fields that only an eager call has, or has under another name.
        options: As of `Task.apply_async`.
    """
    parent = _state.get_current_worker_task()
    get = options.get
    root_id = get("root_id") or (parent.request.root_id if parent else None)
    parent_id = get("parent_id") or (parent.request.id if parent else None)
    ignore_result = get("ignore_result")
    return {
        "id": task_id,
        "task": task.name,
        "is_eager": True,
        "hostname": gethostname(),
        "ignore_result": task.ignore_result if ignore_result is None else ignore_result,
        "delivery_info": {
            "is_eager": True,
            "exchange": get("exchange"),
            "routing_key": get("routing_key"),
            "priority": get("priority"),
        },
        "root_id": root_id or task_id,
        "parent_id": parent_id,
        "group": get("group_id"),
        "group_index": get("group_index"),
        "chain": get("chain"),
        "shadow": get("shadow"),
        "replaced_task_nesting": get("replaced_task_nesting", 0),
        **own,
        **_stamps(options),
    }


def _stamps(options: Mapping[str, Any]) -> dict[str, Any]:
    stamped = options.get("stamped_headers")
    if not stamped:
        return {}
    return {
        "stamped_headers": list(stamped),
        "stamps": {name: maybe_list(options.get(name, [])) for name in stamped},
    }


def run(
    app: Celery,
    task: Task,
    request: dict[str, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    throw: bool,
) -> EagerResult[Any]:
    """Run *task* until an attempt is the last.

    Args:
        request: Fields of the first attempt; its ``retries`` go up.
        throw: Raise what the body raises.
    """
    task_id, name = request["id"], request["task"]
    tracer = trace.build_tracer(
        task.name or task.__class__.__qualname__, task, eager=True, propagate=throw, app=app
    )
    while True:
        end = tracer(task_id, args, kwargs, dict(request))
        retval = end.retval
        if not isinstance(retval, ExceptionInfo):
            state = states.SUCCESS if end.info is None else end.info.state
            return EagerResult(task_id, retval, state, name=name)
        exc = trace.plain_exception(retval.exception)
        if not (isinstance(exc, Retry) and exc.sig is not None):
            state = end.info.state if end.info is not None else states.FAILURE
            return EagerResult(task_id, exc, state, retval.traceback, name=name)
        # Delays have no meaning here: the next attempt follows at once.
        args, kwargs = tuple(exc.sig.args), dict(exc.sig.kwargs)
        request["retries"] += 1
