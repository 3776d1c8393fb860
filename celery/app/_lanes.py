"""Connections that are kept for sending tasks.

Taking a producer from kombu's pools, and giving it back, costs as much as sending a message. A
`Lane` is a producer on a connection of the app's pool which its user keeps when it is done, for
whoever sends next. When the pool runs dry, lanes that nobody uses go back to it, so the setting
``broker_pool_limit`` means what it says.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from kombu.utils.functional import ChannelPromise

from celery._transport.connection import BrokerConnectionPool

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Lane", "Lanes")


class Lane:
    """A producer of one thread at a time; a context manager that yields it.

    Args:
        lanes: Where it goes back to.
        producer: kombu producer.
        connection: Its connection, of a pool.
    """

    __slots__ = ("_lanes", "connection", "producer")

    def __init__(self, lanes: Lanes, producer: Any, connection: Any) -> None:
        self._lanes = lanes
        self.producer = producer
        self.connection = connection

    def __enter__(self) -> Any:
        producer = self.producer
        channel, connection = producer._channel, self.connection
        if type(channel) is not ChannelPromise and (
            connection._connection is None or connection._default_channel is not channel
        ):
            # The connection was closed, or made anew.
            producer.revive(connection)
        return producer

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            lanes = self._lanes
            lanes._idle.append(self)
            if lanes.pool.waiting:
                # Whoever waits has looked for idle lanes before this one was.
                lanes.release_idle()
        else:
            # It may be out of order.
            self._lanes.drop(self)


class Lanes:
    """The lanes of an app.

    Args:
        app: Its pool of connections and its producers are used.
        pool: That pool.
    """

    def __init__(self, app: Celery, pool: BrokerConnectionPool) -> None:
        self._app = app
        self.pool = pool
        self._idle: deque[Lane] = deque()
        pool.reclaim = self.release_idle

    def take(self) -> Lane:
        """Return a lane that nobody else uses.

        Raises:
            kombu.exceptions.ConnectionLimitExceeded: None became free within
                ``broker_pool_acquire_timeout`` seconds.
        """
        try:
            return self._idle.pop()
        except IndexError:
            pass
        timeout = self._app.conf.broker_pool_acquire_timeout
        connection = self.pool.acquire(block=True, timeout=timeout)
        try:
            make_producer: Any = self._app.amqp.Producer
            return Lane(self, make_producer(connection), connection)
        except BaseException:
            connection.release()
            raise

    def drop(self, lane: Lane) -> None:
        """Take back a lane that may be out of order."""
        lane.connection.release()

    def release_idle(self) -> None:
        """Give the connections of lanes that nobody uses back to the pool."""
        while True:
            try:
                lane = self._idle.pop()
            except IndexError:
                return
            self.drop(lane)
