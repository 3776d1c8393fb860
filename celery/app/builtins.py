"""The tasks that every app has: what map, chunks, chords and the clean-up run as.

Each is added when an app is finalized. Workers of other versions know them by their names, so
names and arguments are part of the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import canvas
from celery._state import connect_on_app_finalize
from celery.backends._chord import header_error
from celery.exceptions import ChordError
from celery.result import allow_join_result, result_from_tuple
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery.app.base import Celery
    from celery.result import GroupResult

__all__ = ()

logger = get_logger(__name__)


@connect_on_app_finalize
def add_backend_cleanup_task(app: Celery) -> Any:
    """Add the task that beat runs daily for result stores that do not expire by themselves."""

    def backend_cleanup() -> None:
        app.backend.cleanup()

    return app.task(name="celery.backend_cleanup", shared=False, lazy=False)(backend_cleanup)


@connect_on_app_finalize
def add_accumulate_task(app: Celery) -> Any:
    """Add the task that returns its arguments; it makes one value of those of a group."""

    def accumulate(*args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return args if index is None else args[index]

    return app.task(name="celery.accumulate", shared=False, lazy=False)(accumulate)


@connect_on_app_finalize
def add_unlock_chord_task(app: Celery) -> Any:
    """Add the task that polls for the end of a chord's header, where the store can't count."""

    def unlock_chord(
        self: Any,
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Any = None,
        **kwargs: Any,
    ) -> None:
        body = canvas.maybe_signature(callback, app=app)
        header = app.GroupResult(group_id, [result_from_tuple(r, app=app) for r in result or ()])
        # Whatever goes wrong with one look is the body's error: it must not stay pending.
        try:
            header, ready = look_up(app, header)
        except Exception as exc:  # noqa: BLE001 - border: errors of any store, told to the body
            fail_chord(app, header, body, exc, "could not be looked up")
            return
        if not ready:
            raise self.retry(
                countdown=self.default_retry_delay if interval is None else interval,
                max_retries=max_retries,
            )
        finish_chord(app, header, body)

    return app.task(
        name="celery.chord_unlock",
        bind=True,
        max_retries=None,
        default_retry_delay=app.conf.result_chord_retry_interval,
        ignore_result=True,
        # It is all that is left of the chord: a lost process must not take it along.
        acks_late=True,
        reject_on_worker_lost=True,
        shared=False,
        lazy=False,
    )(unlock_chord)


def look_up(app: Celery, header: GroupResult) -> tuple[GroupResult, bool]:
    """Return the header of a chord as it is now, and whether it has ended."""
    if not header.ready():
        return header, False
    # Tasks may have been added by those that have ended now.
    larger = app.backend.grown_header(header)
    return larger, len(larger) == len(header) or larger.ready()


def finish_chord(app: Celery, header: GroupResult, body: Any) -> None:
    """Send the body of a chord whose header has ended, or let it fail."""
    join = header.join_native if header.supports_native_join else header.join
    try:
        with allow_join_result():
            values = join(timeout=app.conf.result_chord_join_timeout, propagate=True)
    except Exception as exc:  # noqa: BLE001 - border: any header task's own error
        fail_chord(app, header, body, exc)
        return
    try:
        body.delay(values)
    except Exception as exc:
        logger.exception("Chord %r raised: %r", header.id, exc)  # noqa: TRY401 - the text is known
        app.backend.chord_error_from_stack(body, ChordError(f"Callback error: {exc!r}"))


def fail_chord(
    app: Celery, header: GroupResult, body: Any, exc: Exception, what: str = "raised"
) -> None:
    """Let the body of a chord fail, naming the header task that is to blame where known."""
    error = header_error(header, exc, what)
    if error is not exc:
        error.__cause__ = exc
    logger.error("Chord %r raised: %r", header.id, error, exc_info=exc)
    app.backend.chord_error_from_stack(body, error)


def _called_as(task: Any) -> Any:
    """Return what to call for each item: the task with its stored arguments, if it has any."""
    sig = canvas.maybe_signature(task)
    return sig if sig["args"] or sig["kwargs"] else sig.type


@connect_on_app_finalize
def add_map_task(app: Celery) -> Any:
    """Add the task that calls another one with each item."""

    def xmap(task: Any, it: Iterable[Any]) -> list[Any]:
        call = _called_as(canvas.maybe_signature(task, app=app))
        return [call(item) for item in it]

    return app.task(name="celery.map", shared=False, lazy=False)(xmap)


@connect_on_app_finalize
def add_starmap_task(app: Celery) -> Any:
    """Add the task that calls another one with each item as its arguments."""

    def xstarmap(task: Any, it: Iterable[Sequence[Any]]) -> list[Any]:
        call = _called_as(canvas.maybe_signature(task, app=app))
        return [call(*items) for items in it]

    return app.task(name="celery.starmap", shared=False, lazy=False)(xstarmap)


@connect_on_app_finalize
def add_chunk_task(app: Celery) -> Any:
    """Add the task that sends a starmap in pieces."""

    def chunks(task: Any, it: Iterable[Sequence[Any]], n: int) -> Any:
        sig = canvas.maybe_signature(task, app=app)
        return canvas.chunks.apply_chunks(sig, it, n, app=app).as_tuple()

    return app.task(name="celery.chunks", shared=False, lazy=False)(chunks)


@connect_on_app_finalize
def add_group_task(app: Celery) -> Any:
    """Add the task that sends the members of a group from within a worker."""

    def group(
        self: Any,
        tasks: Iterable[Any],
        result: Any = None,
        group_id: str | None = None,
        partial_args: Sequence[Any] = (),
        add_to_parent: bool = True,
    ) -> Any:
        members = canvas.group([canvas.maybe_signature(task, app=app) for task in tasks], app=app)
        return members.apply_async(
            partial_args, task_id=group_id, add_to_parent=add_to_parent
        ).as_tuple()

    return app.task(name="celery.group", bind=True, shared=False, lazy=False)(group)


@connect_on_app_finalize
def add_chain_task(app: Celery) -> Any:
    """Add the task that sends the first task of a chain from within a worker."""

    def chain(*args: Any, tasks: Iterable[Any] = (), **kwargs: Any) -> Any:
        steps = [canvas.maybe_signature(task, app=app) for task in tasks]
        result: Any = canvas.chain(steps, app=app).apply_async(args, kwargs)
        return None if result is None else result.as_tuple()

    return app.task(name="celery.chain", shared=False, lazy=False)(chain)


@connect_on_app_finalize
def add_chord_task(app: Celery) -> Any:
    """Add the task that starts a chord from within a worker."""

    def chord(
        self: Any,
        header: Any,
        body: Any,
        partial_args: Sequence[Any] = (),
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        **kwargs: Any,
    ) -> Any:
        header = canvas.maybe_signature(header, app=app) if isinstance(header, dict) else header
        made = canvas.chord(header, canvas.maybe_signature(body, app=app), app=app)
        return made.run(
            made._header_to_run(),
            made.body,
            partial_args,
            app=app,
            interval=interval,
            countdown=countdown,
            max_retries=max_retries,
            eager=eager,
            kwargs=kwargs.get("kwargs"),
        ).as_tuple()

    return app.task(name="celery.chord", bind=True, ignore_result=False, shared=False, lazy=False)(
        chord
    )
