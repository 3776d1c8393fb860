"""What a channel was sent and has not settled, and the acknowledgements that are due.

Tags of a channel grow. So when all up to some tag are settled, one acknowledgement speaks for
all of them. It never speaks for a message that is not settled: the oldest of those bounds it.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct

__all__ = ("Deliveries",)

#: A whole frame: kind, channel, size; class and method of ``basic.ack``; tag, whether it speaks
#: for all before it too; the end.
_ack_frame = Struct(">BHIHHQBB").pack


def pack_ack(channel_id: int, tag: int, multiple: bool) -> bytes:
    """Return the frame of one ``basic.ack``."""
    return _ack_frame(1, channel_id, 13, 60, 80, tag, multiple, 0xCE)


class Deliveries:
    """The messages of one channel, from when it was opened until it is closed.

    Args:
        channel_id: Its number.
    """

    __slots__ = ("_last", "channel_id", "due", "is_ordered", "outstanding")

    def __init__(self, channel_id: int) -> None:
        self.channel_id = channel_id
        #: Tags that are not settled, in the order of delivery.
        self.outstanding: OrderedDict[int, None] = OrderedDict()
        #: Tags that are acknowledged without the server knowing.
        self.due: list[int] = []
        #: Whether tags have grown so far. The protocol doesn't demand it.
        self.is_ordered = True
        self._last = 0

    def add(self, tag: int) -> None:
        """Note that a message was delivered which has to be settled."""
        if tag <= self._last:
            self.is_ordered = False
        self._last = tag
        self.outstanding[tag] = None

    def take_due(self) -> bytes:
        """Return the frames that acknowledge what is due, and forget it."""
        due, self.due = self.due, []
        channel_id = self.channel_id
        if len(due) == 1:
            return pack_ack(channel_id, due[0], False)
        if not self.is_ordered:
            return b"".join(pack_ack(channel_id, tag, False) for tag in due)
        oldest = next(iter(self.outstanding), None)
        if oldest is None:
            return pack_ack(channel_id, max(due), True)
        done = [tag for tag in due if tag < oldest]
        frames = [pack_ack(channel_id, max(done), True)] if done else []
        frames += [pack_ack(channel_id, tag, False) for tag in due if tag > oldest]
        return b"".join(frames)

    def forget(self, tag: int, multiple: bool = False) -> None:
        """Note that *tag* is settled in another way, or all up to it; 0 stands for all."""
        if not multiple:
            self.outstanding.pop(tag, None)
            return
        for each in list(self.outstanding):
            if each <= tag or not tag:
                del self.outstanding[each]
