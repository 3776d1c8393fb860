"""Reads the properties of messages that look like those before.

Task messages of one sender differ in a few texts, mostly of the same length: ids, and what the
arguments look like. So a message is compared with the bytes that its like had in common. If
these are the same, the properties are the same too, but for the texts between them. A message
that is not recognised is read octet by octet, as all of them would be.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Any

from celery._transport._amqp_tables import read_properties, text_spans

__all__ = ("Shapes",)

#: Sizes of which shapes are known.
SIZES_AT_MOST = 500
#: How often a shape is learned for messages of one size. Where many share a size by chance, it
#: would cost more than it saves.
LEARNED_AT_MOST = 8

FLAGS_SIZE = 2


class _Shape:
    """What messages of one kind have in common, learned from one of them.

    Args:
        data: Holds the flags and properties of the message.
        at: Where they begin.
        end: Where they end.
    """

    __slots__ = (
        "_common",
        "_fresh",
        "_has_headers",
        "_headers",
        "_in_headers",
        "_properties",
        "_split",
        "_words",
    )

    def __init__(self, data: bytes, at: int, end: int) -> None:
        (flags,) = unpack_from(">H", data, at)
        self._properties = read_properties(data, at + FLAGS_SIZE, flags)
        self._has_headers = "application_headers" in self._properties
        self._headers: dict[Any, Any] = self._properties.get("application_headers", {})
        # Pairs of name and number of the part that is its text.
        self._words: list[tuple[str, int]] = []
        self._in_headers: list[tuple[Any, int]] = []
        layout, done = "=", at
        for number, (is_header, name, start, stop) in enumerate(
            text_spans(data, at + FLAGS_SIZE, flags)
        ):
            (self._in_headers if is_header else self._words).append((name, 2 * number + 1))
            layout += f"{start - done}s{stop - start}s"
            done = stop
        self._split = Struct(f"{layout}{end - done}s").unpack_from
        self._common = self._split(data, at)[::2]
        #: What a consumer may change is made anew for each.
        self._fresh = [
            (name, value.copy)
            for name, value in self._headers.items()
            if isinstance(value, dict | list)
        ]

    def is_flat(self) -> bool:
        """Say whether copies of what a consumer may change need not be deep."""
        inner = [value for value in self._headers.values() if isinstance(value, dict | list)]
        return not any(
            isinstance(item, dict | list)
            for value in inner
            for item in (value.values() if isinstance(value, dict) else value)
        )

    def read(self, data: bytes, at: int) -> dict[str, Any] | None:
        """Return the properties that begin with flags at *at*; None for those of another kind."""
        parts = self._split(data, at)
        if parts[::2] != self._common:
            return None
        properties = self._properties.copy()
        headers = self._headers.copy()
        try:
            for name, part in self._in_headers:
                headers[name] = parts[part].decode()
            for name, part in self._words:
                properties[name] = parts[part].decode()
        except UnicodeDecodeError:
            return None
        for name, copy in self._fresh:
            headers[name] = copy()
        if self._has_headers:
            properties["application_headers"] = headers
        return properties


class Shapes:
    """The shapes that one connection has seen, by the size of properties."""

    def __init__(self) -> None:
        self._known: dict[int, _Shape] = {}
        #: How often none was recognised, by size.
        self._missed: dict[int, int] = {}

    def read(self, data: bytes, at: int, end: int) -> dict[str, Any]:
        """Return the properties that begin with flags at *at*.

        Raises:
            ValueError, FrameSyntaxError, IndexError, struct.error: They can't be read.
        """
        known = self._known.get(end - at)
        if known is not None:
            properties = known.read(data, at)
            if properties is not None:
                return properties
        (flags,) = unpack_from(">H", data, at)
        properties = read_properties(data, at + FLAGS_SIZE, flags)
        self._learn(data, at, end, properties)
        return properties

    def _learn(self, data: bytes, at: int, end: int, properties: dict[str, Any]) -> None:
        size = end - at
        missed = self._missed.get(size, 0)
        if missed > LEARNED_AT_MOST:
            return
        if len(self._missed) >= SIZES_AT_MOST:
            self._known.clear()
            self._missed.clear()
        self._missed[size] = missed + 1
        # The first of its size may be the only one.
        if not missed:
            return
        try:
            shape = _Shape(data, at, end)
        except UnicodeDecodeError:
            # Of a name, which is odd enough.
            return
        # It would not be for a table that names something twice.
        if shape.is_flat() and shape.read(data, at) == properties:
            self._known[size] = shape
