"""The worker: takes task messages from the broker and has them run by a pool."""

from __future__ import annotations

from celery.worker.worker import WorkController

__all__ = ("WorkController",)
