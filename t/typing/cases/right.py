"""Uses of tasks that a type checker has to accept, and the types that it has to find."""

from __future__ import annotations

from typing import Any, assert_type

from celery import Celery, Task, shared_task
from celery.canvas import Signature, group
from celery.result import AsyncResult, EagerResult, GroupResult

app = Celery("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="named", acks_late=True)
def named(text: str, *, loud: bool = False) -> str:
    return text.upper() if loud else text


@app.task(bind=True, max_retries=3)
def bound(self: Task, number: float) -> list[float]:
    assert_type(self.request.retries, Any)
    return [number]


@app.task(bind=True)
def bound_with_any_keyword(self: Task, number: int, **more: int) -> int:
    return number


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def bound_fetch(self: Task, url: str) -> bytes:
    return await fetch(url)


@app.task(bind=True)
async def bound_fetch_with_any_keyword(self: Task, url: str, **more: int) -> bytes:
    return await fetch(url)


@app.task(bind=True)
async def bound_fetch_otherwise(task: Task, url: str, times: int = 1) -> bytes:
    return await fetch(url)


@app.task(bind=True)
def bound_otherwise(this: Task[[int], str], number: int) -> str:
    return str(number)


@shared_task
def shared(x: int) -> str:
    return str(x)


@shared_task(bind=True)
def shared_bound(self: Task, x: int) -> str:
    return str(x)


class Database(Task):
    connection: str = ""


@app.task(base=Database, bind=True)
def store(self: Database, value: int) -> None:
    self.connection += str(value)


class Typed(Task[[int], str]):
    name = "typed"

    def run(self, x: int) -> str:
        return str(x)


def calls() -> None:
    assert_type(add(1, 2), int)
    assert_type(add.delay(1, y=2), AsyncResult[int])
    assert_type(add.delay(1).get(), int)
    assert_type(add.delay(1).get(timeout=3, propagate=False), int)
    assert_type(add.apply_async((1, 2), countdown=3), AsyncResult[int])
    assert_type(add.apply((1,)), EagerResult[int])
    assert_type(add.AsyncResult("id"), AsyncResult[int])
    assert_type(named.delay("x", loud=True).get(), str)
    assert_type(bound.delay(1.5).get(), list[float])
    assert_type(shared.delay(1).get(), str)
    assert_type(shared_bound.delay(1).get(), str)
    assert_type(bound_with_any_keyword.delay(1, other=2).get(), int)
    store.delay(1)
    assert_type(store.connection, str)
    assert_type(Typed().delay(1).get(), str)
    assert_type(add.name, str | None)


async def coroutines() -> None:
    assert_type(await fetch("x"), bytes)
    assert_type(fetch.delay("x"), AsyncResult[bytes])
    assert_type(fetch.delay("x").get(), bytes)
    assert_type(bound_fetch.delay("x"), AsyncResult[bytes])
    assert_type(await bound_fetch("x"), bytes)
    assert_type(await bound_fetch.delay("x").aget(), bytes)
    assert_type(bound_fetch.s("x"), Signature[bytes])
    assert_type(bound_fetch_with_any_keyword.delay("x", more=2).get(), bytes)
    assert_type(bound_fetch_otherwise.delay("x", times=2).get(), bytes)
    assert_type(bound_otherwise.delay(1).get(), str)


def signatures() -> None:
    assert_type(add.s(1), Signature[int])
    assert_type(add.s(), Signature[int])
    assert_type(add.si(1, 2), Signature[int])
    assert_type(add.s(1).delay(2), AsyncResult[int])
    assert_type(add.s(1).apply_async((2,)).get(), int)
    assert_type(add.s(1).set(queue="x"), Signature[int])
    assert_type(group(add.s(1), add.s(2)).delay(), GroupResult)
    assert_type(app.signature("x"), Signature)


def any_task(task: Task[..., Any], result: AsyncResult[Any]) -> None:
    task.delay(1, 2, three=4)
    result.get()


any_task(add, add.delay(1))
any_task(bound, bound.delay(1))
