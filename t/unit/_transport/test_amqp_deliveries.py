"""One acknowledgement may speak for many messages, and never for one that is not settled."""

from __future__ import annotations

from struct import unpack
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from celery._transport._amqp_deliveries import Deliveries


def read_acks(frames: bytes) -> list[tuple[int, bool]]:
    """Return tag and reach of each acknowledgement."""
    acks = []
    for at in range(0, len(frames), 21):
        kind, channel, size, group, method, tag, multiple, end = unpack(
            ">BHIHHQBB", frames[at : at + 21]
        )
        assert (kind, channel, size, group, method, end) == (1, 5, 13, 60, 80, 0xCE)
        acks.append((tag, bool(multiple)))
    return acks


def delivered(*tags: int) -> Deliveries:
    deliveries = Deliveries(5)
    for tag in tags:
        deliveries.add(tag)
    return deliveries


def settle(deliveries: Deliveries, *tags: int) -> None:
    for tag in tags:
        del deliveries.outstanding[tag]
        deliveries.due.append(tag)


def test_one_acknowledgement_speaks_for_all_when_nothing_is_outstanding() -> None:
    deliveries = delivered(1, 2, 3)
    settle(deliveries, 3, 1, 2)

    assert read_acks(deliveries.take_due()) == [(3, True)]
    assert deliveries.due == []


def test_it_reaches_up_to_the_oldest_that_is_outstanding() -> None:
    deliveries = delivered(1, 2, 3, 4, 5)
    settle(deliveries, 5, 2, 1, 4)

    assert read_acks(deliveries.take_due()) == [(2, True), (5, False), (4, False)]


def test_a_single_one_speaks_for_itself() -> None:
    deliveries = delivered(1, 2)
    settle(deliveries, 2)

    assert read_acks(deliveries.take_due()) == [(2, False)]


def test_without_order_each_speaks_for_itself() -> None:
    deliveries = delivered(4, 2, 3)
    settle(deliveries, 4, 2)

    assert read_acks(deliveries.take_due()) == [(4, False), (2, False)]


class Channel(RuleBasedStateMachine):
    """A server's view of a channel, and ours, after any sequence of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries = Deliveries(5)
        self.next_tag = 1
        #: What the server still holds, and what we have settled so far.
        self.held: set[int] = set()
        self.settled: set[int] = set()

    @rule(skipped=st.booleans())
    def deliver(self, skipped: bool) -> None:
        """A consumer that acknowledges nothing uses up tags as well."""
        tag, self.next_tag = self.next_tag, self.next_tag + 1
        if not skipped:
            self.deliveries.add(tag)
            self.held.add(tag)

    @rule(data=st.data())
    def acknowledge(self, data: Any) -> None:
        if self.deliveries.outstanding:
            tag = data.draw(st.sampled_from(list(self.deliveries.outstanding)))
            settle(self.deliveries, tag)
            self.settled.add(tag)

    @rule()
    def write(self) -> None:
        if not self.deliveries.due:
            return
        for tag, multiple in read_acks(self.deliveries.take_due()):
            reached = {each for each in self.held if each <= tag} if multiple else {tag}
            # A server closes the channel for an acknowledgement of nothing.
            assert reached
            assert reached <= self.held
            self.held -= reached
        assert not self.held & self.settled

    @rule(data=st.data())
    def reject(self, data: Any) -> None:
        self.write()
        if self.deliveries.outstanding:
            tag = data.draw(st.sampled_from(list(self.deliveries.outstanding)))
            self.deliveries.forget(tag)
            self.held.remove(tag)

    @rule(data=st.data())
    def acknowledge_all_up_to(self, data: Any) -> None:
        self.write()
        if self.deliveries.outstanding:
            tag = data.draw(st.sampled_from([0, *self.deliveries.outstanding]))
            self.deliveries.forget(tag, multiple=True)
            self.held -= {each for each in self.held if each <= (tag or self.next_tag)}

    @invariant()
    def nothing_is_settled_unasked(self) -> None:
        assert set(self.deliveries.outstanding) <= self.held


TestChannel = Channel.TestCase
