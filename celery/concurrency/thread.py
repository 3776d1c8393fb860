"""
The pool of operating system threads.

For bodies that wait or release the interpreter lock.  A running body can't be stopped, because
Python offers no safe way to interrupt a thread; so time limits are enforced in coroutines only.
What can be done when the worker has to go is to abandon it: then it ends without a word.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import TYPE_CHECKING, Any

from celery.app._sealing import Ended, sealing
from celery.concurrency.base import BasePool, apply_target

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("TaskPool",)


class Abandoned(SystemExit):
    """Ends a call whose body has ended when nobody wants to hear of it; no tracer stores it."""


class ApplyResult:
    """The handle of one call, which a thread of *executor* makes."""

    __slots__ = ("__weakref__", "_claim", "_is_sealed", "f", "get")

    f: Future[Any]

    def __init__(self, executor: ThreadPoolExecutor, *call: Any, **options: Any) -> None:
        #: Taken by the one who says how the call has ended: its thread, or who abandons it.
        self._claim = Lock()
        self._is_sealed = False
        self.f = executor.submit(self._run, *call, **options)
        self.get = self.f.result

    def _run(self, *call: Any, **options: Any) -> None:
        sealing.set(self._seal)
        apply_target(*call, propagate=(Abandoned,), **options)  # type: ignore[misc]  # five of them

    def _seal(self, how: Ended | None = None) -> None:
        """Note that the body has ended, in the thread."""
        if not self._is_sealed:
            if not self._claim.acquire(blocking=False):
                raise Abandoned
            self._is_sealed = True

    def abandon(self) -> bool:
        """Have nobody told how the call ends; false when its body has ended already."""
        return self._claim.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> None:
        """Return once the call has ended or *timeout* seconds have passed."""
        wait([self.f], timeout)


class TaskPool(BasePool):
    """Run calls in up to *limit* threads."""

    body_can_be_buffer = True
    signal_safe = False
    limits_coroutines = True
    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executor = ThreadPoolExecutor(max_workers=self.limit, thread_name_prefix="TaskThread")

    def on_stop(self) -> None:
        """Drop calls that have not begun, so that their messages return to the queue."""
        self.executor.shutdown(wait=True, cancel_futures=True)

    def on_terminate(self) -> None:
        """Drop calls that have not begun and leave the running ones behind."""
        self.executor.shutdown(wait=False, cancel_futures=True)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> ApplyResult:
        """Queue one call for the next free thread."""
        return ApplyResult(
            self.executor,
            target,
            args or (),
            kwargs,
            callback,
            accept_callback,
            soft_timeout=soft_timeout or self.options.get("soft_timeout"),
            timeout=timeout or self.options.get("timeout"),
            timeout_callback=_.get("timeout_callback"),
            error_callback=_.get("error_callback"),
        )

    def _get_info(self) -> dict[str, Any]:
        return super()._get_info() | {"threads": len(self.executor._threads)}
