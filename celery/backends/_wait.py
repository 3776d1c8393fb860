"""Waiting for results without push: when to look next, and when to give up.

`BaseBackend` polls with this; stores that push use `celery.backends.asynchronous`. A short task is
worth a quick second look and a long one is not worth many, so the pauses grow from a hundredth of
the interval to the interval itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from celery._result.joining import TIMED_OUT as TIMED_OUT
from celery.exceptions import TimeoutError
from celery.states import READY_STATES

if TYPE_CHECKING:
    from celery.result import AsyncResult, ResultSet


#: The first pause, as a part of the interval.
FIRST_PAUSE = 0.01
#: How much longer each further pause is.
GROWTH = 1.6


def pauses(
    interval: float, timeout: float | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Yield the seconds to sleep before each further look.

    Args:
        interval: The longest pause, in seconds.
        timeout: Seconds from now to the last look; None waits for ever, 0 never sleeps.
        clock: Monotonic seconds.

    Raises:
        celery.exceptions.TimeoutError: The time is over.
    """
    pause = interval * FIRST_PAUSE
    end = None if timeout is None else clock() + timeout
    while True:
        if end is None:
            yield pause
        else:
            left = end - clock()
            if left <= 0:
                raise TimeoutError(TIMED_OUT)
            yield min(pause, left)
        pause = min(pause * GROWTH, interval)


class SyncBackendMixin:
    """Results are found by asking again and again."""

    subpolling_interval: float | None
    is_async = False

    if TYPE_CHECKING:

        def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
            """Read one document."""
            ...

        get_many: Callable[..., Iterator[tuple[str, dict[str, Any]]]]

    def iter_native(
        self,
        result: ResultSet,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(task id, document)`` of the members of *result* as they become ready."""
        ids = [leaf.id for leaf in result._leaves()]
        if not ids:
            return iter(())
        return self.get_many(
            ids,
            timeout=timeout,
            interval=interval,
            no_ack=no_ack,
            on_message=on_message,
            on_interval=on_interval,
        )

    def wait_for_pending(
        self,
        result: AsyncResult[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Wait until *result* is ready and return its value, or raise its error.

        Raises:
            celery.exceptions.TimeoutError: *timeout* seconds have passed.
        """
        if on_message is not None:
            raise NotImplementedError(
                f"{type(self).__name__} polls for results and sees no messages: "
                "on_message= needs a back-end that pushes them"
            )
        document = self.wait_for(
            result.id, timeout=timeout, interval=interval, no_ack=no_ack, on_interval=on_interval
        )
        result._maybe_set_cache(document)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """Wait until the task *task_id* is ready and return its document.

        Args:
            task_id: Id of the task.
            timeout: Seconds; None waits for ever, 0 looks once.
            interval: Longest pause between two looks, in seconds.
            no_ack: Of no meaning here.
            on_interval: Called after each look that found nothing.

        Raises:
            celery.exceptions.TimeoutError: *timeout* seconds have passed.
        """
        waits = pauses(self.subpolling_interval or interval, timeout)
        while True:
            document = self.get_task_meta(task_id)
            if document["status"] in READY_STATES:
                return document
            if on_interval is not None:
                on_interval()
            self._pause(next(waits))

    def _pause(self, seconds: float) -> None:
        """Wait until a look may be worth it, about so many seconds."""
        time.sleep(seconds)

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Return *result*; nothing has to be watched for it."""
        return result

    def remove_pending_result(self, result: Any) -> Any:
        """Return *result*; nothing is watched for it."""
        return result
