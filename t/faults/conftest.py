"""Brokers that may be broken, and the option that makes the fault tests last an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from t.faults.scenarios import Broker, RabbitMQBroker, RedisBroker
from t.harness.servers import RabbitMQServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long-faults``."""
    parser.addoption(
        "--long-faults",
        action="store",
        type=float,
        nargs="?",
        const=60.0,
        default=0.0,
        metavar="MINUTES",
        help="repeat random faults for that long (an hour), and print a table",
    )


@pytest.fixture(scope="session")
def fault_redis() -> Iterator[RedisBroker]:
    """A Redis server that keeps its data through a crash."""
    broker = RedisBroker()
    with broker.server:
        yield broker


@pytest.fixture(scope="session")
def fault_rabbitmq(rabbitmq_server: RabbitMQServer) -> RabbitMQBroker:
    """The node of the test run, in a virtual host for each run."""
    return RabbitMQBroker(rabbitmq_server)


@pytest.fixture
def broker_named(request: pytest.FixtureRequest) -> Callable[[str], Broker]:
    """Return a running broker by its name."""

    def find(name: str) -> Broker:
        found: Broker = request.getfixturevalue(f"fault_{name}")
        return found

    return find
