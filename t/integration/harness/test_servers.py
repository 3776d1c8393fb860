"""The private servers themselves: they answer, break, come back and leave nothing behind."""

from __future__ import annotations

import os

import amqp
import psycopg2
import pytest
import redis

from t.harness import servers


def connect_amqp(url: str) -> amqp.Connection:
    host = url.removeprefix("amqp://guest:guest@").split("/")
    connection = amqp.Connection(host[0], virtual_host=host[1], userid="guest", password="guest")
    connection.connect()
    return connection


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_redis_answers_and_is_empty_for_each_test(redis_url):
    client = redis.Redis.from_url(redis_url)

    assert client.dbsize() == 0
    client.set("left", "behind")


def test_redis_is_empty_again(redis_url):
    assert redis.Redis.from_url(redis_url).dbsize() == 0


def test_a_server_comes_back_on_its_port_after_a_crash():
    with servers.RedisServer() as server:
        pid = server.server_pid()
        server.kill()
        assert not is_alive(pid)
        server.start()

        assert redis.Redis.from_url(server.url).ping()
    assert not server.folder.exists()


def test_rabbitmq_gives_each_test_a_virtual_host(rabbitmq_server):
    first, second = rabbitmq_server.new_url(), rabbitmq_server.new_url()

    assert first != second
    for url in (first, second):
        connection = connect_amqp(url)
        assert connection.channel().queue_declare("q").message_count == 0
        connection.close()


def test_rabbitmq_and_its_port_mapper_leave_nothing_behind():
    with servers.RabbitMQServer() as server:
        pids = [server.server_pid(), server._epmd.pid]
        assert all(is_alive(pid) for pid in pids)

    servers.wait_until(lambda: not any(is_alive(pid) for pid in pids), "the end of the node")


def test_postgresql_gives_each_test_a_database(postgresql_server):
    first, second = postgresql_server.new_url(), postgresql_server.new_url()

    assert first != second
    psycopg2.connect(second.replace("+psycopg2", "")).close()


def test_memcached_answers(memcached_server):
    assert servers.ask(memcached_server.port, b"version\r\n").startswith(b"VERSION")


def test_a_missing_program_skips_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="nosuchd is not installed"):
        servers.require_program("nosuchd")

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="nosuchd is not installed"):
        servers.require_program("nosuchd")
