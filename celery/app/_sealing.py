"""The moment from which nobody else ends a task: its body has returned or raised.

A termination or a time limit that strikes while a task stores how it ended would give it two final
states. So what comes later comes too late, and the task ends as its body did. The tracer names the
moment; a pool that can interrupt bodies puts into `sealing` what it wants called then.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

__all__ = ("sealing",)

#: What the tracer calls, perhaps twice, after the body of the task that runs in this context.
sealing: ContextVar[Callable[[], object] | None] = ContextVar("sealing", default=None)
