"""Blocking moves: how a consuming channel of the Redis transport waits at queues that are empty.

Each key is waited at on a link of its own; what comes is moved into an inbox, a list on the server,
from which the next claim takes it (`celery._transport._redis_claims`). So a message wakes one
worker, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from redis import exceptions

from celery._transport._redis_link import Link, lost, pack
from celery._transport._redis_scripts import PUT_BACK

if TYPE_CHECKING:
    from celery._transport._redis_claims import Claims

#: Seconds for which a server that is at its memory limit is not asked to move messages.
FULL_S = 5.0
#: A channel waits at so many keys, with a connection each, and looks at others now and then.
MOST_WAITS = 32


class Wait:
    """One blocking move after the other, from a queue into an inbox, on a link of its own."""

    __slots__ = ("inbox", "key", "link", "queue", "sent_at", "server_id")

    def __init__(self, link: Link, queue: str, key: str, inbox: str) -> None:
        self.link = link
        self.queue = queue
        self.key = key
        self.inbox = inbox
        #: When the move was sent; 0.0 while none is under way.
        self.sent_at = 0.0
        #: What the server calls the connection; 0 before it has told, -1 where it won't.
        self.server_id = 0


class Waits:
    """The blocking moves of one channel.

    Args:
        claims: Take what comes.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self.by_key: dict[str, Wait] = {}
        #: Keys at which nothing waits.
        self.idle: set[str] = set()
        #: Waits whose inbox has something in it.
        self.fired: list[Wait] = []
        #: Until then queues are looked at: the server has no memory for waits.
        self.look_until = 0.0
        self._move_command = b"BLMOVE"

    def prepare(self, keys: Sequence[str], queues: Sequence[str]) -> None:
        """Make ready to wait at *keys*, or as many as there may be.

        Args:
            queues: That the keys belong to, in the same order.
        """
        channel = self._claims.channel
        prefix = f"{channel.unacked_key}.inbox:{self._claims.owner}:"
        for key, queue in zip(keys[:MOST_WAITS], queues, strict=False):
            if key not in self.by_key:
                inbox = channel.full_key(prefix + key)
                self.by_key[key] = Wait(channel.new_link(), queue, key, inbox)
                self.idle.add(key)

    def suffice(self, keys: Sequence[str], now: float) -> bool:
        """Say whether a message in any of *keys* ends a wait, so that nobody need look."""
        return (
            now >= self.look_until
            and len(keys) <= MOST_WAITS
            and self._claims.lease.lasts_for_a_wait()
        )

    def watches(self) -> dict[int, Callable[[], None]]:
        """Return descriptors to be polled, with what to call when one is readable."""
        return {
            wait.link.fileno(): _Bound(self.on_readable, wait.key)
            for wait in self.by_key.values()
            if wait.link.sock is not None
        }

    def on_readable(self, key: str) -> None:
        """Read the end of a blocking move."""
        wait = self.by_key.get(key)
        if wait is None:
            # Its queue was cancelled by what came before in the same turn of the loop.
            return
        for reply in wait.link.receive():
            if wait.server_id == 0:
                wait.server_id = reply if isinstance(reply, int) else -1
            elif isinstance(reply, Exception) and "BLMOVE" in str(reply):
                # Redis before 6.2 has the same under another name.
                self._move_command = b"BRPOPLPUSH"
                self._rest(wait)
            elif isinstance(reply, exceptions.OutOfMemoryError):
                self._rest(wait)
                self.look_until = monotonic() + FULL_S
            elif isinstance(reply, Exception):
                raise lost(reply, wait.link.broker)
            else:
                self._rest(wait)
                if reply is not None:
                    self.fired.append(wait)
                    self._claims.on_fired(reply)

    def _rest(self, wait: Wait) -> None:
        wait.sent_at = 0.0
        self.idle.add(wait.key)

    def check_health(self, now: float, patience: float) -> None:
        """Notice a server that has not ended a wait *patience* seconds after its time.

        Raises:
            redis.exceptions.TimeoutError: It has not.
        """
        for wait in self.by_key.values():
            overdue = wait.sent_at and now - wait.sent_at > self._claims.lease.wait_s + patience
            if overdue and wait.link.is_silent():
                wait.link.disconnect()
                raise exceptions.TimeoutError(
                    f"{wait.link.broker}: a wait did not end within {patience} s of its time"
                )

    def arm(self, keys: Sequence[str], now: float) -> None:
        """Wait at those of *keys* where nothing waits."""
        if now < self.look_until or not self._claims.lease.lasts_for_a_wait():
            return
        for key in [key for key in keys[:MOST_WAITS] if key in self.idle]:
            wait = self.by_key[key]
            data = b""
            if not wait.link.is_connected:
                try:
                    self._claims.lease.add_inbox(wait.inbox, wait.key)
                except exceptions.OutOfMemoryError:
                    self.look_until = now + FULL_S
                    return
                wait.link.connect()
                self._claims.watches_changed = True
                wait.server_id = 0
                data = pack("CLIENT", "ID")
            data += pack(self._move_command, key, wait.inbox, *self._move_ends())
            wait.sent_at = now
            self.idle.discard(key)
            wait.link.send(data)

    def _move_ends(self) -> tuple[Any, ...]:
        timeout = self._claims.lease.wait_s
        if self._move_command == b"BRPOPLPUSH":
            return (max(int(timeout), 1),)
        return ("RIGHT", "LEFT", timeout)

    def put_back_inboxes(self) -> None:
        """Give back at once what came while there is no room; others may have some."""
        fired, self.fired = self.fired, []
        for wait in fired:
            self._claims.channel.desk.run(PUT_BACK, [wait.inbox, wait.key], [])

    def disarm(self, waits: list[Wait]) -> None:
        """End blocking moves for good, and give back what they had taken."""
        armed = [wait for wait in waits if wait.sent_at and wait.link.is_connected]
        desk = self._claims.channel.desk
        clean = True
        for wait in armed:
            if wait.server_id == 0:
                self._read_wait(wait)
            if wait.server_id > 0:
                desk.ask("CLIENT", "UNBLOCK", wait.server_id)
                clean = self._read_wait(wait) and clean
            else:
                clean = False
        for wait in waits:
            wait.link.disconnect()
            self.by_key.pop(wait.key, None)
            self.idle.discard(wait.key)
            if wait in self.fired:
                self.fired.remove(wait)
            if wait.server_id:
                desk.run(PUT_BACK, [wait.inbox, wait.key], [])
        self._claims.watches_changed = True
        if not clean:
            # A move may still end: whoever sweeps looks into the inbox again.
            self._claims.lease.needs_sweeping = True

    def _read_wait(self, wait: Wait) -> bool:
        """Read until the blocking move of *wait* has ended; False when it has not."""
        try:
            while wait.sent_at:
                before = wait.server_id
                self.on_readable(wait.key)
                if before == 0 and wait.server_id != 0 and wait.sent_at:
                    return False
        except (exceptions.RedisError, OSError):
            return False
        return True

    def disarm_queue(self, queue: str) -> None:
        """Wait no more at the keys of *queue*."""
        self.disarm([wait for wait in self.by_key.values() if wait.queue == queue])

    def disconnect(self) -> None:
        """Close all links; what is in inboxes stays there."""
        for wait in self.by_key.values():
            wait.link.disconnect()
        self.by_key.clear()


class _Bound:
    """A call with its argument; as cheap as a partial, and comparable."""

    __slots__ = ("arg", "call")

    def __init__(self, call: Callable[[str], None], arg: str) -> None:
        self.call = call
        self.arg = arg

    def __call__(self) -> None:
        self.call(self.arg)
