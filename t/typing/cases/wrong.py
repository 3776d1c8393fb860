"""Uses of tasks that a type checker has to refuse: every line that ends with ``E``."""

from __future__ import annotations

from celery import Celery, Task, shared_task

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


async def awaiting() -> None:
    await fetch(1)  # E
