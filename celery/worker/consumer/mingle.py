"""Step that asks the other workers which tasks are revoked, and what time their clocks show.

It asks, and goes on: answers are merged when they come, for one second. Waiting for them
would keep every worker from its first task for that second.
"""

from __future__ import annotations

from time import time
from typing import Any, ClassVar

from kombu.messaging import Consumer, Producer
from kombu.utils.uuid import uuid

from celery import bootsteps
from celery.utils.log import get_logger
from celery.worker.consumer.events import Events
from celery.worker.state import merge_revoked, revoked

__all__ = ("Mingle",)

logger = get_logger(__name__)

#: Seconds for which answers are accepted.
REPLY_WINDOW_S = 1.0


class Mingle(bootsteps.StartStopStep):
    """Synchronises with the neighbours at the start, and after each lost connection.

    Args:
        without_mingle: Don't.
    """

    name: str
    label = "Mingle"
    requires = (Events,)
    compatible_transports: ClassVar[set[str]] = {"amqp", "redis", "gcpubsub"}

    def __init__(self, c: Any, without_mingle: bool = False, **kwargs: Any) -> None:
        self.enabled = not without_mingle and self.compatible_transport(c.app)
        self._consumer: Any = None
        self._channel: Any = None
        self._tref: Any = None
        self._ticket: str | None = None
        self._nodes = 0
        super().__init__(c, without_mingle=without_mingle, **kwargs)

    def compatible_transport(self, app: Any) -> bool:
        """Say whether the broker can broadcast."""
        with app.connection_for_read() as connection:
            return connection.transport.driver_type in self.compatible_transports

    def start(self, c: Any) -> None:
        """Ask, without waiting."""
        self.sync(c)

    def stop(self, c: Any) -> None:
        """Stop listening for answers."""
        self._close()

    def shutdown(self, c: Any) -> None:
        """Stop listening for answers."""
        self._close()

    def sync(self, c: Any) -> None:
        """Ask the neighbours; their answers go to `on_node_reply`."""
        logger.info("mingle: searching for neighbors")
        self._close()
        self._nodes = 0
        self.send_hello(c)
        # The timer may run in another (green) thread; the connection belongs to the loop's.
        self._tref = c.timer.call_after(REPLY_WINDOW_S, c.call_soon, (self._finish,))

    def send_hello(self, c: Any) -> None:
        """Broadcast who we are and what we know to be revoked."""
        # Bound first: the reply queue's name depends on the bound object.
        mailbox = c.app.control.mailbox(c.connection)
        self._ticket = uuid()
        channel = self._channel = c.connection.channel()
        self._consumer = Consumer(
            channel,
            [mailbox.reply_queue],
            accept=mailbox.accept,
            no_ack=True,
            callbacks=[lambda body, message: self._on_reply(c, body, message)],
        )
        self._consumer.consume()
        mailbox._publish(
            "hello",
            {"from_node": c.hostname, "revoked": list(revoked)},
            reply_ticket=self._ticket,
            channel=channel,
            timeout=REPLY_WINDOW_S,
            # One of the pool would connect for this.
            producer=Producer(channel, auto_declare=False),
        )

    def _on_reply(self, c: Any, body: Any, message: Any) -> None:
        headers = message.headers
        expires = headers.get("expires")
        if headers.get("ticket") != self._ticket or (expires and time() > expires):
            return
        for nodename, reply in body.items():
            if reply and nodename != c.hostname:
                if not self._nodes:
                    logger.info("mingle: sync with neighbors")
                self._nodes += 1
                self.on_node_reply(c, nodename, reply)

    def on_node_reply(self, c: Any, nodename: str, reply: dict[str, Any]) -> None:
        """Merge the answer of one neighbour."""
        logger.debug("mingle: processing reply from %s", nodename)
        try:
            self.sync_with_node(c, **reply)
        except Exception:
            logger.exception("mingle: sync with %s failed", nodename)

    def sync_with_node(
        self, c: Any, clock: int | None = None, revoked: Any = None, **kwargs: Any
    ) -> None:
        """Take over a neighbour's clock and revoked ids."""
        self.on_clock_event(c, clock)
        self.on_revoked_received(c, revoked)

    def on_clock_event(self, c: Any, clock: int | None) -> None:
        """Bring our logical clock forward."""
        if clock:
            c.app.clock.adjust(clock)
        else:
            c.app.clock.forward()

    def on_revoked_received(self, c: Any, revoked: Any) -> None:
        """Count a neighbour's revoked ids as revoked from now on."""
        if revoked:
            merge_revoked(revoked)

    def _finish(self) -> None:
        if self._nodes:
            logger.info("mingle: sync with %s nodes", self._nodes)
            logger.info("mingle: sync complete")
        else:
            logger.info("mingle: all alone")
        self._tref = None
        # Only the consumer: closing the channel closes a socket that the loop may be polling.
        self._listen_no_more()

    def _listen_no_more(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._ticket = None
        if consumer is not None:
            bootsteps._quietly(consumer.cancel)

    def _close(self) -> None:
        tref, self._tref = self._tref, None
        if tref is not None:
            tref.cancel()
        self._consumer = self._ticket = None
        channel, self._channel = self._channel, None
        if channel is not None:
            # With its consumer: on closing it may read an answer, which is for nobody any more,
            # and would go back to the queue with a warning if nobody was there to take it.
            bootsteps._quietly(channel.close)
