"""Which brokers the tests run on: how to start each, and what to tell Celery."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celery._transport.capabilities import BY_SCHEME, Broker
from t.harness.brokers import install_pgmq

Settings = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One broker in one form.

    Args:
        settings: Makes the settings for an empty broker, from a test request and a folder.
        environment: Makes the environment variables of worker and client.
        how: What stands behind it: ``real``, ``emulator: NAME`` or ``stand-in``.
        after_kill: Has the broker see that a worker was killed, where an emulator does not.
        long: Left to ``make brokers``: it takes what CI machines do not have, or long.
        broadcast: Whether it carries broadcasts with these settings; by default as its kind does.
    """

    id: str
    settings: Callable[[pytest.FixtureRequest, Path], Settings]
    environment: Callable[[pytest.FixtureRequest], dict[str, str]] = lambda request: {}
    how: str = "real"
    after_kill: Callable[[pytest.FixtureRequest], None] = lambda request: None
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


def _redis_socket(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("redis_socket_server")
    server.flush()
    return {"broker_url": f"redis+socket://{server.folder / 'socket'}?virtual_host=1"}


def _sentinel(request: pytest.FixtureRequest, folder: Path) -> Settings:
    master, sentinel = request.getfixturevalue("sentinel_servers")
    master.flush()
    return {
        "broker_url": f"sentinel://127.0.0.1:{sentinel.port}",
        "broker_transport_options": {"master_name": "mymaster"},
    }


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


def _amqps(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("rabbitmq_tls_server")
    certificate, _ = request.getfixturevalue("tls_files")
    return {
        "broker_url": f"amqps://guest:guest@127.0.0.1:{server.tls_port}/{server.new_vhost()}",
        "broker_use_ssl": {"ca_certs": str(certificate), "cert_reqs": ssl.CERT_REQUIRED},
    }


def _rediss(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("redis_tls_server")
    certificate, _ = request.getfixturevalue("tls_files")
    url = f"rediss://:secret@127.0.0.1:{server.port}/0"
    return {"broker_url": f"{url}?ssl_cert_reqs=required&ssl_ca_certs={certificate}"}


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


def _etcd(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": f"etcd://127.0.0.1:{request.getfixturevalue('etcd_server').port}/"}


def _zookeeper(request: pytest.FixtureRequest, folder: Path) -> Settings:
    port = request.getfixturevalue("zookeeper_server").port
    return {"broker_url": f"zookeeper://127.0.0.1:{port}/test"}


def _pgmq(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("postgresql_server")
    url = server.new_url()
    install_pgmq(url)
    database = url.rpartition("/")[2]
    return {
        "broker_url": f"pgmq://postgres:secret@127.0.0.1:{server.port}/{database}",
        "broker_transport_options": {"init_extension": False, "visibility_timeout": 5},
    }


def _kafka(request: pytest.FixtureRequest, folder: Path) -> Settings:
    port = request.getfixturevalue("kafka_server").port
    # Without a sign of life for so long a consumer counts as gone.
    consumer = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
    return {
        "broker_url": f"confluentkafka://127.0.0.1:{port}",
        "broker_transport_options": {"kafka_consumer_config": consumer},
    }


def _consul(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": f"consul://127.0.0.1:{request.getfixturevalue('consul_standin').port}"}


def _pyro(request: pytest.FixtureRequest, folder: Path) -> Settings:
    return {"broker_url": request.getfixturevalue("pyro_server").url}


def _azure_queues(request: pytest.FixtureRequest, folder: Path) -> Settings:
    server = request.getfixturevalue("azurite_server")
    account = f"http://127.0.0.1:{server.queue_port}/{server.ACCOUNT}"
    return {"broker_url": f"azurestoragequeues://{server.KEY}@{account}"}


def _pubsub(request: pytest.FixtureRequest, folder: Path) -> Settings:
    request.getfixturevalue("pubsub_server")
    return {
        "broker_url": "gcpubsub://projects/test-project",
        "broker_transport_options": {"ack_deadline_seconds": 10},
    }


def _pubsub_environment(request: pytest.FixtureRequest) -> dict[str, str]:
    port = request.getfixturevalue("pubsub_server").port
    return {"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{port}", "GOOGLE_CLOUD_PROJECT": "test-project"}


def _sqs_predefined(request: pytest.FixtureRequest, folder: Path) -> Settings:
    settings = _sqs(request, folder)
    url = request.getfixturevalue("moto_server").make_queue("celery", visibility_timeout_s=5)
    queue = {"url": url, "access_key_id": "key", "secret_access_key": "secret"}
    settings["broker_transport_options"]["predefined_queues"] = {"celery": queue}
    return settings


CASES: tuple[Case, ...] = (
    Case(id="amqp", settings=_amqp),
    Case(id="amqp-quorum", settings=_amqp_quorum),
    Case(id="amqps", settings=_amqps),
    Case(id="redis", settings=_redis),
    Case(id="rediss", settings=_rediss),
    Case(id="redis-socket", settings=_redis_socket),
    Case(id="sentinel", settings=_sentinel),
    Case(id="sqlite", settings=_sqlite),
    Case(id="filesystem", settings=_filesystem),
    Case(id="sqla-sqlite", settings=_sqla_sqlite),
    Case(id="sqla-postgresql", settings=_sqla_postgresql),
    Case(id="mongodb", settings=_mongodb, how="emulator: SecantusDB"),
    Case(id="sqs", settings=_sqs, how="emulator: moto"),
    Case(id="sqs-predefined", settings=_sqs_predefined, how="emulator: moto"),
    Case(id="etcd", settings=_etcd),
    Case(id="pgmq", settings=_pgmq),
    Case(
        id="confluentkafka",
        settings=_kafka,
        how="emulator: noida-db",
        # It keeps members of a group that fell silent.
        after_kill=lambda request: request.getfixturevalue("kafka_server").restart(),
    ),
    Case(id="consul", settings=_consul, how="stand-in"),
    Case(id="pyro", settings=_pyro),
    Case(id="azurestoragequeues", settings=_azure_queues, how="emulator: Azurite", long=True),
    Case(id="zookeeper", settings=_zookeeper, long=True),
    Case(
        id="gcpubsub",
        settings=_pubsub,
        environment=_pubsub_environment,
        how="emulator: of Google",
        long=True,
    ),
)
