from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest

from celery.utils.bridge import Bridge, bridge_of


def test_calls_are_made_in_order_by_one_thread_of_its_own():
    bridge = Bridge("test")
    made = []

    async def main():
        return await asyncio.gather(
            *(bridge.call(lambda n=n: (made.append(n), threading.current_thread())[1])
              for n in range(100))
        )  # fmt: skip

    threads = asyncio.run(main())
    bridge.stop()
    bridge.stop()

    assert made == list(range(100))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


def test_a_call_sees_the_context_of_its_caller_and_may_raise():
    bridge = Bridge("test")
    who = contextvars.ContextVar("who", default="nobody")

    def fail(text):
        raise KeyError(text)

    async def main():
        who.set("me")
        assert await bridge.call(who.get) == "me"
        with pytest.raises(KeyError, match="gone"):
            await bridge.call(fail, text="gone")

    asyncio.run(main())
    bridge.stop()


def test_a_call_that_nobody_waits_for_is_not_made():
    bridge = Bridge("test")
    go = threading.Event()
    made = []

    async def main():
        first = asyncio.ensure_future(bridge.call(go.wait, 10))
        second = asyncio.ensure_future(bridge.call(made.append, 2))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.sleep(0)
        go.set()
        await first
        await bridge.call(made.append, 3)

    asyncio.run(main())
    bridge.stop()

    assert made == [3]


def test_a_loop_that_has_gone_does_not_end_the_thread():
    bridge = Bridge("test")
    go, done = threading.Event(), threading.Event()

    async def leave():
        call = asyncio.ensure_future(bridge.call(lambda: (go.wait(10), done.set())))
        await asyncio.sleep(0.01)
        assert not call.done()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    go.set()
    assert done.wait(10)

    async def again():
        return await bridge.call(lambda: 5)

    assert asyncio.run(again()) == 5
    bridge.stop()


def test_nothing_is_kept_alive_between_calls():
    class Thing:
        pass

    bridge = Bridge("test")

    async def main():
        thing = Thing()
        seen = weakref.ref(thing)
        await bridge.call(lambda it: it, thing)
        await bridge.call(int)
        del thing
        gc.collect()
        return seen

    seen = asyncio.run(main())
    bridge.stop()

    assert seen() is None


def test_an_owner_has_one_bridge():
    class Owner:
        pass

    one, other = Owner(), Owner()

    assert bridge_of(one) is bridge_of(one)
    assert bridge_of(one) is not bridge_of(other)


def test_a_call_after_the_end_starts_another_thread():
    bridge = Bridge("test")
    ended = []
    bridge.on_stop = lambda: ended.append(True)
    threads = []
    for _ in range(3):
        threads.append(asyncio.run(bridge.call(threading.current_thread)))
        bridge.stop()
        threads[-1].join(20)

    assert len(set(threads)) == 3
    assert not any(thread.is_alive() for thread in threads)
    assert ended == [True] * 3
