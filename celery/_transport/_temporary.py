"""Queues that are to go with those who consume from them, on brokers that don't see to it."""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger

__all__ = ("TemporaryQueues",)

logger = get_logger(__name__)


class TemporaryQueues:
    """Mixed into a channel of kombu's: deletes at its end what it declared ``auto_delete``.

    Otherwise a mailbox or an event queue would stay bound, and be filled for nobody, for ever.
    """

    closed: bool
    _temporary: set[str] | None = None

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> Any:
        if auto_delete:
            self._temporary = (self._temporary or set()) | {queue}
        return super()._new_queue(queue, auto_delete=auto_delete, **kwargs)  # type: ignore[misc]

    def queue_delete(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Delete a queue; it is no longer ours to delete."""
        (self._temporary or set()).discard(queue)
        return super().queue_delete(queue, *args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        """Delete the queues and close the channel."""
        while not self.closed and self._temporary:
            queue = self._temporary.pop()
            try:
                self.queue_delete(queue)
            except Exception as exc:  # noqa: BLE001 - the broker may be gone, and its driver decides
                logger.debug("cannot delete the queue %s: %r", queue, exc)
        super().close()  # type: ignore[misc]
