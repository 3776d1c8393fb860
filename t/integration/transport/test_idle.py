"""What waiting costs when nothing comes."""

from __future__ import annotations

from celery import Celery


def test_a_channel_without_consumers_keeps_no_wait_short(redis_url: str) -> None:
    """Else a consumer that blocks on its connection would wake up hundreds of times a second."""
    app = Celery("idle", broker=redis_url, set_as_current=False)
    polls: list[float | None] = []
    with app, app.connection_for_read() as connection:
        queue = app.amqp.queues["celery"]
        other = connection.channel()
        queue(other).declare()
        with app.amqp.TaskConsumer(connection.channel()):
            for _ in range(3):
                try:
                    connection.drain_events(timeout=0.3)
                except TimeoutError:
                    continue
            poller = connection.transport.cycle.poller
            poll = poller.poll

            def counting(timeout: float | None) -> object:
                polls.append(timeout)
                return poll(timeout)

            poller.poll = counting
            try:
                connection.drain_events(timeout=0.5)
            except TimeoutError:
                assert len(polls) < 20
            else:
                raise AssertionError("nothing was sent")
