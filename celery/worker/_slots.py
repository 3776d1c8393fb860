"""The slots of the pool: how many tasks it is given at a time, and who waits for one.

Requests wait here, in the main process, rather than in the pool, so that one revoked or
expired while it waited is noticed when its turn comes, and so that a stopping worker can
give waiting messages back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Slots:
    """A counting semaphore whose waiters are functions, called when their turn comes.

    Any thread may release; waiters then run in that thread.

    Args:
        limit: Slots at the start.
    """

    __slots__ = ("_lock", "_waiting", "limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[tuple[Callable[[Any], Any], Any]] = deque()
        self._lock = threading.Lock()

    def acquire(self, callback: Callable[[Any], Any], argument: Any) -> bool:
        """Call ``callback(argument)`` now when a slot is free, else when one becomes free.

        The callback answers False when it does not need the slot after all.

        Returns:
            Whether it was called now.
        """
        with self._lock:
            if self.taken >= self.limit:
                self._waiting.append((callback, argument))
                return False
            self.taken += 1
        if callback(argument) is False:
            self.release()
        return True

    def release(self) -> None:
        """Give a slot back, which goes to whoever waits longest."""
        while True:
            with self._lock:
                if self.taken > self.limit or not self._waiting:
                    self.taken = max(self.taken - 1, 0)
                    return
                callback, argument = self._waiting.popleft()
            if callback(argument) is not False:
                return

    def resize(self, limit: int) -> None:
        """Set the number of slots; more of them are handed out at once."""
        with self._lock:
            self.limit = max(limit, 0)
            extra = min(self.limit - self.taken, len(self._waiting))
            self.taken += max(extra, 0)
        for _ in range(extra):
            self.release()

    def grow(self, n: int = 1) -> None:
        """Add *n* slots."""
        self.resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Take *n* slots away, as they become free."""
        self.resize(self.limit - n)

    def clear(self) -> list[Any]:
        """Forget those that wait, and return their arguments."""
        with self._lock:
            waiting = [argument for _, argument in self._waiting]
            self._waiting.clear()
        return waiting

    def __len__(self) -> int:
        return len(self._waiting)
