"""URL and settings of the Redis back-end as arguments of its driver."""

from __future__ import annotations

import logging
import ssl
import threading

import pytest
import redis
from kombu.utils import compat
from redis import CredentialProvider

from celery import Celery
from celery.backends._redis import params
from celery.backends._redis.link import Link
from celery.backends.redis import (
    E_REDIS_SSL_CERT_REQS_MISSING_INVALID,
    E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH,
    RedisBackend,
    SentinelBackend,
)
from celery.exceptions import ImproperlyConfigured


class Provider(CredentialProvider):
    def get_credentials(self):
        return ("u", "p")


def make(url, cls=RedisBackend, **settings):
    app = Celery("params", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return cls(app=app, url=url)


def connparams(url, **settings):
    return make(url, **settings).connparams


def test_a_url_says_where_and_as_whom():
    """B-BACK-011."""
    found = connparams("redis://user:p%40ss@example.org:7000/3")

    assert found["host"] == "example.org"
    assert found["port"] == 7000
    assert found["db"] == 3
    assert found["username"] == "user"
    assert found["password"] == "p@ss"


def test_a_bare_url_is_the_local_server():
    """B-BACK-011, B-BACK-012: a socket time-out of 120 s."""
    found = connparams("redis://")

    assert (found["host"], found["port"], found["db"]) == ("localhost", 6379, 0)
    assert found["socket_timeout"] == 120.0


def test_settings_fill_what_the_url_leaves_open():
    """B-BACK-012."""
    found = connparams(
        "redis://example.org",
        redis_port=7001,
        redis_db=5,
        redis_username="u",
        redis_password="p",
        redis_max_connections=17,
        redis_socket_timeout=30,
        redis_socket_connect_timeout=4,
        redis_retry_on_timeout=True,
        redis_socket_keepalive=True,
        redis_client_name="mine",
        redis_backend_health_check_interval=9,
    )

    assert found == {
        "host": "example.org",
        "port": 7001,
        "db": 5,
        "username": "u",
        "password": "p",
        "max_connections": 17,
        "socket_timeout": 30.0,
        "socket_connect_timeout": 4.0,
        "retry_on_timeout": True,
        "socket_keepalive": True,
        "client_name": "mine",
        "health_check_interval": 9,
        "protocol": 2,
    }


def test_parameters_of_the_url_have_the_types_of_the_driver():
    found = connparams("redis://h/0?socket_timeout=1.5&health_check_interval=3")

    assert found["socket_timeout"] == 1.5
    assert found["health_check_interval"] == 3


def test_a_socket_in_the_file_system():
    """B-BACK-011: socket:///path."""
    found = connparams("socket:///run/redis.sock?virtual_host=2")

    assert found["connection_class"] is redis.UnixDomainSocketConnection
    assert found["path"] == "/run/redis.sock"
    assert found["db"] == 2
    assert "host" not in found


def test_a_database_that_is_no_number_is_named():
    with pytest.raises(ImproperlyConfigured, match="'results'"):
        connparams("redis://h/results")


def test_a_credential_provider_replaces_name_and_password():
    """B-BACK-012: an object, a class or a path."""
    provider = Provider()
    for given in (provider, Provider, f"{__name__}.Provider"):
        found = connparams("redis://user:pass@h/0", redis_backend_credential_provider=given)
        assert isinstance(found["credential_provider"], Provider)
        assert not {"username", "password"} & set(found)


def test_anything_else_is_no_credential_provider():
    with pytest.raises(ImproperlyConfigured, match="CredentialProvider"):
        connparams("redis://h", redis_backend_credential_provider="os.path")


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("CERT_REQUIRED", ssl.CERT_REQUIRED),
        ("required", ssl.CERT_REQUIRED),
        ("optional", ssl.CERT_OPTIONAL),
        ("CERT_NONE", ssl.CERT_NONE),
    ],
)
def test_tls_says_how_certificates_are_checked(text, mode):
    """B-BACK-011: rediss:// with ssl_cert_reqs."""
    found = connparams(f"rediss://h/0?ssl_cert_reqs={text}&ssl_ca_certs=/ca.pem")

    assert found["connection_class"] is redis.connection.SSLConnection
    assert found["ssl_cert_reqs"] == mode
    assert found["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=maybe"])
def test_tls_without_a_word_on_certificates_is_refused(query):
    """B-BACK-011: required."""
    with pytest.raises(ValueError) as error:
        make(f"rediss://h/0{query}")

    assert str(error.value) == E_REDIS_SSL_CERT_REQS_MISSING_INVALID


def test_tls_that_checks_little_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        make("rediss://h/0?ssl_cert_reqs=none")

    assert "is not checked" in caplog.text


