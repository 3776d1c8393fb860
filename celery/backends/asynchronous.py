"""Waiting for results that the store pushes: Redis channels, reply queues.

`AsyncBackendMixin` is what results talk to. It registers who waits for which task; the back-end's
`BaseResultConsumer` receives state documents and hands them over; a `Drainer` decides which
thread or greenlet reads: the waiting one itself, or a background greenlet under gevent and
eventlet.
"""

from __future__ import annotations

import builtins
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol

from kombu.utils.compat import detect_environment

from celery import states
from celery.backends._backend import pending_results_t
from celery.backends._wait import TIMED_OUT
from celery.exceptions import TimeoutError

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.utils.collections import BufferMap

__all__ = ("AsyncBackendMixin", "BaseResultConsumer", "Drainer", "register_drainer")

E_CELERY_RESTART_REQUIRED = (
    "The reader of results has stopped because of an error; the process must be restarted."
)
E_RETRY_LIMIT_EXCEEDED = (
    "The result store could not be reached again within the tries of its retry policy. "
    "Results that are waited for may be stored; ask for them again."
)

#: Seconds between two calls of ``on_interval`` while nothing arrives.
INTERVAL_S = 1.0

#: By environment: how results are read while someone waits.
drainers: dict[str, type[Drainer]] = {}


class HasReady(Protocol):
    """Something that becomes ready: a promise, or a condition of ours."""

    @property
    def ready(self) -> bool:
        """Whether it has happened."""
        ...


class _AllSeen:
    """Ready once every awaited result has ended."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.open = results

    @property
    def ready(self) -> bool:
        return not self.open


class _Ended:
    """Ready once one result has ended."""

    __slots__ = ("result",)

    def __init__(self, result: Any) -> None:
        self.result = result

    @property
    def ready(self) -> bool:
        return self.result._cache is not None


def register_drainer(name: str) -> Callable[[type[Drainer]], type[Drainer]]:
    """Use the decorated class in the environment *name* (``default``, ``gevent``, ``eventlet``)."""

    def register(cls: type[Drainer]) -> type[Drainer]:
        drainers[name] = cls
        return cls

    return register


@register_drainer("default")
class Drainer:
    """Whoever waits reads; with several threads, one at a time reads for all."""

    def __init__(self, result_consumer: BaseResultConsumer) -> None:
        self.result_consumer = result_consumer
        self._reading = threading.Lock()
        self._rounds = 0
        self._round_over = threading.Condition()

    def start(self) -> None:
        """Begin to read in the background; nothing to do here."""

    def stop(self) -> None:
        """Stop reading in the background; nothing to do here."""

    def drain_events_until(
        self,
        p: HasReady,
        timeout: float | None = None,
        interval: float = INTERVAL_S,
        on_interval: Callable[[], Any] | None = None,
        wait: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Read until *p* is ready; yields after each round.

        Args:
            p: Has an attribute ``ready``.
            timeout: Seconds in all; None for no limit.
            interval: Longest round, in seconds.
            on_interval: Called after each round.
            wait: Reads for at most the seconds of its argument ``timeout``.

        Raises:
            celery.exceptions.TimeoutError: *timeout* seconds have passed.
        """
        wait = wait or self.result_consumer.drain_events
        end = None if timeout is None else time.monotonic() + timeout
        while not p.ready:
            pause = interval
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(TIMED_OUT)
                pause = min(interval, left)
            received = None
            # A quiet round is no error; the loop decides whether there is another one.
            with suppress(builtins.TimeoutError):
                received = self.wait_for(p, wait, timeout=pause)
            yield received
            if on_interval is not None:
                on_interval()

    def wait_for(self, p: HasReady, wait: Callable[..., Any], timeout: float | None = None) -> Any:
        """Read for at most *timeout* seconds, or until another thread has read for us."""
        seen = self._rounds
        if not self._reading.acquire(blocking=False):
            with self._round_over:
                if self._rounds == seen:
                    self._round_over.wait(timeout)
            return None
        try:
            return None if p.ready else wait(timeout=timeout)
        finally:
            self._reading.release()
            with self._round_over:
                self._rounds += 1
                self._round_over.notify_all()


