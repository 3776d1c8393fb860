"""Result back-ends of other services, without the services: URLs, missing drivers, secrets."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import types

import pytest
from pycouchdb.exceptions import Conflict

from celery import Celery
from celery.backends._versioned import Stored, VersionedBackend, once_per_process
from celery.exceptions import BackendStoreError, ImproperlyConfigured

#: Name, what its URL may look like, the driver as the module calls it, and as it is installed.
STORES = {
    "couchdb": ("couchdb://ann:s3cret@store:1234/jobs", "pycouchdb", "pycouchdb"),
    "arangodb": ("arangodb://ann:s3cret@store:1234/jobs/results", "pyArango", "pyArango"),
    "azureblockblob": (
        "azureblockblob://AccountName=ann;AccountKey=s3cret;",
        "azurestorage",
        "azure-storage-blob",
    ),
    "couchbase": ("couchbase://ann:s3cret@store:1234/jobs", "couchbase", "couchbase"),
    "cosmosdbsql": ("cosmosdbsql://:s3cret@store:1234", "pydocumentdb", "pydocumentdb"),
    "riak": ("riak://ann:s3cret@store:1234/jobs", "requests", "requests"),
    "consul": ("consul://:s3cret@store:1234/jobs", "consul", "python-consul2"),
}


def make(url, **settings):
    app = Celery("stores", broker="memory://", backend=url, set_as_current=False)
    app.conf.update(settings)
    return app.backend


@pytest.fixture(params=STORES)
def store(request):
    return request.param


def test_a_missing_driver_is_named_with_the_command_that_gets_it(store, monkeypatch):
    """B-BACK-004."""
    url, driver, package = STORES[store]
    module = importlib.import_module(f"celery.backends.{store}")
    monkeypatch.setattr(module, driver, None)

    with pytest.raises(ImproperlyConfigured) as error:
        make(url)

    assert f"pip install 'celery[{store}]'" in str(error.value)
    assert f"the package {package}:" in str(error.value)


def test_the_secret_is_shown_to_nobody(store):
    backend = make(STORES[store][0])

    assert "s3cret" not in backend.as_uri()
    assert "s3cret" not in repr(backend)
    assert "s3cret" in backend.as_uri(include_password=True)


def test_a_backend_is_pickled_with_its_url(store):
    backend = make(STORES[store][0])

    copy = pickle.loads(pickle.dumps(backend))

    assert type(copy) is type(backend)
    assert copy.url == backend.url


def test_couchdb_takes_everything_from_the_url():
    backend = make("couchdb://ann:s3%40cret@store:1234/jobs")
    assert (backend.scheme, backend.host, backend.port) == ("http", "store", 1234)
    assert (backend.username, backend.password, backend.container) == ("ann", "s3@cret", "jobs")

    backend = make("couchdb://")
    assert (backend.host, backend.port, backend.container) == ("localhost", 5984, "default")
    assert make("couchdb+https://store/jobs").scheme == "https"


@pytest.mark.parametrize("error", [None, Conflict("rewritten")])
def test_cleaning_couchdb_ends_with_what_may_not_be_deleted(error):
    asked = []

    class Database:
        @property
        def resource(self):
            return self

        def post(self, path, data):
            asked.append(path)
            if path == "_bulk_docs" and error is not None:
                raise error
            return None, {"docs": [{"_id": "a", "_rev": "1"}]}

    backend = make("couchdb://store")
    backend._connection_of_process = (os.getpid(), Database())
    backend.cleanup()

    assert asked == ["_find", "_bulk_docs", "_find"]


def test_consul_takes_everything_from_the_url():
    backend = make("consul://:t0ken@store:1234/jobs/results")
    assert (backend.hostname, backend.port, backend.path) == ("store", 1234, "jobs/results")
    client = backend.client()
    assert client.token == "t0ken"
    assert client.http.base_uri == "http://store:1234"
    assert client.http.timeout is not None
    assert backend.client() is client

    assert make("consul+https://store/jobs").client().http.base_uri == "https://store:8500"


def test_a_url_of_azure_is_a_connection_string_and_has_its_secrets_masked():
    sas = "azureblockblob://BlobEndpoint=https://x.blob;SharedAccessSignature=sv=2&sig=s3cret"
    assert make(sas).as_uri().endswith("SharedAccessSignature=**")

    backend = make(
        "azureblockblob://AccountName=ann;AccountKey=czNjcmV0;EndpointSuffix=core.windows.net",
        azureblockblob_container_name="results",
        azureblockblob_read_timeout=7,
    )
    container = backend._container
    assert container.url == "https://ann.blob.core.windows.net/results"
    assert container._config.retry_policy.total_retries == 3
    with pytest.raises(ImproperlyConfigured, match="azureblockblob://"):
        make("azureblockblob://")


def test_azure_takes_a_credential_by_its_name(monkeypatch):
    backend = make("azureblockblob://DefaultAzureCredential@https://ann.blob.core.windows.net")
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ImproperlyConfigured, match=r"azure-identity.*celery\[azureblockblob\]"):
        backend.get("key")

    class Credential:
        def get_token(self, *scopes, **options):
            raise AssertionError("nothing is sent here")

    identity = types.ModuleType("azure.identity")
    identity.DefaultAzureCredential = Credential
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    monkeypatch.setattr(sys.modules["azure"], "identity", identity, raising=False)
    container = backend._container
    assert container.url == "https://ann.blob.core.windows.net/celery"
    assert type(container.credential) is Credential


def test_cosmosdb_takes_its_host_and_key_from_the_url():
    backend = make("cosmosdbsql://:k%2Fy%3D@ann.documents.azure.com")
    assert (backend._endpoint, backend._master_key) == (
        "https://ann.documents.azure.com:443",
        "k/y=",
    )
    assert make("cosmosdbsql://:k@store:8081")._endpoint == "http://store:8081"
    with pytest.raises(ImproperlyConfigured, match="there is no level 'Best'"):
        make("cosmosdbsql://:k@store", cosmosdbsql_consistency_level="Best")
    with pytest.raises(ImproperlyConfigured, match="cosmosdbsql://"):
        make("cosmosdbsql://")


def test_couchbase_takes_the_url_before_the_settings():
    settings = {"host": "other", "port": 9, "bucket": "B", "username": "bob", "password": "x"}

    backend = make("couchbase", couchbase_backend_settings=settings)
    assert (backend.host, backend.port, backend.bucket) == ("other", 9, "B")
    assert (backend.username, backend.password) == ("bob", "x")

    backend = make("couchbase://ann:s3%40cret@store:1234/jobs", couchbase_backend_settings=settings)
    assert (backend.host, backend.port, backend.bucket) == ("store", 1234, "jobs")
    assert (backend.username, backend.password) == ("ann", "s3@cret")

    with pytest.raises(ImproperlyConfigured, match="couchbase_backend_settings"):
        make("couchbase://", couchbase_backend_settings=5)


def test_riak_takes_everything_from_the_url():
    backend = make("riak://ann:s3%40cret@store:1234/jobs")
    assert backend._base == "http://store:1234/types/default/buckets/jobs/keys"
    assert backend.client.auth == ("ann", "s3@cret")

    backend = make("riak+https://store/steady/jobs")
    assert backend._base == "https://store:8098/types/steady/buckets/jobs/keys"
    assert make("riak://")._base == "http://localhost:8098/types/default/buckets/celery/keys"


@pytest.mark.parametrize(("expires", "life"), [(1, 10), (600, 600), (None, None), (0, None)])
def test_consul_keeps_results_as_long_as_a_session_may_live(expires, life):
    assert make("consul://store", result_expires=expires)._life == life


def test_consul_says_that_it_keeps_results_for_a_day_at_most():
    with pytest.warns(UserWarning, match="a day at most"):
        assert make("consul://store", result_expires=90_000)._life == 86_400


def test_arangodb_takes_the_url_before_the_settings():
    settings = {"host": "other", "port": 9, "username": "bob", "password": "x", "verify": True}
    settings |= {"database": "D", "collection": "C"}

    backend = make("arangodb", arangodb_backend_settings=settings)
    assert backend.arangodb_url == "http://other:9"
    assert (backend.database, backend.collection, backend.verify) == ("D", "C", True)

    url = "arangodb+https://ann:s3%40cret@store:1234/jobs/results"
    backend = make(url, arangodb_backend_settings=settings)
    assert backend.arangodb_url == "https://store:1234"
    assert (backend.database, backend.collection) == ("jobs", "results")
    assert (backend.username, backend.password, backend.verify) == ("ann", "s3@cret", True)

    backend = make("arangodb://")
    assert backend.arangodb_url == "http://127.0.0.1:8529"
    assert (backend.database, backend.collection) == ("celery", "celery")


def test_settings_of_arangodb_are_a_mapping():
    with pytest.raises(ImproperlyConfigured, match="arangodb_backend_settings"):
        make("arangodb://", arangodb_backend_settings=5)


# -- Writing on condition


class Versions(VersionedBackend):
    """Versions in memory; *interfere* is called before each write."""

    def __init__(self, app):
        super().__init__(app)
        self.kept = {}
        self.requests = []
        self.interfere = lambda: None

    def load(self, key):
        self.requests.append("load")
        return self.kept.get(key)

    def replace(self, key, value, version):
        self.requests.append("replace")
        self.interfere()
        before = self.kept.get(key)
        if (before and before.version) != version:
            return False
        self.kept[key] = Stored(value, (version or 0) + 1)
        return True

    def delete(self, key):
        self.kept.pop(key, None)


@pytest.fixture
def versions(app):
    return Versions(app)


def test_the_first_result_costs_one_request(versions):
    versions.mark_as_done("id", 4)

    assert versions.requests == ["replace"]


def test_a_result_that_has_to_stay_costs_two_and_is_not_written(versions):
    """B-RES-009."""
    versions.mark_as_done("id", 4)
    versions.requests.clear()
    versions.mark_as_failure("id", ValueError("late"))

    assert versions.requests == ["replace", "load"]
    assert versions.get_result("id") == 4


def test_a_success_that_comes_between_reading_and_writing_stays(versions, app):
    """B-RES-009."""
    versions.store_result("id", None, "STARTED")
    rival = Versions(app)
    rival.kept = versions.kept

    def interfere():
        if versions.requests == ["replace", "load", "replace"]:
            rival.mark_as_done("id", "first")

    versions.requests.clear()
    versions.interfere = interfere
    versions.mark_as_failure("id", ValueError("late"))

    assert versions.get_result("id") == "first"


def test_a_value_that_never_holds_still_is_an_error_and_no_silent_loss(versions, monkeypatch):
    monkeypatch.setattr("celery.backends._versioned.PAUSE_S", 0)
    monkeypatch.setattr(versions, "replace", lambda *_: False)

    with pytest.raises(BackendStoreError):
        versions.mark_as_done("id", 4)


def test_a_group_is_written_whatever_is_there(versions, app):
    for size in (1, 2):
        members = [app.AsyncResult(str(number)) for number in range(size)]
        app.GroupResult("group", members).save(backend=versions)

    assert len(versions.restore_group("group", cache=False)) == 2


def test_a_client_is_made_anew_in_a_forked_child():
    class Owner:
        @once_per_process
        def client(self):
            return object()

    owner = Owner()
    first = owner.client
    assert owner.client is first
    pid = os.fork()
    if pid == 0:
        os._exit(0 if owner.client is not first else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert owner.client is first
