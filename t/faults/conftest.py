"""Brokers that may be broken, and the option that makes the fault tests last an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from t.faults.scenarios import Broker, EmbeddedBroker, RabbitMQBroker, RedisBroker
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


def pytest_configure(config: pytest.Config) -> None:
    """Add the mark of the test that lasts long."""
    config.addinivalue_line("markers", "long_faults: runs with --long-faults, alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep either the long form or everything else."""
    is_long = bool(config.getoption("--long-faults", default=0.0))
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        fits = (item.get_closest_marker("long_faults") is not None) == is_long
        (chosen if fits else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


@pytest.fixture
def minutes(request: pytest.FixtureRequest) -> float:
    """How long the long form lasts."""
    return float(request.config.getoption("--long-faults"))


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


@pytest.fixture(scope="session")
def fault_embedded() -> EmbeddedBroker:
    """A file for each run."""
    return EmbeddedBroker()


@pytest.fixture
def broker_named(request: pytest.FixtureRequest) -> Callable[[str], Broker]:
    """Return a running broker by its name."""

    def find(name: str) -> Broker:
        found: Broker = request.getfixturevalue(f"fault_{name}")
        return found

    return find
