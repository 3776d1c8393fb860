"""Which brokers the tests run on: how to start each, and what to tell Celery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celery._transport.capabilities import BY_SCHEME, Broker

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One broker in one form.

    Args:
        settings: Makes the settings for an empty broker, from a test request and a folder.
        how: What stands behind it: ``real``, ``emulator: NAME`` or ``stand-in``.
        long: Left to ``make brokers``: it takes what CI machines do not have, or long.
        broadcast: Whether it carries broadcasts with these settings; by default as its kind does.
    """

    id: str
    settings: Callable[[pytest.FixtureRequest, Path], Settings]
    how: str = "real"
    long: bool = False
    broadcast: bool | None = None

    @property
    def broker(self) -> Broker:
        """What is known about this kind."""
        return BY_SCHEME[self.id.partition("-")[0]]

    @property
    def carries_broadcasts(self) -> bool:
        """Whether it does so with these settings."""
        return self.broker.broadcast if self.broadcast is None else self.broadcast


def _amqp(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": request.getfixturevalue("rabbitmq_server").new_url()}


def _amqp_quorum(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {
        **_amqp(request, folder),
        "task_default_queue_type": "quorum",
        "task_default_exchange": "tasks",
        "task_default_exchange_type": "topic",
    }


def _redis(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("redis_server")
    server.flush()
    return {"broker_url": server.url}


def _filesystem(request: pytest.FixtureRequest, folder: Path) -> Settings:
    for name in ("messages", "control"):
        (folder / name).mkdir()
    return {
        "broker_url": "filesystem://",
        "broker_transport_options": {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
        },
    }


def _sqlite(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": f"sqlite:///{folder / 'broker.db'}"}


def _sqla_sqlite(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": f"sqla+sqlite:///{folder / 'broker.db'}"}


def _sqla_postgresql(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": f"sqla+{request.getfixturevalue('postgresql_server').new_url()}"}


def _mongodb(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": request.getfixturevalue("mongo_server").new_url()}


def _sqs(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("moto_server")
    server.reset()
    return {
        "broker_url": f"sqs://key:secret@127.0.0.1:{server.port}",
        "broker_transport_options": {
            "region": "us-east-1",
            "is_secure": False,
            "wait_time_seconds": 1,
            "polling_interval": 0.1,
            "visibility_timeout": 5,
        },
    }


CASES: tuple[Case, ...] = (
    Case(id="amqp", settings=_amqp),
    Case(id="amqp-quorum", settings=_amqp_quorum),
    Case(id="redis", settings=_redis),
    Case(id="sqlite", settings=_sqlite),
    Case(id="filesystem", settings=_filesystem),
    Case(id="sqla-sqlite", settings=_sqla_sqlite),
    Case(id="sqla-postgresql", settings=_sqla_postgresql),
    Case(id="mongodb", settings=_mongodb, how="emulator: SecantusDB"),
    Case(id="sqs", settings=_sqs, how="emulator: moto"),
)
