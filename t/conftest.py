"""Fixtures for all tests."""

from __future__ import annotations

from t.harness.servers import (
    amqp_url,
    memcached_server,
    memcached_url,
    postgresql_server,
    postgresql_url,
    rabbitmq_server,
    redis_server,
    redis_url,
)

__all__ = (
    "amqp_url",
    "memcached_server",
    "memcached_url",
    "postgresql_server",
    "postgresql_url",
    "rabbitmq_server",
    "redis_server",
    "redis_url",
)
