"""What is known about brokers, and what is said where something is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from kombu.transport import TRANSPORT_ALIASES

from celery import Celery
from celery._transport.capabilities import (
    BROKERS,
    BY_SCHEME,
    Redelivery,
    carries_broadcasts,
    driver_needed,
    limits,
)
from celery.exceptions import ImproperlyConfigured
from t.integration.brokers.documented import PAGE, table_as_rst

ROOT = Path(__file__).resolve().parents[3]


def connection(url: str, **options: object) -> object:
    app = Celery("t", set_as_current=False)
    app.conf.broker_transport_options = options
    return app.connection_for_read(url)


def test_every_transport_is_known() -> None:
    assert set(BY_SCHEME) == {*TRANSPORT_ALIASES, "sqlite"}


def test_every_driver_comes_with_an_extra() -> None:
    extras = {path.stem for path in (ROOT / "requirements" / "extras").glob("*.txt")}
    for broker in BROKERS:
        assert (broker.extra is None) == (not broker.modules)
        assert broker.extra is None or broker.extra in extras


def test_the_page_about_brokers_says_what_is_known() -> None:
    """``python -m t.integration.brokers.documented`` writes the table anew."""
    assert PAGE.read_text() == table_as_rst()


@pytest.mark.parametrize(
    "url",
    [
        "amqp://", "redis://", "sqlite://", "sqs://", "mongodb://", "sqla+sqlite://", "pgmq://",
        "filesystem://", "memory://",
    ],
)  # fmt: skip
def test_the_table_agrees_with_the_transport(url: str) -> None:
    """B-BROK-001."""
    made = connection(url)
    known = BY_SCHEME[url.partition("://")[0].partition("+")[0]]
    try:
        assert carries_broadcasts(made) is known.broadcast
    except ImproperlyConfigured:
        pytest.skip(f"the driver of {known.name} is not installed")


def test_what_a_broker_lacks_is_one_sentence() -> None:
    """B-BROK-001."""
    assert limits(connection("sqla+sqlite://")) == (
        "The broker (SQL database) carries no broadcasts (no remote control, events, mingle and"
        " gossip), and keeps no messages of workers that are killed (those they hold are lost)."
    )
    assert limits(connection("amqp://")) is None
    assert limits(connection("filesystem://")) == (
        "The broker (File system) keeps no messages of workers that are killed (those they hold"
        " are lost)."
    )


def test_a_transport_of_others_is_judged_by_what_it_says() -> None:
    app = Celery("t", set_as_current=False)
    made = app.connection(transport="kombu.transport.memory:Transport")
    assert limits(made) is None
    made.transport.implements = made.transport.implements.extend(exchange_type={"direct"})
    assert limits(made) == (
        "The broker (transport memory) carries no broadcasts (no remote control, events,"
        " mingle and gossip)."
    )


WITHOUT_DRIVERS = """
import sys
sys.modules.update(dict.fromkeys(["boto3", "kazoo", "packaging", "pymongo", "redis", "sqlalchemy"]))
from celery import Celery
from celery.exceptions import ImproperlyConfigured
for url in sys.argv[1:]:
    try:
        Celery("t").connection_for_read(url).transport
    except ImproperlyConfigured as exc:
        print(exc)
"""


def test_a_missing_driver_is_named_with_its_extra() -> None:
    """In a process that has never had one."""
    expected = {
        "sqs://": "The broker Amazon SQS (sqs://) needs boto3: sqs",
        "mongodb://": "The broker MongoDB (mongodb://) needs pymongo: mongodb",
        "redis://": "The broker Redis (redis://) needs redis and packaging: redis",
        "sentinel://": "The broker Redis (sentinel://) needs redis and packaging: redis",
        "zookeeper://": "The broker ZooKeeper (zookeeper://) needs kazoo: zookeeper",
        "sqla+sqlite://": "The broker SQL database (sqla://) needs sqlalchemy: sqlalchemy",
    }

    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_DRIVERS, *expected],
        capture_output=True,
        text=True,
        check=True,
    )

    assert re.sub(r'pip install "celery\[(\w+)\]"', r"\1", found.stdout).splitlines() == [
        *expected.values()
    ]


def test_nothing_is_missing_where_no_driver_is_needed() -> None:
    assert driver_needed("amqp") is None
    assert driver_needed("of.others:Transport") is None
    assert driver_needed(None) is None


def test_those_that_lose_messages_are_told_apart() -> None:
    """B-BROK-003, B-BROK-006: a killed worker's messages come back late, or never."""
    assert BY_SCHEME["sqs"].redelivery is Redelivery.TIMEOUT
    assert BY_SCHEME["redis"].redelivery is Redelivery.SOON
    assert BY_SCHEME["zookeeper"].redelivery is Redelivery.NEVER
