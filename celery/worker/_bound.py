"""Requests made ready for one task and one pool: what is constant is bound once.

`celery.worker.request.create_request_cls` gives a class the methods that are built here. Each
does what the method of `Request` does whose place it takes, in fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery._protocol import events
from celery.exceptions import TaskRevokedError

if TYPE_CHECKING:
    from celery.app.task import Task
    from celery.worker._results import Results
    from celery.worker.request import Request


def pool_caller(
    task: Task,
    apply_async: Callable[..., Any],
    trace: Callable[..., Any],
    extra: dict[str, Any] | None,
    results: Results | None,
    revoked_tasks: Any,
    revoked_stamps: Any,
    in_call: bool,
) -> Callable[..., Any]:
    """Return ``execute_using_pool`` for a pool with *apply_async*, to have *trace* called.

    With *in_call* the pool runs the body within that call.
    """

    def execute_using_pool(self: Request, pool: Any, **kwargs: Any) -> Any:
        task_id = self.id
        if (
            self._expires is not None or revoked_stamps or task_id in revoked_tasks
        ) and self.revoked():
            raise TaskRevokedError(task_id)
        hard, soft = self.time_limits
        job = apply_async(
            trace,
            args=(
                self._request_dict["task"],
                task_id,
                self._request_dict,
                self._body,
                self._content_type,
                self._content_encoding,
            ),
            kwargs=extra,
            accept_callback=self.on_accepted_in_call if in_call else self.on_accepted,
            timeout_callback=self._on_pool_timeout,
            callback=self._on_pool_success,
            error_callback=self._on_pool_failure,
            soft_timeout=soft or task.soft_time_limit,
            timeout=hard or task.time_limit,
            correlation_id=task_id,
            hands_over=results is not None and results.are_wanted(),
        )
        if not self._ended:
            # Otherwise it ran within the call, as in the solo pool.
            self._job = job
        return job

    return execute_using_pool


def success_taker(
    task: Task, task_ready: Callable[..., Any], remembers: bool, results: Results | None
) -> Callable[[Any, tuple[Any, ...]], None]:
    """Return what takes the answers of the pool, in one step for what nearly always happens.

    It does what ``on_success`` does.
    """

    def on_pool_success(self: Request, answer: tuple[Any, ...]) -> None:
        frees_slot = True
        try:
            if results is not None and len(answer) == 4:
                self._is_storing = True
                frees_slot = results.has_room()
                results.put(self, answer[:3], answer[3])
                return
            if answer[0] or self._ended:
                self.on_success(answer)
                return
            self._ended = True
            task_ready(self, remembers)
            if task.acks_late:
                self.acknowledge()
            self._note_event(events.SUCCEEDED, self.id, answer[1], answer[2])
        finally:
            self._job = None
            if frees_slot:
                release, self._slot = self._slot, None
                if release is not None:
                    release(answer[2])

    return on_pool_success


def show_event(self: Request, sketch: events.Sketch, *values: Any) -> None:
    """Show a class of users each event, which the short way would pass by."""
    self.send_event(sketch.type, **sketch.fields(*values))
