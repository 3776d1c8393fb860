"""What a caller holds after sending tasks: results by id, alone or in sets.

A result object is an id, a back-end to ask, and the results it depends on. It reads
nothing until asked, remembers the first final answer, and never polls by itself:
waiting is the back-end's business (`wait_for_pending`, `iter_native`), which tells the
result about new states through `AsyncResult._maybe_set_cache`.

`AsyncResult` stands for one task, `GroupResult` for the members of a group,
`EagerResult` for a task that ran in this process.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, cast

from vine import barrier, promise

from celery import _state, states
from celery.exceptions import (
    ImproperlyConfigured,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from typing_extensions import TypeVar

    from celery.app.base import Celery
    from celery.utils.graph import DependencyGraph, GraphFormatter

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "result_from_tuple",
)

E_WOULDBLOCK = (
    "Never call result.get() within a task! The task would occupy its pool slot while it waits, "
    "and once every slot waits nothing can finish. Use a callback, a chain or a chord; see "
    "https://docs.celeryq.dev/en/stable/userguide/tasks.html#task-synchronous-subtasks"
)

#: Plain form of a result: ``((id, parent), children)``, as it stands in stored documents.
ResultTuple = tuple[Any, Any]


def assert_will_not_block() -> None:
    """Raise RuntimeError where waiting for a result would occupy a pool slot."""
    if _state.task_join_will_block():
        raise RuntimeError(E_WOULDBLOCK)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow waiting for results inside a task, for the code in the ``with`` block."""
    with _state.join_will_block(False):
        yield


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Make waiting for results an error, for the code in the ``with`` block."""
    with _state.join_will_block(True):
        yield


class _Node(Protocol):
    """What the graph of results needs to know of a node."""

    @property
    def children(self) -> Sequence[Any] | None: ...

    def ready(self) -> bool: ...


def _importable_class(obj: object) -> type[Any]:
    """Return the nearest class of *obj* that a pickle can name: apps make subclasses of results."""
    for cls in type(obj).__mro__:
        module = sys.modules.get(cls.__module__)
        if getattr(module, cls.__qualname__, None) is cls:
            return cast("type[Any]", cls)
    raise TypeError(f"no importable class behind {type(obj)!r}")


class ResultBase:
    """Common ancestor of all results."""

    #: The result this one depends on: the step before in a chain, the header of a chord.
    parent: AsyncResult[Any] | ResultSet | None = None


def _ancestors(result: ResultBase) -> Iterator[ResultBase]:
    """Yield the parents of *result*, nearest first."""
    node = result.parent
    while node is not None:
        yield node
        node = node.parent


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
        self.app = _state.app_or_default(app or self.app)
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
        if watch_parents and self.state != states.SUCCESS:
            self._raise_failed_parent()
        if propagate and PROPAGATE_STATES is not states.PROPAGATE_STATES:
            propagate = self.state in PROPAGATE_STATES
        return cast("T", self.maybe_throw(propagate=propagate, callback=callback))

    wait = get

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
        for node in _ancestors(self):
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
        waiting: deque[tuple[_Node | None, _Node]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            ready = node.ready()
            if not (ready or intermediate):
                # Before it is handed out: whoever collects values would wait for it.
                raise IncompleteStream
            yield parent, node
            if ready:
                waiting.extend((node, child) for child in node.children or ())

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
        from celery.utils.graph import DependencyGraph, GraphFormatter

        graph = DependencyGraph(formatter=formatter or GraphFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph:
        """The graph, built once."""
        graph = self.__dict__.get("_graph")
        if graph is None:
            graph = self._graph = self.build_graph()
        return graph

    def as_tuple(self) -> ResultTuple:
        """Return ``((id, parent), None)``, with the parent in the same form or None."""
        # Bottom-up by a loop: the ancestors of a long chain would exhaust the stack.
        line: list[Any] = [self, *_ancestors(self)]
        form: Any = None
        while line:
            node = line.pop()
            children = (
                [child.as_tuple() for child in node.results]
                if isinstance(node, ResultSet)
                else None
            )
            form = (getattr(node, "id", None), form), children
        return cast("ResultTuple", form)

    def as_list(self) -> list[str]:
        """Return the ids of this result and its ancestors."""
        ids = [self.id]
        for node in _ancestors(self):
            if isinstance(node, AsyncResult):
                ids.append(node.id)
            else:
                ids.extend(leaf.id for leaf in cast("ResultSet", node)._leaves())
        return ids

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
        return _importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        # Not the app: the receiver has its own, and would get connections of a copy.
        return self.id, self._backend, None, None, self.parent


class ResultSet(ResultBase):
    """Several results, in order.

    Args:
        results: The members.
        app: App of the set; that of the members when None.
        ready_barrier: A vine barrier that counts ready members instead of our own.
    """

    #: The members, in order.
    results: list[Any] = cast("list[Any]", None)

    def __init__(
        self,
        results: Iterable[Any],
        app: Celery | None = None,
        ready_barrier: Any = None,
        **kwargs: Any,
    ) -> None:
        self._app = app
        self.results = results if isinstance(results, list) else list(results)
        self._barrier = ready_barrier
        self._on_ready: promise | None = None

    @property
    def app(self) -> Celery:
        """The app of the set."""
        if self._app is None:
            self._app = self.results[0].app if self.results else _state.app_or_default()
        return self._app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """The back-end that the members are read from."""
        if self.results and (backend := self.results[0].backend) is not None:
            return backend
        return self.app.backend

    @property
    def supports_native_join(self) -> bool:
        """Whether all members can be fetched at once."""
        return bool(self.results) and all(result.supports_native_join for result in self.results)

    # -- Members --------------------------------------------------------------

    def add(self, result: Any) -> None:
        """Append *result* unless it is a member already."""
        self.update((result,))

    def update(self, results: Iterable[Any]) -> None:
        """Append those of *results* that are not members yet."""
        known = set(self.results)
        for result in results:
            if result in known:
                continue
            known.add(result)
            self.results.append(result)
            if self._on_ready is not None and not self._on_ready.ready and self._barrier:
                self._barrier.add(result)

    def remove(self, result: Any) -> None:
        """Take a result, or the one with this id, out of the set.

        Raises:
            KeyError: It is no member.
        """
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Take a result out of the set if it is there."""
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        """Remove all members."""
        self.results.clear()

    def _leaves(self) -> Iterator[Any]:
        """Yield the single results, those of nested sets included."""
        for result in self.results:
            if isinstance(result, ResultSet):
                yield from result._leaves()
            else:
                yield result

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return other.results == self.results
        return NotImplemented

    __hash__ = None  # type: ignore[assignment] # members come and go

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(r) for r in self.results)}]>"

    # -- States ---------------------------------------------------------------

    def successful(self) -> bool:
        """Say whether all members have returned a value."""
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Say whether any member has raised an error."""
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """Say whether any member has not ended."""
        return not self.ready()

    def ready(self) -> bool:
        """Say whether all members have ended, well or not."""
        return all(result.ready() for result in self.results)

    def completed_count(self) -> int:
        """Count the members that have returned a value."""
        return sum(1 for result in self.results if result.successful())

    def maybe_throw(
        self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True
    ) -> None:
        """Raise the error of the first failed member, if there is one."""
        if callback is None and self._read_together():
            for leaf in self._leaves():
                if leaf._cache is not None:
                    leaf.maybe_throw(propagate=propagate)
            return
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def _read_together(self) -> bool:
        """Read all members that are not known to have ended; false where that takes a request each.

        Afterwards those that have ended know it, without asking the store again.
        """
        if not self.supports_native_join or not hasattr(self.backend, "get_many"):
            return False
        unread = {leaf.id: leaf for leaf in self._leaves() if leaf._cache is None}
        if unread:
            for task_id, meta in self.backend.get_many(unread, max_iterations=1):
                unread[task_id]._maybe_set_cache(meta)
        return True

    def _failed_join_report(self) -> Iterator[Any]:
        """Yield the failed ones of the members that have been read."""
        for result in self._leaves():
            known = result._cache is not None or result.backend.is_cached(result.id)
            if known and result.state in states.PROPAGATE_STATES:
                yield result

    # -- Acting on the members --------------------------------------------------

    def forget(self) -> None:
        """Delete the stored results of all members."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Revoke all members with one command; see `AsyncResult.revoke`."""
        return self.app.control.revoke(
            [result.id for result in self._leaves()],
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    # -- Waiting ----------------------------------------------------------------

    @property
    def on_ready(self) -> promise:
        """A promise that is kept, with this set, once every member has ended."""
        kept = self._on_ready
        if kept is None:
            kept = self._on_ready = promise()
            if self._barrier is None:
                # Filled before it is closed, so that members that are ready already count.
                self._barrier = barrier()
                for result in self.results:
                    self._barrier.add(result)
                self._barrier.finalize()
            self._barrier.then(lambda *_: kept(self))
        return kept

    def then(
        self,
        callback: Callable[..., Any],
        on_error: Callable[..., Any] | None = None,
        weak: bool = False,
    ) -> Any:
        """Call *callback* with this set once all members are ready."""
        return self.on_ready.then(callback, on_error)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[..., Any] | None = None,
    ) -> list[Any]:
        """Wait for all members and return their values in order; see `join`."""
        options = dict(locals())
        del options["self"]
        join = self.join_native if self.supports_native_join else self.join
        return join(**options)

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[..., Any] | None = None,
    ) -> list[Any]:
        """Wait for one member after the other and return their values in order.

        Args:
            timeout: Seconds for all members together.
            propagate: Raise the first error; False puts exceptions into the list.
            interval: Seconds between two looks.
            callback: Called with id and value of each member.
            no_ack: Passed to back-ends that consume messages.
            on_message: Only back-ends with a native join know messages.
            disable_sync_subtasks: Refuse to wait inside of a task.
            on_interval: Called between two looks.

        Raises:
            TimeoutError: Not all members had ended in time.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured("this result back-end does not tell of single messages")
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for result in self.results:
            value = result.get(
                timeout=None if deadline is None else max(deadline - time.monotonic(), 0),
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is not None:
                callback(result.id, value)
            values.append(value)
        return values

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        on_interval: Callable[..., Any] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(id, state document)`` of each member as it ends."""
        return cast(
            "Iterator[tuple[str, dict[str, Any]]]",
            self.backend.iter_native(
                self,
                timeout=timeout,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
            ),
        )

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        on_interval: Callable[..., Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """Like `join`, with the bulk retrieval of the back-end; an error is raised as it comes."""
        if disable_sync_subtasks:
            assert_will_not_block()
        leaves = list(self._leaves())
        by_id = {leaf.id: leaf for leaf in leaves}
        # A set of its own, since back-ends look at the members one by one.
        flat = self if len(leaves) == len(self.results) else ResultSet(leaves, app=self.app)
        for task_id, meta in flat.iter_native(timeout, interval, no_ack, on_message, on_interval):
            leaf = by_id.get(task_id)
            if leaf is None:
                continue
            leaf._maybe_set_cache(meta)
            value = leaf.maybe_throw(propagate=propagate)
            if callback is not None:
                callback(task_id, value)
        return self._values()

    def _values(self) -> list[Any]:
        return [
            result._values() if isinstance(result, ResultSet) else result.result
            for result in self.results
        ]


class GroupResult(ResultSet):
    """The results of a group, under an id that they can be saved by.

    Args:
        id: Id of the group.
        results: The members.
        parent: Result the group depends on.
    """

    id: str = cast("str", None)
    results: list[Any] = cast("list[Any]", None)

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: AsyncResult[Any] | ResultSet | None = None,
        **kwargs: Any,
    ) -> None:
        self.id = cast("str", id)
        self.parent = parent
        super().__init__([] if results is None else results, **kwargs)

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    def save(self, backend: Any = None) -> Any:
        """Store the ids of the members, so that `restore` finds them."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Any = None) -> None:
        """Forget what `save` stored."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Celery | None = None) -> GroupResult | None:
        """Return the group saved under *id*, or None."""
        if backend is None:
            known = app if app is not None else cls.__dict__.get("app")
            known = None if isinstance(known, property) else known
            backend = _state.app_or_default(known).backend
        return cast("GroupResult | None", backend.restore_group(id))

    def as_tuple(self) -> ResultTuple:
        """Return ``((id, parent), members)``, all in the same form."""
        parent = None if self.parent is None else cast("GroupResult", self.parent).as_tuple()
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return (
                self.id == other.id
                and self.results == other.results
                and self.parent == other.parent
            )
        if isinstance(other, str):
            return self.id == other
        return NotImplemented

    def __hash__(self) -> int:  # type: ignore[override] # the id stays when members change
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(r) for r in self.results)}]>"

    def __reduce__(self) -> Any:
        return _importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results, self.parent


