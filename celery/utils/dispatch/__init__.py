"""Observers: who wants to know tells a `Signal`."""

from __future__ import annotations

from celery.utils.dispatch.signal import Signal

__all__ = ("Signal",)
