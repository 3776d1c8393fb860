"""huey, on Redis."""

from client import BROKER, LARGE, RESULTS, count_run
from huey import RedisHuey

huey = RedisHuey("bench", url=BROKER, results=bool(RESULTS))


@huey.task()
def add(x, y):
    count_run()
    return x + y


@huey.task()
def measure(text):
    count_run()
    return len(text)


def send_many(number):
    for _ in range(number):
        add(2, 2)


def send_later(number):
    for _ in range(number):
        add.schedule((2, 2), delay=3600)


def group(number):
    found = [add(2, 2) for _ in range(number)]
    assert sum(each.get(blocking=True, timeout=120) for each in found) == 4 * number


VERBS = {
    "send": lambda: add(2, 2),
    "send_many": send_many,
    "send_large": lambda: measure(LARGE),
    "send_later": send_later,
    "call": lambda: add(2, 2).get(blocking=True, timeout=30),
    "group": group,
}
