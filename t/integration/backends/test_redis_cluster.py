"""Results in a Redis Cluster: keys that move, nodes that go, TLS, and what a batch costs."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery import Celery, chord
from celery.app.task import Context
from celery.exceptions import ImproperlyConfigured
from t.contract.backends import close
from t.harness.certificates import make_certificate
from t.harness.servers import RedisCluster, RedisClusterNode, free_port, wait_until
from t.harness.worker import WorkerProcess

pytestmark = pytest.mark.redis


@pytest.fixture
def make() -> Iterator[Callable[..., Celery]]:
    """Make apps with results in a cluster."""
    made: list[Celery] = []

    def make(url: str, **settings: Any) -> Celery:
        app = Celery("cluster", broker="memory://", backend=url, set_as_current=False)
        app.conf.update(settings)
        made.append(app)
        return app

    yield make
    for app in made:
        close(app)


@pytest.fixture
def app(redis_cluster_url: str, make: Callable[..., Celery]) -> Celery:
    return make(redis_cluster_url)


def node_of(app: Celery, cluster: RedisCluster, task_id: str) -> RedisClusterNode:
    """Return the node that has the document of a task, as the client knows it."""
    port = app.backend.client.get_node_from_key(app.backend.get_key_for_task(task_id)).port
    return next(node for node in cluster.nodes if node.port == port)


def slot_of(app: Celery, task_id: str) -> int:
    slot: int = app.backend.client.keyslot(app.backend.get_key_for_task(task_id))
    return slot


@contextlib.contextmanager
def moved(cluster: RedisCluster, slot: int, old: RedisClusterNode) -> Iterator[RedisClusterNode]:
    """Give an empty slot to another node for a while."""
    new = next(node for node in cluster.nodes if node is not old)
    cluster.give(slot, new)
    try:
        yield new
    finally:
        cluster.flush()
        cluster.give(slot, old)


def test_a_result_follows_a_key_that_has_moved(app: Celery, redis_cluster: RedisCluster) -> None:
    old = node_of(app, redis_cluster, "a")
    slot = slot_of(app, "a")
    app.backend.mark_as_done("a", 1)
    app.backend.forget("a")
    with moved(redis_cluster, slot, old) as new:
        app.backend.mark_as_done("a", 2)

        assert app.backend.get_result("a") == 2
        assert node_of(app, redis_cluster, "a") is new


def test_who_waits_gets_what_is_stored_after_its_key_has_moved(
    app: Celery, redis_cluster: RedisCluster, redis_cluster_url: str, make: Callable[..., Celery]
) -> None:
    old = node_of(app, redis_cluster, "a")
    waiting = threading.Event()
    got: list[Any] = []

    def wait() -> None:
        got.append(app.AsyncResult("a").get(timeout=60, on_interval=waiting.set))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(30)
    with moved(redis_cluster, slot_of(app, "a"), old):
        make(redis_cluster_url).backend.mark_as_done("a", 3)
        thread.join(60)

    assert got == [3]


def test_a_key_on_its_way_is_read_and_written_where_it_goes(
    app: Celery, redis_cluster: RedisCluster
) -> None:
    source = node_of(app, redis_cluster, "a")
    target = next(node for node in redis_cluster.nodes if node is not source)
    slot = slot_of(app, "a")
    assert target.do("CLUSTER SETSLOT", slot, "IMPORTING", source.id) == b"+OK\r\n"
    assert source.do("CLUSTER SETSLOT", slot, "MIGRATING", target.id) == b"+OK\r\n"
    try:
        app.backend.mark_as_done("a", 4)
        prepared = app.backend.mark_as_done_later("b{a}", 5, Context(id="b{a}"))
        assert app.backend.store_documents([("b{a}", prepared)]) == [None]

        assert app.backend.get_result("a") == 4
        assert app.backend.mget([app.backend.get_key_for_task("a")])[0]
    finally:
        redis_cluster.flush()
        for node in (source, target):
            node.do("CLUSTER SETSLOT", slot, "STABLE")


def test_many_documents_are_stored_and_read_with_one_round_trip_for_each_node(
    app: Celery, redis_cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-RES-005: on whichever node its key is, each document is what it is on one server."""
    from celery.backends._redis.link import Link

    backend = app.backend
    ids = [f"task-{number}" for number in range(60)]
    documents = [
        (name, backend.mark_as_done_later(name, place, Context(id=name)))
        for place, name in enumerate(ids)
    ]
    assert {node_of(app, redis_cluster, name).port for name in ids} == {
        node.port for node in redis_cluster.nodes
    }
    # Each node has been told of the script before.
    backend.store_documents(documents)
    batches: list[int] = []
    call_all = Link.call_all

    def counted(self: Link, commands: Any) -> list[Any]:
        batches.append(len(commands))
        return call_all(self, commands)

    def never(self: Link, *command: Any) -> Any:
        raise AssertionError(f"{command[0]} on its own")

    monkeypatch.setattr(Link, "call_all", counted)
    monkeypatch.setattr(Link, "call", never)
    assert backend.store_documents(documents) == [None] * 60
    assert (len(batches), sum(batches)) == (3, 60)

    batches.clear()
    found = dict(backend.get_many(ids, timeout=30))

    assert (len(batches), sum(batches)) == (3, 60)
    assert [found[name]["result"] for name in ids] == list(range(60))


