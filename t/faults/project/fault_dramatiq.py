"""The same task for dramatiq."""

import json
import os

import dramatiq
from dramatiq.middleware import CurrentMessage
from fault_steps import run_step

conf = json.loads(os.environ["FAULT_CONF"])
if conf["broker_url"].startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker

    # Messages of a worker that is silent for so many milliseconds go to another one, and each
    # command looks for them; unless told so only one of a thousand does.
    broker = RedisBroker(
        url=conf["broker_url"],
        heartbeat_timeout=1000 * conf["restore_s"],
        maintenance_chance=1_000_000,
    )
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(
        url=f"{conf['broker_url']}?heartbeat={conf['heartbeat_s']}", confirm_delivery=True
    )
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=100, min_backoff=100, max_backoff=1000)
def step(pause_s, gate=None):
    run_step(CurrentMessage.get_current_message().message_id, pause_s, gate)


def make_publisher():
    return lambda pause_s, gate: step.send(pause_s, gate).message_id
