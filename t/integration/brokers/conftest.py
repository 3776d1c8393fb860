"""Fixtures of the tests of brokers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.brokers import etcd_server, kafka_server, pubsub_server, zookeeper_server
from t.harness.certificates import make_certificate
from t.harness.pyro import pyro_server
from t.harness.servers import (
    RabbitMQServer,
    RedisServer,
    SentinelServer,
    TLSRedisServer,
    free_port,
)

__all__ = ("etcd_server", "kafka_server", "pubsub_server", "pyro_server", "zookeeper_server")


class TLSRabbitMQServer(RabbitMQServer):
    """A RabbitMQ node that speaks TLS on a second port."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.tls_port = free_port()
        super().__init__(
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {certificate}",
            f"ssl_options.certfile = {certificate}",
            f"ssl_options.keyfile = {key}",
        )


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the loopback address, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def rabbitmq_tls_server(tls_files: tuple[Path, Path]) -> Iterator[TLSRabbitMQServer]:
    """One RabbitMQ node with TLS for the run."""
    with TLSRabbitMQServer(*tls_files) as server:
        yield server


@pytest.fixture(scope="session")
def redis_tls_server(tls_files: tuple[Path, Path]) -> Iterator[TLSRedisServer]:
    """One Redis server with TLS for the run, with a password."""
    certificate, key = map(str, tls_files)
    with TLSRedisServer(
        "--tls-cert-file", certificate, "--tls-key-file", key, "--requirepass", "secret"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def redis_socket_server() -> Iterator[RedisServer]:
    """One Redis server for the run that also listens at ``socket`` in its folder."""
    with RedisServer("--unixsocket", "socket") as server:
        yield server


@pytest.fixture(scope="session")
def sentinel_servers() -> Iterator[tuple[RedisServer, SentinelServer]]:
    """A master for the run, and the sentinel that knows it."""
    with RedisServer() as master, SentinelServer(master) as sentinel:
        yield master, sentinel
