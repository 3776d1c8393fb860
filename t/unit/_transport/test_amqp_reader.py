"""Our reader makes the same messages as py-amqp of the same bytes, however they are cut."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from struct import pack
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.exceptions import FrameSyntaxError, UnexpectedFrame
from amqp.method_framing import frame_handler
from amqp.serialization import dumps, loads
from hypothesis import given, strategies as st

from celery._transport._amqp_reader import Reader
from celery._transport._amqp_tables import read_table

NAMES = st.text(max_size=20).filter(lambda text: len(text.encode()) < 256)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.binary(max_size=20),
    st.decimals(-(2**31) + 1, 2**31 - 1, places=0, allow_nan=False),
    st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=12)
OPTIONAL: dict[str, Any] = {
    "content_type": NAMES,
    "content_encoding": NAMES,
    "application_headers": TABLES,
    "delivery_mode": st.integers(1, 2),
    "priority": st.integers(0, 255),
    "correlation_id": NAMES,
    "reply_to": NAMES,
    "expiration": NAMES,
    "message_id": NAMES,
    "timestamp": st.integers(0, 2**64 - 1),
    "type": NAMES,
    "user_id": NAMES,
    "app_id": NAMES,
    "cluster_id": NAMES,
}
PROPERTIES = st.fixed_dictionaries({}, optional=OPTIONAL)


def frame(kind: int, channel: int, contents: bytes) -> bytes:
    return pack(">BHI", kind, channel, len(contents)) + contents + b"\xce"


def message_frames(
    channel: int,
    method: bytes,
    properties: dict[str, Any],
    body: bytes,
    piece: int,
) -> list[bytes]:
    """Return the frames of one message with content."""
    header = pack(">HHQ", 60, 0, len(body)) + amqp.Message(**properties)._serialize_properties()
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    return [
        frame(1, channel, method),
        frame(2, channel, header),
        *(frame(3, channel, part) for part in pieces),
    ]


def deliver(tag: str, number: int, again: bool, exchange: str, key: str) -> bytes:
    return pack(">HH", *spec.Basic.Deliver) + dumps("sLbss", (tag, number, again, exchange, key))


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """Return frames of several channels, in an order that a server may choose."""
    lanes = []
    for channel in range(1, draw(st.integers(1, 3)) + 1):
        lane: list[bytes] = []
        for number in range(draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(["deliver", "return", "method", "heartbeat"]))
            body, piece = draw(st.binary(max_size=300)), draw(st.integers(1, 300))
            properties = draw(PROPERTIES)
            words = [draw(NAMES) for _ in range(3)]
            if kind == "deliver":
                method = deliver(words[0], number, draw(st.booleans()), words[1], words[2])
                lane += message_frames(channel, method, properties, body, piece)
            elif kind == "return":
                method = pack(">HH", *spec.Basic.Return) + dumps("Bsss", (312, *words))
                lane += message_frames(channel, method, properties, body, piece)
            elif kind == "method":
                lane.append(frame(1, channel, pack(">HH", *spec.Basic.QosOk)))
            else:
                lane.append(frame(8, 0, b""))
        lanes.append(lane)
    frames = []
    while any(lanes):
        lane = draw(st.sampled_from([lane for lane in lanes if lane]))
        frames.append(lane.pop(0))
    return frames


class Counter:
    bytes_recv = 0


class Recorder:
    """What becomes of bytes: events of channels, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.pyamqp = frame_handler(Counter(), self.on_method)

    def on_method(self, channel: int, method: Any, arguments: bytes, content: Any) -> None:
        # Without a body, it leaves the text of a message to be sent, which is empty.
        body = content and (content.body or b"")
        if method == spec.Basic.Deliver:
            (tag, number, again, exchange, key), _ = loads("sLbss", arguments, 4)
            self.events.append(
                (channel, tag, number, again, exchange, key, content.properties, body)
            )
        else:
            self.events.append((channel, method, arguments, content and content.properties, body))

    def on_message(self, *message: Any) -> None:
        *fields, error = message
        assert error is None
        fields[3] = bool(fields[3])
        self.events.append(tuple(fields))


