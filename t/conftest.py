"""Fixtures for all tests."""

from __future__ import annotations

import contextlib

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

with contextlib.suppress(ImportError):
    # It finds the memory of the command line only before the environment has changed.
    import setproctitle

    setproctitle.getproctitle()

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
