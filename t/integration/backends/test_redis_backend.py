"""Results in Redis: keys, channels, scripts, TLS, sentinels."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading

import pytest
import redis

from celery import Celery
from celery.app.task import Context
from celery.backends._redis.channels import Channels
from celery.backends._redis.consumer import MOST_CANCELLED
from celery.backends.redis import CLAIM_EXTENDED_S, CLAIM_S, DONE_S, LONG, RedisBackend
from celery.exceptions import ImproperlyConfigured
from t.harness import servers
from t.harness.servers import wait_until

pytestmark = pytest.mark.redis

DAY = 86400


def make(url, **settings):
    app = Celery("redis", broker="memory://", backend=url, set_as_current=False)
    app.conf.update(settings)
    return app


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url):
    app = make(redis_url, task_always_eager=True)
    yield app
    app.backend.result_consumer.stop()


@pytest.fixture
def backend(app):
    return app.backend


class Chord:
    def __init__(self, app, size):
        self.app = app
        self.calls = calls = []

        @app.task(name="body", shared=False)
        def body(values):
            calls.append(values)

        self.body = body.s()
        self.body.freeze("body-id")
        results = [app.AsyncResult(f"h{number}") for number in range(size)]
        app.backend.apply_chord(("g", results), self.body)

    def end(self, number, value=None, error=None, **fields):
        request = Context(
            id=f"h{number}", group="g", group_index=number, chord=dict(self.body), **fields
        )
        if error is None:
            self.app.backend.mark_as_done(request.id, value, request=request)
        else:
            self.app.backend.mark_as_failure(request.id, error, request=request)


def key(suffix=""):
    return f"celery-taskset-meta-g{suffix}"


# -- Tasks


def test_a_document_lives_for_a_day_under_its_key(backend, client):
    """B-RES-005: celery-task-meta-<id> with result_expires."""
    backend.mark_as_done("a", 4)

    document = json.loads(client.get("celery-task-meta-a"))
    assert (document["status"], document["result"]) == ("SUCCESS", 4)
    assert DAY - 5 <= client.ttl("celery-task-meta-a") <= DAY


@pytest.mark.parametrize("never", [None, 0])
def test_a_document_may_live_for_ever(redis_url, client, never):
    """B-RES-015."""
    make(redis_url, result_expires=never).backend.mark_as_done("a", 4)

    assert client.ttl("celery-task-meta-a") == -1


def test_failures_may_live_longer(redis_url, client):
    """B-RES-015: result_failure_expires, 0 is never."""
    make(redis_url, result_failure_expires=0).backend.mark_as_failure("a", ValueError())

    assert client.ttl("celery-task-meta-a") == -1


# -- Many documents at once


def prepared(backend, *task_ids, value=4):
    return [
        (task_id, backend.mark_as_done_later(task_id, value, Context(id=task_id)))
        for task_id in task_ids
    ]


def test_documents_stored_together_are_those_stored_one_by_one(backend, client):
    """B-RES-005: same keys, life and fields; nothing is stored before."""
    documents = prepared(backend, "a", "b")
    assert client.keys() == []

    assert backend.store_documents(documents) == [None, None]
    backend.mark_as_done("c", 4, request=Context(id="c"))

    found = {name: json.loads(client.get(f"celery-task-meta-{name}")) for name in "abc"}
    assert list(found["a"]) == list(found["c"])
    for name, document in found.items():
        assert (document["task_id"], document["result"]) == (name, 4)
        assert DAY - 5 <= client.ttl(f"celery-task-meta-{name}") <= DAY


def test_documents_stored_together_are_announced_to_each_that_waits(app, backend):
    results = [app.AsyncResult(task_id) for task_id in "abc"]
    values = []
    waiting = threading.Barrier(len(results) + 1)

    def wait(result):
        waiting.wait(10)
        values.append(result.get(timeout=20))

    threads = [threading.Thread(target=wait, args=(result,)) for result in results]
    for thread in threads:
        thread.start()
    waiting.wait(10)
    backend.store_documents(prepared(backend, "a", "b", "c", value=7))
    for thread in threads:
        thread.join(20)

    assert values == [7, 7, 7]


def test_among_many_a_success_stays_and_other_states_are_replaced(backend, client):
    """B-RES-009."""
    backend.mark_as_done("a", "first")
    backend.store_result("b", None, "STARTED")
    client.set("celery-task-meta-c", b"not json: from another serializer")
    client.delete("celery-task-meta-d")
    documents = prepared(backend, "a", "b", "d", value="second")

    assert backend.store_documents(documents) == [None] * 3

    assert [backend.get_result(task_id) for task_id in "abd"] == ["first", "second", "second"]


def test_one_document_that_cannot_be_judged_fails_alone(backend, client):
    client.set("celery-task-meta-b", b"not what a back-end stores")
    documents = prepared(backend, "a", "b", "c")

    first, second, third = backend.store_documents(documents)

    assert (first, third) == (None, None)
    assert isinstance(second, Exception)
    assert backend.get_result("c") == 4


def test_a_long_document_is_stored_at_once(backend):
    value = "x" * LONG

    assert prepared(backend, "a", value=value) == [("a", None)]
    assert backend.get_result("a") == value


@pytest.mark.parametrize(
    "settings", [{"result_serializer": "pickle"}, {"result_compression": "gzip"}]
)
def test_documents_in_other_formats_are_stored_at_once(redis_url, settings):
    backend = make(redis_url, accept_content=["json", "pickle"], **settings).backend

    assert not backend.takes_documents
    assert prepared(backend, "a") == [("a", None)]
    assert backend.get_result("a") == 4


def test_a_back_end_that_stores_in_its_own_way_is_asked_each_time(app):
    class Custom(RedisBackend):
        def store_result(self, *args, **kwargs):
            return super().store_result(*args, **kwargs)

    backend = Custom(app=app, url=app.conf.result_backend)

    assert not backend.takes_documents
    assert prepared(backend, "a") == [("a", None)]
    assert backend.get_result("a") == 4


def test_each_state_is_announced_on_a_channel_named_as_the_key(backend, client):
    """B-RES-012, B-BACK-013."""
    channels = client.pubsub(ignore_subscribe_messages=True)
    channels.subscribe("celery-task-meta-announced")
    wait_until(lambda: client.pubsub_numsub("celery-task-meta-announced")[0][1] == 1, "subscribing")
    backend.store_result("announced", {"n": 1}, "PROGRESS")
    backend.mark_as_done("announced", 4)

    heard = []

    def complete():
        message = channels.get_message(timeout=1)
        if message is not None:
            heard.append(json.loads(message["data"])["status"])
        return len(heard) == 2

    wait_until(complete, "the announcements", timeout_s=10)
    assert heard == ["PROGRESS", "SUCCESS"]
    channels.close()


def test_a_success_that_is_kept_is_not_announced_again(backend, client):
    """B-RES-009."""
    backend.mark_as_done("a", 4)
    channels = client.pubsub(ignore_subscribe_messages=True)
    channels.subscribe("celery-task-meta-a")
    wait_until(lambda: client.pubsub_numsub("celery-task-meta-a")[0][1] == 1, "subscribing")
    backend.mark_as_failure("a", ValueError())
    client.publish("celery-task-meta-a", "end")

    def next_message():
        message = None
        while message is None:
            message = channels.get_message(timeout=1)
        return message["data"]

    assert next_message() == b"end"
    channels.close()


def test_waiting_subscribes_and_gives_the_channel_up_with_the_next(app, client):
    """B-BACK-013, B-RES-034: giving up costs no request of its own."""
    # Nobody else waits for these, however slowly former tests let go of theirs.
    waiting = {f"given-up-{number}": threading.Event() for number in range(2)}

    def wait_for_both():
        for task_id, event in waiting.items():
            app.AsyncResult(task_id).get(timeout=60, on_interval=event.set)

    thread = threading.Thread(target=wait_for_both)
    thread.start()
    ours = {f"celery-task-meta-{task_id}".encode() for task_id in waiting}
    for task_id, event in waiting.items():
        assert event.wait(60)
        assert ours & set(client.pubsub_channels()) == {f"celery-task-meta-{task_id}".encode()}
        app.backend.mark_as_done(task_id, 4)
    thread.join(60)


def test_a_wait_is_one_write(app, monkeypatch):
    sent = []
    monkeypatch.setattr(Channels, "_send", lambda self, *commands: sent.append(commands))
    consumer = app.backend.result_consumer
    for task_id in ("a", "b"):
        consumer.consume_from(task_id)
        consumer.cancel_for(task_id)
    assert [[command[0] for command in commands] for commands in sent] == [
        ["SUBSCRIBE", "MGET"],
        ["UNSUBSCRIBE", "SUBSCRIBE", "MGET"],
    ]


def test_many_channels_are_not_left_behind(app, client):
    """B-RES-034: also when nobody waits for anything after them."""
    results = [app.AsyncResult(f"m{number}") for number in range(MOST_CANCELLED)]
    ours = {f"celery-task-meta-{result.id}".encode() for result in results}
    app.backend.add_pending_results(results)
    wait_until(lambda: ours <= set(client.pubsub_channels()), "subscribing")
    for result in results:
        app.backend.remove_pending_result(result)
    wait_until(lambda: not ours & set(client.pubsub_channels()), "unsubscribing")


def test_reading_a_result_that_is_there_opens_no_channel(app, client):
    app.backend.mark_as_done("a", 4)
    before = client.info("stats")["total_connections_received"]
    assert app.AsyncResult("a").get(timeout=5) == 4

    assert client.info("stats")["total_connections_received"] == before


def test_storing_takes_one_round_trip(backend, client):
    backend.mark_as_done("warm", 1)
    before = client.info("commandstats")
    backend.mark_as_done("a", 4)
    after = client.info("commandstats")

    calls = {
        name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
        for name in ("cmdstat_evalsha", "cmdstat_script|load", "cmdstat_get", "cmdstat_multi")
        if name in after
    }
    assert calls.pop("cmdstat_evalsha") == 1
    assert set(calls.values()) <= {0}


def test_a_restarted_server_gets_the_scripts_again(backend, client):
    """B-BACK-014."""
    backend.mark_as_done("a", 1)
    client.script_flush()
    backend.mark_as_done("b", 2)

    assert backend.get_result("b") == 2


def test_a_user_without_scripts_can_store_all_the_same(redis_url, client, caplog):
    client.execute_command(
        "ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-@scripting"
    )
    try:
        backend = make(redis_url.replace("redis://", "redis://plain:pw@")).backend
        backend.mark_as_done("a", "first")
        backend.mark_as_failure("a", ValueError())
        assert backend.get_result("a") == "first"
        assert "may not run scripts" in caplog.text
    finally:
        client.execute_command("ACL", "DELUSER", "plain")


def test_a_prefix_stands_before_each_key(redis_url, client):
    """B-BACK-011: global_keyprefix."""
    app = make(redis_url, result_backend_transport_options={"global_keyprefix": "mine:"})
    app.backend.mark_as_done("a", 4)
    app.GroupResult("g", [app.AsyncResult("a")]).save()

    assert sorted(client.keys("*")) == [b"mine:celery-task-meta-a", b"mine:celery-taskset-meta-g"]
    assert app.AsyncResult("a").get(timeout=5) == 4


# -- Chords


def test_an_open_chord_is_kept_under_these_keys(app, client):
    """B-RES-005: .s the size, .j the parts by index, .d the counted tasks, each with a life."""
    chord = Chord(app, 3)
    chord.end(1, value="b")
    chord.end(0, error=ValueError("boom"))

    assert client.get(key(".s")) == b"3"
    assert client.zrange(key(".j"), 0, -1, withscores=True) == [
        (
            b'[1, "h0", "FAILURE", {"exc_type": "ValueError", "exc_message": ["boom"], '
            b'"exc_module": "builtins"}]',
            0.0,
        ),
        (b'[1, "h1", "SUCCESS", "b"]', 1.0),
    ]
    assert client.smembers(key(".d")) == {b"h0:0", b"h1:1"}
    for suffix in (".s", ".j", ".d"):
        assert DAY - 5 <= client.ttl(key(suffix)) <= DAY


def test_a_finished_chord_leaves_only_its_claim(app, client):
    """B-RES-005: everything is gone, .c says done for a while."""
    chord = Chord(app, 2)
    chord.end(0, 1)
    chord.end(1, 2)

    assert chord.calls == [[1, 2]]
    assert client.keys(key("*")) == [key(".c").encode()]
    assert client.get(key(".c")) == b"done"
    assert 0 < client.ttl(key(".c")) <= DONE_S


def test_the_bookkeeping_has_a_life_of_its_own(redis_url, client):
    """B-CANV-063: result_chord_expires."""
    app = make(redis_url, result_chord_expires=50, task_always_eager=True)
    chord = Chord(app, 2)
    chord.end(0, 1)

    assert 0 < client.ttl(key(".s")) <= 50
    assert 0 < client.ttl(key(".j")) <= 50


def test_a_body_whose_starter_died_is_started_by_a_redelivered_part(app, client, monkeypatch):
    """B-CANV-062: the claim runs out, and the part is not counted twice."""
    chord = Chord(app, 2)
    chord.end(0, 1)

    def die(*args, **kwargs):
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(app.backend, "_start_body", die)
        with pytest.raises(SystemExit):
            chord.end(1, 2)
    assert chord.calls == []
    assert 0 < client.ttl(key(".c")) <= max(CLAIM_S, CLAIM_EXTENDED_S)
    client.pexpire(key(".c"), 200)

    chord.end(1, 2)

    assert chord.calls == [[1, 2]]
    assert client.get(key(".c")) == b"done"


def test_a_part_that_comes_after_the_end_leaves_nothing(app, client):
    chord = Chord(app, 1)
    chord.end(0, 1)
    chord.end(0, 1)

    assert chord.calls == [[1]]
    assert client.keys(key("*")) == [key(".c").encode()]


def test_a_header_can_grow(app):
    """B-TASK-073: add_to_chord counts one more."""
    chord = Chord(app, 2)
    app.backend.add_to_chord("g", app.AsyncResult("h2"))
    chord.end(0, "a")
    chord.end(1, "b")
    assert chord.calls == []
    chord.end(2, "c")

    assert chord.calls == [["a", "b", "c"]]


def test_parts_may_come_in_the_order_in_which_they_end(redis_url, client):
    """B-BACK-011: result_chord_ordered off."""
    options = {"result_chord_ordered": False}
    app = make(redis_url, task_always_eager=True, result_backend_transport_options=options)
    chord = Chord(app, 3)
    for number in (2, 0, 1):
        chord.end(number, number)

    assert chord.calls == [[2, 0, 1]]


def test_the_first_failure_in_time_is_the_reason(app):
    """B-CANV-051: several failures; the first in time, not in the header."""
    chord = Chord(app, 3)
    chord.end(2, error=KeyError("first in time"))
    chord.end(0, error=ValueError("first in the header"))
    chord.end(1, 1)

    error = app.AsyncResult("body-id").result
    assert str(error) == "Dependency h2 raised KeyError('first in time')"


def test_a_body_that_cannot_be_sent_fails(app, caplog, monkeypatch):
    chord = Chord(app, 1)

    def refuse(*args, **kwargs):
        raise OSError("broker away")

    monkeypatch.setattr(type(chord.body), "apply_async", refuse)
    chord.end(0, 1)

    error = app.AsyncResult("body-id").result
    assert "broker away" in str(error)
    assert "Chord 'g' raised: ChordError(" in caplog.text


# -- Lost connections


def test_storing_goes_on_when_the_server_comes_back(redis_server, redis_url):
    """B-BACK-006, B-BACK-011: with the retry policy of the transport options."""
    backend = make(redis_url).backend
    backend.mark_as_done("a", 1)
    redis_server.stop()
    storing = threading.Thread(target=lambda: backend.mark_as_done("b", 2))
    storing.start()
    redis_server.start()
    storing.join(30)

    assert backend.get_result("b") == 2


def test_a_server_that_was_demoted_is_left_for_the_next_try(redis_url, client, monkeypatch):
    """B-BACK-006: READONLY is no answer to give up on."""
    backend = make(redis_url).backend
    backend.mark_as_done("a", 1)
    refused = threading.Event()

    def note(max_retries, exc, intervals, retries):
        refused.set()
        return next(intervals)

    monkeypatch.setattr(backend, "on_connection_error", note)
    with servers.RedisServer() as other:
        client.replicaof("127.0.0.1", other.port)
        storing = threading.Thread(target=lambda: backend.mark_as_done("b", 2))
        storing.start()
        assert refused.wait(10)
        client.replicaof("NO", "ONE")
        storing.join(30)

    assert backend.get_result("b") == 2


# -- TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, and a certificate for localhost."""
    openssl = servers.require_program("openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test ca",
        "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip
    run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
        "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    run("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.crt")  # fmt: skip
    return folder


class TLSRedisServer(servers.RedisServer):
    """Speaks TLS only, and wants a certificate of the client and a password."""

    def command(self):
        return [
            servers.require_program(self.program), "--bind", "127.0.0.1", "--port", "0",
            "--tls-port", str(self.port), "--save", "", "--requirepass", "pw", *self.options,
        ]  # fmt: skip

    def is_ready(self):
        return servers.accepts_connections(self.port)


def test_results_over_tls_with_a_client_certificate(certificates):
    """B-BACK-011: rediss://, with a password."""
    files = {name: certificates / name for name in ("ca.crt", "server.crt", "server.key")}
    options = [
        "--tls-cert-file", str(files["server.crt"]), "--tls-key-file", str(files["server.key"]),
        "--tls-ca-cert-file", str(files["ca.crt"]), "--tls-auth-clients", "yes",
    ]  # fmt: skip
    with TLSRedisServer(*options) as server:
        app = make(
            f"rediss://:pw@127.0.0.1:{server.port}/0?ssl_cert_reqs=CERT_REQUIRED"
            f"&ssl_ca_certs={files['ca.crt']}&ssl_certfile={files['server.crt']}"
            f"&ssl_keyfile={files['server.key']}"
        )
        thread = threading.Thread(target=lambda: app.backend.mark_as_done("a", 4))
        thread.start()
        assert app.AsyncResult("a").get(timeout=20) == 4
        thread.join(20)
        app.backend.result_consumer.stop()


# -- Sentinel


class Sentinel(servers.Server):
    program = "redis-server"

    def __init__(self, master):
        super().__init__()
        self.master = master

    def prepare(self):
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 2\n"
            "sentinel down-after-milliseconds mymaster 1000\n"
            "sentinel failover-timeout mymaster 5000\n"
        )

    def command(self):
        return [
            servers.require_program(self.program),
            str(self.folder / "sentinel.conf"),
            "--sentinel",
        ]

    def is_ready(self):
        return servers.ask(self.port, b"PING\r\n").startswith(b"+PONG")


