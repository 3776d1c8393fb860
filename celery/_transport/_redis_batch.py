"""Messages of one producer that are sent together: what `kombu.Producer.batch` is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.exceptions import BatchPublishError

from celery._transport._redis_link import pack

if TYPE_CHECKING:
    from celery._transport.redis import Channel

__all__ = ("PublishBatch",)


class PublishBatch:
    """Messages of one producer that are sent together.

    Args:
        max_size: Commands after which they are sent.
    """

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self._commands: list[bytes] = []
        self._replies = 0
        self._failed: BaseException | None = None
        self._unusable = ""

    def publish(self, message: Any, **kwargs: Any) -> Any:
        """Route one message and keep what is to be sent for it."""
        self._check_usable()
        size = len(self._commands), self._replies
        try:
            result = self.channel.basic_publish(message, _publish_batch=self, **kwargs)
        except BaseException:
            # Of this message nothing may be sent, also where it goes to several queues.
            del self._commands[size[0] :]
            self._replies = size[1]
            raise
        if self._replies >= self.max_size:
            self.flush()
        return result

    def add_message(self, head: bytes, text: bytes) -> None:
        """Keep a message that goes to the list of which *head* is the packed key."""
        self._commands.append(b"*3\r\n$5\r\nLPUSH\r\n%b$%d\r\n%b\r\n" % (head, len(text), text))
        self._replies += 1

    def add_command(self, data: bytes, replies: int) -> None:
        """Keep packed commands."""
        self._commands.append(data)
        self._replies += replies

    def add(self, name: str, *args: Any) -> None:
        """Keep a command that kombu's code has made, with a key that lacks the prefix."""
        key, *rest = args
        self.add_command(pack(name.upper(), self.channel.full_key(key), *rest), 1)

    def flush(self) -> None:
        """Send everything, and wait until the server has it.

        Raises:
            BatchPublishError: That failed; some of it may have been taken.
        """
        self._check_usable()
        commands, self._commands = self._commands, []
        replies, self._replies = self._replies, 0
        if not commands:
            return
        try:
            self.channel.desk.call(b"".join(commands), replies)
        except BaseException as exc:
            self._failed = exc
            if isinstance(exc, Exception):
                raise BatchPublishError(
                    f"a batch of messages may have been sent in part: {exc}"
                ) from exc
            raise

    def discard(self) -> None:
        """Forget what was not sent."""
        self._unusable = self._unusable or "aborted"
        self._commands.clear()
        self._replies = 0

    def close(self) -> None:
        """End the batch."""
        self._unusable = "closed"

    def _check_usable(self) -> None:
        if self._unusable:
            raise RuntimeError(f"the batch of messages is {self._unusable}")
        if self._failed is not None:
            raise BatchPublishError("the batch of messages has failed before") from self._failed
