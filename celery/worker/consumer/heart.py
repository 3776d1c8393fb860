"""Step that sends the worker's heartbeat events."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker import heartbeat
from celery.worker.consumer.events import Events

__all__ = ("Heart",)


class Heart(bootsteps.StartStopStep):
    """Beats while the consumer is connected.

    Args:
        without_heartbeat: Don't.
        heartbeat_interval: Seconds between two beats.
    """

    name: str
    requires = (Events,)

    def __init__(
        self,
        c: Any,
        without_heartbeat: bool = False,
        heartbeat_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.enabled = not without_heartbeat
        self.heartbeat_interval = heartbeat_interval
        c.heart = None
        super().__init__(c, **kwargs)

    def start(self, c: Any) -> None:
        """Announce the worker and begin to beat."""
        c.heart = heartbeat.Heart(c.timer, c.event_dispatcher, self.heartbeat_interval)
        c.heart.start()

    def stop(self, c: Any) -> None:
        """Stop beating."""
        heart, c.heart = c.heart, None
        if heart is not None:
            heart.stop()

    def shutdown(self, c: Any) -> None:
        """Stop beating."""
        self.stop(c)
