"""Sending and awaiting on an event loop, with real brokers and result stores."""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery import Celery, chain, group
from celery.exceptions import TimeoutError
from t.harness.servers import RedisServer
from t.harness.worker import ROOT, WorkerProcess, eventually

TASKS = """
import asyncio
from celery import Celery

app = Celery("awaited")
app.conf.update(__CONF__)

@app.task
async def nap(seconds, value=None):
    await asyncio.sleep(seconds)
    return value

@app.task
async def fail(text):
    raise KeyError(text)

@app.task
def add(x, y):
    return x + y

@app.task
async def from_within(number):
    results = await asyncio.gather(*(add.adelay(n, n) for n in range(number)))
    return [await result for result in results]
"""


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def conf(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "redis":
        server = request.getfixturevalue("redis_server")
        server.flush()
        return {"broker_url": server.url, "result_backend": server.url}
    url = request.getfixturevalue("rabbitmq_server").new_url()
    return {"broker_url": url, "result_backend": "rpc://"}


@pytest.fixture(scope="module")
def worker(conf: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("awaiting")
    (folder / "awaited.py").write_text(TASKS.replace("__CONF__", repr(conf)))
    with WorkerProcess(
        "-P", "asyncio", "-c", "200", conf={}, app="awaited", cwd=folder, level="INFO"
    ):
        yield


@pytest.fixture
def app(conf: dict[str, Any], worker: None) -> Iterator[Celery]:
    with Celery("client", set_as_current=False) as app:
        app.conf.update(conf)
        yield app


def task(app: Celery, name: str) -> Any:
    return app.signature(f"awaited.{name}")


def test_a_value_and_an_error_are_awaited(app: Celery) -> None:
    async def main() -> None:
        result = await task(app, "add").adelay(2, 3)
        assert await result == 5
        assert await result == 5
        with pytest.raises(KeyError, match="gone"):
            await (await task(app, "fail").adelay("gone"))
        failed = await task(app, "fail").adelay("kept")
        assert isinstance(await failed.aget(propagate=False), KeyError)

    asyncio.run(main())


def test_a_result_that_is_there_already_is_found(app: Celery) -> None:
    async def main() -> None:
        result = task(app, "add").delay(2, 3)
        other = await task(app, "nap").adelay(0.3)
        await other
        assert await asyncio.wait_for(result.aget(), 5) == 5

    asyncio.run(main())


def test_patience_ends(app: Celery) -> None:
    async def main() -> None:
        result = await task(app, "nap").adelay(1, "late")
        with pytest.raises(TimeoutError):
            await result.aget(timeout=0.05)
        assert await result == "late"

    asyncio.run(main())


def test_several_may_await_one_result_and_one_may_give_up(app: Celery) -> None:
    async def main() -> None:
        result = await task(app, "nap").adelay(0.3, 7)
        waits = [asyncio.ensure_future(result.aget()) for _ in range(3)]
        again = asyncio.ensure_future(app.AsyncResult(result.id).aget())
        await asyncio.sleep(0.05)
        waits[0].cancel()
        assert await asyncio.gather(*waits[1:], again) == [7, 7, 7]
        assert waits[0].cancelled()

    asyncio.run(main())


def test_members_of_a_group_come_as_they_end(app: Celery) -> None:
    async def main() -> None:
        pauses = [1.2, 0.1, 0.6]
        results = await group(task(app, "nap").clone((p, p)) for p in pauses).adelay()
        assert [await result async for result in results] == sorted(pauses)
        assert await results == pauses
        assert await results.aget(timeout=1) == pauses

    asyncio.run(main())


def test_an_error_in_front_ends_the_wait_for_a_chain(app: Celery) -> None:
    async def main() -> None:
        flow = chain(task(app, "fail").clone(("early",)), task(app, "add").clone((1,)))
        with pytest.raises(KeyError, match="early"):
            await (await flow.adelay()).aget(timeout=20)

    asyncio.run(main())


def test_a_coroutine_task_may_await_others(app: Celery) -> None:
    async def main() -> None:
        assert await (await task(app, "from_within").adelay(5)) == [0, 2, 4, 6, 8]

    asyncio.run(main())


def test_a_new_loop_can_be_used_after_another(app: Celery) -> None:
    async def main(number: int) -> Any:
        return await (await task(app, "add").adelay(number, 1))

    assert [asyncio.run(main(number)) for number in range(3)] == [1, 2, 3]


def test_threads_with_a_loop_each_leave_no_threads_behind(app: Celery) -> None:
    """Frameworks run coroutines like that, one thread and one loop for each request."""

    async def main(number: int) -> None:
        assert await (await task(app, "add").adelay(number, 1)) == number + 1
        given_up = await task(app, "nap").adelay(0.2)
        with pytest.raises(TimeoutError):
            await given_up.aget(timeout=0.01)

    def readers() -> list[str]:
        gc.collect()
        names = [thread.name for thread in threading.enumerate()]
        return [name for name in names if name in {"celery-results", "celery-subscriber"}]

    before = len(readers())
    for number in range(4):
        thread = threading.Thread(target=asyncio.run, args=(main(number),))
        thread.start()
        thread.join()

    eventually(lambda: len(readers()) <= before)


@asynccontextmanager
async def turns() -> AsyncIterator[list[float]]:
    """Record how long the loop is busy between two looks, in seconds of its thread's own time.

    The clock on the wall would also count what other programs do with the processor.
    """
    busy: list[float] = []

    async def look() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            busy.append(time.thread_time() - before)

    looking = asyncio.ensure_future(look())
    yield busy
    looking.cancel()


def test_the_loop_goes_on_while_a_thousand_tasks_are_sent_and_awaited(app: Celery) -> None:
    async def visitor(calls: int) -> None:
        for number in range(calls):
            assert await (await task(app, "add").adelay(number, 1)) == number + 1

    async def main() -> list[float]:
        await visitor(1)
        async with turns() as busy:
            await asyncio.gather(*(visitor(20) for _ in range(50)))
        return busy

    busy = asyncio.run(main())

    assert len(busy) > 20
    assert statistics.quantiles(busy, n=20)[-1] < 0.005


@pytest.mark.parametrize("conf", ["redis"], indirect=True)
def test_a_server_that_does_not_answer_holds_up_nothing_but_its_callers(
    app: Celery, redis_server: RedisServer
) -> None:
    async def main() -> None:
        assert await (await task(app, "add").adelay(1, 1)) == 2
        late = await task(app, "nap").adelay(0.2, "late")
        waiting = asyncio.ensure_future(late.aget())
        with redis_server.frozen():
            calls = [asyncio.ensure_future(task(app, "add").adelay(n, 1)) for n in range(20)]
            loop = asyncio.get_running_loop()
            began = loop.time()
            looks = 0
            while loop.time() - began < 1:
                await asyncio.sleep(0.001)
                looks += 1
            assert looks > 20
            assert not waiting.done()
        assert await waiting == "late"
        results = await asyncio.gather(*calls)
        assert [await result for result in results] == list(range(1, 21))

    asyncio.run(main())


EXAMPLE = ROOT / "examples" / "fastapi"


def test_the_web_service_of_the_example_answers(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    env = {"BROKER_URL": redis_url, "RESULT_BACKEND": redis_url}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("tasks", "web"):
        # Known already, and thereby forgotten again afterwards.
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    import web  # type: ignore[import-not-found]

    async def main() -> None:
        transport = httpx.ASGITransport(app=web.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            assert (await client.get("/greet/Ada")).json() == "Hello, Ada!"
            task_id = (await client.post("/jobs/Ada")).json()["id"]
            found = await client.get(f"/jobs/{task_id}", params={"timeout": 10})
            assert found.json() == {"result": "Hello, Ada!"}
            assert (await client.get("/jobs/nobody", params={"timeout": 0.05})).status_code == 202
            lines = (await client.get("/party/Ada/Grace")).text.splitlines()
            assert sorted(lines) == ["Hello, Ada!", "Hello, Grace!"]
            async with turns() as busy:

                async def visitor() -> None:
                    for number in range(20):
                        answer = await client.get(f"/greet/{number}")
                        assert answer.status_code == 200

                await asyncio.gather(*(visitor() for _ in range(5)))
            # The typical turn: the longest ones hold requests of all five visitors, whose
            # frameworks' own work is most of it.
            assert statistics.median(busy) < 0.005

    with WorkerProcess(
        "-P", "asyncio", "-c", "50", conf={}, app="tasks", cwd=EXAMPLE, env=env, level="INFO"
    ):
        asyncio.run(main())
    web.app.close()
