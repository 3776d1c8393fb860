"""Queues that go with those who declared them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue

from celery import Celery
from celery._transport.filesystem import Transport


@pytest.fixture
def connection(tmp_path: Path) -> Any:
    """A connection to a broker in a folder."""
    folders = {}
    for option in ("data_folder_in", "control_folder"):
        (tmp_path / option).mkdir()
        folders[option] = str(tmp_path / option)
    app = Celery("t", set_as_current=False)
    app.conf.broker_transport_options = {**folders, "data_folder_out": folders["data_folder_in"]}
    with app.connection_for_read("filesystem://") as made:
        assert isinstance(made.transport, Transport)
        yield made


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
