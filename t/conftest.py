"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from t.harness.cassandra import cassandra_standin
from t.harness.dealing import Dealer, by_time
from t.harness.django_results import django_results
from t.harness.emulators import (
    elasticsearch_server,
    mongo_server,
    moto_server,
)
from t.harness.google import firestore_server, gcs_server
from t.harness.npm import azurite_server, cosmos_server, couch_server
from t.harness.servers import (
    amqp_url,
    mariadb_server,
    mariadb_url,
    memcached_server,
    memcached_url,
    postgresql_server,
    postgresql_url,
    rabbitmq_server,
    redis_cluster,
    redis_cluster_url,
    redis_server,
    redis_url,
)
from t.harness.standins import (
    arangodb_standin,
    consul_standin,
    couchbase_standin,
    firestore_standin,
    riak_standin,
)

# How fast examples are made says how busy the machine is, and nothing about what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

with contextlib.suppress(ImportError):
    # It finds the memory of the command line only before the environment has changed.
    import setproctitle

    setproctitle.getproctitle()

__all__ = (
    "amqp_url",
    "arangodb_standin",
    "azurite_server",
    "cassandra_standin",
    "consul_standin",
    "cosmos_server",
    "couch_server",
    "couchbase_standin",
    "django_results",
    "elasticsearch_server",
    "firestore_server",
    "firestore_standin",
    "gcs_server",
    "mariadb_server",
    "mariadb_url",
    "memcached_server",
    "memcached_url",
    "mongo_server",
    "moto_server",
    "postgresql_server",
    "postgresql_url",
    "rabbitmq_server",
    "redis_cluster",
    "redis_cluster_url",
    "redis_server",
    "redis_url",
    "riak_standin",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first."""
    items[:] = by_time(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Dealer | None:
    """Deal out files so that all processes end together; other distributions stay as they are."""
    return Dealer(config, log) if config.getoption("dist") == "loadfile" else None
