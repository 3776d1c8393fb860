"""What publishing makes of errors, before any of it reaches a broker."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError

from celery import Celery, _state
from celery._transport.connection import BrokerConnection
from celery.app._publishing import Patience
from celery.app.task import Context


class DriverTimeoutError(Exception):
    """Stands for the base class of a driver."""


#: As drivers call theirs.
Silence = type("TimeoutError", (DriverTimeoutError,), {})
Refusal = ConnectionRefusedError


def given_up_after(
    errors: list[type[Exception]], servers: int, was_connected: bool = True
) -> int | None:
    """Return how many errors a policy met before its end, None when it goes on."""
    patience = Patience(servers, None, was_connected)
    for number, error in enumerate(errors, 1):
        try:
            patience(error(), 0)
        except error:
            return number
    return None


@pytest.mark.parametrize("silence", [Silence, TimeoutError])
def test_a_server_that_stays_silent_is_asked_once_more(silence):
    assert given_up_after([silence] * 9, servers=1) == 2


def test_each_of_several_servers_is_asked():
    assert given_up_after([Silence] * 9, servers=3) == 4


def test_the_first_error_is_that_of_the_message():
    assert given_up_after([ConnectionResetError, Silence], servers=1) == 2


def test_without_a_connection_the_first_error_is_that_of_a_server():
    assert given_up_after([Silence] * 9, servers=2, was_connected=False) == 2


def test_a_policy_is_not_cut_short_by_the_time_for_one_connection(monkeypatch):
    """B-CALL-027, B-CALL-028: a broker that takes longer to start refuses as often as it likes."""
    app = Celery("p", broker="memory://", set_as_current=False)
    app.conf.broker_connection_timeout = 1e-9
    establish, attempts = BrokerConnection._establish_connection, []

    def refuse(connection):
        attempts.append(connection)
        if len(attempts) < 50:
            raise connection.recoverable_connection_errors[0]("refused")
        return establish(connection)

    monkeypatch.setattr(BrokerConnection, "_establish_connection", refuse)
    policy = {"max_retries": 30, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        with pytest.raises(OperationalError, match="refused"):
            app.send_task("t", queue="patient", producer=producer, retry_policy=policy)
        app.send_task("t", queue="patient", producer=producer, retry_policy=policy)

        assert len(attempts) == 50
        assert connection.default_channel.queue_purge("patient") == 1


def test_servers_that_refuse_are_asked_as_often_as_the_policy_says():
    assert given_up_after([Silence, *[Refusal] * 99], servers=1) is None


def test_a_task_that_sends_others_goes_on_as_long_as_its_policy():
    app = Celery("p", set_as_current=False)

    @app.task(shared=False)
    def outer() -> None:
        pass

    outer.request_stack.push(Context(id="outer", called_directly=False))
    _state.push_current_task(outer)
    try:
        assert given_up_after([Silence] * 9, servers=1) is None
    finally:
        _state.pop_current_task()
        outer.request_stack.pop()


def test_the_errback_of_the_policy_is_told_of_each_error():
    told = []
    patience = Patience(1, lambda exc, interval: told.append((type(exc), interval)), True)
    patience(Refusal(), 0)
    patience(Refusal(), 0.2)
    with pytest.raises(TimeoutError):
        patience(TimeoutError(), 0.4)
    assert told == [(Refusal, 0), (Refusal, 0.2), (TimeoutError, 0.4)]
