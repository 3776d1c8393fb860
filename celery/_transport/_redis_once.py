"""Publishing that can be repeated: of messages with numbers, each goes into its queues once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery._transport._redis_scripts import Script

if TYPE_CHECKING:
    from celery._transport.redis import Channel

__all__ = ("publishing_once",)

#: Milliseconds after which marks are forgotten, counted from the latest.
MARKS_MS = 7 * 24 * 3600 * 1000

#: KEYS: hash of marks, then a list for each message.  ARGV: sequence, number, milliseconds to
#: keep marks, then the messages.  Result: whether they were added.
ONCE = Script("""
local last = redis.call('HGET', KEYS[1], ARGV[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
for i = 2, #KEYS do redis.call('LPUSH', KEYS[i], ARGV[i + 2]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")


class _Collected:
    """Stands where a channel puts what it publishes, in place of the server."""

    def __init__(self) -> None:
        self.lists: list[bytes] = []
        self.messages: list[bytes] = []
        self.commands: list[tuple[bytes, int]] = []

    def add_message(self, head: bytes, text: bytes) -> None:
        """Keep a message that goes to the list of which *head* is the packed key."""
        self.lists.append(head.split(b"\r\n", 2)[1])
        self.messages.append(text)

    def add_command(self, data: bytes, replies: int) -> None:
        """Keep packed commands that follow."""
        self.commands.append((data, replies))


@contextmanager
def publishing_once(channel: Channel, marks: str, sequence: str, number: int) -> Iterator[None]:
    """
    Publish the messages of the block together, unless it was done before.

    Args:
        channel: What is published through it, goes out at the end of the block.
        marks: Key under which to note it.
        sequence: Numbers are compared with those of the same sequence.
        number: Larger than of all messages before in this sequence; otherwise nothing is sent.
    """
    collected = _Collected()
    channel.collector = collected
    try:
        yield
    finally:
        channel.collector = None
    if collected.messages:
        channel.desk.run(
            ONCE,
            [channel.full_key(marks), *collected.lists],
            [sequence, number, MARKS_MS, *collected.messages],
        )
        for data, replies in collected.commands:
            channel.desk.call(data, replies)
