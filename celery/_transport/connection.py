"""The broker connection of an app: kombu's, with transports of our own for some schemes.

Only connections made by an app consult the table, so nothing changes for other users of kombu
in the same process. Naming kombu's class as ``broker_transport`` goes around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.imports import symbol_by_name

from celery._transport.capabilities import driver_needed
from celery.exceptions import ImproperlyConfigured

__all__ = (
    "TRANSPORTS",
    "BrokerConnection",
    "BrokerConnectionPool",
    "PooledBrokerConnection",
)

#: Where the transport of a URL scheme is, for those that are not kombu's.
TRANSPORTS: dict[str, str] = {
    "amqp": "celery._transport.amqp:Transport",
    "amqps": "celery._transport.amqp:SSLTransport",
    "confluentkafka": "celery._transport.kafka:Transport",
    "consul": "celery._transport.consul:Transport",
    "filesystem": "celery._transport.filesystem:Transport",
    "gcpubsub": "celery._transport.pubsub:Transport",
    "kafka": "celery._transport.kafka:Transport",
    "mongodb": "celery._transport.mongodb:Transport",
    "pgmq": "celery._transport.pgmq:Transport",
    "pyamqp": "celery._transport.amqp:Transport",
    "pyro": "celery._transport.pyro:Transport",
    "redis": "celery._transport.redis:Transport",
    "rediss": "celery._transport.redis:Transport",
    "sentinel": "celery._transport.redis:SentinelTransport",
    "sqlite": "celery._transport.sqlite:Transport",
}


# kombu looks the scheme of a URL up before it asks a connection for its transport.
TRANSPORT_ALIASES.setdefault("sqlite", TRANSPORTS["sqlite"])


class UnknownTransport(ImproperlyConfigured, KeyError):
    """The URL of a broker begins with what nobody knows; a `KeyError` to kombu's callers."""

    # That of a KeyError quotes the sentence.
    __str__ = Exception.__str__


class _WithOwnTransports:
    """What our connections do otherwise than kombu's."""

    transport_cls: Any
    transport_options: dict[str, Any] | None
    alt: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except KeyError as exc:
            if "No such transport" not in str(exc):
                raise
            raise UnknownTransport(
                f"{exc.args[0]!s}; the URL of the broker has to begin with one of "
                "amqp, redis, sqlite and so on, followed by ://"
            ) from exc
        except (ImportError, AttributeError) as exc:
            # kombu imports some transports to find out whether they read their URLs themselves;
            # that of Redis looks into a module which is None where it is not installed.
            url = kwargs.get("hostname") or (args[0] if args else None)
            needed = driver_needed(kwargs.get("transport") or _scheme_of(url))
            if needed is None:
                raise
            raise ImproperlyConfigured(needed) from exc

    def create_transport(self) -> Any:
        """Make the transport.

        Raises:
            ImproperlyConfigured: Its driver is not installed; says what to do.
        """
        needed = driver_needed(self.transport_cls)
        if needed is not None:
            raise ImproperlyConfigured(needed)
        return super().create_transport()  # type: ignore[misc]  # of the other base

    def get_transport_cls(self) -> Any:
        """Return the transport class in use; a failover may change it."""
        name = self.transport_cls
        if isinstance(name, str) and name in TRANSPORTS:
            return symbol_by_name(TRANSPORTS[name])
        return super().get_transport_cls()  # type: ignore[misc]  # of the other base

    def _extract_failover_opts(self) -> dict[str, Any]:
        # The time to connect is that of one server; in it, the next would never be tried.
        options: dict[str, Any] = super()._extract_failover_opts()  # type: ignore[misc]
        if options.get("timeout") and "connect_retries_timeout" not in (
            self.transport_options or {}
        ):
            options["timeout"] *= len(self.alt) or 1
        return options

    def clone(self, **kwargs: Any) -> BrokerConnection:
        """Return a new connection with the same parameters, in no pool."""
        parameters: dict[str, Any] = dict(self._info(resolve=False))  # type: ignore[attr-defined]
        return BrokerConnection(**{**parameters, **kwargs})


class BrokerConnection(_WithOwnTransports, Connection):
    """A kombu connection that knows the transports of this package."""

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:
        """Return a pool of such connections."""
        return BrokerConnectionPool(self, limit, **kwargs)

    def __eqhash__(self) -> Any:
        # Pools are kept by this value; one of kombu's own connections must not find ours.
        return _Keyed((type(self), *super().__eqhash__()))  # type: ignore[no-untyped-call]


class PooledBrokerConnection(_WithOwnTransports, PooledConnection):
    """The same, for a pool."""


class BrokerConnectionPool(ConnectionPool):
    """A pool of such connections."""

    connection: Any

    def __init__(self, connection: Any, limit: int | None = None, **kwargs: Any) -> None:
        super().__init__(connection, limit, **kwargs)  # type: ignore[no-untyped-call]
        #: One entry for each thread that waits for a connection.
        self.waiting: deque[None] = deque()
        #: Called when there is none: gives back those that are kept for later.
        self.reclaim: Callable[[], None] = _nothing_to_reclaim

    def acquire(self, block: bool = False, timeout: float | None = None) -> Any:
        """Return a free connection; it has a method ``release``.

        Args:
            block: Wait until one is free.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            kombu.exceptions.ConnectionLimitExceeded: None is free, or became so in time.
        """
        acquire: Any = super().acquire
        try:
            return acquire(block=False)
        except self.LimitExceeded:
            # First the entry, then the look: who keeps a connection does it the other way round.
            self.waiting.append(None)
            try:
                self.reclaim()
                return acquire(block=block, timeout=timeout)
            finally:
                self.waiting.pop()

    def new(self) -> PooledBrokerConnection:
        """Return one more connection."""
        parameters = dict(self.connection._info(resolve=False))
        return PooledBrokerConnection(self, **parameters)


def _scheme_of(url: Any) -> str:
    """Return the scheme of the first of *url*, without what an adapter adds behind a plus sign."""
    first = url if isinstance(url, str) else next(iter(url or ()), "")
    return str(first).partition("://")[0].partition("+")[0]


def _nothing_to_reclaim() -> None:
    """Do nothing: nobody keeps connections."""


class _Keyed(list[Any]):
    """Parts of a key whose hash is computed once."""

    def __init__(self, parts: tuple[Any, ...]) -> None:
        super().__init__(parts)
        self._hash = hash(parts)

    def __hash__(self) -> int:  # type: ignore[override]  # a list that nobody changes
        return self._hash
