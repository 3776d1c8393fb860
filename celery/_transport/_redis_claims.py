"""Claiming messages: how a consuming channel of the Redis transport gets them and lets go.

No message is ever held by a connection alone. It is in its queue; or in an inbox, a list that
a blocking move put it into; or filed as unacknowledged by the same script that took it from
either. Whoever dies leaves it in one of the three, and `celery._transport._redis_lease` brings
it back from the latter two.

The channel has one link for claims, on which at most one claim is under way. A claim takes as
many messages as the prefetch count has room for, from all queues, and carries what was
acknowledged since the last one. Once the queues have run dry a blocking move waits at each of
them, on a connection of its own: it wakes one worker for one message, and no other.

=========  ===============================================================================
flowing    the last claim came back full; the next follows as soon as there is room
dry        it did not; blocking moves wait, and a claim follows when one ends
=========  ===============================================================================
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any

from redis import exceptions

from celery._transport._held import MOST_AT_ONCE, Held, QoS as HeldQoS
from celery._transport._redis_commands import (
    CLAIM_BY_SHA,
    CLAIM_BY_TEXT,
    LEAVE_BY_SHA,
    UNKNOWN,
    Claimed,
    Left,
    Plan,
)
from celery._transport._redis_delayed import Delayed, tail_of
from celery._transport._redis_lease import Lease
from celery._transport._redis_link import Link, lost, pack, pack_args
from celery._transport._redis_message import ClaimedMessage, decode_envelope, encode_envelope
from celery._transport._redis_scripts import CLAIM
from celery._transport._redis_waits import Wait, Waits
from celery.utils.functional import noop
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr

__all__ = ("Claims", "QoS")

logger = get_logger(__name__)

#: Room for this many messages is worth a claim at any time.
MUCH_ROOM = 32
#: Tags acknowledged with one command.
MOST_ACKS = 512
#: Seconds between a claim and the next, unless there is much room; as long as an
#: acknowledgement waits for company. Keeps quick tasks from costing a round trip each.
PACE_S = 0.002
#: Seconds without a claim after which a consumer without an event loop is not busy.
QUIET_S = 0.05
#: Seconds between looks at keys that are not waited at.
LOOK_S = 0.5


class QoS(HeldQoS):
    """Prefetch limit and settling; messages may come without a claim, and be held too long."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a message that came without a claim, such as one of a fanout queue."""
        if not isinstance(message, ClaimedMessage):
            self.claims.file(message, delivery_tag)
        self._delivered[delivery_tag] = message

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give back what consumers hold for longer than the visibility timeout."""
        self.claims.lease.restore_overdue()


class Claims:
    """What one channel holds of its queues, and the connections that get it more.

    Args:
        channel: The `celery._transport.redis.Channel`.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.held: Held[str] = Held()
        #: Claimed, and not yet handed to a consumer.
        self.ready: deque[ClaimedMessage] = deque()
        self.owner = secrets.token_hex(8)
        self.tags = f"celery:{self.owner}:"
        #: Messages that are left on the server until their time.
        self.delayed = Delayed(self)
        self.lease = Lease(self)
        #: Tell when something has come into a queue that was empty.
        self.waits = Waits(self)
        self.link: Link = channel.new_link()
        #: Consumers by queue: callback, and whether a message is done when it is delivered.
        self.sinks: dict[str, tuple[Callable[[Any], Any], bool]] = {}
        self.is_closed = False
        #: Tags that are held beyond their connection; None as long as there is one.
        self.kept: frozenset[str] | None = None
        #: Called with seconds after which `pump` wants to be called; None without a loop.
        self.call_later: Callable[[float], Any] | None = None
        #: Called after that in a turn of the loop whose wait is settled already.
        self.nudge: Callable[[], None] = noop
        self.watches_changed = True

        self._number = 1
        self._acks: deque[str] = deque()
        #: Acknowledged with the claim that is under way.
        self._unconfirmed: list[str] = []
        #: What replies on the link are for, in order; see `_on_reply`.
        self._under_way: deque[Callable[[Any], None]] = deque()
        self._is_claiming = False
        self._sent_at = 0.0
        self._settled_at = 0.0
        self._looked_at = 0.0
        self._is_dry = False
        #: Entry in the timer of the loop, while we have asked to be called.
        self._wake_entry: Any = None
        #: Whether the call that was asked for has come and nothing was done about it yet.
        self._is_woken = False
        self._plan: Plan | None = None

    # -- what channel and consumers ask for

    def consume(self, queue: str, callback: Callable[[Any], Any], no_ack: bool) -> None:
        """Deliver messages of *queue* to *callback*; the lease begins with the first."""
        self.sinks[queue] = (callback, no_ack)
        self._is_dry = False
        self._acks.extend(self.channel.take_left_acks())
        self.lease.begin()
        self._plan = None

    def cancel(self, queue: str) -> None:
        """Stop taking messages from *queue*."""
        if self.sinks.pop(queue, None) is None:
            return
        self._plan = None
        self.waits.disarm_queue(queue)

    def ack(self, tag: str) -> None:
        """Note that a message is done.

        The server learns of it within `PACE_S` in an event loop. Without one it does at once,
        with the next claim of a busy consumer, or with the next sign of life of the lease.

        Raises:
            redis.exceptions.ConnectionError: The channel is closed, and the message was
                given back when it closed.
        """
        if self.is_closed:
            if tag in self.held:
                # It could not be given back; with luck this comes before it is restored.
                self.channel.leave_acks([tag])
                return
            raise exceptions.ConnectionError(
                "the channel that delivered this message is closed; it will be delivered again"
            )
        self.held.pop(tag, None)
        self._acks.append(tag)
        if self.kept is not None:
            self.lease.hurry()
        elif self.call_later is not None:
            if self._wake_entry is None:
                self.wake_soon()
        elif (
            not self.lease.is_running
            or monotonic() - max(self._sent_at, self._settled_at) > QUIET_S
        ):
            # Nobody may ask for messages for a long time; a busy consumer will do so soon.
            self.settle_now()

    def file(self, message: Any, tag: str) -> None:
        """File a message that came without a claim, in kombu's form."""
        where = message.delivery_info
        text = encode_envelope([message._raw, where["exchange"], where["routing_key"]])
        unacked, index = self.channel.unacked_keys
        self.channel.desk.call(
            pack("HSET", unacked, tag, text) + pack("ZADD", index, time(), tag), 2
        )

    def give_back(self, tags: Sequence[str], last: bool = False) -> None:
        """Put messages back into their queues, in the order in which they were claimed.

        Args:
            tags: Of messages that are held; others are left out.
            last: Behind all others in the queue, else before them.
        """
        if self.kept is not None:
            self.kept -= set(tags)
            for tag in tags:
                self.held.pop(tag, None)
            self.lease.hurry()
            return
        self._finish_claim()
        self.settle_now()
        messages = [self.held[tag] for tag in tags if tag in self.held]
        # What was delivered first has to end up nearest to the end that is taken from.
        if not last:
            messages.reverse()
        self.channel.give_back(
            [(message.delivery_tag, *self._address(message)) for message in messages], last
        )
        for tag in tags:
            self.held.pop(tag, None)

    def _address(self, message: Any) -> tuple[dict[str, Any], list[str]]:
        queue = getattr(message, "queue", None)
        if queue is not None:
            return message._raw, [queue]
        where = message.delivery_info
        return message._raw, self.channel._lookup(where["exchange"], where["routing_key"])

    def take_one(self, queue: str) -> ClaimedMessage | None:
        """Claim one message of *queue* at once, None when it is empty.

        It is held under the plain rule of the visibility timeout unless there is a lease.
        """
        keys = self.channel.keys_of(queue)
        number, self._number = self._number, self._number + 1
        tails = [tail_of(queue)] * len(keys)
        reply = self.channel.desk.run(
            CLAIM,
            [*self.channel.claim_keys, *keys],
            [self.lease.owner_to_check, self.tags, 1, 0, number, 1, *UNKNOWN, *tails],
        )
        return self._open(reply[1], number, queue) if reply else None

    # -- turns of the loop

    def pump(self) -> None:
        """Do what is due: claim, acknowledge, wait. Never blocks for long."""
        if self.is_closed or self.kept is not None:
            return
        if self.delayed.is_leaving:
            self._leave()
        if self._is_claiming or not (self.sinks or self._acks):
            return
        self.lease.check()
        room = self.channel.qos.room(len(self.ready))
        now = monotonic()
        is_time = self._is_woken or now - self._sent_at >= PACE_S
        self._is_woken = False
        if room and self.sinks and self._may_claim(now):
            limit = self.channel.qos.prefetch_count
            if room >= min(limit - (limit >> 2), MUCH_ROOM) or self.waits.fired or is_time:
                self._claim(min(room, MOST_AT_ONCE), now)
                return
            self._wake(PACE_S)
        if self.waits.fired and not room:
            self._is_dry = False
            self.waits.put_back_inboxes()
        if self._is_dry and room and self.waits.idle:
            self.waits.arm(self.keys(), now)
        if self._acks:
            if len(self._acks) >= MOST_ACKS or is_time:
                self._claim(0, now)
            else:
                self._wake(PACE_S)

    def deliver(self) -> int:
        """Hand all messages that are ready to their consumers; returns how many."""
        count = 0
        ready = self.ready
        while ready:
            count += self.deliver_one()
        return count

    def deliver_one(self) -> bool:
        """Hand the next message to its consumer; False when there is none."""
        if not self.ready:
            return False
        message = self.ready.popleft()
        sink = self.sinks.get(message.queue)
        if sink is None:
            # Cancelled after it was asked for.
            self.give_back([message.delivery_tag])
            return False
        callback, no_ack = sink
        if no_ack:
            self.ack(message.delivery_tag)
        callback(message)
        return True

    def on_link_readable(self) -> None:
        """Read the replies on the link of claims."""
        for reply in self.link.receive():
            self._under_way.popleft()(reply)

    def on_fired(self, raw: bytes) -> None:
        """Claim what has just come into an inbox, and hand it out without waiting for that.

        It is safe in the inbox until the server has filed it, and its acknowledgement will
        follow on the same link. Without an event loop it might take another.
        """
        if (
            self.call_later is None
            or self._is_claiming
            or len(self.waits.fired) > 1
            or not self.sinks
        ):
            return
        room = self.channel.qos.room(len(self.ready))
        if room:
            self._claim(min(room, MOST_AT_ONCE), monotonic(), raw)

    def check_health(self, now: float) -> None:
        """Notice a server that owes us an answer.

        Raises:
            redis.exceptions.TimeoutError: It does.
        """
        patience = self.link.timeout_s
        if not patience:
            return
        if self._under_way and now - self._sent_at > patience and self.link.is_silent():
            self.link.disconnect()
            raise exceptions.TimeoutError(
                f"{self.link.broker}: no answer to a claim within {patience} s"
            )
        self.waits.check_health(now, patience)

    def watches(self) -> dict[int, Callable[[], None]]:
        """Return descriptors to be polled, with what to call when one is readable."""
        self.watches_changed = False
        found: dict[int, Callable[[], None]] = {}
        if self.link.sock is not None:
            found[self.link.fileno()] = self.on_link_readable
        found.update(self.waits.watches())
        return found

    # -- claiming

    def _may_claim(self, now: float) -> bool:
        if not self._is_dry or self.waits.fired:
            return True
        if self.waits.suffice(self.keys(), now):
            return False
        if now - self._looked_at >= LOOK_S:
            return True
        self._wake(LOOK_S)
        return False

    def keys(self) -> list[str]:
        """Return the keys of all queues, in the order in which they are taken from."""
        return self._planned().keys

    def _planned(self) -> Plan:
        plan = self._plan
        if plan is None:
            channel = self.channel
            plan = self._plan = Plan(self, channel.queue_order([*self.sinks]))
            self.waits.prepare(plan.keys, plan.names)
        return plan

    def _claim(self, room: int, now: float, early: bytes | None = None) -> None:
        """Send a claim for *room* messages, 0 to acknowledge only.

        Args:
            early: The first message that it will bring, to be handed out at once.
        """
        waits = self.waits
        fired: Sequence[Wait] = ()
        if room:
            fired, waits.fired = waits.fired, []
        plan = self._planned() if not fired else Plan(self, self._planned().queues, fired)
        acks = self._unconfirmed = self._take_acks()
        number = self._number
        self._number += room
        self._looked_at = self._sent_at = now
        self._is_claiming = True
        claimed = Claimed(self, plan, number, room, acks, early, fired)
        if early is not None:
            message = self._open(early, number, plan.names[0])
            if message is not None:
                self.ready.append(message)
        self.send(claimed.command(CLAIM_BY_SHA, plan), claimed)

    def _leave(self) -> None:
        """Send what is to wait on the server until its time."""
        self._sent_at = monotonic()
        for keys, args in self.delayed.commands():
            rest = pack_args([len(keys), *keys, *args])
            left = Left(self, 3 + len(keys) + len(args), rest)
            self.send(left.command(LEAVE_BY_SHA), left)

    def _take_acks(self) -> list[str]:
        # Other threads may add to them, and in the absence of a loop also send them.
        acks: list[str] = []
        with suppress(IndexError):
            while len(acks) < MOST_ACKS:
                acks.append(self._acks.popleft())
        return acks

    def send(self, data: bytes, on_reply: Callable[[Any], None]) -> None:
        """Send commands on the link of claims; *on_reply* gets the one answer."""
        link = self.link
        with link.lock:
            if not link.is_connected:
                link.connect()
                self.watches_changed = True
            self._under_way.append(on_reply)
            link.send(data)

    def on_claimed(self, reply: Any, claimed: Claimed) -> None:
        """Take what a claim brought."""
        self._is_claiming = False
        self._unconfirmed = []
        room, number, names = claimed.room, claimed.number, claimed.plan.names
        if not room:
            return
        self._is_dry = len(reply) < 2 * room
        if claimed.fired and not self._is_dry:
            # There may have been less room than inboxes, each of which holds one message.
            taken = set(reply[::2])
            self.waits.fired += [
                wait for at, wait in enumerate(claimed.fired, 1) if at not in taken
            ]  # fmt: skip
        start = 0
        if reply and claimed.is_early(reply[1]):
            start = 2
            number += 1
        for at in range(start, len(reply), 2):
            queue = names[reply[at] - 1]
            message = self._open(reply[at + 1], number, queue)
            number += 1
            if message is not None:
                self.ready.append(message)
        if len(self.sinks) > 1 and reply:
            self.channel.rotate(names[reply[-2] - 1])
            self._plan = None

    def _open(self, raw: bytes, number: int, queue: str) -> ClaimedMessage | None:
        tag = self.tags + str(number)
        try:
            message = ClaimedMessage(decode_envelope(raw), self.channel, tag, queue, self)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            logger.critical(
                "Cannot read a message of queue %r, dropping it: %r. It was: %s",
                queue, exc, saferepr(raw, 1024),
            )  # fmt: skip
            self._acks.append(tag)
            return None
        self.held[tag] = message
        return message

    def refuse_claim(self, error: Exception, claimed: Claimed) -> None:
        """Deal with the error that a claim ended with."""
        if isinstance(error, exceptions.NoScriptError):
            # The server has not seen the script yet, or has forgotten it.
            self.send(claimed.command(CLAIM_BY_TEXT, claimed.plan), claimed)
            return
        if str(error).startswith("FENCED"):
            self.lease.has_ended = True
        raise lost(error, self.link.broker)

    def _wake(self, delay_s: float) -> None:
        """Ask to be called again soon."""
        if self.call_later is not None and self._wake_entry is None:
            self._wake_entry = self.call_later(delay_s)

    def wake_soon(self) -> None:
        """Have the loop call again before long, although it may be about to wait."""
        self._wake(PACE_S)
        self.nudge()

    def on_woken(self) -> None:
        """Note that the call of `pump` that was asked for has come."""
        self._wake_entry = None
        self._is_woken = True

    @property
    def pause_s(self) -> float | None:
        """Seconds after which `pump` should be called where there is no loop."""
        if self._is_claiming:
            return None
        # Without consumers nothing is claimed, so it never turns out that there is nothing.
        claims_soon = self.sinks and not self._is_dry and self.channel.qos.room(len(self.ready))
        return PACE_S if self._acks or claims_soon else None

    # -- settling and closing

    @property
    def is_settled(self) -> bool:
        """Whether nothing is held, and the server knows of all that was acknowledged."""
        return not (self.held or self._acks)

    def settle_now(self) -> None:
        """Have the server take what was acknowledged."""
        self._settled_at = monotonic()
        unacked, index = self.channel.unacked_keys
        while acks := self._take_acks():
            command = pack("ZREM", index, *acks) + pack("HDEL", unacked, *acks)
            try:
                self.channel.desk.call(command, 2)
            except BaseException:
                self._acks.extendleft(acks)
                raise

    def stop(self) -> None:
        """Take no more messages: end claims and waits. What is held stays held."""
        self.sinks.clear()
        self.lease.end()
        try:
            self._finish_claim()
        except (exceptions.RedisError, OSError) as exc:
            logger.debug("while waiting for the last claim: %r", exc)
        self._acks.extendleft(self._unconfirmed)
        self.settle_now()
        self.delayed.settle(self.channel.desk)
        self.waits.disarm(list(self.waits.by_key.values()))

    def _finish_claim(self) -> None:
        """Wait until what was sent on the link of claims has been done."""
        while self._under_way and self.link.is_connected:
            self.on_link_readable()

    def detach(self, tags: Iterable[str]) -> bool:
        """Hold *tags* until they are settled, without consuming, and give back all else.

        The thread of the lease does that. False if the lease has ended: others hold them.
        """
        if self.is_closed or not self.lease.is_running or self.lease.has_ended:
            return False
        self.kept = frozenset(tags)
        kept = Held({tag: self.held[tag] for tag in self.kept if tag in self.held})
        # The quality of service of the channel gives back what is in there.
        self.held.clear()
        self.held = kept
        self.ready.clear()
        self.sinks.clear()
        self.call_later = None
        if self._wake_entry is not None:
            self._wake_entry.cancel()
        self._acks.extendleft(self._unconfirmed)
        self._disconnect()
        self.lease.hurry()
        return True

    def close(self) -> None:
        """Close all connections; what is held is no longer ours."""
        self.is_closed = True
        self.lease.end()
        if self._wake_entry is not None:
            self._wake_entry.cancel()
        if self._acks:
            self.channel.leave_acks(self._acks)
        self._disconnect()

    def _disconnect(self) -> None:
        self.waits.disconnect()
        self.link.disconnect()
        self._under_way.clear()
