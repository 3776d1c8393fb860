"""What each broker can carry, as data.

The worker tells at its start what its broker cannot do, ``celery inspect`` and ``celery doctor``
say why nobody answers, errors name the package that is missing, and the page about brokers is held
to this table by a test.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

__all__ = (
    "BROKERS",
    "BY_SCHEME",
    "Broker",
    "Redelivery",
    "broker_of",
    "carries_broadcasts",
    "driver_needed",
    "limits",
)


class Redelivery(Enum):
    """When others get the unacknowledged messages of a worker that was killed."""

    #: The broker sees the connection break, or the worker's sign of life end.
    SOON = "in seconds"
    #: After a time-out that is set in advance, however long tasks run.
    TIMEOUT = "after a time-out"
    #: Taking a message removes it, so those that were held are lost.
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """One kind of broker, as reached through its transport."""

    name: str
    #: Schemes of ``broker_url``.
    schemes: tuple[str, ...]
    #: What to install with ``celery[…]``; None where nothing is needed.
    extra: str | None = None
    #: Modules of the driver.
    modules: tuple[str, ...] = ()
    #: Copies of one message for all who listen: remote control, events, mingle and gossip.
    broadcast: bool = False
    priorities: bool = False
    #: None where the broker ends with the worker.
    redelivery: Redelivery | None = Redelivery.NEVER
    #: Whether the broker itself limits how much is sent ahead; else the worker fetches less.
    own_prefetch: bool = False
    #: Whether the broker keeps a message until its time; else a worker holds it.
    delay: bool = False
    #: Whether one can tell how many messages wait.
    length: bool = True
    purge: bool = True
    #: Whether the broker wakes a waiting worker; else it looks every ``polling_interval`` seconds.
    pushes: bool = False


BROKERS: tuple[Broker, ...] = (
    Broker(
        name="RabbitMQ",
        schemes=("amqp", "amqps", "pyamqp"),
        broadcast=True,
        priorities=True,
        redelivery=Redelivery.SOON,
        own_prefetch=True,
        delay=True,
        pushes=True,
    ),
    Broker(
        name="RabbitMQ with librabbitmq",
        schemes=("librabbitmq",),
        extra="librabbitmq",
        modules=("librabbitmq",),
        broadcast=True,
        priorities=True,
        redelivery=Redelivery.SOON,
        own_prefetch=True,
        delay=True,
        pushes=True,
    ),
    Broker(
        name="Redis",
        schemes=("redis", "rediss", "sentinel"),
        extra="redis",
        modules=("redis", "packaging"),
        broadcast=True,
        priorities=True,
        redelivery=Redelivery.SOON,
        delay=True,
        pushes=True,
    ),
    Broker(
        name="SQLite (embedded)",
        schemes=("sqlite",),
        broadcast=True,
        priorities=True,
        redelivery=Redelivery.SOON,
        delay=True,
        pushes=True,
    ),
    Broker(
        name="Amazon SQS",
        schemes=("sqs", "SQS"),
        extra="sqs",
        modules=("boto3",),
        redelivery=Redelivery.TIMEOUT,
        pushes=True,
    ),
    Broker(
        name="MongoDB",
        schemes=("mongodb",),
        extra="mongodb",
        modules=("pymongo",),
        broadcast=True,
        priorities=True,
    ),
    Broker(
        name="SQL database",
        schemes=("sqla", "sqlalchemy"),
        extra="sqlalchemy",
        modules=("sqlalchemy",),
    ),
    Broker(
        name="PostgreSQL (PGMQ)",
        schemes=("pgmq",),
        extra="pgmq",
        modules=("pgmq", "psycopg"),
        broadcast=True,
        redelivery=Redelivery.TIMEOUT,
    ),
    Broker(name="File system", schemes=("filesystem",), broadcast=True),
    Broker(name="Memory", schemes=("memory",), broadcast=True, redelivery=None),
    Broker(
        name="ZooKeeper",
        schemes=("zookeeper",),
        extra="zookeeper",
        modules=("kazoo",),
        priorities=True,
    ),
    Broker(name="Consul", schemes=("consul",), extra="consul", modules=("consul",)),
    Broker(name="etcd", schemes=("etcd",), extra="etcd", modules=("etcd",)),
    Broker(
        name="Apache Kafka",
        schemes=("confluentkafka", "kafka"),
        extra="confluentkafka",
        modules=("confluent_kafka",),
        redelivery=Redelivery.TIMEOUT,
        length=False,
        purge=False,
    ),
    Broker(
        name="Google Pub/Sub",
        schemes=("gcpubsub",),
        extra="gcpubsub",
        modules=("google.cloud.pubsub_v1", "google.cloud.monitoring_v3"),
        broadcast=True,
        redelivery=Redelivery.TIMEOUT,
        length=False,
    ),
    Broker(
        name="Azure Storage Queues",
        schemes=("azurestoragequeues",),
        extra="azurestoragequeues",
        modules=("azure.storage.queue",),
    ),
    Broker(
        name="Azure Service Bus",
        schemes=("azureservicebus",),
        extra="azureservicebus",
        modules=("azure.servicebus", "isodate"),
        redelivery=Redelivery.TIMEOUT,
    ),
    Broker(name="Pyro", schemes=("pyro",), extra="pyro", modules=("Pyro4",), purge=False),
    Broker(
        name="SoftLayer Message Queue",
        schemes=("slmq", "SLMQ"),
        extra="slmq",
        modules=("softlayer_messaging",),
        redelivery=Redelivery.TIMEOUT,
    ),
    Broker(
        name="Apache Qpid",
        schemes=("qpid",),
        extra="qpid",
        modules=("qpid", "qpidtoollibs"),
        broadcast=True,
        redelivery=Redelivery.SOON,
        own_prefetch=True,
        pushes=True,
    ),
)

BY_SCHEME: Mapping[str, Broker] = MappingProxyType(
    {scheme: broker for broker in BROKERS for scheme in broker.schemes}
)


def broker_of(connection: Any) -> Broker | None:
    """Return what is known about the broker of *connection*, None for transports of others."""
    name = connection.transport_cls
    return BY_SCHEME.get(name) if isinstance(name, str) else None


def carries_broadcasts(connection: Any) -> bool:
    """Say whether remote control and events can reach anybody over *connection*."""
    return bool(connection.supports_exchange_type("fanout"))


def limits(connection: Any) -> str | None:
    """Return a sentence about what users of *connection* have to do without; None if nothing."""
    broker = broker_of(connection)
    missing = []
    if not carries_broadcasts(connection):
        missing.append("carries no broadcasts (no remote control, events, mingle and gossip)")
    if broker is not None and broker.redelivery is Redelivery.NEVER:
        missing.append("keeps no messages of workers that are killed (those they hold are lost)")
    if not missing:
        return None
    name = broker.name if broker else f"transport {connection.transport.driver_type}"
    return f"The broker ({name}) {', and '.join(missing)}."


def driver_needed(scheme: object) -> str | None:
    """Return what is missing for a scheme of ``broker_url``, and what to do; None if nothing is."""
    broker = BY_SCHEME.get(scheme) if isinstance(scheme, str) else None
    absent = [module for module in broker.modules if not _is_there(module)] if broker else []
    if broker is None or not absent:
        return None
    return (
        f"The broker {broker.name} ({scheme}://) needs {' and '.join(absent)}:"
        f' pip install "celery[{broker.extra}]"'
    )


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # Of a package around it.
        return False
