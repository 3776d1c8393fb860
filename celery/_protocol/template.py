"""Messages of one kind, written by filling in what differs between them.

Most calls of a task differ in their ids and arguments alone. So one message of a kind is built the
general way, with a mark in each place where messages differ; what stands between the marks is
written as it is for all others. Whatever the general way puts into messages is thereby in these.

This module knows what differs (`Blanks`) and the two notations that messages are written in: the
JSON object that virtual transports keep in their queues, and the header frame of AMQP.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from struct import Struct
from typing import Any, NamedTuple

from amqp.serialization import dumps as amqp_dumps


class Blanks(NamedTuple):
    """What differs between messages of one kind; None where a message says nothing."""

    id: Any
    root_id: Any
    parent_id: Any
    group_id: Any
    group_index: Any
    eta: Any
    argsrepr: Any
    kwargsrepr: Any
    reply_to: Any
    #: The two that a transport fills in.
    body: Any = None
    tag: Any = None


_TOKEN = secrets.token_hex(8)

#: What stands in a message that becomes a template; nobody else writes such words.
MARKS = Blanks(*(f"~{_TOKEN}~{place:02d}~" for place in range(len(Blanks._fields))))

_MARK_SIZE = len(MARKS.id)
_IN_JSON = re.compile(f'"~{_TOKEN}~([0-9]{{2}})~"')
_IN_BYTES = re.compile(f"~{_TOKEN}~([0-9]{{2}})~".encode())

#: Picks values, in the order of their places.
Pick = Callable[[Sequence[Any]], tuple[Any, ...]]


class Unfit(ValueError):
    """A message can't be written by a template."""


def _pick(places: Sequence[bytes | str]) -> Pick:
    indexes = [int(place) for place in places]
    # With fewer than two, `itemgetter` does not give tuples.
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return lambda values: tuple(values[index] for index in indexes)


class JSONTemplate:
    """Writes messages that are JSON objects.

    Args:
        text: A message with marks.
    """

    __slots__ = ("_format", "_pick")

    def __init__(self, text: str) -> None:
        pieces = _IN_JSON.split(text)
        if _TOKEN in "".join(pieces[0::2]):
            raise Unfit("a mark is part of a longer text")
        self._format = "%s".join(piece.replace("%", "%%") for piece in pieces[0::2])
        self._pick = _pick(pieces[1::2])

    def fill(self, values: Sequence[Any], *encoded: str) -> str:
        """Return the message with these `Blanks`, the last of them JSON already.

        Raises:
            Unfit: A value is no text, number or None.
        """
        written = [
            "null"
            if value is None
            else encode_basestring_ascii(value)
            if type(value) is str
            else _json_number(value)
            for value in values
        ]
        return self._format % self._pick((*written, *encoded))


class TableTemplate:
    """Writes the properties of AMQP messages, among them the table of headers.

    Args:
        properties: The properties of a message with marks, serialized.
        headers: The table in them, serialized.
    """

    __slots__ = ("_before", "_format", "_pick", "_rest_format", "_rest_pick")

    def __init__(self, properties: bytes, headers: bytes) -> None:
        self._before, table, rest = properties.partition(headers)
        if not table or _TOKEN.encode() in self._before:
            raise Unfit("the headers can't be told from the other properties")
        self._format, self._pick = _bytes_format(table[4:], b"S" + _SIZE.pack(_MARK_SIZE))
        self._rest_format, self._rest_pick = _bytes_format(rest, bytes((_MARK_SIZE,)))

    def fill(self, values: Sequence[Any]) -> bytes:
        """Return the properties with these `Blanks`.

        Raises:
            Unfit: A value is too long for a property.
        """
        written = [
            b"V" if value is None else _table_text(value) if type(value) is str else _other(value)
            for value in values
        ]
        table = self._format % self._pick(written)
        rest = self._rest_format % tuple(map(_short_text, self._rest_pick(values)))
        return b"%b%b%b%b" % (self._before, _SIZE.pack(len(table)), table, rest)


def _json_number(value: Any) -> str:
    if type(value) is int:
        return repr(value)
    raise Unfit("no text, number or None")


_SIZE = Struct(">I")
#: An integer in a table that fits into 32 bits.
_INT = Struct(">ci")
_LONG_INT = 1 << 31


def _bytes_format(data: bytes, prefix: bytes) -> tuple[bytes, Pick]:
    """Return *data* as a format; its marks stand behind *prefix*, which goes with them."""
    pieces = _IN_BYTES.split(data)
    constant, places = pieces[0::2], pieces[1::2]
    for position in range(len(places)):
        if not constant[position].endswith(prefix):
            raise Unfit("a mark is part of a longer text")
        constant[position] = constant[position][: -len(prefix)]
    return b"%b".join(piece.replace(b"%", b"%%") for piece in constant), _pick(places)


def _table_text(value: str) -> bytes:
    data = value.encode()
    return b"S%b%b" % (_SIZE.pack(len(data)), data)


def _other(value: Any) -> bytes:
    if type(value) is int and -_LONG_INT < value < _LONG_INT:
        # The place in a group: another one in each message.
        return _INT.pack(b"I", value)
    # Behind the size of the table and the empty name.
    return bytes(amqp_dumps("F", [{"": value}])[5:])


def _short_text(value: str) -> bytes:
    data = value.encode()
    if len(data) > 255:
        raise Unfit("longer than 255 bytes")
    return b"%c%b" % (len(data), data)