def test_tls_parameters_without_tls_are_refused():
    with pytest.raises(ValueError) as error:
        make("redis://h/0?ssl_ca_certs=/ca.pem")

    assert str(error.value) == E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH


def test_tls_by_setting():
    found = connparams(
        "redis://h/0",
        redis_backend_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_keyfile": "k"},
    )

    assert found["connection_class"] is redis.connection.SSLConnection
    assert found["ssl_keyfile"] == "k"


def test_a_group_of_sentinels():
    """B-BACK-011: sentinel://…;…"""
    url = "sentinel://:secret@one:26001/2;sentinel://two:26002/2;three"
    hosts, shared = params.hosts_of(url, 26379)

    assert [(host["host"], host["port"]) for host in hosts] == [
        ("one", 26001),
        ("two", 26002),
        ("three", 26379),
    ]
    assert shared == {"db": 2, "password": "secret"}


def test_sentinels_need_the_name_of_their_master():
    backend = make("sentinel://one:26001", SentinelBackend)

    with pytest.raises(ImproperlyConfigured, match="master_name"):
        backend.connection_pool()


def test_the_uri_of_sentinels_hides_passwords():
    backend = make("sentinel://:secret@one:26001/2;sentinel://two:26002/2", SentinelBackend)

    assert "secret" not in backend.as_uri()
    assert "one:26001" in backend.as_uri()
    assert "secret" in backend.as_uri(include_password=True)


def test_the_retry_policy_can_be_changed():
    """B-BACK-011: retry_policy of the transport options, over the defaults."""
    backend = make(
        "redis://h", result_backend_transport_options={"retry_policy": {"max_retries": 2}}
    )

    assert backend.retry_policy == {
        "max_retries": 2,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }


def test_further_errors_can_count_as_lost_connections():
    """B-BACK-011: additional_connection_errors."""

    class Odd(Exception):
        pass

    options = {"additional_connection_errors": (Odd,)}
    backend = make("redis://h", result_backend_transport_options=options)

    assert backend.exception_safe_to_retry(Odd())
    assert backend.exception_safe_to_retry(redis.ConnectionError())
    assert not backend.exception_safe_to_retry(KeyError())


def test_a_command_is_sent_again_after_a_lost_connection(monkeypatch):
    """B-BACK-011: with the intervals of the policy, then the error is raised."""
    slept = []
    monkeypatch.setattr("kombu.utils.functional.sleep", slept.append)
    policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "interval_max": 1}
    backend = make("redis://h", result_backend_transport_options={"retry_policy": policy})
    tries = []

    def lost(key):
        tries.append(key)
        raise redis.ConnectionError("away")

    with pytest.raises(redis.ConnectionError):
        backend.ensure(lost, ("k",))
    assert tries == ["k"] * 4


def test_a_life_of_less_than_a_second_is_not_for_ever():
    assert make("redis://h", result_expires=0.2).expires == 1
    assert make("redis://h", result_expires=0).expires == 0


def test_compression_needs_bytes(caplog):
    with caplog.at_level(logging.WARNING):
        backend = make("redis://h/0?decode_responses=true", result_compression="gzip")

    assert backend.compression is None
    assert "decode_responses" in caplog.text


@pytest.mark.parametrize(("settings", "most"), [({}, 10), ({"redis_max_connections": 50}, 48)])
def test_all_green_threads_share_one_back_end_with_few_connections(monkeypatch, settings, most):
    monkeypatch.setattr(compat, "_environment", "gevent")
    backend = make("redis://example.org", **settings)

    assert backend.thread_safe
    assert backend._link._most == most


def test_real_threads_have_back_ends_of_their_own(monkeypatch):
    monkeypatch.setattr(compat, "_environment", "default")
    backend = make("redis://example.org")

    assert not backend.thread_safe
    assert backend._link._most is None


class Connection:
    """Notes how many are in use at a time."""

    used = most_used = 0

    def connect(self):
        pass

    def send_command(self, *command):
        Connection.used += 1
        Connection.most_used = max(Connection.used, Connection.most_used)
        threading.Event().wait(0.005)

    def read_response(self):
        Connection.used -= 1
        return b"OK"


class Pool:
    """Hands out connections, all but the first time."""

    made = -1

    def get_connection(self):
        Pool.made += 1
        if not Pool.made:
            raise ConnectionRefusedError
        return Connection()


def test_no_more_connections_are_used_than_the_link_may():
    link = Link(Pool, most=3)
    with pytest.raises(ConnectionRefusedError):
        link.call("GET", "x")
    threads = [threading.Thread(target=link.call, args=("GET", "x")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert Connection.most_used <= 3
    assert Connection.used == 0
    assert Pool.made <= 3
