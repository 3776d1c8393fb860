"""Whether the running code may wait for results: inside a task it must not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery import _state

if TYPE_CHECKING:
    from collections.abc import Iterator

E_WOULDBLOCK = (
    "Never call result.get() within a task! The task would occupy its pool slot while it waits, "
    "and once every slot waits nothing can finish. Use a callback, a chain or a chord; see "
    "https://docs.celeryq.dev/en/stable/userguide/tasks.html#task-synchronous-subtasks"
)


#: Text of the error for those whose patience ends.
TIMED_OUT = "The operation timed out."


def assert_will_not_block() -> None:
    """Raise RuntimeError where waiting for a result would occupy a pool slot."""
    if _state.task_join_will_block():
        raise RuntimeError(E_WOULDBLOCK)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow waiting for results inside a task, for the code in the ``with`` block."""
    with _state.join_will_block(False):
        yield


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Make waiting for results an error, for the code in the ``with`` block."""
    with _state.join_will_block(True):
        yield
