"""`ResultSet`, several results in order, and `GroupResult`, a set that can be saved by id."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, cast

from celery import _state, states
from celery._result.joining import assert_will_not_block
from celery._result.node import ResultBase, ResultTuple, T, importable_class, plain_form
from celery.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator

    from vine import promise

    from celery._result.single import AsyncResult
    from celery.app.base import Celery


class ResultSet(ResultBase, Generic[T]):
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

    def _member_forms(self) -> list[ResultTuple] | None:
        return [result.as_tuple() for result in self.results]

    def __iter__(self) -> Iterator[AsyncResult[T]]:
        return iter(self.results)

    def __getitem__(self, index: int) -> AsyncResult[T]:
        member: AsyncResult[T] = self.results[index]
        return member

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
            from vine import barrier, promise  # few sets are asked for one

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
    ) -> list[T]:
        """Wait for all members and return their values in order; see `join`."""
        options = dict(locals())
        del options["self"]
        join = self.join_native if self.supports_native_join else self.join
        return join(**options)

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> list[T]:
        """Do what `get` does on an event loop, without blocking it; ``await result`` is the same.

        Raises:
            TimeoutError: Not all members had ended in time.
        """
        from celery._result import awaiting  # and asyncio

        return await awaiting.agather(self, timeout, propagate)

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self.aget().__await__()

    def __aiter__(self) -> AsyncIterator[AsyncResult[T]]:
        return self.aiter()

    def aiter(self, timeout: float | None = None) -> AsyncIterator[AsyncResult[T]]:
        """Yield the members as they end: ``async for result in group_result``.

        Args:
            timeout: Seconds for all of them.
        """
        from celery._result import awaiting  # and asyncio

        return awaiting.as_ended(list(self._leaves()), timeout)

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
    ) -> list[T]:
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
    ) -> list[T]:
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


class GroupResult(ResultSet[T]):
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
        return plain_form(self)

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
        return importable_class(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results, self.parent
