"""The task by which a test finds out whether its worker works; import it before starting one."""

from __future__ import annotations

from celery.app import shared_task


@shared_task(name="celery.ping")
def ping() -> str:
    """Return ``pong``."""
    return "pong"
