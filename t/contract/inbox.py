"""The two ends of a queue in suites of transports: a consumer that keeps what it gets, a sender."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from t.harness.servers import wait_until

QUEUE = "work"
PATIENCE_S = 60.0


def drain_until(connection: Any, condition: Callable[[], Any]) -> None:
    """Deliver messages until *condition* holds."""

    def turn() -> Any:
        with suppress(TimeoutError):
            while not condition():
                connection.drain_events(timeout=0.1)
        return condition()

    wait_until(turn, "a message", PATIENCE_S)


class Inbox:
    """A consumer of one channel that keeps what it gets."""

    def __init__(
        self,
        connection: Connection,
        *queues: str | Queue,
        prefetch: int = 0,
        no_ack: bool = False,
    ) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Any] = []
        self.consumer = Consumer(
            self.channel,
            [Queue(queue) if isinstance(queue, str) else queue for queue in queues or (QUEUE,)],
            on_message=self.messages.append,
            no_ack=no_ack,
        )
        self.consumer.consume()

    def wait_for(self, count: int) -> list[Any]:
        """Return the bodies of *count* messages, once they are there."""
        self.drain_until(lambda: len(self.messages) >= count)
        return self.bodies

    def drain_until(self, condition: Callable[[], bool]) -> None:
        drain_until(self.connection, condition)

    def is_quiet(self, seconds: float = 0) -> bool:
        """Say whether nothing comes for some time."""
        before = len(self.messages)
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=seconds)
        return len(self.messages) == before

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]

    def ack_all(self) -> None:
        for message in self.messages:
            if not message.acknowledged:
                message.ack()


def send(connection: Connection, *bodies: Any, queue: str = QUEUE, **options: Any) -> None:
    """Publish *bodies* to *queue*."""
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, routing_key=queue, declare=[Queue(queue)], **options)
