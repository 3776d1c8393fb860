"""
Between asyncio and code that blocks: one thread that makes calls for event loops, in order.

Sending a task may block: on a full socket, on a broker that is away, on a connection that is made
anew. `Bridge.call` has it done elsewhere and is awaited.  One thread is enough, and keeps calls in
order and on one connection; ``loop.run_in_executor`` would spread them over many.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery.utils.log import get_logger

__all__ = ("Bridge", "Mailbox", "acting_for", "bridge_of", "call_for", "mailbox", "stop_bridges")

T = TypeVar("T")

#: Futures that are settled before the loop looks at other things.
AT_ONCE = 20

logger = get_logger(__name__)


class Mailbox:
    """
    Brings the outcomes of other threads to the futures of one event loop.

    The loop is woken once for all outcomes that have come since it looked last.
    """

    __slots__ = ("_is_woken", "_loop", "_outcomes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outcomes: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_woken = False

    def post(
        self, future: asyncio.Future[Any], value: Any, error: BaseException | None = None
    ) -> None:
        """Settle *future*, from any thread; one that was cancelled, or whose loop has gone, not."""
        self._outcomes.append((future, value, error))
        if not self._is_woken:
            self._is_woken = True
            try:
                self._loop.call_soon_threadsafe(self._settle)
            except RuntimeError:
                logger.debug("The loop that waited for a call is closed")

    def _settle(self) -> None:
        outcomes = self._outcomes
        for _ in range(min(len(outcomes), AT_ONCE)):
            future, value, error = outcomes.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        self._is_woken = False
        if outcomes:
            self._is_woken = True
            self._loop.call_soon(self._settle)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()


def mailbox() -> Mailbox:
    """Return the mailbox of the running loop."""
    loop = asyncio.get_running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = Mailbox(loop)
    return found


#: What to call, and what to settle with the outcome.
_Call = tuple[Callable[[], Any], Mailbox | None, asyncio.Future[Any] | None]


class Bridge:
    """A thread that makes calls; it starts with the first one.

    Attributes:
        on_stop: Called by `stop`, for what has to end with the bridge.
    """

    def __init__(self, name: str) -> None:
        self.on_stop: Callable[[], object] | None = None
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    async def call(self, fun: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *fun* in the thread, in the context of the caller, and return or raise the same."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        context = contextvars.copy_context()
        self._put((partial(context.run, fun, *args, **kwargs), mailbox(), future))
        return await future

    def cast(self, fun: Callable[[], Any]) -> None:
        """Have *fun* called in the thread, whatever becomes of the caller; it must not raise."""
        self._put((fun, None, None))

    def _put(self, call: _Call) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            # Within the lock: behind the word to stop nobody would see it.
            self._calls.put(call)

    def is_running(self) -> bool:
        """Say whether there is a thread."""
        return self._thread is not None

    def stop(self) -> None:
        """Let the thread end after the calls that were made; another call starts a new one.

        It is not waited for, as it may be the one that calls this. Harmless twice.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._calls.put(None)
        if self.on_stop is not None:
            self.on_stop()

    def stop_soon(self) -> None:
        """Do what `stop` does in the thread itself; may be called while garbage is collected."""
        # No lock may be taken then, and this takes none.
        self._calls.put((self.stop, None, None))

    def _run(self) -> None:
        get = self._calls.get
        while True:
            item = get()
            if item is None:
                return
            call, box, future = item
            if box is None or future is None:
                try:
                    call()
                except Exception:
                    logger.exception("Error in a call for an event loop")
            elif not future.cancelled():
                try:
                    value = call()
                except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
                    box.post(future, None, exc)
                else:
                    box.post(future, value)
                    del value
            # Nothing is kept alive while waiting for the next call.
            del item, call, box, future


_bridges: WeakKeyDictionary[Any, Bridge] = WeakKeyDictionary()
os.register_at_fork(after_in_child=_bridges.clear)


def bridge_of(owner: Any, name: str = "celery-bridge") -> Bridge:
    """Return the bridge that makes calls for *owner*, an app or a back-end."""
    found = _bridges.get(owner)
    if found is None:
        found = _bridges.setdefault(owner, Bridge(name))
    return found


def stop_bridges(app: Any) -> None:
    """Let the threads end that make calls for *app* and its back-ends; later calls start others.

    In a forked child there are none: those of the parent are not there.
    """
    for owner, bridge in list(_bridges.items()):
        if owner is app or getattr(owner, "app", None) is app:
            _bridges.pop(owner, None)
            bridge.stop()


@contextmanager
def acting_for(app: Any, oid: str, backend: Any) -> Iterator[None]:
    """
    Let this thread send and receive in the name of another one.

    Args:
        oid: `thread_oid` of the other thread, which names its reply queue.
        backend: Its result back-end.
    """
    fields = vars(app._local)
    before = fields.copy()
    fields.update(oid=oid, backend=backend)
    try:
        yield
    finally:
        fields.clear()
        fields.update(before)


async def call_for(app: Any, fun: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Make a call that may block, such as one that sends a task of *app*, outside of the loop.

    It is made as if in this thread: results come to where this thread would look for them.
    """
    oid, backend = app.thread_oid, app.backend

    def call() -> T:
        with acting_for(app, oid, backend):
            return fun(*args, **kwargs)

    return await bridge_of(app).call(call)
