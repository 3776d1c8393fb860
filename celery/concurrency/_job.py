"""
One call that was handed to the prefork pool, as the main process sees it.

States: WAITING (not yet written to the inbox) -> SENT (in the inbox, or just taken from it) ->
RUNNING (a child accepted it) -> ENDED.  A job that has not begun can go to WITHDRAWN instead:
it will never run, and none of its callbacks is called.  If a child dies with a job that it took
but never accepted, the job goes from SENT back to WAITING.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeoutError

from celery.app._tracer import plain_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.app._sealing import Ended
    from celery.concurrency.asynpool import AsynPool

WAITING, SENT, RUNNING, ENDED, WITHDRAWN = range(5)
_STATE_NAMES = ("waiting", "sent", "running", "ended", "withdrawn")


class Job:
    """The handle that `AsynPool.apply_async` returns."""

    __slots__ = (
        "__weakref__",
        "_ended",
        "_event",
        "_job",
        "_pool",
        "_success",
        "_terminated",
        "_value",
        "accept_callback",
        "callback",
        "callbacks_propagate",
        "correlation_id",
        "error_callback",
        "packet",
        "slot",
        "soft_timeout",
        "spilled",
        "state",
        "time_accepted",
        "timeout",
        "timeout_callback",
        "worker_pid",
    )

    def __init__(
        self,
        pool: AsynPool,
        number: int,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[Any], Any] | None,
        accept_callback: Callable[[int, float], Any] | None,
        timeout_callback: Callable[..., Any] | None,
        soft_timeout: float | None,
        timeout: float | None,
        callbacks_propagate: tuple[type[BaseException], ...],
        correlation_id: str | None,
    ) -> None:
        self._pool = pool
        self._job = number
        self.callback = callback
        self.error_callback = error_callback
        self.accept_callback = accept_callback
        self.timeout_callback = timeout_callback
        self.soft_timeout = soft_timeout
        self.timeout = timeout
        self.callbacks_propagate = callbacks_propagate
        self.correlation_id = correlation_id
        self.state = WAITING
        self.worker_pid: int | None = None
        self.time_accepted: float | None = None
        self.packet: bytes | None = None
        self.spilled: str | None = None
        self.slot: int | None = None
        self._terminated: int | None = None
        #: How it has ended, by the word of a child that is gone.
        self._ended: Ended | None = None
        self._event: threading.Event | None = None
        self._success = False
        self._value: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._job}: {_STATE_NAMES[self.state]}>"

    def accepted(self) -> bool:
        """Say whether a child has begun this job."""
        return self.time_accepted is not None

    def ready(self) -> bool:
        """Say whether the job has an outcome, or never will have one."""
        return self.state >= ENDED

    def successful(self) -> bool:
        """Say whether the target returned; False while it has not."""
        return self._success

    def worker_pids(self) -> list[int]:
        """Return the process that runs or ran this job, if one began it."""
        return [self.worker_pid] if self.worker_pid else []

    def terminate(self, signum: int | None = None) -> None:
        """End the job by signal if it runs, or without a start if it has not begun."""
        self._pool.terminate_call(self, signum)

    def withdraw(self) -> bool:
        """Take the job back; True if it had not begun and now never will."""
        return self._pool.withdraw(self)

    discard = withdraw

    def wait(self, timeout: float | None = None) -> None:
        """Return once the job is ready or *timeout* seconds have passed."""
        if self.state >= ENDED:
            return
        event = self._event
        if event is None:
            event = self._event = threading.Event()
        if self.state < ENDED:  # it may have ended before the event could be seen
            self._pool.wait_for(self, event, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """
        Return what the target returned.

        Raises:
            TimeoutError: The job was not ready after *timeout* seconds.
            BaseException: What the target raised, or why it could not end.
        """
        self.wait(timeout)
        if self.state == WITHDRAWN:
            raise RuntimeError(f"job {self._job} was withdrawn before it began")
        if self.state != ENDED:
            raise TimeoutError(f"job {self._job} has not ended after {timeout} seconds")
        if self._success:
            return self._value
        raise plain_exception(self._value.exception)

    def settle(self, state: int, success: bool = False, value: Any = None) -> None:
        """Enter a final state and release whoever waits; the pool calls this once."""
        self._success = success
        self._value = value
        self.packet = None
        self.state = state
        if self._event is not None:
            self._event.set()
