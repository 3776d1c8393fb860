"""Subscriptions: one connection on which Redis announces new documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kombu.utils.encoding import ensure_bytes

from celery.backends._redis.link import take_connection


class Channels:
    """Channels of one connection; reading and writing may happen in different threads.

    Args:
        pool: Returns the driver's pool of connections.
    """

    def __init__(self, pool: Callable[[], Any]) -> None:
        self._pool = pool
        self._connection: Any = None
        #: What was asked for.
        self.wanted: set[bytes] = set()
        #: What the server has confirmed: from then on nothing is missed.
        self.confirmed: set[bytes] = set()

    def connect(self) -> None:
        """Connect, anew if need be, and ask for all channels."""
        self.close()
        connection = take_connection(self._pool())
        self._connection = connection
        if self.wanted:
            self._send("SUBSCRIBE", self.wanted)

    def close(self) -> None:
        """Disconnect; `wanted` stays, for another `connect`."""
        connection, self._connection = self._connection, None
        self.confirmed = set()
        if connection is not None:
            connection.disconnect()
            self._pool().release(connection)

    def forget(self) -> None:
        """Drop the connection without touching it: it belongs to the parent of this process."""
        self._connection = None
        self.wanted = set()
        self.confirmed = set()

    def _send(self, command: str, channels: Iterable[bytes]) -> None:
        # No health check: its answer would have to be told from announcements.
        self._connection.send_command(command, *channels, check_health=False)

    def subscribe(self, channels: Iterable[Any]) -> None:
        """Ask for further channels."""
        new = {ensure_bytes(channel) for channel in channels} - self.wanted
        if not new:
            return
        self.wanted |= new
        if self._connection is None:
            self.connect()
        else:
            self._send("SUBSCRIBE", new)

    def unsubscribe(self, channels: Iterable[Any]) -> None:
        """Give channels up."""
        old = {ensure_bytes(channel) for channel in channels} & self.wanted
        if not old:
            return
        self.wanted -= old
        self.confirmed -= old
        if self._connection is not None:
            self._send("UNSUBSCRIBE", old)

    def read(self, timeout: float | None) -> tuple[bytes, Any] | None:
        """Wait for an announcement.

        Args:
            timeout: Seconds; None waits for ever, 0 takes what is there.

        Returns:
            Channel and content, or None when something else came, or nothing.
        """
        connection = self._connection
        if connection is None:
            self.connect()
            connection = self._connection
        if not connection.can_read(timeout=timeout):
            return None
        answer = connection.read_response(disconnect_on_error=False)
        if not isinstance(answer, list):
            return None
        kind, channel = ensure_bytes(answer[0]), answer[1]
        if kind == b"message":
            return ensure_bytes(channel), answer[2]
        if kind == b"subscribe":
            name = ensure_bytes(channel)
            if name in self.wanted:
                self.confirmed.add(name)
        return None
