"""The slots of the pool: how many tasks it is given at a time, and who waits for one.

Requests wait here, in the main process, rather than in the pool, so that one revoked or
expired while it waited is noticed when its turn comes, and so that a stopping worker can
give waiting messages back.

While tasks are short, a process would idle between two of them for about as long as one
takes. So a pool that can give back what it has not begun gets some more than it can run;
as soon as tasks take longer it no longer does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

#: Tasks that take fewer seconds than this on average are short.
SHORT_S = 0.01

#: And than this one: they hardly take any time at all.
BRISK_S = 0.001

#: Weight of the latest task in that average: some twenty short ones in a row are enough.
_WEIGHT = 0.2


class Slots:
    """A counting semaphore whose waiters are functions, called when their turn comes.

    Any thread may release; waiters then run in that thread.

    Args:
        limit: Slots at the start.
        depth: Further slots for each of these while tasks are short.
    """

    __slots__ = ("_lock", "_pace_s", "_waiting", "depth", "extra", "is_brisk", "limit", "taken")

    def __init__(self, limit: int, depth: int = 0) -> None:
        self.limit = limit
        self.depth = depth
        self.extra = 0
        self.taken = 0
        #: Whether tasks take no time to speak of; not for a moment, for a while.
        self.is_brisk = False
        self._pace_s = 1.0
        self._waiting: deque[tuple[Callable[[Any], Any], Any, bool]] = deque()
        self._lock = threading.Lock()

    def acquire(self, callback: Callable[[Any], Any], argument: Any, strict: bool = False) -> None:
        """Call ``callback(argument)`` as soon as there is a slot, in order of arrival.

        The callback answers False when it does not need the slot after all.

        Args:
            strict: Don't use one of the further slots: it has to be known when it begins.
        """
        with self._lock:
            limit = self.limit if strict else self.limit + self.extra
            if self._waiting or self.taken >= limit:
                self._waiting.append((callback, argument, strict))
                return
            self.taken += 1
        if callback(argument) is False:
            self.release()

    def release(self, runtime_s: float | None = None) -> None:
        """Give a slot back.

        Args:
            runtime_s: How long the task took, where that is known.
        """
        with self._lock:
            self.taken = max(self.taken - 1, 0)
            if runtime_s is not None and self.depth:
                self._pace_s += (runtime_s - self._pace_s) * _WEIGHT
                self.extra = self.limit * self.depth if self._pace_s < SHORT_S else 0
                self.is_brisk = self._pace_s < (2 * BRISK_S if self.is_brisk else BRISK_S)
        if self._waiting:
            self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            with self._lock:
                if not self._waiting:
                    return
                callback, argument, strict = self._waiting[0]
                if self.taken >= (self.limit if strict else self.limit + self.extra):
                    return
                self._waiting.popleft()
                self.taken += 1
            if callback(argument) is False:
                with self._lock:
                    self.taken = max(self.taken - 1, 0)

    def resize(self, limit: int) -> None:
        """Set the number of slots; more of them are handed out at once."""
        with self._lock:
            self.limit = max(limit, 0)
            self.extra = self.limit * self.depth if self.extra else 0
        self._hand_out()

    def grow(self, n: int = 1) -> None:
        """Add *n* slots."""
        self.resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Take *n* slots away, as they become free."""
        self.resize(self.limit - n)

    def stay_strict(self) -> None:
        """Hand out no further slots any more."""
        with self._lock:
            self.depth = self.extra = 0
            self.is_brisk = False

    def slow_down(self) -> None:
        """Count on tasks that take long, until many short ones have ended again."""
        with self._lock:
            self._pace_s = 1.0
            self.extra = 0
            self.is_brisk = False

    def take_back(self, most: int) -> list[Any]:
        """Forget up to *most* of those that wait, the latest first, and return their arguments."""
        with self._lock:
            count = min(most, len(self._waiting))
            return [self._waiting.pop()[1] for _ in range(count)]

    def clear(self) -> list[Any]:
        """Forget those that wait, and return their arguments."""
        with self._lock:
            waiting = [argument for _, argument, _ in self._waiting]
            self._waiting.clear()
        return waiting

    def __len__(self) -> int:
        return len(self._waiting)
