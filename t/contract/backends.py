"""The result back-ends under test: what each one declares it can do, and how it is made."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest

from celery import Celery
from celery.app.task import Context
from celery.backends.cache import DummyClient

#: What stands behind a fixture, for the guide; by its name.
EMULATORS = {
    "azurite_server": "emulator: Azurite",
    "cosmos_server": "emulator: cosmosdb-server",
    "couch_server": "emulator: PouchDB Server",
    "elasticsearch_server": "emulator: noida-db",
    "gcs_server": "emulator: fake-gcs-server",
    "mongo_server": "emulator: SecantusDB",
    "moto_server": "emulator: moto",
}


#: Fixtures that are the URL of something empty.
URLS = (
    "redis_url", "redis_cluster_url", "amqp_url", "postgresql_url", "mariadb_url", "memcached_url"
)  # fmt: skip


@dataclass(frozen=True)
class Features:
    """What a back-end declares; a test of something else is skipped for it, not deleted."""

    #: ``{tmp}`` is a folder of the test; a word in braces is the fixture with the URL.
    url: str
    broker: str = "memory://"
    #: Documents can be read more than once, and by anyone.
    stores: bool = True
    pushes_results: bool = False
    #: Header tasks of chords are counted in the store.
    counts_chords: bool = False
    chords: bool = True
    #: How results go: by themselves ("ttl"), by the clean-up task ("cleanup"), with the client
    #: ("client"), or as the service is told to ("service").
    expiry: str = "ttl"
    compresses: bool = False
    failure_expires: bool = False
    #: Keeps documents as values of keys, so a test can put there what it likes.
    is_key_value: bool = True
    #: Which fixture can interrupt connections.
    server: str | None = None
    #: Which fixture stands for the service; it keeps nothing when it is restarted.
    emulator: str | None = None
    #: Not its URL alone says where the store is, but settings of the app.
    in_settings: bool = False
    #: Tests that a back-end of somebody else's fails, whatever this package does.
    limits: tuple[str, ...] = ()
    #: Which fixture sets up what it needs in this process.
    needs: str | None = None
    #: Variables of the environment by which the driver finds the emulator.
    environment: dict[str, str] = field(default_factory=dict)
    #: Which fixture stands for the service that counts chords.
    counter: str | None = None
    #: Bytes of a large result that it takes.
    large: int = 3_000_000
    settings: dict[str, Any] = field(default_factory=dict)
    #: Stores what ``result_extended`` adds.
    keeps_the_call: bool = True
    #: A later state does not replace a success.
    success_stays: bool = True

    @property
    def tested_on(self) -> str:
        """What the suite runs on: the real thing, an emulator, or a stand-in."""
        server = self.emulator or self.server or ""
        if server.endswith("_standin"):
            return "stand-in of ours"
        behind = EMULATORS[server] if self.emulator else "the real thing"
        return f"{behind}; stand-in of ours" if self.counter else behind


BACKENDS = {
    "memory": Features("cache+memory://", counts_chords=True),
    "file": Features("file://{tmp}", expiry="cleanup", compresses=True),
    "redis": Features(
        "{redis_url}",
        pushes_results=True,
        counts_chords=True,
        compresses=True,
        failure_expires=True,
        server="redis_server",
    ),
    "redis cluster": Features(
        "{redis_cluster_url}",
        pushes_results=True,
        counts_chords=True,
        compresses=True,
        failure_expires=True,
        server="redis_cluster",
    ),
    "rpc": Features(
        "rpc://",
        broker="{amqp_url}",
        stores=False,
        pushes_results=True,
        chords=False,
        expiry="client",
        is_key_value=False,
        server="rabbitmq_server",
    ),
    "rpc in memory": Features(
        "rpc://",
        stores=False,
        pushes_results=True,
        chords=False,
        expiry="client",
        is_key_value=False,
    ),
    "sqlite": Features("db+sqlite:///{tmp}/results.sqlite", expiry="cleanup", is_key_value=False),
    "postgresql": Features(
        "db+{postgresql_url}", expiry="cleanup", is_key_value=False, server="postgresql_server"
    ),
    "mariadb": Features(
        "db+{mariadb_url}", expiry="cleanup", is_key_value=False, server="mariadb_server"
    ),
    "embedded": Features("sqlite:///{tmp}/embedded.db", counts_chords=True),
    "s3": Features(
        "s3://",
        expiry="service",
        in_settings=True,
        compresses=True,
        emulator="moto_server",
        settings={
            "s3_bucket": "results",
            "s3_base_path": "{name}/",
            "s3_endpoint_url": "{server}",
            "s3_access_key_id": "key",
            "s3_secret_access_key": "secret",
            "s3_region": "us-east-1",
        },
    ),
    "dynamodb": Features(
        "dynamodb://key:secret@localhost:{port}/results-{name}",
        counts_chords=True,
        expiry="service",
        compresses=True,
        emulator="moto_server",
        large=390_000,
    ),
    "mongodb": Features(
        "{server}-{name}",
        expiry="cleanup",
        compresses=True,
        is_key_value=False,
        emulator="mongo_server",
    ),
    "elasticsearch": Features(
        "{server}/results-{name}", expiry="service", emulator="elasticsearch_server"
    ),
    "cassandra stand-in": Features(
        "cassandra://",
        expiry="service",
        in_settings=True,
        compresses=True,
        is_key_value=False,
        keeps_the_call=False,
        server="cassandra_standin",
        settings={
            "cassandra_servers": ["127.0.0.1"],
            "cassandra_keyspace": "lab",
            "cassandra_table": "results_{name}",
            "cassandra_port": "{port}",
            # Otherwise the driver begins with newer ones.
            "cassandra_options": {"protocol_version": 4},
            # The driver connects again in the background.
            "result_backend_always_retry": True,
        },
    ),
    "gcs": Features(
        "gs://results/{name}?gcs_project=lab",
        counts_chords=True,
        expiry="service",
        compresses=True,
        emulator="gcs_server",
        environment={"STORAGE_EMULATOR_HOST": "{server}"},
        counter="firestore_standin",
    ),
    "django-db": Features(
        "django-db",
        counts_chords=True,
        expiry="cleanup",
        is_key_value=False,
        keeps_the_call=False,
        success_stays=False,
        needs="django_results",
        limits=(
            # It stores tracebacks with result_extended only, and dates of states on the way.
            "test_an_error_comes_back_with_its_type_and_arguments",
            "test_retry_stores_its_reason_and_traceback",
            "test_started_carries_who_runs_it_and_no_date",
            "test_a_custom_state_carries_its_meta_until_the_next_one",
            # The last write counts.
            "test_a_stored_success_is_final",
            "test_a_pickled_success_is_final_too",
            "test_a_success_whose_value_looks_like_a_document_is_final",
            "test_concurrent_writers_cannot_take_a_success_back",
            "test_a_retry_that_is_stored_late_does_not_hide_the_end",
            # The fields of a call have names of its own, and it counts deliveries.
            "test_extended_results_of_a_call_that_json_refuses_have_it_as_text",
            "test_a_header_task_that_is_delivered_twice_counts_once",
        ),
    ),
    "django-cache": Features(
        "django-cache",
        needs="django_results",
        limits=(
            # It gives objects to the cache, which pickles them: nothing is refused or changed.
            "test_an_error_that_cannot_be_rebuilt_becomes_a_plain_one",
            "test_arguments_of_an_error_that_json_refuses_become_text",
            "test_a_value_without_a_stored_form_is_an_encode_error",
            "test_a_document_names_task_group_parent_and_children",
            "test_extended_results_of_a_call_that_json_refuses_have_it_as_text",
            "test_a_client_that_does_not_accept_pickle_refuses_it",
            # To Django's caches 0 is no life at all.
            "test_results_without_expiry_stay[django-cache-0]",
            # It does not say that caches do.
            "test_only_stores_that_do_not_expire_by_themselves_need_the_clean_up",
        ),
    ),
    "cosmosdbsql": Features(
        "{server}",
        expiry="cleanup",
        in_settings=True,
        emulator="cosmos_server",
        large=1_900_000,
        settings={"cosmosdbsql_collection_name": "results-{name}"},
    ),
    "couchdb": Features("{server}/results-{name}", expiry="cleanup", emulator="couch_server"),
    "arangodb stand-in": Features(
        "{server}/jobs/{name}",
        expiry="cleanup",
        server="arangodb_standin",
        emulator="arangodb_standin",
    ),
    "azureblockblob": Features(
        "{server}",
        expiry="cleanup",
        in_settings=True,
        emulator="azurite_server",
        settings={"azureblockblob_base_path": "{name}/"},
    ),
    "couchbase stand-in": Features(
        "{server}/{name}", server="couchbase_standin", emulator="couchbase_standin"
    ),
    "consul stand-in": Features(
        "{server}/{name}", server="consul_standin", emulator="consul_standin", large=300_000
    ),
    "riak stand-in": Features(
        "{server}/{name}", expiry="service", server="riak_standin", emulator="riak_standin"
    ),
    "memcached": Features(
        "{memcached_url}", counts_chords=True, server="memcached_server", large=900_000
    ),
    "memcached by pylibmc": Features(
        "{memcached_url}",
        counts_chords=True,
        server="memcached_server",
        large=900_000,
        settings={"cache_backend_options": {"driver": "pylibmc"}},
    ),
    "memcached by python-memcached": Features(
        "{memcached_url}",
        counts_chords=True,
        server="memcached_server",
        large=900_000,
        settings={"cache_backend_options": {"driver": "memcache"}},
    ),
}

#: It has no wheels for Python 3.13 and later.
WITH_PYLIBMC = pytest.mark.skipif(
    find_spec("pylibmc") is None, reason="pylibmc is not installed, see requirements/test.txt"
)

MARKS: dict[str, Any] = {
    "redis": pytest.mark.redis,
    "redis cluster": pytest.mark.redis,
    "rpc": pytest.mark.rabbitmq,
    "postgresql": pytest.mark.postgresql,
    "memcached": pytest.mark.memcached,
    "memcached by pylibmc": (pytest.mark.memcached, WITH_PYLIBMC),
    "memcached by python-memcached": pytest.mark.memcached,
}


@dataclass
class Case:
    """One back-end, ready for a test."""

    name: str
    features: Features
    app: Celery
    remake: Callable[..., Case]
    server: Any = None
    emulator: Any = None

    @property
    def backend(self) -> Any:
        """The back-end of this thread."""
        return self.app.backend

    def request(self, task_id: str, **fields: Any) -> Context:
        """Return the context that a worker would give to the back-end."""
        defaults = {"id": task_id, "reply_to": self.app.thread_oid, "correlation_id": task_id}
        return Context({**defaults, **fields})

    def expect(self, *task_ids: str) -> None:
        """Do what the client does before it sends tasks."""
        with self.app.producer_or_acquire(None) as producer:
            for task_id in task_ids:
                self.backend.on_task_call(producer, task_id)

    def pass_time(self, seconds: float) -> None:
        """Turn the clock of the store, where it is ours to turn."""
        if hasattr(self.emulator, "pass_time"):
            self.emulator.pass_time(seconds)

    def needs(self, *names: str) -> None:
        """Skip the test unless the back-end declares all of *names*."""
        for name in names:
            if not getattr(self.features, name):
                pytest.skip(f"{self.name} does not declare {name}")


def new_id() -> str:
    """Return an id for a task or group."""
    return str(uuid.uuid4())


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in BACKENDS])
def case(
    request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Case]:
    """Each back-end in turn."""
    name = request.param
    features = BACKENDS[name]
    if not {request.node.originalname, request.node.name}.isdisjoint(features.limits):
        # Strictly: a limit that has gone has to go from the list.
        request.applymarker(pytest.mark.xfail(reason=f"a limit of {name}", strict=True))
    words = {"tmp": str(tmp_path), "name": new_id()[:8]}
    for word in URLS:
        if "{" + word + "}" in features.url + features.broker:
            words[word] = request.getfixturevalue(word)
    server = request.getfixturevalue(features.server) if features.server else None
    if server is not None:
        words["port"] = str(server.port)
    if features.needs:
        request.getfixturevalue(features.needs)
    emulator = None
    if features.emulator:
        emulator = request.getfixturevalue(features.emulator)
        words |= {"server": emulator.url, "port": str(emulator.port)}
        if name in {"s3", "gcs"}:
            emulator.make_bucket("results")
    for variable, value in features.environment.items():
        monkeypatch.setenv(variable, value.format(**words))

    def make(**settings: Any) -> Case:
        app = Celery(
            f"contract-{new_id()}",
            broker=features.broker.format(**words),
            backend=features.url.format(**words),
            set_as_current=False,
        )
        app.conf.update(
            {
                key: value.format(**words) if isinstance(value, str) else value
                for key, value in features.settings.items()
            },
            **settings,
        )
        made = Case(name, features, app, make, server, emulator)
        stack.callback(close, app)
        return made

    with contextlib.ExitStack() as stack:
        yield make()
    DummyClient().flush_all()


def close(app: Celery) -> None:
    """Close all connections of *app*."""
    # Not app.backend: a test may have shown that it can't be made.
    backend = app._backend_cache or getattr(app._local, "backend", None)
    cluster = vars(backend).get("__session_of_process") if backend else None
    if cluster is not None:
        cluster[1].cluster.shutdown()
    consumer = getattr(backend, "result_consumer", None)
    if consumer is not None:
        consumer.stop()
    manager = getattr(backend, "session_manager", None)
    if manager is not None:
        manager.invalidate(backend.url)
    app.close()
