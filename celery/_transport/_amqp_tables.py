"""Reads the properties of AMQP messages, and the table of headers among them.

It reads what py-amqp reads, to the same values, several times as fast. Pure: bytes in, objects
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import Any

from amqp.exceptions import FrameSyntaxError

__all__ = ("read_properties", "read_table", "text_spans")

_long = Struct(">I").unpack_from

#: Kinds of values in a table, by the octet that names them.
TEXT, NOTHING, INTEGER, BOOLEAN, TABLE, ARRAY = b"SVItFA"


def _number(layout: str) -> Callable[[bytes, int], tuple[Any, int]]:
    form = Struct(layout)
    unpack, size = form.unpack_from, form.size

    def read(data: bytes, at: int) -> tuple[Any, int]:
        return unpack(data, at)[0], at + size

    return read


def _odd_text(raw: bytes) -> str | bytes:
    """Return text that is not strictly UTF-8, and bytes as they are."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw


def _read_text(data: bytes, at: int) -> tuple[str | bytes, int]:
    start = at + 4
    end = start + _long(data, at)[0]
    try:
        return data[start:end].decode(), end
    except UnicodeDecodeError:
        return _odd_text(data[start:end]), end


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    end = start + _long(data, at)[0]
    return data[start:end], end


def _read_nothing(data: bytes, at: int) -> tuple[None, int]:
    return None, at


def _read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    return data[at] != 0, at + 1


_decimal = Struct(">Bi").unpack_from


def _read_decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    places, number = _decimal(data, at)
    return Decimal(number) / Decimal(10**places), at + 5


_longlong = Struct(">Q").unpack_from


def _read_time(data: bytes, at: int) -> tuple[datetime, int]:
    moment = datetime.fromtimestamp(_longlong(data, at)[0], tz=UTC)
    return moment.replace(tzinfo=None), at + 8


def _read_array(data: bytes, at: int) -> tuple[list[Any], int]:
    at, end = at + 4, at + 4 + _long(data, at)[0]
    items = []
    while at < end:
        value, at = _reader(data[at])(data, at + 1)
        items.append(value)
    return items, at


def read_table(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
    """Return the table that begins at *at*, and where it ends.

    A name or text that is not UTF-8 stays bytes.

    Raises:
        FrameSyntaxError: A value is of a kind that nobody knows.
        IndexError, struct.error: The data ends too early.
    """
    end = at + 4 + _long(data, at)[0]
    at += 4
    table: dict[Any, Any] = {}
    while at < end:
        start = at + 1
        at = start + data[at]
        name: str | bytes
        try:
            name = data[start:at].decode()
        except UnicodeDecodeError:
            name = _odd_text(data[start:at])
        kind = data[at]
        # The kinds that make up the headers of a task, in the order of how often they do.
        if kind == TEXT:
            start = at + 5
            at = start + _long(data, at + 1)[0]
            try:
                table[name] = data[start:at].decode()
            except UnicodeDecodeError:
                table[name] = _odd_text(data[start:at])
        elif kind == NOTHING:
            table[name] = None
            at += 1
        else:
            table[name], at = _reader(kind)(data, at + 1)
    return table, at


#: Functions that read a value: ``(data, where it begins)`` to value and end.
_READERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    TEXT: _read_text,
    NOTHING: _read_nothing,
    INTEGER: _number(">i"),
    BOOLEAN: _read_boolean,
    TABLE: read_table,
    ARRAY: _read_array,
    ord("s"): _number(">h"),
    ord("x"): _read_bytes,
    ord("b"): _number(">b"),
    ord("B"): _number(">B"),
    ord("U"): _number(">h"),
    ord("u"): _number(">H"),
    ord("i"): _number(">I"),
    ord("L"): _number(">q"),
    ord("l"): _number(">q"),
    ord("f"): _number(">f"),
    ord("d"): _number(">d"),
    ord("D"): _read_decimal,
    ord("T"): _read_time,
}


def _reader(kind: int) -> Callable[[bytes, int], tuple[Any, int]]:
    try:
        return _READERS[kind]
    except KeyError:
        raise FrameSyntaxError(f"Unknown kind of value in a table: {chr(kind)!r}") from None


def _read_word(data: bytes, at: int) -> tuple[str, int]:
    start = at + 1
    end = start + data[at]
    try:
        return data[start:end].decode(), end
    except UnicodeDecodeError:
        return data[start:end].decode("utf-8", "surrogatepass"), end


#: Properties in the order of their flags, from the highest bit down.
_PROPERTIES: tuple[tuple[int, str, Callable[[bytes, int], tuple[Any, int]]], ...] = (
    (0x8000, "content_type", _read_word),
    (0x4000, "content_encoding", _read_word),
    (0x2000, "application_headers", read_table),
    (0x1000, "delivery_mode", _number(">B")),
    (0x0800, "priority", _number(">B")),
    (0x0400, "correlation_id", _read_word),
    (0x0200, "reply_to", _read_word),
    (0x0100, "expiration", _read_word),
    (0x0080, "message_id", _read_word),
    (0x0040, "timestamp", _number(">Q")),
    (0x0020, "type", _read_word),
    (0x0010, "user_id", _read_word),
    (0x0008, "app_id", _read_word),
    (0x0004, "cluster_id", _read_word),
)

#: Which of them a message has, by its flags: few combinations occur.
_known_flags: dict[int, tuple[tuple[str, Callable[[bytes, int], tuple[Any, int]]], ...]] = {}


def _present(flags: int) -> tuple[tuple[str, Callable[[bytes, int], tuple[Any, int]]], ...]:
    """Return name and reader of each property that *flags* announce."""
    present = _known_flags.get(flags)
    if present is None:
        present = tuple((name, read) for bit, name, read in _PROPERTIES if flags & bit)
        _known_flags[flags] = present
    return present


def read_properties(data: bytes, at: int, flags: int) -> dict[str, Any]:
    """Return the properties that begin at *at*, right after their *flags*.

    Raises:
        ValueError, FrameSyntaxError, IndexError, struct.error: They can't be read.
    """
    properties = {}
    for name, read in _present(flags):
        properties[name], at = read(data, at)
    return properties


def text_spans(data: bytes, at: int, flags: int) -> Iterator[tuple[bool, str, int, int]]:
    """Find the texts in properties that begin at *at*, right after their *flags*.

    Gives for each whether it stands in the table of headers, its name, where it begins and
    where it ends. The properties have to be readable, and the names in the table text.
    """
    for name, read in _present(flags):
        if read is _read_word:
            yield False, name, at + 1, at + 1 + data[at]
        elif read is read_table:
            yield from _header_spans(data, at)
        _, at = read(data, at)


def _header_spans(data: bytes, at: int) -> Iterator[tuple[bool, str, int, int]]:
    end = at + 4 + _long(data, at)[0]
    at += 4
    while at < end:
        name, at = _read_word(data, at)
        kind, at = data[at], at + 1
        stop = _reader(kind)(data, at)[1]
        if kind == TEXT:
            yield True, name, at + 4, stop
        at = stop
