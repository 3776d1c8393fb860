"""What depends on the end of a task: the rest of its chain, its chord, the body of that.

Mixed into `Backend`. A store that can count the parts of a chord overrides `apply_chord` and
`on_chord_part_return`; all others have a task poll for the end of the header.
"""

from __future__ import annotations

import sys
import traceback as tracebacks
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from celery import states
from celery.backends import _errbacks
from celery.backends._chord import grown, growth_id
from celery.exceptions import ChordError

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.canvas import Signature


class TellsDependents:
    """Passes the end of a task on to what waits for it."""

    app: Celery

    if TYPE_CHECKING:

        def store_result(
            self,
            task_id: str,
            result: Any,
            state: str,
            traceback: str | None = None,
            request: Any = None,
            **kwargs: Any,
        ) -> Any:
            """Store a state."""
            ...

        counts_unstored_parts: ClassVar[bool]
        get_task_meta: Callable[..., dict[str, Any]]
        restore_group: Callable[..., Any]
        save_group: Callable[..., Any]
        mark_as_failure: Callable[..., None]

    # -- Failing what never runs

    def _fail_rest_of_chain(
        self, request: Any, exc: BaseException, traceback: str | None, state: str, store: bool
    ) -> None:
        """Fail the later tasks of a chain; a chord that one of them belongs to has to know."""
        root_id, parent_id = request.root_id, request.id
        for link in reversed(request.chain):
            # A chord in a chain ends with its body, a group with all of its members.
            for step in self.app.signature(link).awaited():
                options = step.options
                step_id = options.get("task_id")
                if step_id is None:
                    continue
                context = self._context(
                    id=step_id,
                    task=step.task,
                    args=step.args,
                    kwargs=step.kwargs,
                    root_id=root_id,
                    parent_id=parent_id,
                    group=options.get("group_id"),
                    group_index=options.get("group_index"),
                    chord=options.get("chord"),
                    errbacks=options.get("link_error"),
                    reply_to=options.get("reply_to"),
                    correlation_id=step_id,
                )
                if store or (context.chord and not self.counts_unstored_parts):
                    self.store_result(step_id, exc, state, traceback=traceback, request=context)
                if context.chord:
                    self.on_chord_part_return(context, state, exc)
            parent_id = link["options"].get("task_id") or parent_id

    def on_no_value(self, request: Any, how: str) -> None:
        """Let a chord know that waits for the value of a task that ended without a state.

        What the task has stored itself counts; else the chord fails.

        Args:
            request: Context of the task.
            how: How it ended.
        """
        if request.chord:
            stored = self.get_task_meta(request.id, cache=False)
            if stored["status"] in states.READY_STATES:
                self.on_chord_part_return(request, stored["status"], stored["result"])
                return
        elif not any(
            step.options.get("chord")
            for link in request.chain or ()
            for step in self.app.signature(link).awaited()
        ):
            return
        error = ChordError(f"Dependency {request.id} raised {how}")
        self.mark_as_failure(
            request.id, error, request=request, store_result=False, call_errbacks=False
        )

    def chord_error_from_stack(self, callback: Signature, exc: BaseException | None = None) -> Any:
        """Fail the body *callback* of a chord with *exc*, or with the error being handled."""
        if exc is None:
            exc = _error_being_handled()
        body = self.app.signature(callback)
        shared = body.options.get("link_error") or ()
        for step in body.awaited():
            self._fail_body(step, exc, shared)
        return body.id

    def _fail_body(self, body: Signature, exc: BaseException, more_errbacks: Any) -> None:
        """Store the failure of *body*, fail its chord if it is in one, call its errbacks."""
        task = self.app.tasks.get(body.task)
        backend = self if task is None else task.backend
        options = body.options
        body_id = body.id or options.get("task_id")
        errbacks = _as_list(options.get("link_error"))
        errbacks += [errback for errback in _as_list(more_errbacks) if errback not in errbacks]
        request = self._context(
            id=body_id,
            task=body.task,
            args=body.args,
            kwargs=body.kwargs,
            root_id=options.get("root_id"),
            parent_id=options.get("parent_id"),
            group=options.get("group_id"),
            group_index=options.get("group_index"),
            errbacks=errbacks,
            chord=options.get("chord"),
            chain=options.get("chain"),
        )
        backend.fail_from_current_stack(body_id, exc=exc)
        if request.chord:
            backend.on_chord_part_return(request, states.FAILURE, exc)
        if request.chain:
            backend._fail_rest_of_chain(request, exc, None, states.FAILURE, True)
        _errbacks.call(self.app, request, exc, None)

    def _context(self, **fields: Any) -> Any:
        """Make a task context; errbacks see it as their ``request``."""
        # The class belongs to the layer above. Every task has a context, also one that never ran.
        return type(self.app.tasks["celery.backend_cleanup"].request)(**fields)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> Any:
        """Store that a task failed with *exc*, with the traceback of the error being handled."""
        if exc is None:
            exc = _error_being_handled()
        text = "".join(tracebacks.format_exception(exc))
        self.mark_as_failure(task_id, exc, text)
        return text

    # -- Chords

    def ensure_chords_allowed(self) -> None:
        """Raise where chords can't work."""

    def add_to_chord(self, chord_id: str, result: Any) -> Any:
        """Make the header of a chord one task larger.

        Called while one of its tasks runs; the value of the new one comes behind that one's.
        """
        running = self.app.current_worker_task
        place = growth_id(chord_id, chord_id if running is None else running.request.id)
        before = self.restore_group(place, cache=False)
        for group_id, members in (
            (place, [*(before or ()), result]),
            # Last, since whoever finds this one looks for the other.
            (growth_id(chord_id), [result]),
        ):
            self.save_group(group_id, self.app.GroupResult(group_id, members))

    def grown_header(self, header: Any) -> Any:
        """Return the header of a chord with the tasks that were added to it since it was sent."""
        try:
            if self.restore_group(growth_id(header.id), cache=False) is None:
                return header
        except NotImplementedError:
            # No group can be saved here, so none has been.
            return header
        additions: dict[str, list[Any]] = {}
        unread = [header.id, *(member.id for member in header.results)]
        while unread:
            found = self._additions(header.id, unread)
            additions.update(found)
            unread = [added.id for results in found.values() for added in results]
        members = [*grown(header.results, additions), *additions.get(header.id, ())]
        return self.app.GroupResult(header.id, members)

    def _additions(self, chord_id: str, task_ids: list[str]) -> dict[str, list[Any]]:
        """Read what each of these header tasks has added, where it has added something."""
        places = ((task_id, growth_id(chord_id, task_id)) for task_id in task_ids)
        saved = ((task_id, self.restore_group(place, cache=False)) for task_id, place in places)
        return {task_id: group.results for task_id, group in saved if group is not None}

    def set_chord_size(self, group_id: str, chord_size: int) -> Any:
        """Note how many header tasks a chord has, where the store counts them itself."""

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a finished header task; the last one starts the body."""

    def apply_chord(
        self, header_result_args: tuple[Any, ...], body: Signature, **kwargs: Any
    ) -> Any:
        """Get ready to start *body* when the header is done.

        Called before the header tasks are published.

        Args:
            header_result_args: Group id and results of the header, as `GroupResult` takes them.
            body: What runs last.
            kwargs: ``countdown``, ``interval`` and ``max_retries`` of the polling task.
        """
        self.ensure_chords_allowed()
        header = self.app.GroupResult(*header_result_args)
        return self.fallback_chord_unlock(header, body, **kwargs)

    def fallback_chord_unlock(
        self, header_result: Any, body: Signature, countdown: float = 1, **kwargs: Any
    ) -> Any:
        """Publish the task that polls the header and starts *body* at its end.

        It goes where *body* goes.
        """
        options = body.options
        route = {
            name: options[name]
            for name in ("queue", "exchange", "routing_key", "priority")
            if options.get(name) is not None
        }
        if not route:
            task = self.app.tasks.get(body.task)
            route = {
                name: value
                for name in ("queue", "exchange", "routing_key", "priority")
                if (value := getattr(task, name, None)) is not None
            }
        if "queue" not in route and "exchange" not in route:
            # Ask the router where the body goes, so that the same workers see both.
            routed = self.app.amqp.router.route({}, body.task, body.args, body.kwargs)
            queue = routed.get("queue")
            if queue is not None:
                route["queue"] = getattr(queue, "name", queue)
        # Imported when first needed, as in `_errbacks`.
        from celery._canvas.signature import plain

        kwargs["result"] = [member.as_tuple() for member in header_result]
        return self.app.tasks["celery.chord_unlock"].apply_async(
            (header_result.id, plain(body)), kwargs, countdown=countdown, **route
        )


def _error_being_handled() -> BaseException:
    error = sys.exc_info()[1]
    return error if error is not None else ChordError("unknown error")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
