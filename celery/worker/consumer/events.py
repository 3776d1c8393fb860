"""Step that sends events: what monitors and other workers hear of this one."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery._transport.capabilities import carries_broadcasts
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer.connection import Connection

__all__ = ("Events",)

logger = get_logger(__name__)

#: Task events that are sent together at most; each message costs a round trip on some brokers.
BUFFER_LIMIT = 250


class Events(bootsteps.StartStopStep):
    """Keeps an event dispatcher; what could not be sent survives a lost connection.

    Args:
        task_events: Send events of tasks too, not only of the worker.
        without_heartbeat, without_gossip: With both, and no task events, nothing is sent; nor
            is it where the broker carries no broadcasts.
    """

    name: str
    requires = (Connection,)

    def __init__(
        self,
        c: Any,
        task_events: bool = True,
        without_heartbeat: bool = False,
        without_gossip: bool = False,
        **kwargs: Any,
    ) -> None:
        self.groups = None if task_events else ["worker"]
        self.send_events = carries_broadcasts(c.conninfo) and bool(
            task_events or not without_gossip or not without_heartbeat
        )
        self.enabled = self.send_events
        c.event_dispatcher = None
        super().__init__(c, **kwargs)

    def include_if(self, c: Any) -> bool:
        """Take part always: events may be switched on later."""
        return True

    def start(self, c: Any) -> None:
        """Make a dispatcher on a new connection, and hand it what the last one kept."""
        # This follows the loss of a connection, and the broker may have gone without a word.
        previous = self._take(c, is_lost=True)
        evented = c.hub is not None
        dispatcher = c.event_dispatcher = c.app.events.Dispatcher(
            c.connection_for_write(),
            hostname=c.hostname,
            # Remote control may have switched events on or off, and that is to stay.
            groups=self.groups if previous is None else previous.groups,
            enabled=self.send_events if previous is None else previous.enabled,
            # Without a loop nobody would flush the buffer in time.
            buffer_group=["task"] if evented else None,
            buffer_limit=BUFFER_LIMIT,
            on_send_buffered=c.on_send_event_buffered if evented else None,
        )
        channel: Any = dispatcher.connection.default_channel if evented else None
        if hasattr(channel, "posts_broadcasts"):
            # The loop waits for nobody but its own connections.
            channel.posts_broadcasts = True
        for request in list(state.reserved_requests):
            request.eventer = dispatcher
        if previous is not None:
            dispatcher.extend_buffer(previous)
            dispatcher.flush()

    def stop(self, c: Any) -> None:
        """Keep the dispatcher for the next start, but let go of its connection."""

    def shutdown(self, c: Any) -> None:
        """Send what is left, and stop sending."""
        self._take(c)

    def _take(self, c: Any, is_lost: bool = False) -> Any:
        dispatcher, c.event_dispatcher = c.event_dispatcher, None
        if dispatcher is not None:
            for action in (dispatcher.flush, dispatcher.close):
                try:
                    action()
                except Exception as exc:  # noqa: BLE001 - the old connection may be dead
                    logger.debug("while closing the event dispatcher: %r", exc)
            connection = getattr(dispatcher, "connection", None)
            if connection is not None:
                # An orderly end is a dialogue, for which somebody has to be there.
                bootsteps._quietly(connection.collect if is_lost else connection.release)
        return dispatcher
