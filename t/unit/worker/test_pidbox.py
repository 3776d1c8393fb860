"""The mailbox of a worker, when another connection holds its queue."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import NotFound, ResourceLocked

from celery.worker.pidbox import RETRY_S, Pidbox


class Timer:
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def call_after(self, seconds: float, function: Any, args: Any = ()) -> Any:
        entry = SimpleNamespace(seconds=seconds, call=lambda: function(*args), is_cancelled=False)
        entry.cancel = lambda: setattr(entry, "is_cancelled", True)
        self.entries.append(entry)
        return entry


@pytest.fixture
def consumer(app: Any) -> Any:
    channel = SimpleNamespace(close=lambda: None)
    return SimpleNamespace(
        app=app,
        hostname="w1@h",
        controller=SimpleNamespace(use_eventloop=True),
        connection=SimpleNamespace(
            channel=lambda: channel, channel_errors=(ResourceLocked, NotFound)
        ),
        timer=Timer(),
        call_soon=lambda function, *args: function(*args),
        on_decode_error=lambda message, exc: None,
    )


@pytest.fixture
def box(consumer: Any) -> Pidbox:
    return Pidbox(consumer)


def refuse(box: Pidbox, error: BaseException) -> None:
    def listen(callback: Any) -> Any:
        raise error

    box.node.listen = listen


def test_a_mailbox_held_by_another_connection_is_tried_again(
    consumer: Any, box: Pidbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker may believe in a lost connection for a while; the worker goes on meanwhile."""
    refuse(box, ResourceLocked("locked"))

    box.start(consumer)

    assert box.consumer is None
    assert "mailbox of w1@h" in caplog.text
    [entry] = consumer.timer.entries
    assert entry.seconds == RETRY_S
    box.node.listen = lambda callback: SimpleNamespace(callback=callback)
    entry.call()
    assert box.consumer.callback == box.on_message
    assert box.consumer.on_decode_error is consumer.on_decode_error


def test_a_stop_ends_the_attempts(consumer: Any, box: Pidbox) -> None:
    refuse(box, ResourceLocked("locked"))
    box.start(consumer)

    box.stop(consumer)

    [entry] = consumer.timer.entries
    assert entry.is_cancelled
    entry.call()
    assert len(consumer.timer.entries) == 1


def test_other_errors_of_the_mailbox_are_raised(consumer: Any, box: Pidbox) -> None:
    refuse(box, NotFound("no exchange"))

    with pytest.raises(NotFound):
        box.start(consumer)
    assert consumer.timer.entries == []
