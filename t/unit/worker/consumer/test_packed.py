"""Messages that are put away until their time."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from kombu.message import Message

from celery.worker.consumer._packed import Packed

CHANNEL = SimpleNamespace(no_ack_consumers=None)


def message(number: int, **headers: object) -> Message:
    return Message(
        body=b"[]",
        content_type="application/json",
        content_encoding="utf-8",
        channel=CHANNEL,
        delivery_tag=number,
        headers={"id": str(number), **headers},
        delivery_info={"routing_key": "q"},
    )


def test_a_message_comes_back_as_it_was() -> None:
    packed = Packed()
    original = message(1, deep={"a": [1, None, 2.5, b"x", True]})
    assert packed.add(10.0, "1", original)

    (again,) = packed.take_due(10.0, 5)
    assert again.__reduce_ex__(2)[2] == original.__reduce_ex__(2)[2]
    assert again.payload == original.payload
    assert again.headers == original.headers
    assert again is not original
    assert again.channel is CHANNEL
    assert not packed


def test_they_come_in_the_order_of_their_times_and_not_before() -> None:
    packed = Packed()
    for number, until in enumerate([5.0, 3.0, 4.0, 3.0]):
        assert packed.add(until, str(number), message(number))

    assert packed.next_due == 3.0
    assert [each.headers["id"] for each in packed.look(2)] == ["1", "3"]
    assert [each.headers["id"] for each in packed.look(2, ["2", "9"])] == ["2"]
    assert list(packed.take_due(2.9, 9)) == []
    assert [each.headers["id"] for each in packed.take_due(4.5, 2)] == ["1", "3"]
    assert [each.headers["id"] for each in packed.take_due(4.5, 2)] == ["2"]
    assert packed.next_due == 5.0
    packed.clear()
    assert packed.next_due is None


def test_what_cannot_be_put_away_is_refused() -> None:
    packed = Packed()
    assert not packed.add(1.0, "1", message(1, lock=threading.Lock()))
    assert not packed


def test_a_thousand_take_little_memory() -> None:
    packed = Packed()
    for number in range(1000):
        assert packed.add(1.0, str(number), message(number, argsrepr="(1, 2)" * 50))
    assert sum(len(entry[3]) for entry in packed._heap) < 60_000
    assert len({id(entry[4]) for entry in packed._heap}) == 1


def test_messages_of_other_kinds_and_sizes_come_back_as_well() -> None:
    packed = Packed()
    texts = ["x" * 100_000, "", *(str(number) * 3000 for number in range(5))]
    for number, text in enumerate(texts):
        one = message(number, argsrepr=text)
        # A new connection: what is not plain differs.
        one.channel = SimpleNamespace(no_ack_consumers=None, number=number // 3)
        assert packed.add(float(number), str(number), one)
    found = list(packed.take_due(99.0, 99))
    assert [each.headers["argsrepr"] for each in found] == texts
    assert [each.channel.number for each in found] == [number // 3 for number in range(7)]
