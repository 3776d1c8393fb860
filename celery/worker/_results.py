"""Results that pool processes leave to the main process: stored by a thread, many at once.

A request whose document is on its way counts as running. It succeeds, is acknowledged and told of
when the store has the document, never before. While one batch is being stored the next gathers;
one waits two milliseconds for company, unless its message is to be acknowledged, for which the
broker may be waiting. The thread retries as the settings say; then requests whose documents can't
be stored fail.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker._slots import Slots
    from celery.worker.request import Request

__all__ = ("Results",)

logger = get_logger(__name__)

#: Documents stored with one call.
MOST_AT_ONCE = 128
#: That many are worth a call at any time.
ENOUGH = 32
#: Seconds for which fewer wait for company.
PACE_S = 0.002
#: With as many waiting the store can't keep up, and their slots in the pool stay taken.
MANY = 4 * MOST_AT_ONCE
#: Seconds for which the end of the worker waits for a store.
PATIENCE_S = 5.0

#: A request, the answer of its process, and the document: task id and text.
Entry = tuple["Request", tuple[int, Any, float], tuple[str, bytes]]


class Results:
    """Stores documents beside the event loop.

    Args:
        app: Its back-end stores; the thread has one of its own.
        loop: The event loop of the worker.
        slots: Of the pool.
    """

    def __init__(self, app: Celery, loop: Any, slots: Slots) -> None:
        self._app = app
        self._slots = slots
        self._call_soon = loop.call_soon
        self._call_later = loop.call_later
        self._waiting: list[Entry] = []
        self._batch: list[Entry] = []
        self._errors: list[Exception | None] | None = None
        #: A call of `_send` is under way: soon, or later.
        self._will_send = self._may_send = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        #: Free when there is a batch for the thread.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._stored = threading.Condition()

    def are_wanted(self) -> bool:
        """Say whether there are more tasks than processes, so that batches will form."""
        slots = self._slots
        return slots.taken > slots.limit or len(slots) > 0

    def has_room(self) -> bool:
        """Say whether the store keeps up."""
        return len(self._waiting) < MANY

    def put(
        self, request: Request, answer: tuple[int, Any, float], document: tuple[str, bytes]
    ) -> None:
        """Store *document*, and then tell *request* that it succeeded with *answer*."""
        self._waiting.append((request, answer, document))
        if self._is_closed:
            self.finish()
        elif not self._batch:
            self._plan(is_urgent=not request.acknowledged)

    def finish(self, timeout: float = PATIENCE_S) -> bool:
        """Wait until everything is stored, for *timeout* seconds at most; say whether it is."""
        deadline = monotonic() + timeout
        while self._batch or self._waiting:
            self._send()
            with self._stored:
                if not self._stored.wait_for(self._is_stored, deadline - monotonic()):
                    return False
            self._on_stored()
        return True

    def close(self) -> None:
        """Finish, and from now on store at once: the event loop has ended."""
        if not self.finish():
            logger.error("Results of %s tasks are not stored", len(self._batch + self._waiting))
        self._is_closed = True

    # -- in the loop

    def _plan(self, is_urgent: bool = False) -> None:
        """Have `_send` called when it is time."""
        if is_urgent or len(self._waiting) >= ENOUGH:
            if not self._will_send:
                # More may come in this turn of the loop.
                self._will_send = True
                self._call_soon(self._send)
        elif not (self._may_send or self._will_send):
            self._may_send = True
            self._call_later(PACE_S, self._send_later)

    def _send_later(self) -> None:
        self._may_send = False
        self._send()

    def _send(self) -> None:
        self._will_send = False
        if self._batch or not self._waiting:
            return
        self._batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celery-results", daemon=True)
            self._thread.start()
        self._wake.release()

    def _is_stored(self) -> bool:
        return self._errors is not None

    def _on_stored(self) -> None:
        errors, self._errors = self._errors, None
        if errors is None:
            return  # `finish` was faster
        batch, self._batch = self._batch, []
        if self._waiting:
            self._plan(is_urgent=any(not entry[0].acknowledged for entry in self._waiting))
        for (request, answer, _), error in zip(batch, errors, strict=True):
            try:
                if error is None:
                    request.on_stored(answer)
                else:
                    request.on_not_stored(error)
            except Exception:
                logger.exception("Callback of %r failed", request)

    # -- in the thread

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            errors = self._store([document for _, _, document in self._batch])
            with self._stored:
                self._errors = errors
                self._stored.notify_all()
            self._call_soon(self._on_stored)

    def _store(self, documents: list[tuple[str, bytes]]) -> list[Exception | None]:
        try:
            errors: list[Exception | None] = self._app.backend.store_documents(documents)
        except Exception as exc:
            logger.exception("Cannot store the results of %s tasks", len(documents))
            return [exc] * len(documents)
        return errors
