"""Messages that wait for their ETA in this process, with as little memory as may be.

A request with all that belongs to it takes six kilobytes and more. Thousands that wait for an
hour are put away as their bare message, compressed, and received anew when their time comes. Nearly
all are like the one before, so each is compressed as what it differs in from a sample.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from heapq import heappop, heappush, nsmallest
from itertools import chain, count
from typing import Any, NamedTuple

__all__ = ("Packed",)

#: Bytes that the compressor looks back at, as a power of two, and how much memory it has beside.
#: Little of both: it is made anew for each message, which with more takes longer than compressing.
WINDOW_BITS, MEMORY_LEVEL = 13, 5

#: Types of attributes of a message that are put away; what others hold, all messages share.
PLAIN = (str, bytes, int, float, bool, dict, list, tuple, type(None))


class Codec:
    """Compresses texts that are like *sample*, each by itself."""

    __slots__ = ("_compressor", "_sample")

    def __init__(self, sample: bytes) -> None:
        self._sample = sample[-(1 << WINDOW_BITS) :]
        # Negative: without a header and a check sum.
        self._compressor = zlib.compressobj(
            1, zlib.DEFLATED, -WINDOW_BITS, MEMORY_LEVEL, zdict=self._sample
        )

    def compress(self, data: bytes) -> bytes:
        """Return *data* compressed."""
        one = self._compressor.copy()
        return one.compress(data) + one.flush()

    def decompress(self, data: bytes) -> bytes:
        """Return what `compress` was given."""
        return zlib.decompressobj(-WINDOW_BITS, zdict=self._sample).decompress(data)


class _Common(NamedTuple):
    """What messages that were put away have in common."""

    kind: Any
    #: Attributes that are not plain data.
    shared: dict[str, Any]
    codec: Codec


_Entry = tuple[float, int, str, bytes, _Common]


class Packed:
    """Messages by the time at which they are due."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._numbers = count()
        self._common: _Common | None = None

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float | None:
        """POSIX time at which the first is due, None when there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, until: float, task_id: str, message: Any) -> bool:
        """Put *message* away; False if it holds what can't be."""
        plain: dict[str, Any] = {}
        shared: dict[str, Any] = {}
        for name, value in _attributes(message).items():
            (plain if type(value) in PLAIN else shared)[name] = value
        kind, common = type(message), self._common
        try:
            data = pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001 - whatever a value raises when it is pickled
            return False
        if common is None or common.kind is not kind or common.shared != shared:
            common = self._common = _Common(kind, shared, Codec(data))
        packed = common.codec.compress(data)
        heappush(self._heap, (until, next(self._numbers), task_id, packed, common))
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
        self._common = None


def _unpack(entry: _Entry) -> Any:
    *_, packed, (kind, shared, codec) = entry
    message = kind.__new__(kind)
    for name, value in {**pickle.loads(codec.decompress(packed)), **shared}.items():
        setattr(message, name, value)
    return message


def _attributes(message: Any) -> dict[str, Any]:
    """Return what *message* holds, in its dictionary and in slots."""
    found = dict(getattr(message, "__dict__", ()))
    for name in _slots(type(message)):  # type: ignore[arg-type]  # classes hash
        with suppress(AttributeError):
            found[name] = getattr(message, name)
    return found


@cache
def _slots(kind: Any) -> tuple[str, ...]:
    named = (vars(base).get("__slots__", ()) for base in kind.__mro__)
    slots = chain.from_iterable((names,) if isinstance(names, str) else names for names in named)
    return tuple(name for name in slots if name not in ("__dict__", "__weakref__"))
