"""The lease of a channel on what it holds, and the recovery of what dead ones held.

A channel that claims messages is an owner: it says so on the server every few seconds, from a
thread of its own, so that a long task in the main thread does not look like death. An owner
that is silent for longer than the lease is dead. Whoever of the others notices gives back its
messages: from its inboxes, and those filed under tags that begin with its name. An owner that
was only asleep learns that its lease has ended, by the next claim at the latest, which the
server refuses; its channel then counts as lost.

The same thread renews the times in the index of unacknowledged messages, so consumers that
know only the visibility timeout (kombu's own) leave them alone, and gives back what such
consumers hold for too long.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from kombu.utils.json import loads
from redis import exceptions

from celery._transport._redis_delayed import LOOK_S
from celery._transport._redis_link import pack
from celery._transport._redis_scripts import BEAT, PUT_BACK, RENEW
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from celery._transport._redis_claims import Claims

__all__ = ("LEASE_S", "Lease")

logger = get_logger(__name__)

#: Seconds of silence after which an owner counts as dead (option ``claim_lease``).
LEASE_S = 12.0
#: Seconds between attempts to reach the server where something has to be given back.
HURRY_S = 0.5
#: Tags renewed or given back with one command.
CHUNK = 500

ENDED = "the lease of this worker on its messages has ended; others may have got them"


class Lease:
    """The lease of one channel; see the module.

    `begin` starts the thread; other methods may be called without.
    """

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        channel = claims.channel
        self.channel = channel
        self.lease_s = float(channel.claim_lease)
        #: Seconds between signs of life.
        self.beat_s = min(self.lease_s, channel.visibility_timeout) / 4
        #: Seconds that a blocking move may take: it has to end before the lease does, or a
        #: message might reach an inbox that nobody looks into any more.
        self.wait_s = self.lease_s / 2
        self.has_ended = False
        #: Whether an inbox may still be filled after we have left.
        self.needs_sweeping = False
        self._link: Any = None
        self._lasts_until = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        #: Set to have the thread look around before its time.
        self._alarm = threading.Event()
        #: When messages that wait for their time are looked at.
        self._look_at = 0.0
        #: When the next turn is.
        self._beat_at = 0.0
        #: Until then an inbox may still be filled, though the connection is lost.
        self._sweep_until = 0.0
        self._renewed_at = 0.0
        self._restored_at = 0.0
        self._lock = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether signs of life are sent."""
        return self._thread is not None and not self._stop.is_set()

    @property
    def owner_to_check(self) -> str:
        """Name of the owner that the server checks at each claim; empty before `begin`."""
        return self.claims.owner if self._thread is not None else ""

    def begin(self) -> None:
        """Register, and keep being registered until `end`."""
        if self._thread is not None:
            return
        channel = self.channel
        self._link = channel.new_link()
        # What is older is not ours to judge before it has had the time to say that it lives.
        self._beat(join=True)
        self._renewed_at = self._restored_at = monotonic()
        self._thread = threading.Thread(
            target=self._run, name=f"redis-lease-{self.claims.owner}", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Stop the thread; the lease runs out by itself unless `leave` is called."""
        self._stop.set()
        self._alarm.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(self.beat_s)
        if self._link is not None:
            self._link.disconnect()

    def leave(self) -> None:
        """Tell the others that nothing of ours is left, once everything was given back."""
        if self._thread is None:
            return
        channel, owner = self.channel, self.claims.owner
        data = pack("ZREM", channel.owners_key, owner)
        if self.needs_sweeping:
            data += pack("ZADD", channel.owners_key, time(), f"~{owner}")
        else:
            data += pack("DEL", channel.owner_key(owner))
        channel.desk.call(data, 2)

    def check(self) -> None:
        """Raise if the lease has ended.

        Raises:
            redis.exceptions.ConnectionError: It has.
        """
        if self.has_ended:
            raise exceptions.ConnectionError(ENDED)

    def lasts_for_a_wait(self) -> bool:
        """Say whether a blocking move that is sent now ends before the lease does."""
        return self._lasts_until - monotonic() > self.wait_s + self.lease_s / 12

    def add_inbox(self, inbox: str, key: str) -> None:
        """Let others know of an inbox before it is used."""
        self.channel.desk.ask("HSET", self.channel.owner_key(self.claims.owner), inbox, key)

    def look_within(self, delay_s: float) -> None:
        """Have messages that wait for their time looked at after *delay_s* at the latest."""
        at = monotonic() + delay_s
        if at < self._look_at:
            self._look_at = at
            self._alarm.set()

    def hurry(self) -> None:
        """Have the thread take its next turn now."""
        self._beat_at = 0.0
        self._alarm.set()

    # -- the thread

    def _run(self) -> None:
        self._beat_at = monotonic() + self.beat_s
        while True:
            self._alarm.wait(max(min(self._beat_at, self._look_at) - monotonic(), 0.0))
            self._alarm.clear()
            if self._stop.is_set():
                return
            try:
                if monotonic() >= self._beat_at:
                    is_detached = self.claims.kept is not None
                    self._beat_at = monotonic() + (HURRY_S if is_detached else self.beat_s)
                    self._turn()
                    if is_detached:
                        self._finish_detached()
                if monotonic() >= self._look_at and not self.has_ended:
                    self._look_at = monotonic() + LOOK_S
                    self.look_within(self.claims.delayed.look(self._link))
            except (exceptions.RedisError, OSError) as exc:
                # The connection of the consumer will notice too, and say more.
                logger.debug("while renewing the lease: %r", exc)
            except Exception:
                logger.exception("Error while renewing the lease of claimed messages")

    def _turn(self) -> None:
        if self.has_ended:
            return
        dead = self._beat()
        if self.claims.call_later is None:
            self.claims.settle_now()
        for owner in dead:
            if self._stop.is_set():
                return
            self.restore_dead(owner)
        now = monotonic()
        if now - self._renewed_at >= self.channel.visibility_timeout / 3 - self.beat_s:
            self._renewed_at = now
            self.renew()
        if now - self._restored_at >= self.channel.unacked_restore_interval:
            self._restored_at = now
            self.restore_overdue()

    def _finish_detached(self) -> None:
        """Give back what came too late to be noticed; end once all the rest is settled."""
        claims, channel = self.claims, self.channel
        now = monotonic()
        if not self.has_ended:
            self._sweep_until = self._sweep_until or now + self.wait_s
            self._give_back_of(claims.owner, claims.kept or frozenset())
            if self._beat_at:
                # It worked, and nobody hurries any more.
                self._beat_at = now + self.beat_s
            if not claims.is_settled or now < self._sweep_until:
                return
            self.leave()
        claims.close()
        channel.desk.disconnect()

    def _beat(self, join: bool = False) -> list[str]:
        sent_at = monotonic()
        reply = self._link.run(
            BEAT, [self.channel.owners_key], [self.claims.owner, self.lease_s, int(join)]
        )
        if reply[0]:
            self._lasts_until = sent_at + self.lease_s
        else:
            self.has_ended = True
        return [name.decode() for name in reply[1:]]

    def renew(self) -> None:
        """Make everything that is held look as if it had been delivered just now."""
        tags = list(self.claims.held)
        _, index = self.channel.unacked_keys
        for at in range(0, len(tags), CHUNK):
            self._link.run(RENEW, [index], tags[at : at + CHUNK])

    # -- recovery

    def restore_dead(self, owner: str) -> None:
        """Give back everything that a dead owner held."""
        channel, link = self.channel, self._link
        count = self._give_back_of(owner)
        link.call(
            pack("DEL", channel.owner_key(owner)) + pack("ZREM", channel.owners_key, f"~{owner}"), 2
        )
        logger.warning(
            "Gave back %s message(s) of a worker that is gone (%s): it was silent for %s s",
            count, owner, self.lease_s,
        )  # fmt: skip

    def _give_back_of(self, owner: str, kept: Collection[str] = ()) -> int:
        """Give back what is in the inboxes of an owner or filed for it, but for tags *kept*."""
        channel, link = self.channel, self._link
        inboxes = link.ask("HGETALL", channel.owner_key(owner))
        count = 0
        for inbox, key in zip(inboxes[::2], inboxes[1::2], strict=True):
            count += link.run(PUT_BACK, [inbox, key], [])
        prefix = f"celery:{owner}:"
        cursor = b"0"
        found: dict[int, tuple[str, bytes]] = {}
        while True:
            cursor, entries = link.ask(
                "HSCAN", channel.unacked_keys[0], cursor, "MATCH", f"{prefix}*", "COUNT", 1000
            )
            for tag, record in zip(entries[::2], entries[1::2], strict=True):
                name = tag.decode()
                if name not in kept:
                    found[int(name[len(prefix) :])] = (name, record)
            if cursor == b"0":
                break
        # The last one claimed goes first, so that the first one will be delivered next.
        return count + self._restore(found[number] for number in sorted(found, reverse=True))

    def restore_overdue(self) -> None:
        """Give back what is unacknowledged for longer than the visibility timeout.

        Not what an owner holds whose lease lasts, however long that takes.
        """
        channel = self.channel
        link = self._link or channel.desk
        unacked, index = channel.unacked_keys
        ceiling = time() - channel.visibility_timeout
        most = channel.unacked_restore_limit or CHUNK
        tags = link.ask("ZRANGEBYSCORE", index, "-inf", ceiling, "LIMIT", 0, most)
        if not tags:
            return
        owners = {name.decode() for name in link.ask("ZRANGE", channel.owners_key, 0, -1)}
        overdue = [
            tag.decode() for tag in tags if not _owner_of(tag.decode()) & owners
        ]  # fmt: skip
        if overdue:
            records = link.ask("HMGET", unacked, *overdue)
            count = self._restore(zip(reversed(overdue), reversed(records), strict=True))
            if count:
                logger.info("Restored %s message(s) after the visibility timeout", count)

    def _restore(self, filed: Any) -> int:
        """Give back messages as they are filed: pairs of tag and record, None if it is gone."""
        channel, link = self.channel, self._link or self.channel.desk
        ready: list[tuple[str, Any, list[str]]] = []
        gone: list[str] = []
        for tag, record in filed:
            if record is None:
                gone.append(tag)
                continue
            try:
                payload, exchange, routing_key = loads(record)
                queues = list(channel._lookup(exchange, routing_key))
            except (ValueError, TypeError, KeyError):
                logger.critical("Cannot restore the message filed as %s: %r", tag, record)
                continue
            ready.append((tag, payload, queues))
        if gone:
            link.ask("ZREM", channel.unacked_keys[1], *gone)
        return int(channel.give_back(ready, False, link))


def _owner_of(tag: str) -> set[str]:
    """Return the owner that *tag* names, in both of its forms; none for tags of others."""
    if not tag.startswith("celery:"):
        return set()
    owner = tag.split(":", 2)[1]
    return {owner, f"~{owner}"}
