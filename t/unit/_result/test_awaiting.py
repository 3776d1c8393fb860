"""Awaiting results on an event loop, without a store."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from celery import Celery
from celery._result import awaiting
from celery._result.awaiting import Waiter, until_ended

PATIENCE_S = 60.0


class Result:
    id = "r"
    _cache = None

    def __init__(self, backend: Any) -> None:
        self.backend = backend


class PushingBackend:
    """Subscribes when it is let, and then has nothing to tell."""

    is_async = True

    def __init__(self) -> None:
        self.app = SimpleNamespace(_local=threading.local())
        self.result_consumer = SimpleNamespace(
            buckets={},
            on_wait_for_pending=lambda results: None,
            drain_events_until=lambda waiter: iter(()),
        )
        self.subscribing, self.may_subscribe = threading.Event(), threading.Event()

    def add_pending_results(self, results: list[Any], weak: bool) -> None:
        self.subscribing.set()
        assert self.may_subscribe.wait(PATIENCE_S)

    def remove_pending_result(self, result: Any) -> None:
        self.may_subscribe.set()


def test_the_reader_rests_when_the_last_one_gives_up_while_his_result_is_asked_for() -> None:
    backend = PushingBackend()
    waiter = Waiter(backend, "oid")

    async def give_up() -> None:
        waiting = asyncio.ensure_future(waiter.wait(Result(backend)))  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, backend.subscribing.wait, PATIENCE_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())

    # The result has been asked for in vain, and the reader has been told of it.
    asked = threading.Event()
    waiter._bridge.cast(asked.set)
    assert asked.wait(PATIENCE_S)
    assert rests(waiter)


def rests(waiter: Waiter) -> bool:
    """Say whether the reader sleeps; one that turns in circles is seen awake now and then."""
    pause = threading.Event()
    looks = [waiter._news.is_set() or pause.wait(0.001) for _ in range(200)]
    return not any(looks[100:])


class PolledBackend:
    """Tells what has ended when it is asked."""

    is_async = False

    def __init__(self, app: Any) -> None:
        self.app = app
        self.documents: dict[str, Any] = {}

    def get_task_meta(self, task_id: str) -> Any:
        return self.documents.get(task_id, {"status": "PENDING"})


class Polled(SimpleNamespace):
    _cache = None

    def _maybe_set_cache(self, document: Any) -> None:
        self._cache = document


def test_closing_the_app_ends_the_threads_when_nobody_awaits_any_more() -> None:
    app = Celery("closed", set_as_current=False)
    backend = PolledBackend(app)
    first, second, third = (Polled(id=name, backend=backend) for name in ("a", "b", "c"))
    done = {"status": "SUCCESS", "result": 1}

    async def main() -> list[threading.Thread]:
        backend.documents["a"] = done
        await until_ended(first)  # type: ignore[arg-type]
        before = threads_of(backend)
        waiting = asyncio.ensure_future(until_ended(second))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        app.close()
        app.close()
        backend.documents["b"] = done
        await waiting
        # The app stays usable, and what this starts is to end as well.
        backend.documents["c"] = done
        await until_ended(third)  # type: ignore[arg-type]
        after = threads_of(backend)
        app.close()
        return [*before, *after]

    threads = asyncio.run(main())

    assert len(threads) == 4
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert backend not in awaiting._waiters


def threads_of(backend: Any) -> list[threading.Thread]:
    waiter = awaiting._waiters[backend]
    found = [waiter._reader, waiter._bridge._thread]
    return [thread for thread in found if thread is not None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_may_close_an_app_whose_threads_it_has_not() -> None:
    app = Celery("forked", set_as_current=False)
    backend = PolledBackend(app)
    backend.documents["a"] = {"status": "SUCCESS", "result": 1}
    asyncio.run(until_ended(Polled(id="a", backend=backend)))  # type: ignore[arg-type]
    (reader, bridge) = threads_of(backend)
    lock = awaiting._waiters[backend]._bridge._lock

    with lock, warnings.catch_warnings():
        # The worst moment: somebody holds what a child never can release.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
        if pid == 0:
            app.close()
            os._exit(17)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 17
    assert reader.is_alive()
    assert bridge.is_alive()
    app.close()
    reader.join(PATIENCE_S)
    bridge.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in (reader, bridge))
