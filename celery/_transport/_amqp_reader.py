"""Makes messages of the bytes that an AMQP server sends.

A message comes as three or more frames: the method ``basic.deliver``, a header, and the body in
as many pieces as its size asks for. These are read here; all other frames are handed over whole,
for py-amqp to read. Pure: no I/O, and it does not matter how the bytes are cut.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from struct import Struct
from typing import Any

from amqp.exceptions import FrameSyntaxError, UnexpectedFrame

from celery._transport._amqp_shapes import Shapes

__all__ = ("Reader",)

#: Kind, channel and size of a frame, which go before its contents.
_frame = Struct(">BHI").unpack_from
FRAME_HEAD = 7
FRAME_END = 0xCE

METHOD, HEADER, BODY = 1, 2, 3

#: Class and method of ``basic.deliver``.
DELIVER = b"\x00\x3c\x00\x3c"

#: Delivery tag, and whether it is delivered again.
_delivery = Struct(">QB").unpack_from
#: Class and size of the body; a weight between them that nobody uses.
_content = Struct(">HxxQ").unpack_from
#: Where flags and properties begin, in the header of a message.
FLAGS_AT = 12
CONTENT_HEAD = 14
BASIC = 60

#: Different consumer tags, and pairs of exchange and routing key, that are remembered.
NAMES_AT_MOST = 1000


class _Partial:
    """A message of which not all frames have come."""

    __slots__ = ("body", "error", "missing", "properties", "start")

    def __init__(self, start: tuple[str, int, int, tuple[str, str]]) -> None:
        self.start = start
        #: Bytes of the body that are still to come; negative before the header has.
        self.missing = -1
        self.properties: dict[str, Any] = {}
        self.error: Any = None
        self.body: list[bytes] = []


class Reader:
    """Reads one connection. Both calls may feed and step the reader again.

    Args:
        on_message: Called with channel id, consumer tag, delivery tag, whether it is delivered
            again, exchange, routing key, properties, body, and the error in its properties as
            of ``sys.exc_info`` or None.
        on_frame: Called with kind, channel id and contents of each other frame; answers whether
            that was an event.
    """

    def __init__(
        self,
        on_message: Callable[..., Any],
        on_frame: Callable[[tuple[int, int, bytes]], Any],
    ) -> None:
        self.on_message = on_message
        self.on_frame = on_frame
        self._data = b""
        self._at = 0
        self._size = 0
        # What has come of a frame whose end lies beyond the data, and how much of it is needed.
        self._more: list[bytes] = []
        self._has = 0
        self._needs = 0
        self._partial: dict[int, _Partial] = {}
        self._words: dict[bytes, str] = {}
        self._routes: dict[bytes, tuple[str, str]] = {}
        self._shapes = Shapes()

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        if self._at < self._size:
            # Pieces of a big frame are joined once, when the last one is here.
            self._more.append(data)
            self._has += len(data)
            if self._has < self._needs:
                return
            data = b"".join((self._data[self._at :], *self._more))
            self._more.clear()
        self._data = data
        self._at = 0
        self._size = self._has = len(data)
        self._needs = 0

    @property
    def has_data(self) -> bool:
        """Whether there may be something to `step` through."""
        return self._at < self._size and self._has >= self._needs

    def step(self) -> bool:
        """Go on to the next event, and make the call for it; False when more data is needed.

        Raises:
            UnexpectedFrame: The server does not keep to the protocol.
            FrameSyntaxError: The same.
        """
        if self._has < self._needs:
            return False
        data, at, size = self._data, self._at, self._size
        partials = self._partial
        while size - at > FRAME_HEAD:
            kind, channel, length = _frame(data, at)
            start = at + FRAME_HEAD
            end = start + length
            if end >= size:
                break
            if data[end] != FRAME_END:
                raise UnexpectedFrame(f"A frame ends with {data[end]:#04x} instead of 0xce")
            at = end + 1
            if channel in partials:
                if kind in (BODY, HEADER):
                    partial = partials[channel]
                    if kind == BODY:
                        if partial.missing < 0:
                            raise UnexpectedFrame("The body of a message came before its header")
                        partial.body.append(data[start:end])
                        partial.missing -= length
                    else:
                        self._read_header(partial, data, start, end)
                    if partial.missing > 0:
                        continue
                    del partials[channel]
                    self._at = at
                    body = partial.body
                    tag, number, again, (exchange, key) = partial.start
                    self.on_message(
                        channel,
                        tag,
                        number,
                        again,
                        exchange,
                        key,
                        partial.properties,
                        body[0] if len(body) == 1 else b"".join(body),
                        partial.error,
                    )
                    return True
                if kind == METHOD:
                    raise UnexpectedFrame("A method came before the end of a message")
            elif kind == METHOD and data[start : start + 4] == DELIVER:
                partials[channel] = _Partial(self._read_deliver(data, start + 4, end))
                continue
            self._at = at
            if self.on_frame((kind, channel, data[start:end])):
                return True
            # Whoever was called may have gone on reading.
            data, at, size = self._data, self._at, self._size
        if at == size:
            # Keeps nothing alive that was read.
            self._data = b""
            self._at = self._size = self._has = self._needs = 0
            return False
        self._at = at
        self._has = size - at
        self._needs = FRAME_HEAD + 1
        if self._has > FRAME_HEAD:
            self._needs += _frame(data, at)[2]
        return False

    def _read_deliver(
        self, data: bytes, at: int, end: int
    ) -> tuple[str, int, int, tuple[str, str]]:
        try:
            start = at + 1
            at = start + data[at]
            number, again = _delivery(data, at)
            tag = data[start:at]
            route = data[at + 9 : end]
            try:
                return self._words[tag], number, again & 1, self._routes[route]
            except KeyError:
                return self._word(tag), number, again & 1, self._route(route)
        except (IndexError, ValueError, struct.error) as exc:
            raise FrameSyntaxError(f"Cannot read a basic.deliver: {exc!r}") from exc

    def _word(self, raw: bytes) -> str:
        if len(self._words) >= NAMES_AT_MOST:
            self._words.clear()
        word = self._words[raw] = raw.decode("utf-8", "surrogatepass")
        return word

    def _route(self, raw: bytes) -> tuple[str, str]:
        if len(self._routes) >= NAMES_AT_MOST:
            self._routes.clear()
        split = 1 + raw[0]
        exchange = raw[1:split]
        key = raw[split + 1 : split + 1 + raw[split]]
        route = self._routes[raw] = (
            exchange.decode("utf-8", "surrogatepass"),
            key.decode("utf-8", "surrogatepass"),
        )
        return route

    def _read_header(self, partial: _Partial, data: bytes, start: int, end: int) -> None:
        if partial.missing >= 0:
            raise UnexpectedFrame("A message has two headers")
        if end - start < CONTENT_HEAD:
            raise FrameSyntaxError("The header of a message is too short")
        kind, partial.missing = _content(data, start)
        if kind != BASIC:
            raise FrameSyntaxError(f"The header of a message is of class {kind}")
        try:
            partial.properties = self._shapes.read(data, start + FLAGS_AT, end)
        except Exception:  # noqa: BLE001 - a message that nobody can read must not stop others
            partial.error = sys.exc_info()
