"""`AsyncResult`: one task, by id.

A result reads nothing until asked, remembers the first final answer, and never polls by
itself: waiting is the back-end's business (`wait_for_pending`), which tells the result
about new states through `AsyncResult._maybe_set_cache`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, cast

from celery import _state, states
from celery._result.graph import dependencies, descend
from celery._result.joining import assert_will_not_block
from celery._result.node import (
    ResultBase,
    ResultTuple,
    T,
    ancestors,
    importable_class,
    plain_form,
    result_from_tuple,
)
from celery.exceptions import TimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from vine import promise

    from celery._result.sets import GroupResult, ResultSet
    from celery.app.base import Celery
    from celery.utils.graph import DependencyGraph, GraphFormatter


class AsyncResult(ResultBase, Generic[T]):
    """The result of one task, by id.

    Args:
        id: Id of the task.
        backend: Where to read; the app's own back-end when None.
        task_name: Accepted for old callers and not used.
        app: App whose settings and back-end apply; the current one when None.
        parent: Result this one depends on.

    Raises:
        ValueError: *id* is None.
    """

    TimeoutError = TimeoutError

    app: Celery = cast("Celery", None)
    id: str = cast("str", None)

    _cache: dict[str, Any] | None = None
    _ignored = False
    _on_ready: promise | None = None
    # The back-end that notifies this result, if any; `__del__` has to tell it.
    _subscribed_to: Any = None

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: AsyncResult[Any] | ResultSet | None = None,
    ) -> None:
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        known: Celery | None = app or self.app
        self.app = _state.app_or_default() if known is None else known
        self.id = id
        self._backend = backend
        if parent is not None:
            self.parent = parent

    @property
    def backend(self) -> Any:
        """The back-end this result is read from; of the calling thread, unless one was given."""
        return self._backend if self._backend is not None else self.app.backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    @property
    def task_id(self) -> str:
        """The id, under its other name."""
        return self.id

    @task_id.setter
    def task_id(self, id: str) -> None:
        self.id = id

    @property
    def ignored(self) -> bool:
        """Whether the caller asked for no result; `get` then returns None at once."""
        return self._ignored

    @ignored.setter
    def ignored(self, ignored: bool) -> None:
        self._ignored = ignored

    # -- Being told ---------------------------------------------------------

    @property
    def on_ready(self) -> promise:
        """A promise that is kept, with this result, once the task has ended."""
        kept = self._on_ready
        if kept is None:
            from vine import promise  # few results are asked for one

            kept = self._on_ready = promise()
            if self._cache is not None:
                kept(self)
        return kept

    def then(
        self,
        callback: Callable[..., Any],
        on_error: Callable[..., Any] | None = None,
        weak: bool = False,
    ) -> Any:
        """Call *callback* with this result once it is ready, from whoever reads the results."""
        if self._cache is None:
            self._subscribe(weak=weak)
        return self.on_ready.then(callback, on_error)

    def _subscribe(self, weak: bool = False) -> None:
        backend = self.backend
        backend.add_pending_result(self, weak=weak)
        self._subscribed_to = backend

    def _unsubscribe(self) -> None:
        backend, self._subscribed_to = self._subscribed_to, None
        if backend is not None:
            backend.remove_pending_result(self)

    def __del__(self) -> None:
        if self._subscribed_to is not None:
            self._unsubscribe()

    # -- Waiting ------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, T], Any] | None = None,
        on_message: Callable[..., Any] | None = None,
        on_interval: Callable[..., Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Collection[str] = states.EXCEPTION_STATES,
        PROPAGATE_STATES: Collection[str] = states.PROPAGATE_STATES,
    ) -> T:
        """Wait until the task has ended, and return its value or raise its error.

        Args:
            timeout: Seconds to wait at most; 0 looks once; None waits for ever.
            propagate: Raise a stored exception; False returns it.
            interval: Seconds between two looks, for back-ends that poll.
            no_ack: Passed to back-ends that consume messages.
            follow_parents: With *propagate*: raise the error of a failed ancestor instead.
            callback: Called with the id and the value.
            on_message: Called with each state document, by back-ends that push.
            on_interval: Called between two looks.
            disable_sync_subtasks: Refuse to wait inside of a task.
            EXCEPTION_STATES: Accepted for old callers and not used.
            PROPAGATE_STATES: States in which the stored exception is raised.

        Raises:
            TimeoutError: The task had not ended after *timeout* seconds.
            RuntimeError: Called within a task.
        """
        if self._ignored:
            return cast("T", None)
        if disable_sync_subtasks:
            assert_will_not_block()
        watch_parents = follow_parents and propagate and self.parent is not None
        if self._cache is None:
            self._wait(timeout, interval, no_ack, on_message, on_interval, watch_parents)
        if self._subscribed_to is not None and self._cache is not None:
            # There is nothing more to be told, whether the back-end has noticed or not.
            self._unsubscribe()
        if watch_parents and self.state != states.SUCCESS:
            self._raise_failed_parent()
        if propagate and PROPAGATE_STATES is not states.PROPAGATE_STATES:
            propagate = self.state in PROPAGATE_STATES
        return cast("T", self.maybe_throw(propagate=propagate, callback=callback))

    wait = get

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, follow_parents: bool = True
    ) -> T:
        """Do what `get` does on an event loop, without blocking it; ``await result`` is the same.

        Raises:
            TimeoutError: The task had not ended after *timeout* seconds.
            RuntimeError: Called within a task that would occupy its pool slot meanwhile.
        """
        from celery._result import awaiting  # and asyncio

        return cast("T", await awaiting.aget(self, timeout, propagate, follow_parents))

    def __await__(self) -> Generator[Any, Any, T]:
        return self.aget().__await__()

    def _wait(
        self,
        timeout: float | None,
        interval: float,
        no_ack: bool,
        on_message: Callable[..., Any] | None,
        on_interval: Callable[..., Any] | None,
        watch_parents: bool,
    ) -> None:
        def look_up(*_: Any) -> None:
            self._raise_failed_parent()
            if on_interval is not None:
                on_interval()

        self.backend.wait_for_pending(
            self,
            timeout=timeout,
            interval=interval,
            on_interval=look_up if watch_parents else on_interval,
            no_ack=no_ack,
            on_message=on_message,
            propagate=False,
        )

    def _raise_failed_parent(self) -> None:
        for node in ancestors(self):
            cast("AsyncResult[Any] | ResultSet", node).maybe_throw()

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise the given error, after telling those who wait for this result."""
        self.on_ready.throw(*args, **kwargs)

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None
    ) -> Any:
        """Return the value as it is now, or raise the stored error."""
        meta = self._get_task_meta()
        value = meta.get("result")
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            error = value if isinstance(value, BaseException) else Exception(value)
            traceback = self._remote_traceback(meta.get("traceback"))
            raise error if traceback is None else error.with_traceback(traceback)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _remote_traceback(self, text: str | None) -> Any:
        """Turn the worker's traceback into an object, where settings and tblib allow."""
        if not text or not self.app.conf.task_remote_tracebacks:
            return None
        try:
            from tblib import Traceback  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            return None
        return Traceback.from_string(text).as_traceback()

    # -- States -------------------------------------------------------------

    def _get_task_meta(self) -> dict[str, Any]:
        cached = self._cache
        if cached is not None:
            return cached
        return self._maybe_set_cache(self.backend.get_task_meta(self.id))

    def _maybe_set_cache(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Take note of a state document; a final one is kept and announced."""
        if meta and meta["status"] in states.READY_STATES:
            self._cache = meta
            if self._on_ready is not None and not self._on_ready.ready:
                self._on_ready(self)
        return meta

    def exists(self) -> bool:
        """Say whether the back-end holds anything about this task."""
        return bool(self.backend.task_result_exists(self.id))

    def ready(self) -> bool:
        """Say whether the task has ended, well or not."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Say whether the task has returned a value."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Say whether the task has raised an error."""
        return self.state == states.FAILURE

    @property
    def state(self) -> str:
        """The state; ``PENDING`` also when nothing is known of the id."""
        return cast("str", self._get_task_meta()["status"])

    @property
    def status(self) -> str:
        """The state, under its other name."""
        return self.state

    @property
    def result(self) -> Any:
        """The value, the exception, or what a custom state carries; None while unknown."""
        return self._get_task_meta().get("result")

    @property
    def info(self) -> Any:
        """The result, under its other name."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failed task as text."""
        return self._get_task_meta().get("traceback")

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, aware; None before that."""
        done = self._get_task_meta().get("date_done")
        if isinstance(done, str):
            done = datetime.fromisoformat(done)
        if isinstance(done, datetime) and done.tzinfo is None:
            done = done.replace(tzinfo=UTC)
        return cast("datetime | None", done)

    @property
    def name(self) -> str | None:
        """Name of the task; only stored with ``result_extended``, as the next five."""
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        """Positional arguments of the task."""
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        """Keyword arguments of the task."""
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """Node name of the worker that ran the task."""
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> int | None:
        """How often the task had been retried."""
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> str | None:
        """Queue (routing key) that the task came through."""
        return self._get_task_meta().get("queue")

    @property
    def supports_native_join(self) -> bool:
        """Whether the back-end fetches many results at once."""
        return bool(self.backend.supports_native_join)

    # -- Acting on the task ---------------------------------------------------

    def forget(self) -> None:
        """Delete the stored result, and those of its ancestors."""
        self._cache = None
        self._on_ready = None
        if self.parent is not None:
            self.parent.forget()
        self._unsubscribe()
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Tell all workers not to run the task, or with *terminate* to kill it.

        Args:
            signal: Name of the signal for *terminate*; ``TERM`` when None.
            wait: Collect the workers' replies.
            timeout: Seconds to wait for replies.
        """
        return self.app.control.revoke(
            self.id,
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Tell all workers not to run tasks that bear one of these stamps."""
        return self.app.control.revoke_by_stamped_headers(
            headers,
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    # -- The graph of results -------------------------------------------------

    @property
    def children(self) -> list[AsyncResult[Any] | GroupResult] | None:
        """Results of what the task sent; None until it has ended."""
        nodes = self._get_task_meta().get("children")
        if nodes is None:
            return None
        return [result_from_tuple(node, self.app) for node in nodes]

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield ``(parent, node)`` for this result and all below it, parents first.

        Raises:
            IncompleteStream: A node is not ready, and *intermediate* is false.
        """
        return descend(self, intermediate)

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Yield ``(result, value)`` for this result and all below it; options go to `get`."""
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """Return the value of the last result of the graph."""
        value = None
        for _, value in self.collect():  # noqa: B007 - the last one is wanted
            pass
        return value

    def build_graph(
        self, intermediate: bool = False, formatter: GraphFormatter | None = None
    ) -> DependencyGraph:
        """Return this result and all below it as a graph."""
        return dependencies(self, intermediate, formatter)

    @property
    def graph(self) -> DependencyGraph:
        """The graph, built once."""
        graph = self.__dict__.get("_graph")
        if graph is None:
            graph = self._graph = self.build_graph()
        return graph

    def as_tuple(self) -> ResultTuple:
        """Return ``((id, parent), None)``, with the parent in the same form or None."""
        return plain_form(self)

    def as_list(self) -> list[str]:
        """Return the ids of this result and its ancestors."""
        return [leaf.id for node in (self, *ancestors(self)) for leaf in node._leaves()]

    # -- As a value -----------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        if isinstance(other, str):
            return self.id == other
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __copy__(self) -> AsyncResult[T]:
        return type(self)(*self.__reduce_args__())

    def __reduce__(self) -> Any:
        return importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        # Not the app: the receiver has its own, and would get connections of a copy.
        return self.id, self._backend, None, None, self.parent
