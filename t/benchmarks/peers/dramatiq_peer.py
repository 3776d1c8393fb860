"""dramatiq, on either broker."""

import dramatiq
from client import BROKER, LARGE, RESULTS, count_run
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend

if BROKER.startswith("redis"):
    from dramatiq.brokers.redis import RedisBroker as Broker
else:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker as Broker

broker = Broker(url=BROKER)
if RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=RESULTS)))
dramatiq.set_broker(broker)


@dramatiq.actor(**({"store_results": True} if RESULTS else {}))
def add(x, y):
    count_run()
    return x + y


@dramatiq.actor
def measure(text):
    count_run()


def send_many(number):
    for _ in range(number):
        add.send(2, 2)


def send_later(number):
    for _ in range(number):
        add.send_with_options(args=(2, 2), delay=3_600_000)


def group(number):
    found = dramatiq.group([add.message(2, 2) for _ in range(number)]).run()
    assert sum(found.get_results(block=True, timeout=120_000)) == 4 * number


VERBS = {
    "send": lambda: add.send(2, 2),
    "send_many": send_many,
    "send_large": lambda: measure.send(LARGE),
    "send_later": send_later,
    "call": lambda: add.send(2, 2).get_result(block=True, timeout=30_000),
    "group": group,
}
