"""taskiq, on a stream of Redis."""

import asyncio

from client import BROKER, PAUSE_S, count_run
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(BROKER)


@broker.task
async def pause():
    count_run()
    await asyncio.sleep(PAUSE_S)
    count_run()


async def send_pauses(number):
    await broker.startup()
    for _ in range(number):
        await pause.kiq()
    await broker.shutdown()


VERBS = {"send_pauses": lambda number: asyncio.run(send_pauses(number))}
