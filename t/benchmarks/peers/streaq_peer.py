"""streaq, on streams of Redis."""

import asyncio

from client import AT_ONCE, BROKER, PAUSE_S, count_run
from streaq import Worker

worker = Worker(redis_url=BROKER, concurrency=AT_ONCE)


@worker.task(ttl=0)
async def pause():
    count_run()
    await asyncio.sleep(PAUSE_S)
    count_run()


async def send_pauses(number):
    async with worker:
        await worker.enqueue_many([pause.enqueue() for _ in range(number)])


VERBS = {"send_pauses": lambda number: asyncio.run(send_pauses(number))}