class EagerResult(AsyncResult[T]):
    """The result of a task that ran in this process; nothing is stored or read.

    Args:
        id: Id of the task.
        ret_value: Its value, or the exception it raised.
        state: The final state.
        traceback: Traceback as text.
        name: Name of the task.
    """

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        # Not the constructor of AsyncResult: no app or back-end takes part.
        self.id = id
        self._backend = None
        self._cache = {
            "task_id": id,
            "result": ret_value,
            "status": state,
            "traceback": traceback,
            "children": None,
            "name": name,
        }

    @property
    def backend(self) -> Any:
        """None: there is no back-end to ask."""
        return self._backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    @property
    def _meta(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._cache)

    def then(
        self,
        callback: Callable[..., Any],
        on_error: Callable[..., Any] | None = None,
        weak: bool = False,
    ) -> Any:
        """Call *callback* with this result at once."""
        return self.on_ready.then(callback, on_error)

    def ready(self) -> bool:
        """Return true: the task has ended."""
        return True

    def get(  # type: ignore[override] # the other options make no sense here
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        callback: Callable[[str, T], Any] | None = None,
        **kwargs: Any,
    ) -> T:
        """Return the value or raise the error; see `AsyncResult.get`.

        A task that was ignored or rejected has no value: None.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        value, state = self.result, self.state
        if state in states.PROPAGATE_STATES:
            if propagate:
                raise value if isinstance(value, BaseException) else Exception(value)
        elif state != states.SUCCESS:
            value = None
        if callback is not None:
            callback(self.id, value)
        return cast("T", value)

    wait = get  # type: ignore[assignment] # as above

    def exists(self) -> bool:
        """Return true: the outcome is in this object."""
        return True

    def forget(self) -> None:
        """Do nothing: nothing is stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark the result as revoked; `get` then raises TaskRevokedError."""
        self._meta.update(status=states.REVOKED, result=TaskRevokedError("revoked"))

    @property
    def supports_native_join(self) -> bool:
        """False: there is nothing to fetch."""
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __copy__(self) -> EagerResult[T]:
        return type(self)(*self.__reduce_args__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        meta = self._meta
        return meta["task_id"], meta["result"], meta["status"], meta["traceback"], meta["name"]


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """Rebuild a result from what `as_tuple` gave; result objects pass through.

    Args:
        r: ``((id, parent), children)`` of tuples or lists; a bare id may stand for the pair.
        app: App of the result; the current one when None.
    """
    app = _state.app_or_default(app)
    line = []
    while r is not None and not isinstance(r, ResultBase):
        head, nodes = r
        task_id, above = head if isinstance(head, (list, tuple)) else (head, None)
        line.append((task_id, nodes))
        r = above
    result = r
    # From the oldest ancestor down, by a loop for the sake of long chains.
    for task_id, nodes in reversed(line):
        if nodes is None:
            result = app.AsyncResult(task_id, parent=result)
        else:
            members = [result_from_tuple(node, app) for node in nodes]
            result = app.GroupResult(task_id, members, parent=result)
    return result
