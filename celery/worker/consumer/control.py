"""Step that obeys remote commands."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery._transport.capabilities import carries_broadcasts
from celery.worker import pidbox
from celery.worker.consumer.tasks import Tasks

__all__ = ("Control",)


class Control(bootsteps.StartStopStep):
    """Listens to the worker's mailbox, where the transport can broadcast."""

    name: str
    requires = (Tasks,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        self.is_green = c.pool is not None and c.pool.is_green
        self.box = (pidbox.gPidbox if self.is_green else pidbox.Pidbox)(c)
        super().__init__(c, **kwargs)

    def start(self, parent: Any) -> None:
        """Listen."""
        self.box.start(parent)

    def stop(self, parent: Any) -> None:
        """Stop listening."""
        self.box.stop(parent)

    def shutdown(self, parent: Any) -> None:
        """Stop listening for good."""
        self.box.shutdown(parent)

    def include_if(self, c: Any) -> bool:
        """Take part where it is wanted and possible."""
        return bool(c.app.conf.worker_enable_remote_control and carries_broadcasts(c.conninfo))
