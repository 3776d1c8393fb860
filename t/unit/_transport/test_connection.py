"""Which transport a connection of an app uses."""

from __future__ import annotations

import kombu
import pytest
from kombu.pools import connections
from kombu.transport import redis as kombu_redis

from celery import Celery
from celery._transport import amqp
from celery._transport.connection import BrokerConnection
from celery._transport.redis import SentinelTransport, Transport


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("redis://", Transport),
        ("rediss://", Transport),
        ("redis+socket:///tmp/redis.sock", Transport),
        ("sentinel://a:1;sentinel://b:2", SentinelTransport),
        ("amqp://", amqp.Transport),
        ("pyamqp://", amqp.Transport),
        ("amqps://", amqp.SSLTransport),
    ],
)
def test_redis_and_amqp_urls_of_an_app_use_our_transport(url: str, transport: type) -> None:
    app = Celery(broker=url, set_as_current=False)
    for connection in (app.connection_for_write(), app.connection_for_read(), app.pool.acquire()):
        assert connection.get_transport_cls() is transport
        assert connection.clone().get_transport_cls() is transport


def test_other_urls_use_the_transports_of_kombu() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    assert app.connection().get_transport_cls() is kombu.Connection("memory://").get_transport_cls()


def test_kombu_itself_is_left_alone() -> None:
    assert kombu.Connection("redis://").get_transport_cls() is kombu_redis.Transport


def test_the_transport_of_kombu_can_be_chosen() -> None:
    app = Celery(broker="redis://", set_as_current=False)
    app.conf.broker_transport = "kombu.transport.redis:Transport"
    assert app.connection().get_transport_cls() is kombu_redis.Transport


def test_a_connection_class_of_the_user_stays() -> None:
    class Own(kombu.Connection):
        pass

    app = Celery(broker="redis://", set_as_current=False)
    app.amqp.Connection = Own
    assert type(app.connection()) is Own


def test_a_failover_to_another_scheme_uses_its_transport() -> None:
    connection = BrokerConnection("memory://;redis://")
    connection.switch("redis://elsewhere/1")
    assert connection.get_transport_cls() is Transport
    connection.switch("memory://")
    assert connection.get_transport_cls() is not Transport


def test_pools_of_kombu_are_not_shared() -> None:
    theirs = kombu.Connection("redis://pool-test")
    ours = BrokerConnection("redis://pool-test")
    assert connections[theirs] is not connections[ours]
    assert connections[ours] is connections[BrokerConnection("redis://pool-test")]
    assert type(connections[ours].acquire()).__name__ == "PooledBrokerConnection"
