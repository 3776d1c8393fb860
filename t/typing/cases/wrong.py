"""Uses of tasks that a type checker has to refuse: every line that ends with ``E``."""

from __future__ import annotations

from typing import ParamSpec, TypeVar

from celery import Celery, Task, chain, chord, group, shared_task

app = Celery("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True)
def bound(self: Task, number: float) -> float:
    return number


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def bound_fetch(self: Task, url: str) -> bytes:
    return url.encode()


@shared_task
def shared(x: int) -> str:
    return str(x)


P = ParamSpec("P")
R = TypeVar("R")


class Audited(Task[P, R]):
    audit: list[str] = []


class OfNumbers(Task[[int], str]):
    unit = "m"


@app.task(base=Audited)
def audited(x: int) -> str:
    return str(x)


@app.task(base=Audited, bind=True)
def audited_bound(self: Task, x: int) -> str:
    return str(x)


add.delay("x")  # E
add.delay()  # E
add.delay(1, 2, 3)  # E
add.delay(1, z=2)  # E
add("x")  # E
add.si("x")  # E
bound.delay(None, 1.5)  # E
bound.delay("x")  # E
fetch.delay(1)  # E
bound_fetch.delay(1)  # E
bound_fetch.delay(None, "x")  # E
late: str = bound_fetch.delay("x").get()  # E
shared.delay("x")  # E
text: str = add.delay(1).get()  # E
more: str = add.s(1).delay(2).get()  # E
plain: bytes = fetch("x")  # E
audited.delay("x")  # E
audited.nothing  # E
audited_bound.delay(None, 1)  # E
audited_bound.delay("x")  # E
app.task(base=OfNumbers)(add.run)  # E
steps: str = (add.s(1) | bound.s()).delay().get()  # E
others: str = chain(add.s(1), bound.s()).delay().get()  # E
many: list[str] = group(add.s(1), add.s(2)).delay().get()  # E
one: int = group(add.s(1), add.s(2)).delay().get()  # E
body: str = chord([add.s(1)], bound.s())().get()  # E
add.s(1) | add  # E


async def awaiting() -> None:
    await fetch(1)  # E
