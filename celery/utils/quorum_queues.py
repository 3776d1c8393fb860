"""Finding out whether quorum queues are in use: they don't know global prefetch limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery.app.base import Celery


def detect_quorum_queues(app: Celery, driver_type: str) -> tuple[bool, str]:
    """
    Look for a quorum queue among those the app knows.

    Args:
        app: The app.
        driver_type: That of the broker's transport; only ``amqp`` has such queues.

    Returns:
        Whether there is one, and its name, or an empty string.
    """
    if driver_type != "amqp":
        return False, ""
    for queue in app.amqp.queues.values():
        if (queue.queue_arguments or {}).get("x-queue-type") == "quorum":
            return True, str(queue.name)
    return False, ""
