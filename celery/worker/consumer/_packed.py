"""Messages that wait for their ETA in this process, with as little memory as may be.

A request with all that belongs to it takes six kilobytes and more. Thousands that wait for an
hour are put away as their bare message, compressed, and received anew when their time comes.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterator
from heapq import heappop, heappush, nsmallest
from itertools import count
from typing import Any

__all__ = ("Packed",)

#: Types of attributes of a message that are put away; what others hold, all messages share.
PLAIN = (str, bytes, int, float, bool, dict, list, tuple, type(None))

_Entry = tuple[float, int, str, bytes, Any, dict[str, Any]]


class Packed:
    """Messages by the time at which they are due."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._numbers = count()
        self._shared: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float | None:
        """POSIX time at which the first is due, None when there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, until: float, task_id: str, message: Any) -> bool:
        """Put *message* away; False if it holds what can't be."""
        try:
            attributes = _attributes(message)
            plain = {name: value for name, value in attributes.items() if type(value) in PLAIN}
            data = zlib.compress(pickle.dumps(plain, pickle.HIGHEST_PROTOCOL), 1)
        except Exception:  # noqa: BLE001 - whatever a value raises when it is pickled
            return False
        shared = {name: value for name, value in attributes.items() if name not in plain}
        if shared != self._shared:
            self._shared = shared
        heappush(
            self._heap, (until, next(self._numbers), task_id, data, type(message), self._shared)
        )
        return True

    def take_due(self, now: float, most: int) -> Iterator[Any]:
        """Return up to *most* messages that are due, and forget them."""
        while most > 0 and self._heap and self._heap[0][0] <= now:
            most -= 1
            yield _unpack(heappop(self._heap))

    def look(self, most: int, task_ids: Any = None) -> list[Any]:
        """Return copies of those that are due next, or of certain tasks."""
        if task_ids is None:
            return [_unpack(entry) for entry in nsmallest(most, self._heap)]
        wanted = set(task_ids)
        return [_unpack(entry) for entry in self._heap if entry[2] in wanted]

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._shared = {}


def _unpack(entry: _Entry) -> Any:
    _, _, _, data, kind, shared = entry
    message = kind.__new__(kind)
    for name, value in {**pickle.loads(zlib.decompress(data)), **shared}.items():
        setattr(message, name, value)
    return message


def _attributes(message: Any) -> dict[str, Any]:
    """Return what *message* holds, in its dictionary and in slots."""
    state = message.__reduce_ex__(2)[2]
    own, slots = state if isinstance(state, tuple) else (state, None)
    return {**(own or {}), **(slots or {})}