def by_pyamqp(frames: list[bytes]) -> list[Any]:
    recorder = Recorder()
    for each in frames:
        kind, channel = each[0], int.from_bytes(each[1:3], "big")
        recorder.pyamqp((kind, channel, each[7:-1]))
    return recorder.events


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut *data* into pieces of these sizes, over and over."""
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


@given(conversations(), st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_messages_are_those_of_py_amqp(frames: list[bytes], sizes: list[int]) -> None:
    recorder = Recorder()
    reader = Reader(recorder.on_message, recorder.pyamqp)
    for piece in cut(b"".join(frames), sizes):
        reader.feed(piece)
        while reader.step():
            pass
        assert not reader.has_data

    expected = by_pyamqp(frames)
    events = recorder.events
    assert events == expected
    assert [type(event[-1]) for event in events] == [type(event[-1]) for event in expected]


@given(TABLES)
def test_tables_are_those_of_py_amqp(table: dict[str, Any]) -> None:
    data = b"before" + dumps("F", (table,)) + b"after"
    (expected,), end = loads("F", data, 6)

    assert read_table(data, 6) == (expected, end)


#: Every kind of value: the octet that names it, its bytes, what it means.
KINDS = [
    (b"s", pack(">h", -3), -3),
    (b"x", pack(">I", 2) + b"\xff\x00", b"\xff\x00"),
    (b"b", pack(">b", -3), -3),
    (b"B", pack(">B", 200), 200),
    (b"U", pack(">h", -3), -3),
    (b"u", pack(">H", 60000), 60000),
    (b"I", pack(">i", -3), -3),
    (b"i", pack(">I", 2**31), 2**31),
    (b"L", pack(">q", -3), -3),
    (b"l", pack(">q", -3), -3),
    (b"f", pack(">f", 0.5), 0.5),
    (b"d", pack(">d", 0.1), 0.1),
    (b"D", pack(">Bi", 2, 123), Decimal("1.23")),
    (b"T", pack(">Q", 86400), datetime(1970, 1, 2)),
    (b"t", b"\x02", True),
    (b"V", b"", None),
    (b"S", pack(">I", 3) + b"\xed\xa0\x80", "\ud800"),
    (b"S", pack(">I", 1) + b"\xff", b"\xff"),
    (b"A", pack(">I", 6) + b"V" + b"I" + pack(">i", 1), [None, 1]),
    (b"F", pack(">I", 4) + b"\x01a" + b"t\x01", {"a": True}),
]


@pytest.mark.parametrize(("kind", "raw", "value"), KINDS)
def test_every_kind_of_value_is_read(kind: bytes, raw: bytes, value: Any) -> None:
    item = b"\x04name" + kind + raw
    data = pack(">I", len(item)) + item

    assert read_table(data, 0) == ({"name": value}, len(data))
    assert loads("F", data, 0)[0] == [{"name": value}]


def test_a_message_with_unreadable_headers_comes_with_the_error() -> None:
    """Raising instead would end the connection, and the message would come again."""
    table = b"\x01a?"
    headers = pack(">HHQH", 60, 0, 4, 0x2000) + pack(">I", len(table)) + table
    got: list[Any] = []
    reader = Reader(lambda *message: got.append(message), lambda frame: True)
    reader.feed(frame(1, 1, deliver("c", 7, False, "", "q")) + frame(2, 1, headers))
    reader.feed(frame(3, 1, b"body"))

    assert reader.step()
    ((_, _, number, *_, properties, body, error),) = got
    assert (number, properties, body) == (7, {}, b"body")
    assert error[0] is FrameSyntaxError


HEADER = pack(">HHQH", 60, 0, 4, 0)


@pytest.mark.parametrize(
    "frames",
    [
        [frame(1, 1, deliver("c", 1, False, "", "q"))[:-1] + b"\x00"],
        [frame(1, 1, deliver("c", 1, False, "", "q")), frame(3, 1, b"body")],
        [frame(1, 1, deliver("c", 1, False, "", "q")), frame(1, 1, pack(">HH", 60, 11))],
        [frame(1, 1, deliver("c", 1, False, "", "q")), *[frame(2, 1, HEADER)] * 2],
        [frame(1, 1, deliver("c", 1, False, "", "q")[:8])],
        [frame(1, 1, deliver("c", 1, False, "", "q")), frame(2, 1, b"short")],
        [frame(1, 1, deliver("c", 1, False, "", "q")), frame(2, 1, pack(">HHQH", 90, 0, 0, 0))],
        [frame(2, 1, HEADER)],
    ],
)
def test_what_breaks_the_protocol_is_an_error_of_the_connection(frames: list[bytes]) -> None:
    recorder = Recorder()
    reader = Reader(recorder.on_message, recorder.pyamqp)
    reader.feed(b"".join(frames))

    with pytest.raises((UnexpectedFrame, FrameSyntaxError)):
        reader.step()


def test_whoever_is_called_may_read_on() -> None:
    """As one does who waits for the answer to a command, in the middle of a delivery."""
    order: list[Any] = []

    def on_message(*message: Any) -> None:
        order.append(("begin", message[2]))
        if message[2] == 1:
            assert reader.step()
            reader.feed(b"".join(third))
            assert reader.step()
        order.append(("end", message[2]))

    def frames(number: int) -> list[bytes]:
        return message_frames(1, deliver("c", number, False, "", "q"), {}, b"body", 3)

    third = frames(3)
    reader = Reader(on_message, lambda frame: True)
    reader.feed(b"".join(frames(1) + frames(2)))

    assert reader.step()
    assert not reader.step()
    assert order == [
        ("begin", 1), ("begin", 2), ("end", 2), ("begin", 3), ("end", 3), ("end", 1),
    ]  # fmt: skip


def test_names_from_outside_do_not_pile_up() -> None:
    reader = Reader(lambda *message: None, lambda frame: True)
    for number in range(3000):
        method = deliver(f"c{number}", 1, False, "", f"q{number}")
        reader.feed(b"".join(message_frames(1, method, {}, b"", 1)))
        assert reader.step()

    assert len(reader._words) <= 1000
    assert len(reader._routes) <= 1000
