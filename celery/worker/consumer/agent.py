"""Optional step that runs an agent class beside the consumer (setting ``worker_agent``)."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker.consumer.connection import Connection

__all__ = ("Agent",)


class Agent(bootsteps.StartStopStep):
    """Starts and stops the configured agent; absent without one."""

    name: str
    conditional = True
    requires = (Connection,)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        self.agent_cls = c.app.conf.worker_agent
        self.enabled = bool(self.agent_cls)
        super().__init__(c, **kwargs)

    def create(self, c: Any) -> Any:
        """Build the agent on the consumer's connection."""
        c.agent = self.instantiate(self.agent_cls, c.connection)
        return c.agent
