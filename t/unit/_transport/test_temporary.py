"""Queues that go with those who declared them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue

from celery import Celery
from celery._transport.filesystem import Transport


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Any]:
    """Connections to brokers in folders."""
    with ExitStack() as connections:

        def connect(name: str) -> Any:
            folders = {}
            for option in ("data_folder_in", "control_folder"):
                folder = tmp_path / name / option
                folder.mkdir(parents=True)
                folders[option] = str(folder)
            app = Celery("t", set_as_current=False)
            app.conf.broker_transport_options = {
                **folders,
                "data_folder_out": folders["data_folder_in"],
            }
            made = connections.enter_context(app.connection_for_read("filesystem://"))
            assert isinstance(made.transport, Transport)
            return made

        yield connect


@pytest.fixture
def connection(connect: Any) -> Any:
    return connect("")


def test_a_queue_is_bound_in_each_folder_that_it_is_declared_in(connect: Any) -> None:
    """Under the same names; kombu takes the second for bound, and loses its messages."""
    news = Exchange("news", type="fanout")
    counts = []
    for name in ("first", "second"):
        connection = connect(name)
        with connection.channel() as channel:
            Queue("work", news)(channel).declare()
            connection.Producer(exchange=news).publish("one")
            counts.append(channel.queue_declare("work", passive=True).message_count)
    assert counts == [1, 1]


def test_a_mailbox_takes_its_messages_along(connection: Any, tmp_path: Path) -> None:
    news = Exchange("news", type="fanout")
    with connection.channel() as reader, connection.channel() as keeper:
        Queue("mailbox", news, auto_delete=True)(reader).declare()
        Queue("work", news)(keeper).declare()
        writer = connection.Producer(exchange=news)
        writer.publish("one")
        assert len(list((tmp_path / "data_folder_in").iterdir())) == 2

    writer.publish("two")
    names = [path.name for path in (tmp_path / "data_folder_in").iterdir()]
    assert len(names) == 2
    assert all(name.endswith(".work.msg") for name in names)


def test_a_queue_that_was_deleted_is_not_deleted_again(connection: Any) -> None:
    news = Exchange("news", type="fanout")
    with connection.channel() as first, connection.channel() as second:
        Queue("mailbox", news, auto_delete=True)(first).declare()
        first.queue_delete("mailbox")
        Queue("mailbox", news)(second).declare()
        first.close()
        connection.Producer(exchange=news).publish("one")
        assert second.queue_declare("mailbox", passive=True).message_count == 1
