"""The scripts that a channel of the Redis transport sends on its link of claims, packed.

Each is also what becomes of its reply. They are written by hand, as much of a claim stays the same
from one to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions

from celery._transport._redis_delayed import tail_of
from celery._transport._redis_link import lost, pack_args
from celery._transport._redis_message import LONG
from celery._transport._redis_scripts import CLAIM, LEAVE

if TYPE_CHECKING:
    from celery._transport._redis_claims import Claims
    from celery._transport._redis_waits import Wait

#: Bytes at the end of a message that tell it from others: tag and task id are in them.
KNOWN_END = 512
#: What a claim says that has read none of its messages.
UNKNOWN = (-1, "")
PACKED_UNKNOWN = pack_args(UNKNOWN)

CLAIM_BY_SHA = pack_args(["EVALSHA", CLAIM.sha])
CLAIM_BY_TEXT = pack_args(["EVAL", CLAIM.text])
LEAVE_BY_SHA = pack_args(["EVALSHA", LEAVE.sha])
LEAVE_BY_TEXT = pack_args(["EVAL", LEAVE.text])


class Plan:
    """What claims take from, and the parts of their commands that stay the same.

    Args:
        queues: In the order in which they are taken from.
        fired: Waits whose inboxes come first.
    """

    __slots__ = ("after", "before", "keys", "names", "queues", "size")

    def __init__(self, claims: Claims, queues: Sequence[str], fired: Sequence[Wait] = ()) -> None:
        channel = claims.channel
        self.queues = queues
        #: Keys of the queues, step of priority by step.
        self.keys = [
            channel.full_key(channel._q_for_pri(queue, step))
            for step in channel.priority_steps
            for queue in queues
        ]
        #: Queue of each list that is taken from.
        self.names = [wait.queue for wait in fired] + [
            queue for _ in channel.priority_steps for queue in queues
        ]
        lists = [*channel.claim_keys, *(wait.inbox for wait in fired), *self.keys]
        owner = claims.lease.owner_to_check
        self.before = pack_args(
            [len(lists), *lists, owner, claims.tags, max(len(queues), 1), len(fired)]
        )
        self.after = pack_args(tail_of(name) for name in self.names)
        self.size = 2 + 1 + len(lists) + 8 + len(self.names)


class Claimed:
    """One claim, and what is to be done with its reply."""

    __slots__ = ("acks", "claims", "early", "fired", "number", "plan", "room")

    def __init__(
        self,
        claims: Claims,
        plan: Plan,
        number: int,
        room: int,
        acks: Sequence[str],
        early: bytes | None,
        fired: Sequence[Wait],
    ) -> None:
        self.claims = claims
        self.plan = plan
        self.number = number
        self.room = room
        self.acks = acks
        self.early = early
        self.fired = fired

    def command(self, how: bytes, plan: Plan) -> bytes:
        """Return the packed command, with *how* for its beginning."""
        number, room = b"%d" % self.number, b"%d" % self.room
        early, known = self.early, PACKED_UNKNOWN
        if early is not None and len(early) >= LONG:
            known = pack_args((len(early), early[-KNOWN_END:]))
        return b"*%d\r\n%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b%b%b" % (
            plan.size + len(self.acks), how, plan.before,
            len(number), number, len(room), room, known, plan.after, pack_args(self.acks),
        )  # fmt: skip

    def is_early(self, text: bytes) -> bool:
        """Say whether a message of the reply is the one that was handed out before."""
        early = self.early
        if early is None:
            return False
        return text == early or (not text and len(early) >= LONG)

    def __call__(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self.claims.refuse_claim(reply, self)
        else:
            self.claims.on_claimed(reply, self)


class Left:
    """One script that leaves messages on the server, and what is to be done with its reply."""

    __slots__ = ("claims", "rest", "size")

    def __init__(self, claims: Claims, size: int, rest: bytes) -> None:
        self.claims = claims
        self.size = size
        self.rest = rest

    def command(self, how: bytes) -> bytes:
        """Return the packed command, with *how* for its beginning."""
        return b"*%d\r\n%b%b" % (self.size, how, self.rest)

    def __call__(self, reply: Any) -> None:
        if isinstance(reply, exceptions.NoScriptError):
            self.claims.send(self.command(LEAVE_BY_TEXT), self)
        elif isinstance(reply, Exception):
            raise lost(reply, self.claims.link.broker)
