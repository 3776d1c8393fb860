"""Awaiting results on an event loop, without a store."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

from celery._result.awaiting import Waiter

PATIENCE_S = 20.0


class Result:
    id = "r"
    _cache = None


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
        waiting = asyncio.ensure_future(waiter.wait(Result()))  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, backend.subscribing.wait, PATIENCE_S)
        waiting.cancel()
        await asyncio.wait([waiting])

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