class greenletDrainer(Drainer):
    """One background greenlet reads for all others."""

    #: Starts a function in a greenlet.
    spawn: Callable[..., Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._greenlet: Any = None
        self._stopped = False
        self._failure: BaseException | None = None
        self._read_something = self._new_event()

    def _new_event(self) -> Any:
        return threading.Event()

    def run(self) -> None:
        """Read until stopped; the body of the greenlet."""
        try:
            while not self._stopped:
                with suppress(builtins.TimeoutError):
                    self.result_consumer.drain_events(timeout=INTERVAL_S)
                self._announce()
        except Exception as exc:  # noqa: BLE001 - handed to everyone who waits
            self._failure = exc
        finally:
            self._greenlet = None
            self._announce()

    def _announce(self) -> None:
        over, self._read_something = self._read_something, self._new_event()
        over.set()

    def start(self) -> None:
        """Start the reading greenlet, unless it runs."""
        if self._greenlet is None and self.spawn is not None:
            self._stopped, self._failure = False, None
            self._greenlet = self.spawn(self.run)

    def stop(self) -> None:
        """Let the greenlet end after its current round."""
        self._stopped = True

    def wait_for(self, p: HasReady, wait: Callable[..., Any], timeout: float | None = None) -> Any:
        """Wait for at most *timeout* seconds until something was read."""
        over = self._read_something
        self.start()
        if not p.ready:
            over.wait(timeout)
        if self._failure is not None:
            raise RuntimeError(E_CELERY_RESTART_REQUIRED) from self._failure


@register_drainer("gevent")
class geventDrainer(greenletDrainer):
    """Reads in a greenlet of gevent."""

    def spawn(self, func: Callable[[], Any]) -> Any:
        """Run *func* in a greenlet."""
        import gevent

        greenlet = gevent.spawn(func)
        gevent.sleep(0)
        return greenlet

    def _new_event(self) -> Any:
        from gevent.event import Event

        return Event()


class EventletAdaptedEvent:
    """An event of eventlet, with the interface of the standard library."""

    def __init__(self) -> None:
        from eventlet.event import Event

        self.evt = Event()

    def is_set(self) -> bool:
        """Say whether `set` was called."""
        return bool(self.evt.ready())

    def set(self) -> None:
        """Wake everyone who waits."""
        if not self.evt.ready():
            self.evt.send()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `set` is called, or for *timeout* seconds; say which."""
        return self.evt.wait(timeout) is not None or self.is_set()


@register_drainer("eventlet")
class eventletDrainer(greenletDrainer):
    """Reads in a greenlet of eventlet."""

    def spawn(self, func: Callable[[], Any]) -> Any:
        """Run *func* in a greenlet."""
        from eventlet import sleep, spawn

        greenlet = spawn(func)
        sleep(0)
        return greenlet

    def _new_event(self) -> Any:
        return EventletAdaptedEvent()


class AsyncBackendMixin:
    """Results are pushed; mixed into a back-end with a ``result_consumer``."""

    result_consumer: BaseResultConsumer
    is_async = True

    if TYPE_CHECKING:
        _pending_results: pending_results_t
        _pending_messages: BufferMap

    def iter_native(
        self, result: Any, no_ack: bool = True, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(task id, document)`` of the members of *result* as they end."""
        fresh: deque[Any] = deque()
        waited_for: dict[str, Any] = {}
        for node in result._leaves():
            if node._cache is not None:
                fresh.append(node)
            else:
                waited_for.setdefault(node.id, node)
        watched = list(waited_for.values())
        buckets = self.result_consumer.buckets
        for node in watched:
            buckets[node] = fresh
        rounds = self.result_consumer.rounds(watched, _AllSeen(waited_for), no_ack=no_ack, **kwargs)
        try:
            while True:
                while fresh:
                    node = fresh.popleft()
                    waited_for.pop(node.id, None)
                    yield node.id, node._cache
                if next(rounds, rounds) is rounds and not fresh:
                    return
        finally:
            rounds.close()
            for node in watched:
                buckets.pop(node, None)

    def add_pending_result(
        self, result: Any, weak: bool = False, start_drainer: bool = True
    ) -> Any:
        """Note that someone waits for *result*.

        Args:
            result: Is told about every final document of its task.
            weak: Don't keep it alive.
            start_drainer: Begin to read in the background, where that is done.
        """
        self.add_pending_results([result], weak=weak, _start_drainer=start_drainer)
        return result

    def add_pending_results(
        self, results: Any, weak: bool = False, *, _start_drainer: bool = True
    ) -> None:
        """Note that someone waits for all of *results*; see `add_pending_result`."""
        if _start_drainer:
            self.result_consumer.drainer.start()
        unknown = []
        for result in results:
            if result._cache is not None or self.result_consumer.resolve_from_buffer(result):
                continue
            self.result_consumer.watch(result, weak=weak)
            unknown.append(result.id)
        if unknown:
            self.result_consumer.consume_from_all(unknown)

    def remove_pending_result(self, result: Any) -> Any:
        """Stop watching for *result*."""
        if self.result_consumer.unwatch(result):
            self.on_result_fulfilled(result)
        return result

    def on_result_fulfilled(self, result: Any) -> None:
        """Called when nobody waits for the task of *result* any more."""
        self.result_consumer.cancel_for(result.id)

    def wait_for_pending(
        self,
        result: Any,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Wait until *result* is ready and return its value, or raise its error.

        Raises:
            celery.exceptions.TimeoutError: ``timeout`` seconds have passed.
        """
        if result._cache is None:
            for _ in self.result_consumer.rounds([result], _Ended(result), **kwargs):
                # Each round may have brought the document.
                pass
        return result.maybe_throw(callback=callback, propagate=propagate)


class BaseResultConsumer:
    """Receives state documents and hands them to the results that wait for them.

    Args:
        backend: The back-end it belongs to.
        app: Its app.
        accept: Content types that are decoded.
        pending_results: Who waits, see `pending_results_t`.
        pending_messages: Documents of ended tasks that nobody has asked for yet.
    """

    def __init__(
        self,
        backend: Any,
        app: Celery,
        accept: Any,
        pending_results: pending_results_t,
        pending_messages: BufferMap,
    ) -> None:
        self.backend = backend
        self.app = app
        self.accept = accept
        self._pending_results = pending_results
        self._pending_messages = pending_messages
        #: Further result objects for a task that somebody else waits for, too.
        self._others: dict[str, list[weakref.ref[Any]]] = {}
        self.on_message: Callable[[dict[str, Any]], Any] | None = None
        #: Where a result goes when it is ready, for those who wait for many.
        self.buckets: weakref.WeakKeyDictionary[Any, deque[Any]] = weakref.WeakKeyDictionary()
        self.drainer = drainers.get(detect_environment(), Drainer)(self)

    # -- What an adapter brings

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Connect, and begin to receive documents of *initial_task_id*."""
        raise NotImplementedError

    def stop(self) -> None:
        """Disconnect; harmless twice."""

    def drain_events(self, timeout: float | None = None) -> Any:
        """Receive for at most *timeout* seconds, until something came.

        Raises:
            socket.timeout: Nothing came.
        """
        raise NotImplementedError

    def consume_from(self, task_id: str) -> None:
        """Receive documents of *task_id*, too."""
        raise NotImplementedError

    def consume_from_all(self, task_ids: list[str]) -> None:
        """Receive documents of all *task_ids*, too."""
        for task_id in task_ids:
            self.consume_from(task_id)

    def cancel_for(self, task_id: str) -> None:
        """Receive nothing more about *task_id*."""
        raise NotImplementedError

    def on_after_fork(self) -> None:
        """Called in a child process: what is connected belongs to the parent."""

    def peek(self, results: list[Any]) -> None:
        """Look whether some of *results* have ended, before anyone watches; one quick request."""
        for result in results:
            self.resolve_from_buffer(result)

    def resolve_from_buffer(self, result: Any) -> bool:
        """Give *result* its document if that came before anyone asked; say whether it did."""
        document = self._pending_messages.take(result.id, None)
        if document is None:
            return False
        self.deliver(document, [result])
        return True

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Called before waiting; looks for what was stored before anyone watched.

        Args:
            result: A result, or a list of results.
            timeout: Seconds that the wait may take.
        """

    def reconnect_on_error(self) -> AbstractContextManager[Any]:
        """Return a context in which a lost connection is made anew."""
        return nullcontext()

    # -- Who waits

    def watch(self, result: Any, weak: bool = False) -> None:
        """Hand documents of its task to *result*."""
        concrete, weakly = self._pending_results
        task_id = result.id
        known = concrete.get(task_id)
        if known is None:
            known = weakly.get(task_id)
        if known is None:
            (weakly if weak else concrete)[task_id] = result
        elif known is not result:
            refs = self._others.setdefault(task_id, [])
            if not any(ref() is result for ref in refs):
                refs.append(weakref.ref(result))
        elif not weak:
            concrete[task_id] = result

    def unwatch(self, result: Any, only_weak: bool = False) -> bool:
        """Stop that; say whether nobody waits for the task any more.

        Args:
            result: Was given to `watch`.
            only_weak: Not where it was given to be kept alive.
        """
        task_id = result.id
        concrete, weakly = self._pending_results
        for waiting in (weakly,) if only_weak else (concrete, weakly):
            known = waiting.get(task_id)
            if known is None or known is result:
                waiting.pop(task_id, None)
        others = [
            ref
            for ref in self._others.pop(task_id, ())
            if ref() is not None and ref() is not result
        ]
        if others:
            self._others[task_id] = others
        return not others and not self._is_watched(task_id)

    def _is_watched(self, task_id: str) -> bool:
        concrete, weakly = self._pending_results
        return task_id in concrete or task_id in weakly

    def _watchers(self, task_id: str) -> list[Any]:
        concrete, weakly = self._pending_results
        found = [concrete.get(task_id), weakly.get(task_id)]
        found += [ref() for ref in self._others.get(task_id, ())]
        return [result for result in found if result is not None]

    def watched_ids(self) -> list[str]:
        """Return the ids of all tasks that someone waits for."""
        concrete, weakly = self._pending_results
        return list(dict.fromkeys([*concrete, *weakly, *self._others]))

    # -- Waiting

    def rounds(
        self,
        results: list[Any],
        done: HasReady,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        **kwargs: Any,
    ) -> Generator[Any, None, None]:
        """Receive until *done* is ready, yielding after each round.

        Args:
            results: What is waited for.
            done: When to stop.
            timeout: Seconds in all; None for no limit, 0 looks once.
            on_interval: Called after each round.
            on_message: Called with each document that arrives meanwhile.
            kwargs: For `on_wait_for_pending`.

        Raises:
            celery.exceptions.TimeoutError: *timeout* seconds have passed.
        """
        before, self.on_message = self.on_message, on_message or self.on_message
        waiting = results
        try:
            self.peek(results)
            yield None
            waiting = [result for result in results if result._cache is None]
            if not waiting:
                return
            self.backend.add_pending_results(waiting, weak=True)
            self.on_wait_for_pending(waiting, timeout=timeout, **kwargs)
            yield None
            yield from self.drain_events_until(done, timeout=timeout, on_interval=on_interval)
        finally:
            self.on_message = before
            for result in waiting:
                if result._cache is None and self.unwatch(result, only_weak=True):
                    self.backend.on_result_fulfilled(result)

    def drain_events_until(
        self,
        p: HasReady,
        timeout: float | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Any]:
        """Receive until *p* is ready; see `Drainer.drain_events_until`."""
        return self.drainer.drain_events_until(p, timeout=timeout, on_interval=on_interval)

    # -- Documents

    def on_out_of_band_result(self, message: Any) -> None:
        """Take a message that came another way."""
        self.on_state_change(message.payload, message)

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        """Hand the plain document *meta* to those who wait for it."""
        if self.on_message is not None:
            self.on_message(meta)
        if meta["status"] not in states.READY_STATES:
            return
        document = self.backend.meta_from_decoded(meta)
        task_id = document["task_id"]
        watchers = self._watchers(task_id)
        if not watchers:
            self.on_unexpected(task_id, document)
            return
        concrete, weakly = self._pending_results
        concrete.pop(task_id, None)
        weakly.pop(task_id, None)
        self._others.pop(task_id, None)
        self.deliver(document, watchers)
        self.backend.on_result_fulfilled(watchers[0])

    def deliver(self, document: dict[str, Any], results: list[Any]) -> None:
        """Give *results*, all of one task, the final document of it."""
        for result in results:
            result._maybe_set_cache(document)
            bucket = self.buckets.pop(result, None)
            if bucket is not None:
                bucket.append(result)

    def on_unexpected(self, task_id: str, document: dict[str, Any]) -> None:
        """Keep the document of an ended task until someone asks for it."""
        self._pending_messages.put(task_id, document)
