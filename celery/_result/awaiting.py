"""
Awaiting results on an event loop.

A `Waiter` watches one back-end for all coroutines of the process that await a result of it. Its
thread reads: pushed documents where the back-end has them, else by looking again and again at all
results together. A second thread, a bridge, asks for further results meanwhile; asking makes the
server answer, and the answer ends the reader's round.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from celery import _state
from celery._result.joining import TIMED_OUT, assert_will_not_block
from celery._result.node import ancestors
from celery.exceptions import TimeoutError
from celery.states import READY_STATES
from celery.utils.bridge import Mailbox, acting_for, bridge_of, mailbox
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from celery._result.sets import ResultSet
    from celery._result.single import AsyncResult

logger = get_logger(__name__)

#: Seconds between two looks at a store that pushes nothing: the first ones, and the longest.
SHORTEST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.5

#: Results that are settled before the other threads get a chance to run.
AT_ONCE = 20


class _Awaiting(NamedTuple):
    """One coroutine that awaits a result."""

    result: Any
    box: Mailbox
    future: asyncio.Future[None]


class Waiter:
    """
    Settles futures as the results of one back-end end.

    Its threads end with the app (`celery.app.base.Celery.close`), or with the back-end, as that of
    a thread goes with the thread. So while nobody awaits, nothing here holds the back-end.

    Args:
        backend: Where to read.
        oid: Name of the reply queue, where there is one: that of the thread that has sent.
    """

    def __init__(self, backend: Any, oid: str) -> None:
        self._oid = oid
        self._bridge = bridge_of(backend, "celery-subscriber")
        bridge = self._bridge
        self._find_backend = ref(backend, lambda _: bridge.stop_soon())
        self._bridge.on_stop = self._leave
        self._is_pushed = bool(backend.is_async)
        self._is_leaving = False
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        #: Who awaits, by the id of the task.
        self._open: dict[str, list[_Awaiting]] = {}
        #: Results to ask for, those that were asked for, those that have ended.
        self._fresh: deque[Any] = deque()
        self._asked: deque[Any] = deque()
        self._ended: deque[Any] = deque()
        self._news = threading.Event()
        #: Held while the server is asked; its answer may reach the reader before that is noted.
        self._asking = threading.Lock()
        self._is_asking = False

    @property
    def _backend(self) -> Any:
        return self._find_backend()

    async def wait(self, result: AsyncResult[Any]) -> None:
        """Return once *result* has its final document."""
        if result._cache is not None:
            return
        me = _Awaiting(result, mailbox(), asyncio.get_running_loop().create_future())
        with self._lock:
            known = self._open.setdefault(result.id, [])
            known.append(me)
            is_first = len(known) == 1
            if self._reader is None:
                self._reader = threading.Thread(
                    target=self._run, name="celery-results", daemon=True
                )
                self._reader.start()
        try:
            if is_first:
                self._fresh.append(result)
                self._bridge.cast(self._ask)
            await me.future
        finally:
            if not me.future.done() or me.future.cancelled():
                self._give_up(me)

    def _give_up(self, me: _Awaiting) -> None:
        with self._lock:
            known = self._open.get(me.result.id, [])
            if me in known:
                known.remove(me)
            if known:
                return
            self._open.pop(me.result.id, None)
        if self._is_pushed:
            me.result.backend.remove_pending_result(me.result)

    # -- In the bridge

    def _ask(self) -> None:
        """Ask for everything that has come up since the last time."""
        self._is_asking = True
        try:
            with self._asking:
                fresh = [result for result in _taken(self._fresh) if result.id in self._open]
                if fresh and self._is_pushed:
                    self._subscribe(fresh)
                self._asked.extend(fresh)
                self._is_asking = False
        except Exception as exc:
            self._is_asking = False
            logger.exception("Cannot ask for results that are awaited")
            self._fail(exc)
        self._news.set()

    def _subscribe(self, results: list[Any]) -> None:
        buckets = self._backend.result_consumer.buckets
        for result in results:
            buckets[result] = self._ended
        with acting_for(self._backend.app, self._oid, self._backend):
            self._backend.add_pending_results(results, weak=True)

    # -- In the reader

    @property
    def ready(self) -> bool:
        """Whether the reader has something else to do than to wait."""
        return bool(self._is_asking or self._asked or self._ended or not self._open)

    def _run(self) -> None:
        while not self._has_left():
            self._news.wait()
            try:
                self._read()
            except Exception as exc:
                logger.exception("Cannot read results that are awaited")
                self._fail(exc)

    def _read(self) -> None:
        """Read until nobody awaits any more."""
        # Held here, even if everybody gives up meanwhile.
        backend = self._backend
        if backend is None:
            self._rest()
        elif self._is_pushed:
            with acting_for(backend.app, self._oid, backend):
                self._receive()
        else:
            self._look()

    def _leave(self) -> None:
        """Have the reader end when nobody awaits any more: the app was closed."""
        if (backend := self._backend) is not None:
            _waiters.pop(backend, None)
        self._is_leaving = True
        self._news.set()

    def _has_left(self) -> bool:
        with self._lock:
            if self._open or not self._is_leaving:
                return False
            self._reader = None
        if self._bridge.is_running():
            # Somebody awaited after the app was closed.
            self._bridge.stop()
        return True

    def _receive(self) -> None:
        """Receive what is pushed."""
        consumer = self._backend.result_consumer
        while self._open:
            with self._asking:
                asked = _taken(self._asked)
            waiting = [result for result in asked if result._cache is None]
            if waiting:
                # What had been stored before it was asked for.
                consumer.on_wait_for_pending(waiting)
            for result in asked:
                if result._cache is not None:
                    self._ended.append(result)
            self._settle()
            for _ in consumer.drain_events_until(self):
                self._settle()
        self._rest()

    def _look(self) -> None:
        """Look at the store again and again."""
        pause = SHORTEST_PAUSE_S
        while self._open:
            if self._asked:
                self._asked.clear()
                pause = SHORTEST_PAUSE_S
            for task_id, document in self._documents(list(self._open)):
                for waiting in list(self._open.get(task_id, ())):
                    waiting.result._maybe_set_cache(document)
                    self._ended.append(waiting.result)
            self._settle()
            self._news.clear()
            if not self._asked:
                self._news.wait(pause)
            self._news.set()
            pause = min(pause * 1.5, LONGEST_PAUSE_S)
        self._rest()

    def _documents(self, task_ids: list[str]) -> Iterator[tuple[str, Any]]:
        get_many = getattr(self._backend, "get_many", None)
        if get_many is not None:
            yield from get_many(task_ids, max_iterations=1)
            return
        for task_id in task_ids:
            document = self._backend.get_task_meta(task_id)
            if document["status"] in READY_STATES:
                yield task_id, document

    def _settle(self) -> None:
        ended = self._ended
        settled = 0
        while ended:
            result = ended.popleft()
            with self._lock:
                waiting = self._open.pop(result.id, ())
            for each in waiting:
                if each.result._cache is None:
                    each.result._maybe_set_cache(result._cache)
                each.box.post(each.future, None)
            settled += 1
            if settled % AT_ONCE == 0:
                # Lets go of the interpreter: the loop has things to do as well.
                threading.Event().wait(0)

    def _rest(self) -> None:
        """Sleep until somebody awaits again."""
        self._news.clear()
        with self._lock:
            if self._open:
                self._news.set()
            else:
                # What has been asked for by somebody who gave up.
                self._asked.clear()
                self._ended.clear()

    def _fail(self, exc: Exception) -> None:
        with self._lock:
            waiting = [each for several in self._open.values() for each in several]
            self._open.clear()
        self._rest()
        for each in waiting:
            each.box.post(each.future, None, exc)


def _taken(queue: deque[Any]) -> list[Any]:
    """Return what is in *queue*, and empty it; others may add to it meanwhile."""
    return [queue.popleft() for _ in range(len(queue))]


#: By back-end.
_waiters: WeakKeyDictionary[Any, Waiter] = WeakKeyDictionary()
os.register_at_fork(after_in_child=_waiters.clear)


async def until_ended(result: AsyncResult[Any]) -> None:
    """Return once *result* has its final document, without blocking the loop."""
    backend = result.backend
    waiter = _waiters.get(backend)
    if waiter is None:
        waiter = _waiters.setdefault(backend, Waiter(backend, backend.app.thread_oid))
    await waiter.wait(result)


def assert_may_await() -> None:
    """Raise RuntimeError where awaiting a result would occupy a pool slot."""
    if not _state.may_await():
        assert_will_not_block()


async def aget(
    result: AsyncResult[Any], timeout: float | None, propagate: bool, follow_parents: bool
) -> Any:
    """Do what `AsyncResult.get` does, without blocking the loop."""
    if result.ignored:
        return None
    assert_may_await()
    ancestors_too = follow_parents and propagate
    parents = list(ancestors(result)) if ancestors_too else []
    try:
        async with asyncio.timeout(timeout):
            if parents:
                await _until_ended_or_failed(result, parents)
            else:
                await until_ended(result)
    except builtins.TimeoutError as exc:
        raise TimeoutError(TIMED_OUT) from exc
    return result.maybe_throw(propagate=propagate)


async def _until_ended_or_failed(result: AsyncResult[Any], parents: list[Any]) -> None:
    """Return once *result* has ended, or raise what one of its *parents* has raised."""
    leaves = [leaf for parent in parents for leaf in parent._leaves()]
    waits = {asyncio.ensure_future(until_ended(leaf)): leaf for leaf in [result, *leaves]}
    pending = set(waits)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
                if waits[each] is not result:
                    waits[each].maybe_throw()
            if result._cache is not None:
                return
    finally:
        for each in pending:
            each.cancel()


async def as_ended(results: list[Any], timeout: float | None = None) -> AsyncIterator[Any]:
    """Yield *results* in the order in which they end.

    Raises:
        TimeoutError: They had not all ended after *timeout* seconds.
    """
    assert_may_await()
    ended: asyncio.Queue[tuple[Any, BaseException | None]] = asyncio.Queue()

    async def watch(result: Any) -> None:
        try:
            await until_ended(result)
        except Exception as exc:  # noqa: BLE001 - raised by who iterates
            ended.put_nowait((result, exc))
        else:
            ended.put_nowait((result, None))

    watches = [asyncio.ensure_future(watch(result)) for result in results]
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    try:
        for _ in results:
            try:
                async with asyncio.timeout_at(deadline):
                    result, error = await ended.get()
            except builtins.TimeoutError as exc:
                raise TimeoutError(TIMED_OUT) from exc
            if error is not None:
                raise error
            yield result
    finally:
        for watch_ in watches:
            watch_.cancel()


async def agather(result: ResultSet, timeout: float | None, propagate: bool) -> list[Any]:
    """Do what `ResultSet.get` does, without blocking the loop."""
    async for leaf in as_ended(list(result._leaves()), timeout):
        leaf.maybe_throw(propagate=propagate)
    return result._values()
