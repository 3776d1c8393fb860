"""First step of the consumer: its connection to the broker."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery._transport.capabilities import limits
from celery.utils.log import get_logger

__all__ = ("Connection",)

logger = get_logger(__name__)


class Connection(bootsteps.StartStopStep):
    """Connects, with the retries that the settings ask for, and disconnects."""

    name: str

    def __init__(self, c: Any, **kwargs: Any) -> None:
        c.connection = None
        #: What the broker cannot carry is said once, not with every connection.
        self._has_told = False
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        """Connect; returns when that has worked."""
        c.connection = c.connect()
        if logger.isEnabledFor(logging.INFO):
            logger.info("Connected to %s", c.connection.as_uri())
        told = None if self._has_told else limits(c.connection)
        self._has_told = True
        if told is not None:
            logger.warning(told)

    def close_connection(self, c: Any) -> None:
        """Drop the connection without waiting for a broker that may be gone."""
        connection, c.connection = c.connection, None
        if connection is not None:
            try:
                connection.maybe_close_channel(connection.default_channel)
                connection.close()
            except Exception as exc:  # noqa: BLE001 - whatever a dead driver raises
                logger.debug("while closing the connection: %r", exc)

    def shutdown(self, c: Any) -> None:
        """Disconnect for good."""
        self.close_connection(c)

    def info(self, c: Any) -> dict[str, Any]:
        """Return the parameters of the connection, without the password."""
        params: dict[str, Any] = {"broker": "N/A"}
        if c.connection is not None:
            broker = c.connection.info()
            broker.pop("password", None)
            params["broker"] = broker
        return params
