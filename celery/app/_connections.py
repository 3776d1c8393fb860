"""The broker side of an app: its connections, and the pools of them and of producers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.utils.objects import FallbackContext

if TYPE_CHECKING:
    from celery.app.amqp import AMQP

#: Part of a connection to the setting it comes from where the caller states none.
PART_SETTINGS = {
    "userid": "broker_user",
    "password": "broker_password",
    "virtual_host": "broker_vhost",
    "port": "broker_port",
    "transport": "broker_transport",
    "ssl": "broker_use_ssl",
    "login_method": "broker_login_method",
    "failover_strategy": "broker_failover_strategy",
    "connect_timeout": "broker_connection_timeout",
}


class BrokerConnections:
    """What `celery.Celery` offers of connections; mixed into it."""

    _pool: Any = None

    if TYPE_CHECKING:
        conf: Any
        amqp: AMQP

        def _ensure_after_fork(self) -> None: ...

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """Return a new connection for consuming (``broker_read_url``)."""
        return self._connect_to(url or self.conf.broker_read_url, kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """Return a new connection for publishing (``broker_write_url``)."""
        return self._connect_to(url or self.conf.broker_write_url, kwargs)

    def connection(
        self,
        hostname: str | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: Mapping[str, Any] | None = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return a new connection to the broker; it connects on first use.

        Args:
            hostname: Host name or URL; the other arguments override parts of it.
            connect_timeout: Seconds (``broker_connection_timeout``).
            heartbeat: Seconds between AMQP heartbeats.
        """
        stated = {
            "transport": transport,
            "failover_strategy": failover_strategy,
            "login_method": login_method,
            "port": port,
            "virtual_host": virtual_host,
            "password": password,
            "userid": userid,
            "ssl": ssl,
            "connect_timeout": connect_timeout,
            "transport_options": transport_options,
            "heartbeat": heartbeat,
        }
        return self._connect_to(hostname or self.conf.broker_write_url, {**kwargs, **stated})

    broker_connection = connection

    def _connect_to(self, url: Any, stated: Mapping[str, Any]) -> Any:
        """Return a connection to *url*; settings fill in what *stated* leaves out."""
        conf = self.conf
        parts = dict(stated)
        for part, setting in PART_SETTINGS.items():
            if parts.get(part) is None:
                parts[part] = conf[setting]
        parts["transport_options"] = {
            **conf.broker_transport_options,
            **(parts.get("transport_options") or {}),
        }
        # Loaded when something is sent or received; not with every app.
        from kombu.connection import Connection

        from celery._transport.connection import BrokerConnection

        connection: Any = self.amqp.Connection
        if connection is Connection:
            # Unless the user has chosen a class, one that knows our transports.
            connection = BrokerConnection
        return connection(url or conf.broker_host, **parts)

    def connection_or_acquire(
        self, connection: Any = None, pool: bool = True, *_: Any, **__: Any
    ) -> FallbackContext:
        """Context manager: *connection* as it is, or one from the pool, or a new one."""
        return FallbackContext(connection, self._acquire_connection, pool=pool)

    default_connection = connection_or_acquire

    def _acquire_connection(self, pool: bool = True) -> Any:
        return self.pool.acquire(block=True) if pool else self.connection_for_write()

    def producer_or_acquire(self, producer: Any = None) -> FallbackContext:
        """Context manager: *producer* as it is, or one from the pool.

        Raises:
            kombu.exceptions.LimitExceeded: No producer became free within
                ``broker_pool_acquire_timeout`` seconds.
        """
        return FallbackContext(producer, self._acquire_producer)

    default_producer = producer_or_acquire

    def _acquire_producer(self) -> Any:
        return self.amqp.sender()

    @property
    def pool(self) -> Any:
        """The pool of broker connections (``broker_pool_limit``)."""
        pool = self._pool
        if pool is None:
            # Children of a fork must let go of what they inherit.
            self._ensure_after_fork()
            # One of its own: kombu's are shared by all apps of a process, with one limit.
            connection = self.connection_for_write()
            pool = self._pool = connection.Pool(limit=self.conf.broker_pool_limit)
        return pool

    @property
    def producer_pool(self) -> Any:
        """The pool of producers."""
        return self.amqp.producer_pool
