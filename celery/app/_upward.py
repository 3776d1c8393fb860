"""The door through which the app object offers classes of the layers above it.

Users reach worker and beat through their app (``app.Worker``, ``app.start()``); the
app layer itself knows these only by name, and only when asked.
"""

from __future__ import annotations

from typing import Any

from celery.utils.imports import symbol_by_name

WORKER = "celery.apps.worker:Worker"
WORK_CONTROLLER = "celery.worker:WorkController"
BEAT = "celery.apps.beat:Beat"
SCHEDULE = "celery._beat.runtime:Schedule"
COMMAND_LINE = "celery.bin.celery:celery"
SECURITY = "celery.security:setup_security"


def load(reference: str) -> Any:
    """Import what *reference*, one of the constants here, names."""
    return symbol_by_name(reference)
