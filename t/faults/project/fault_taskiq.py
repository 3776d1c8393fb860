"""The same task for taskiq; it acknowledges when a task has ended."""

import asyncio
import json
import os

from fault_steps import run_step
from taskiq import Context, TaskiqDepends

conf = json.loads(os.environ["FAULT_CONF"])
if conf["broker_url"].startswith("redis"):
    from taskiq_redis import RedisStreamBroker

    # What nobody has acknowledged for so many milliseconds goes to another worker.
    broker = RedisStreamBroker(
        conf["broker_url"],
        consumer_id="0",
        idle_timeout=1000 * conf["restore_s"],
        unacknowledged_lock_timeout=conf["restore_s"],
    )
else:
    from taskiq_aio_pika import AioPikaBroker

    broker = AioPikaBroker(f"{conf['broker_url']}?heartbeat={conf['heartbeat_s']}", qos=4)


@broker.task(task_name="step")
def step(pause_s: float, gate: str | None = None, context: Context = TaskiqDepends()) -> None:  # noqa: B008 - its way
    run_step(context.message.task_id, pause_s, gate)


def make_publisher():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())
    return lambda pause_s, gate: loop.run_until_complete(step.kiq(pause_s, gate)).task_id
