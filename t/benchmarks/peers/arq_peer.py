"""arq, on Redis."""

import asyncio

from arq import create_pool
from arq.connections import RedisSettings
from client import AT_ONCE, BROKER, PAUSE_S, count_run


async def pause(context):
    count_run()
    await asyncio.sleep(PAUSE_S)
    count_run()


class WorkerSettings:
    functions = [pause]
    redis_settings = RedisSettings.from_dsn(BROKER)
    max_jobs = AT_ONCE
    keep_result = 0


async def send_pauses(number):
    pool = await create_pool(WorkerSettings.redis_settings)
    for _ in range(number):
        await pool.enqueue_job("pause")
    await pool.aclose()


VERBS = {"send_pauses": lambda number: asyncio.run(send_pauses(number))}