def test_results_survive_the_master_behind_sentinels():
    """B-BACK-011: sentinel://…;… with master_name; a replica takes over."""
    with servers.RedisServer() as master, contextlib.ExitStack() as stack:
        replica_options = ("--replicaof", "127.0.0.1", str(master.port))
        replica = stack.enter_context(servers.RedisServer(*replica_options))
        watchers = [stack.enter_context(Sentinel(master)) for _ in range(3)]
        asking = redis.Redis(port=watchers[0].port, decode_responses=True)

        def settled():
            state = asking.execute_command("SENTINEL", "MASTER", "mymaster")
            if isinstance(state, list):
                state = dict(zip(state[::2], state[1::2], strict=True))
            return int(state["num-slaves"]) == 1 and int(state["num-other-sentinels"]) == 2

        wait_until(settled, "the sentinels", timeout_s=30)
        url = ";".join(f"sentinel://127.0.0.1:{each.port}/0" for each in watchers)
        options = {"master_name": "mymaster"}
        app = make(url, result_backend_transport_options=options)
        app.backend.mark_as_done("a", 4)
        assert app.AsyncResult("a").get(timeout=10) == 4
        redis.Redis(port=master.port).wait(1, 5000)

        master.kill()
        app.backend.mark_as_done("b", 5)

        assert app.AsyncResult("b").get(timeout=30) == 5
        assert app.AsyncResult("a").get(timeout=10) == 4
        assert redis.Redis(port=replica.port).role()[0] in {b"master", "master"}
        app.backend.result_consumer.stop()
        asking.close()


def test_a_missing_driver_is_named(monkeypatch, redis_url):
    """B-BACK-004."""
    from celery.backends import redis as module

    monkeypatch.setattr(module.RedisBackend, "redis", None)
    with pytest.raises(ImproperlyConfigured, match="package redis"):
        make(redis_url).backend
