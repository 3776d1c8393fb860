"""
The pool without concurrency: a call runs where it is made.

For debugging, and for hosts that bring their own concurrency (one worker process per container).
While a body runs, the worker does nothing else; time limits are enforced in coroutines only.
"""

from __future__ import annotations

import os
from typing import Any

from celery import signals
from celery.concurrency.base import BasePool, apply_target

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """Run each call in the thread of the caller."""

    runs_in_call = True
    body_can_be_buffer = True
    limits_coroutines = True
    _default_limits: dict[str, float | None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = 1
        limits = {name: self.options.get(name) for name in ("soft_timeout", "timeout")}
        if any(limits.values()):
            self._default_limits = limits
        else:
            # Bound on the instance: one frame less for every task.
            self.on_apply = apply_target  # type: ignore[method-assign]

    def on_apply(self, *args: Any, **kwargs: Any) -> None:
        """Run one call with the limits of the pool, where it has none of its own."""
        for name, limit in self._default_limits.items():
            kwargs[name] = kwargs.get(name) or limit
        apply_target(*args, **kwargs)

    def on_start(self) -> None:
        """Announce the one process there is, as pools with many announce each."""
        hostname = self.options.get("hostname") or next(
            iter(self.options.get("initargs", ())[1:]), None
        )
        signals.worker_process_init.send(sender=hostname)

    def _get_info(self) -> dict[str, Any]:
        return super()._get_info() | {
            "processes": [os.getpid()],
            "max-tasks-per-child": None,
            "put-guarded-by-semaphore": self.putlocks,
            "timeouts": (),
        }
