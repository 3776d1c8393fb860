"""Many calls sent at once: when they go out, in what order, and what happens when they can't."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from kombu.exceptions import BatchPublishError, EncodeError
from kombu.transport import TRANSPORT_ALIASES, memory

from celery import Celery, chain, chord, group, signals
from celery.app import _batch
from celery.exceptions import TasksNotSent
from t.harness.inline import declare_tasks, memory_app


class Together:
    """What kombu asks of a batch of a transport; notes the size of each."""

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self.waiting: list[Any] = []

    def publish(self, message: Any, **options: Any) -> None:
        self.waiting.append((message, options))

    def flush(self) -> None:
        if BatchingTransport.faults:
            fault, arrived = BatchingTransport.faults.pop(0)
        else:
            fault, arrived = None, len(self.waiting)
        BatchingTransport.flushed.append(len(self.waiting))
        for message, options in self.waiting[:arrived]:
            self.channel.basic_publish(message, **options)
        self.waiting.clear()
        if fault is not None:
            raise fault

    def discard(self) -> None:
        self.waiting.clear()

    def close(self) -> None:
        pass


class BatchingChannel(memory.Channel):
    def create_publish_batch(self, max_size: int) -> Together:
        return Together(self, max_size)


class BatchingTransport(memory.Transport):
    """The memory transport, with batches."""

    Channel = BatchingChannel
    implements = memory.Transport.implements.extend(batch_publish=True)
    connection_errors = (ConnectionResetError,)

    #: Sizes of the batches sent.
    flushed: ClassVar[list[int]] = []
    #: Errors of the next batches, and how many messages arrive nevertheless.
    faults: ClassVar[list[tuple[Exception | None, int]]] = []


@pytest.fixture
def app(monkeypatch) -> Celery:
    monkeypatch.setitem(TRANSPORT_ALIASES, "batching", f"{__name__}:BatchingTransport")
    BatchingTransport.flushed.clear()
    BatchingTransport.faults.clear()
    app = memory_app(broker_url="batching://")
    # Connected, and the queue declared.
    app.tasks["celery.accumulate"].apply_async()
    waiting(app)
    return app


@pytest.fixture
def t(app):
    return declare_tasks(app)


def waiting(app: Celery) -> list[str]:
    """Take the ids of all messages in the queue."""
    found = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        while (message := channel.basic_get(app.conf.task_default_queue, no_ack=True)) is not None:
            found.append(message.headers["id"])
    return found


def test_a_group_is_sent_in_batches_of_bounded_size(app, t, monkeypatch):
    monkeypatch.setattr(_batch, "BATCH_SIZE", 4)
    result = group(t.add.s(n, n) for n in range(10)).apply_async()
    assert BatchingTransport.flushed == [4, 4, 2]
    assert waiting(app) == [member.id for member in result]


def test_large_bodies_go_out_before_they_fill_the_memory(app, t, monkeypatch):
    monkeypatch.setattr(_batch, "BATCH_BYTES", 3000)
    group(t.ident.s("x" * 1000) for _ in range(6)).apply_async()
    assert BatchingTransport.flushed == [3, 3]


def test_a_group_within_a_group_shares_its_batch(app, t):
    flow = group(
        t.ident.s(1), chord([t.ident.s(2), t.ident.s(3)], t.tsum.s()), chain(t.add.s(1, 1))
    )
    flow.apply_async()
    assert BatchingTransport.flushed == [4]
    assert len(waiting(app)) == 4


def test_many_calls_that_form_no_group_are_sent_together(app, t):
    results = app.send_tasks((t.add.s(n, n) for n in range(5)), countdown=10)
    assert BatchingTransport.flushed == [5]
    assert waiting(app) == [result.id for result in results]


def test_the_first_message_of_a_new_connection_declares_its_queue(app, t):
    with app.producer_or_acquire() as producer:
        producer.connection.close()
    result = group(t.ident.s(n) for n in range(3)).apply_async()
    assert BatchingTransport.flushed == [2]
    assert waiting(app) == [member.id for member in result]


def test_signals_are_sent_for_each_message_after_it_was_sent(app, t):
    seen: list[tuple[str, str]] = []

    def before(headers, **kwargs):
        seen.append(("before", headers["id"]))

    def after(headers, **kwargs):
        seen.append(("after", headers["id"]))
        assert BatchingTransport.flushed == [2]

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        first, second = app.send_tasks([t.ident.s(1), t.ident.s(2)])
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert seen == [
        ("before", first.id), ("before", second.id), ("after", first.id), ("after", second.id),
    ]  # fmt: skip


@pytest.mark.parametrize("error", [BatchPublishError("lost"), ConnectionResetError("lost")])
def test_a_batch_that_fails_is_sent_again_one_by_one(app, t, error):
    BatchingTransport.faults.append((error, 0))
    result = group(t.ident.s(n) for n in range(3)).apply_async()
    assert waiting(app) == [member.id for member in result]


def test_what_may_not_have_arrived_is_sent_again(app, t):
    """As after any connection that is lost while publishing: rather twice than never."""
    BatchingTransport.faults.append((BatchPublishError("lost"), 2))
    result = group(t.ident.s(n) for n in range(3)).apply_async()
    ids = [member.id for member in result]
    assert waiting(app) == [*ids[:2], *ids]


def test_without_retries_the_error_names_what_was_not_sent(app, t, monkeypatch):
    monkeypatch.setattr(_batch, "BATCH_SIZE", 2)
    BatchingTransport.faults.extend([(None, 2), (BatchPublishError("lost"), 0)])
    members = [t.ident.s(n).set(task_id=f"id-{n}") for n in range(4)]
    with pytest.raises(
        TasksNotSent, match="2 calls were not sent, or not for sure: id-2, id-3"
    ) as e:
        app.send_tasks(members, retry=False)
    assert e.value.task_ids == ["id-2", "id-3"]
    assert isinstance(e.value.__cause__, BatchPublishError)
    assert waiting(app) == ["id-0", "id-1"]


def test_a_call_that_can_not_be_encoded_keeps_its_batch_from_going_out(app, t):
    with pytest.raises(EncodeError):
        app.send_tasks([t.ident.s(1), t.ident.s(object())])
    assert waiting(app) == []


def test_a_transport_without_batches_sends_at_once(t):
    plain = memory_app()
    tasks = declare_tasks(plain)
    results = plain.send_tasks(tasks.ident.s(n) for n in range(3))
    assert waiting(plain) == [result.id for result in results]


def test_tasks_that_call_at_once_are_run_at_once(t):
    eager = memory_app(task_always_eager=True)
    tasks = declare_tasks(eager)
    assert [r.get() for r in eager.send_tasks([tasks.add.s(1, 1), tasks.add.s(2, 2)])] == [2, 4]
