"""Uses of tasks that a type checker has to accept, and the types that it has to find."""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar, assert_type

from celery import Celery, Task, chain, chord, group, shared_task, signature
from celery.app.task import CoroutineTask
from celery.canvas import Signature
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


P = ParamSpec("P")
R = TypeVar("R")


class Audited(Task[P, R]):
    audit: list[str] = []


class AuditedCoroutine(CoroutineTask[P, R]):
    audit: list[str] = []


class Prepared(Task):
    def __init__(self) -> None:
        super().__init__()
        self.prepared = True


class OfNumbers(Task[[int], str]):
    unit = "m"


@app.task(base=Audited)
def audited(x: int, y: str = "") -> float:
    return x


@app.task(base=Audited, bind=True, max_retries=None)
def audited_bound(self: Audited[[int], bool], x: int) -> bool:
    return bool(self.audit)


@app.task(base=Audited, bind=True)
def audited_bound_with_any_keyword(self: Task, x: int, **more: int) -> bool:
    return bool(x)


@app.task(base=AuditedCoroutine)
async def audited_fetch(url: str) -> bytes:
    return url.encode()


@app.task(base=AuditedCoroutine, bind=True)
async def audited_bound_fetch(self: Task, url: str) -> bytes:
    return url.encode()


@app.task(base=Prepared, bind=True)
def prepared(self: Prepared, x: int) -> int:
    return x


@app.task(base=OfNumbers)
def measured(x: int) -> str:
    return str(x)


@shared_task(base=Audited)
def shared_audited(x: int) -> str:
    return str(x)


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
    assert_type(add.s(1)(), int)
    assert_type(~add.s(1), int)
    assert_type(add.s(1).apply(), EagerResult[int])
    assert_type(add.s(1).freeze(), AsyncResult[int])
    assert_type(app.signature("x"), Signature)
    assert_type(signature("x").delay(), AsyncResult[Any])
    assert_type(signature(add, args=(1,)), Signature[int])
    assert_type(signature(add.s(1)), Signature[int])
    assert_type(add.map([1, 2]).delay(), AsyncResult[list[int]])
    assert_type(add.starmap([(1, 2)]).delay().get(), list[int])
    assert_type(add.chunks([(1, 2)], 10).delay(), GroupResult[list[int]])


def bases() -> None:
    assert_type(audited.audit, list[str])
    assert_type(audited(1), float)
    assert_type(audited.delay(1, y="x"), AsyncResult[float])
    assert_type(audited.s(), Signature[float])
    assert_type(audited_bound.audit, list[str])
    assert_type(audited_bound.delay(1), AsyncResult[bool])
    assert_type(audited_bound_with_any_keyword.delay(1, more=2), AsyncResult[bool])
    assert_type(audited_fetch.audit, list[str])
    assert_type(audited_fetch.delay("x"), AsyncResult[bytes])
    assert_type(audited_bound_fetch.delay("x"), AsyncResult[bytes])
    assert_type(prepared, Prepared)
    assert_type(prepared.prepared, bool)
    assert_type(measured, OfNumbers)
    assert_type(measured.delay(1), AsyncResult[str])
    assert_type(shared_audited.delay(1), AsyncResult[str])


def chains() -> None:
    steps = add.s(1) | named.s()
    assert_type(steps.delay(), AsyncResult[str])
    assert_type(steps(), AsyncResult[str])
    assert_type(steps.apply_async(countdown=3).get(), str)
    assert_type(steps.apply(), EagerResult[str])
    assert_type(steps.freeze(), AsyncResult[str])
    assert_type(~steps, str)
    assert_type((steps | add.s()).delay(), AsyncResult[int])
    assert_type(chain(add.s(1), named.s()).delay(), AsyncResult[str])
    assert_type(chain(add.s(1), add.s(1), add.s(1), named.s()).delay(), AsyncResult[str])
    assert_type(chain(steps, add.s()), chain[int])
    assert_type(chain(add.s(n) for n in range(9)), chain[Any, Any])
    fan = add.s(1) | group(named.s(), named.s())
    assert_type(fan.delay(), GroupResult[str])
    assert_type(fan.apply(), GroupResult[str])
    assert_type(fan.apply_async().get(), list[str])
    assert_type(chain(add.s(1), group(named.s(), named.s())).delay(), GroupResult[str])


def groups() -> None:
    both = group(add.s(1), add.s(2))
    assert_type(both, group[int])
    assert_type(both.delay(), GroupResult[int])
    assert_type(both(), GroupResult[int])
    assert_type(both.apply_async(), GroupResult[int])
    assert_type(both.apply(), GroupResult[int])
    assert_type(both.delay().get(), list[int])
    assert_type(both.delay()[0], AsyncResult[int])
    assert_type([result.get() for result in both.delay()], list[int])
    assert_type(group(named.s(str(n)) for n in range(9)).delay(), GroupResult[str])
    assert_type(group([named.s("x")]).delay(), GroupResult[str])
    assert_type(group(steps for steps in [add.s(1) | named.s()]).delay(), GroupResult[str])
    group(add.s(1), named.s("x"), both).delay()


def chords() -> None:
    header = [add.s(n) for n in range(9)]
    assert_type(chord(header, named.s()).delay(), AsyncResult[str])
    assert_type(chord(header, named.s())(), AsyncResult[str])
    assert_type(chord(header)(named.s()), AsyncResult[str])
    assert_type(chord(header, named.s()).apply(), EagerResult[str])
    assert_type(chord(header, group(named.s(), named.s())).delay(), GroupResult[str])
    assert_type((group(header) | named.s()).apply_async(), AsyncResult[str])
    assert_type((chord(header, named.s()) | add.s()).delay(), AsyncResult[int])
    assert_type((add.s(1) | group(header) | named.s()).delay(), AsyncResult[str])


async def awaited() -> None:
    assert_type(await add.s(1).adelay(), AsyncResult[int])
    assert_type(await (await add.s(1).adelay()), int)
    assert_type(await (add.s(1) | named.s()).adelay(), AsyncResult[str])
    result = await group(add.s(1), add.s(2)).aapply_async()
    assert_type(result, GroupResult[int])
    assert_type(await result, list[int])
    assert_type(await result.aget(timeout=3), list[int])
    async for member in result:
        assert_type(member, AsyncResult[int])
    assert_type(await chord([add.s(1)], named.s()).adelay(), AsyncResult[str])


def any_task(task: Task[..., Any], result: AsyncResult[Any]) -> None:
    task.delay(1, 2, three=4)
    result.get()


any_task(add, add.delay(1))
any_task(bound, bound.delay(1))
