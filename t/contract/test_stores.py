"""What single stores are asked, proved on their emulators and stand-ins."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from celery import Celery, states
from celery.backends import _http, cosmosdbsql, couchbase
from celery.exceptions import BackendStoreError
from t.contract.backends import WITH_PYLIBMC, new_id


@pytest.fixture
def app_of(request):
    """Make apps whose results go to a server."""
    apps = []

    def make(url, **settings):
        app = Celery(f"stores-{new_id()}", broker="memory://", backend=url, set_as_current=False)
        app.conf.update(settings)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def sessions(backend):
    return backend.client().session.list()[1]


def test_many_results_share_a_session_of_the_consul_stand_in(app_of, consul_standin):
    backend = app_of(f"{consul_standin.url}/{new_id()}", result_expires=600).backend
    # Those of other tests may end meanwhile.
    before = {session["ID"] for session in sessions(backend)}
    for _ in range(10):
        backend.mark_as_done(new_id(), 4)

    assert len({session["ID"] for session in sessions(backend)} - before) == 1


def test_a_result_of_the_consul_stand_in_lives_from_its_last_state_on(app_of, consul_standin):
    url = f"{consul_standin.url}/{new_id()}"
    name = new_id()
    app_of(url, result_expires=600).backend.store_result(name, None, states.STARTED)
    consul_standin.pass_time(500)
    # Another process, with a session of its own.
    backend = app_of(url, result_expires=600).backend
    backend.mark_as_done(name, 4)
    consul_standin.pass_time(500)

    assert backend.get_result(name) == 4
    consul_standin.pass_time(500)
    assert app_of(url).backend.get_state(name) == states.PENDING


def test_a_session_of_the_consul_stand_in_that_somebody_ended_is_opened_again(
    app_of, consul_standin
):
    backend = app_of(f"{consul_standin.url}/{new_id()}", result_expires=600).backend
    backend.mark_as_done(new_id(), 4)
    backend.client().session.destroy(backend._session.name)
    name = new_id()
    backend.mark_as_done(name, 5)

    assert backend.get_result(name) == 5


def test_results_without_expiry_have_no_session_in_the_consul_stand_in(app_of, consul_standin):
    backend = app_of(f"{consul_standin.url}/{new_id()}", result_expires=None).backend
    name = new_id()
    backend.store_result(name, None, states.STARTED)
    backend.mark_as_done(name, 4)

    _, found = backend.client().kv.get(backend._name(backend.get_key_for_task(name)))
    assert "Session" not in found


def test_a_database_of_the_arangodb_stand_in_is_made_when_it_is_missing(app_of, arangodb_standin):
    url = f"{arangodb_standin.url}/new-{new_id()}/results"
    app_of(url).backend.mark_as_done("id", 4)

    assert app_of(url).backend.get_result("id") == 4


def test_cleaning_the_arangodb_stand_in_spares_what_others_wrote(app_of, arangodb_standin):
    """Documents of 5.7.0 have no time that a query could compare."""
    backend = app_of(f"{arangodb_standin.url}/jobs/{new_id()}", result_expires=-60).backend
    backend.mark_as_done("ours", 4)
    document = backend.encode({"_key": "celery-task-meta-theirs", "task": '{"status": "SUCCESS"}'})
    backend._ask("post", data=document)
    backend.cleanup()

    assert backend.get_state("ours") == states.PENDING
    assert backend.get_state("theirs") == states.SUCCESS


def test_the_couchdb_emulator_is_cleaned_with_any_serializer(app_of, couch_server):
    pickled = {"result_serializer": "pickle", "result_accept_content": ["pickle"]}
    url = f"{couch_server.url}/clean-{new_id()[:8]}"
    backend = app_of(url, result_expires=-60, **pickled).backend
    backend.mark_as_done("id", 4)
    backend.cleanup()

    assert backend.get_state("id") == states.PENDING


def test_of_siblings_in_the_riak_stand_in_the_success_is_read(app_of, riak_standin):
    """And the next write puts one value in their place."""
    backend = app_of(f"{riak_standin.url}/many/{new_id()}").backend
    key = backend.get_key_for_task("id")
    for state in (states.FAILURE, states.SUCCESS, states.RETRY):
        payload = backend.encode({"status": state, "result": None}).encode()
        backend._ask("PUT", key, (), data=payload, headers={"Content-Type": "application/json"})
    before = backend._ask("GET", key, (300,))
    assert before.status_code == 300

    assert backend.get_state("id") == states.SUCCESS
    assert backend.replace(key, backend.encode({"status": "x"}), backend.load(key).version)
    assert backend._ask("GET", key, ()).json() == {"status": "x"}


# -- Stores that are away, or silent

#: Fixtures of servers, what follows their URL, and settings that make waiting short.
SERVERS = {
    "arangodb": ("arangodb_standin", "/jobs/{name}", {}),
    "azureblockblob": (
        "azurite_server",
        "",
        {
            "azureblockblob_base_path": "{name}/",
            "azureblockblob_read_timeout": 1,
            "azureblockblob_retry_max_attempts": 0,
        },
    ),
    "consul": ("consul_standin", "/{name}", {}),
    "cosmosdbsql": ("cosmos_server", "", {"cosmosdbsql_collection_name": "c{name}"}),
    "couchbase": ("couchbase_standin", "/{name}", {}),
    "couchdb": ("couch_server", "/c{name}", {}),
    "riak": ("riak_standin", "/{name}", {}),
}
#: Those that lose nothing that back-ends have to make, when they are restarted.
STEADY = ("arangodb", "consul", "couchbase", "riak")


@pytest.fixture
def made(request, app_of):
    """Make an app for one of `SERVERS`; return it, and the server."""

    def make(store, **more):
        fixture, path, settings = SERVERS[store]
        server, name = request.getfixturevalue(fixture), new_id()[:8]
        own = {
            key: value.format(name=name) if isinstance(value, str) else value
            for key, value in settings.items()
        }
        return app_of(server.url + path.format(name=name), **own, **more), server

    return make


@pytest.mark.parametrize("store", SERVERS)
def test_a_silent_server_or_stand_in_is_an_error_in_time(store, made, monkeypatch):
    """And one that another attempt may heal; it tells no secrets."""
    monkeypatch.setattr(_http, "TIMEOUTS_S", (1, 1))
    monkeypatch.setattr(cosmosdbsql, "TIMEOUT_MS", 1000)
    monkeypatch.setattr(couchbase, "PATIENCE_S", 0)
    app, server = made(store)
    backend = app.backend
    backend.mark_as_done("before", 4)

    with server.frozen():
        for action in (
            lambda: backend.get_task_meta("before", cache=False),
            lambda: backend.mark_as_done("during", 4),
        ):
            with pytest.raises(Exception) as error:
                action()
            assert backend.exception_safe_to_retry(error.value), error.value
            for secret in ("secret", "a2V5", "Eby8vdM02xNO"):
                assert secret not in str(error.value) + repr(error.value)

    backend.mark_as_done("after", 5)
    assert backend.get_task_meta("before", cache=False)["result"] == 4
    assert backend.get_task_meta("after", cache=False)["result"] == 5


@pytest.mark.parametrize("store", STEADY)
def test_a_result_waits_for_a_stand_in_that_comes_back(store, made, monkeypatch):
    """B-BACK-006: with result_backend_always_retry."""
    monkeypatch.setattr(couchbase, "PATIENCE_S", 0)
    app, server = made(store, result_backend_always_retry=True)
    backend = app.backend
    backend.mark_as_done("before", 4)
    retried = threading.Event()
    backend.on_backend_retryable_error = lambda _: retried.set()
    errors = []

    def write():
        try:
            backend.mark_as_done("during", 5)
        except Exception as exc:
            errors.append(exc)

    server.stop()
    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert retried.wait(60)
    finally:
        server.start()
    thread.join(60)

    assert errors == []
    assert backend.get_task_meta("during", cache=False)["result"] == 5


@pytest.mark.memcached
@pytest.mark.parametrize(
    "driver", ["pymemcache", pytest.param("pylibmc", marks=WITH_PYLIBMC), "memcache"]
)
def test_memcached_that_is_away_or_refuses_is_an_error_with_every_driver(app_of, driver):
    """Nothing is dropped in silence, or kept on another server where nobody looks."""
    from t.harness.servers import MemcachedServer

    with MemcachedServer() as one, MemcachedServer() as two:
        url = f"cache+memcached://127.0.0.1:{one.port};127.0.0.1:{two.port}/"
        backend = app_of(url, cache_backend_options={"driver": driver}).backend
        names = [new_id() for _ in range(20)]
        for name in names:
            backend.mark_as_done(name, name)
        # Too large for the server.
        with pytest.raises(BackendStoreError if driver != "pymemcache" else Exception):
            backend.mark_as_done(new_id(), "x" * 1_200_000)

        two.stop()
        refused = []
        for name in names:
            try:
                assert backend.get_task_meta(name, cache=False)["result"] == name
                backend.mark_as_done(name, name)
            except backend.connection_errors:
                refused.append(name)

        assert 0 < len(refused) < len(names)
        two.start()
        for name in names:
            backend.mark_as_done(name, name)
            assert backend.get_task_meta(name, cache=False)["result"] == name


@pytest.mark.parametrize(
    "server",
    [
        "firestore_standin",
        # Takes half a minute, Java and gcloud.
        pytest.param(
            "firestore_server",
            marks=pytest.mark.skipif(not os.environ.get("T_LONG"), reason="only with T_LONG=1"),
        ),
    ],
)
def test_counters_of_google_count_and_are_claimed_on_stand_in_and_emulator(
    app_of, gcs_server, server, request, monkeypatch
):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", request.getfixturevalue(server).address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.url)
    gcs_server.make_bucket("results")
    backend, other = (app_of("gs://results/c?gcs_project=lab").backend for _ in range(2))
    chord, key = new_id(), backend.get_key_for_chord(new_id())

    assert [backend.incr(key), other.incr(key), backend.incr(key)] == [1, 2, 3]
    backend.delete(key)
    backend.delete(key)
    assert other.incr(key) == 1

    assert backend.claim(chord, 3600)
    assert not other.claim(chord, 3600)
    # A claim that has run out is for one of those who want it.
    mark = backend._counter(backend.get_key_for_chord(chord))
    mark.update({"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    granted = []
    threads = [
        threading.Thread(target=lambda backend=backend: granted.append(backend.claim(chord, 3600)))
        for backend in (backend, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(granted) == [False, True]
