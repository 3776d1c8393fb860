"""Messages whose time has not come: they wait on the server rather than in a worker.

A consumer that gets a message much too early leaves it: one script takes it out of the
bookkeeping of claims and puts it into a sorted set of its queue, so it is in one of the two at
any instant. When its time comes, it goes back to its queue, to be delivered next: any free
worker gets it, and one of kombu's may.

For each queue one of the channels that consume has the turn to see to that, from the thread of
its lease, at the very moment the next message is due. All of them ask for the turn once a
second, so another takes it over when that channel is gone.

What counts is the delay as the consumer's clock has it, added to the server's time: clocks that
disagree cannot send a message round in circles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celery._transport._redis_link import Link, pack
from celery._transport._redis_message import decode_envelope, encode_envelope
from celery._transport._redis_scripts import LEAVE, RECALL, RELEASE

if TYPE_CHECKING:
    from celery._transport._redis_claims import Claims
    from celery._transport._redis_message import ClaimedMessage

__all__ = ("ETA_WINDOW_S", "Delayed", "peek", "recall")

#: Seconds before its time that a message is kept by a consumer (option ``eta_window``).
ETA_WINDOW_S = 2.0
#: Seconds between looks at the sorted sets, unless a message is due before.
LOOK_S = 1.0
#: Seconds between looks at least: gives messages that are due one after the other company.
PACE_S = 0.005
#: Milliseconds for which the turn of a channel lasts after a look.
TURN_MS = 1500
#: Messages left, released or recalled with one command.
MOST_AT_ONCE = 250


class Delayed:
    """What one channel leaves on the server until its time, and brings back."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self.channel = claims.channel
        window_s = self.channel.eta_window
        #: Seconds; None has everything wait in consumers.
        self.window_s: float | None = None if window_s is None else float(window_s)
        self._leaving: list[tuple[Any, ...]] = []

    # -- leaving messages, in the thread of the consumer

    def leave(self, message: ClaimedMessage, delay_s: float, crowded: bool) -> bool:
        """Leave *message* for *delay_s* seconds; False if the consumer has to keep it.

        Args:
            crowded: The consumer keeps many already.
        """
        channel, tag = self.channel, message.delivery_tag
        if (
            self.window_s is None
            or (delay_s <= self.window_s and not crowded)
            or not self.claims.lease.is_running
            or tag not in self.claims.held
            # Such a queue is to vanish with all that is in it.
            or (channel._expires and message.queue in channel._expires)
        ):
            return False
        priority = channel._get_message_priority(message._raw, reverse=False)
        key = channel.full_key(channel._q_for_pri(message.queue, priority))
        name = message.headers.get("id") or message.properties.get("correlation_id") or tag
        self._leaving.append((tag, name, f"{delay_s:.6f}", message.queue, key))
        del self.claims.held[tag]
        self.claims.wake_soon()
        self.claims.lease.look_within(delay_s)
        return True

    @property
    def is_leaving(self) -> bool:
        """Whether the server does not know yet of all that was left."""
        return bool(self._leaving)

    def commands(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """Return keys and arguments of scripts that leave what was left."""
        while self._leaving:
            batch, self._leaving = (
                self._leaving[:MOST_AT_ONCE],
                self._leaving[MOST_AT_ONCE:],
            )
            numbers: dict[str, int] = {}
            keys: list[Any] = [*self.channel.unacked_keys]
            args: list[Any] = []
            for tag, name, delay, queue, key in batch:
                if queue not in numbers:
                    numbers[queue] = len(keys)
                    keys += self.channel.delayed_keys(queue)[:2]
                args += (tag, name, delay, numbers[queue], key, len(tail_of(queue)))
            yield keys, args

    def settle(self, link: Link) -> None:
        """Have the server take at once what was left."""
        for keys, args in self.commands():
            link.run(LEAVE, keys, args)

    # -- bringing them back, in the thread of the lease

    def look(self, link: Link) -> float:
        """Release what is due; returns the seconds until the next look."""
        queues = [*self.claims.sinks]
        if not queues:
            return LOOK_S
        keys = [key for queue in queues for key in self.channel.delayed_keys(queue)]
        everything = int(self.window_s is None)
        count, wait_s = link.run(
            RELEASE, keys, [self.claims.owner, MOST_AT_ONCE, TURN_MS, everything]
        )
        if count >= MOST_AT_ONCE:
            return 0.0
        return LOOK_S if wait_s is None else min(max(float(wait_s), PACE_S), LOOK_S)


def tail_of(queue: str) -> str:
    """Return the end of the record of a message that goes back to *queue* and nowhere else."""
    return f',"",{encode_envelope(queue)}]'


def recall(channel: Any, queues: Iterable[str], names: Iterable[str]) -> int:
    """Give messages back to their queues before their time.

    Args:
        names: Task ids.
    """
    wanted = list(names)
    keys = [key for queue in queues for key in channel.delayed_keys(queue)[:2]]
    count = 0
    for at in range(0, len(wanted) if keys else 0, MOST_AT_ONCE):
        count += channel.desk.run(RECALL, keys, wanted[at : at + MOST_AT_ONCE])
    return count


def peek(
    channel: Any, queues: Iterable[str], most: int, wanted: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return envelopes of what waits for *queues*.

    Args:
        most: How many of each queue, soonest first.
        wanted: Names of those to return instead, where they wait.
    """
    found = []
    for queue in queues:
        index, texts, _ = channel.delayed_keys(queue)
        names = channel.desk.ask("ZRANGE", index, 0, most - 1) if wanted is None else wanted
        for record in channel.desk.ask("HMGET", texts, *names) if names else ():
            if record is not None:
                found.append(decode_envelope(record.partition(b"\n")[2]))
    return found


def purge(channel: Any, queue: str) -> int:
    """Delete what waits for *queue*; returns how many there were."""
    index, texts, turn = channel.delayed_keys(queue)
    data = pack("ZCARD", index) + pack("DEL", index, texts, turn)
    return int(channel.desk.call(data, 2)[0])