def test_all_keys_of_a_chord_are_on_one_node(app: Celery) -> None:
    keys = {app.backend.client.keyslot(key) for key in app.backend._chord_keys("group-id")}

    assert len(keys) == 1


def test_a_worker_stores_and_counts_in_a_cluster(
    redis_url: str, redis_cluster_url: str, make: Callable[..., Celery]
) -> None:
    """Its processes have connections of their own; a client waits for what they announce."""
    conf = {"broker_url": redis_url, "result_backend": redis_cluster_url}
    app = make(redis_cluster_url, broker_url=redis_url)
    add, total = (app.signature(f"t.integration.backends.proj.{name}") for name in ("add", "total"))
    with WorkerProcess("-c", "2", conf=conf, app="t.integration.backends.proj"):
        results = [add.clone((number, 1)).apply_async() for number in range(40)]
        body = chord([add.clone((number, 1)) for number in range(10)], app=app)(total)

        assert [result.get(timeout=60) for result in results] == list(range(1, 41))
        assert body.get(timeout=60) == 55


LONG = pytest.mark.skipif(not os.environ.get("T_LONG"), reason="only with T_LONG=1")


@pytest.mark.parametrize("end", ["killed", pytest.param("silent", marks=LONG)])
def test_a_replica_takes_over_and_nothing_is_lost(
    end: str, make: Callable[..., Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery.backends._redis.nodes.LOOK_S", 1.0)
    with RedisCluster() as cluster, RedisClusterNode() as replica, contextlib.ExitStack() as stack:
        url = ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in cluster.nodes)
        app = make(url, redis_socket_timeout=1.0)
        app.backend.mark_as_done("a", 1)
        master = node_of(app, cluster, "a")
        replica.meet(master)
        wait_until(lambda: b"cluster_known_nodes:4" in replica.info(), "meeting the others")
        follow = ("CLUSTER REPLICATE", master.id)
        wait_until(lambda: replica.do(*follow) == b"+OK\r\n", "the news of that master")
        wait_until(
            lambda: b"master_link_status:up" in replica.do("INFO replication"), "the first copy"
        )
        for node in cluster.nodes:
            wait_until(
                lambda node=node: b"slave" in node.do("CLUSTER NODES"), "the news of a replica"
            )
        name = next(
            f"n{number}" for number in range(100) if node_of(app, cluster, f"n{number}") is master
        )
        waiting = threading.Event()
        got: list[Any] = []

        def wait() -> None:
            got.append(app.AsyncResult(name).get(timeout=90, on_interval=waiting.set))

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(30)
        if end == "killed":
            master.kill()
        else:
            stack.enter_context(master.frozen())
        app.backend.mark_as_done(name, 2)
        thread.join(90)

        assert got == [2]
        assert app.backend.get_result("a") == 1
        assert b"role:master" in replica.do("INFO replication")


def test_a_cluster_behind_tls_and_a_password(tmp_path: Any, make: Callable[..., Celery]) -> None:
    """B-BACK-011, for a cluster: the nodes it finds are spoken to in the same way."""
    certificate, key = make_certificate(tmp_path)
    files = [
        "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no",
    ]  # fmt: skip

    def node() -> RedisClusterNode:
        tls_port = free_port()
        # Nodes tell where they speak TLS only if they do so among themselves.
        made = RedisClusterNode("--tls-port", str(tls_port), "--tls-cluster", "yes", *files)
        made.meeting_port = tls_port
        return made

    with RedisCluster(node) as cluster:
        tls_ports = [each.meeting_port for each in cluster.nodes]
        for each in cluster.nodes:
            assert each.do("CONFIG SET requirepass secret") == b"+OK\r\n"
        app = make(
            f"rediss+cluster://:secret@127.0.0.1:{tls_ports[0]}"
            f"?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        )
        for number in range(20):
            app.backend.mark_as_done(f"t{number}", number)

        assert [app.AsyncResult(f"t{n}").get(timeout=30) for n in range(20)] == list(range(20))
        used = {node.port for node in app.backend.client.get_nodes()}
        assert used == set(tls_ports)
        assert "secret" not in app.backend.as_uri()


def test_a_cluster_has_no_databases(make: Callable[..., Celery]) -> None:
    app = make("redis+cluster://:secret@localhost:1/3")
    with pytest.raises(ImproperlyConfigured, match="database 0 only") as error:
        app._get_backend()
    assert "secret" not in str(error.value)
