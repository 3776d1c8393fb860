"""Stand-ins of ``t.standins`` as servers for tests; see there for what they prove."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.servers import Server

ROOT = Path(__file__).resolve().parents[2]


class StandIn(Server):
    """A server of ``t/standins``. It keeps nothing when it ends."""

    #: Module of it.
    program = ""
    #: Of its URL, for ``result_backend``.
    scheme = ""

    @property
    def url(self) -> str:
        """URL for ``result_backend``, without a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def require(self) -> None:
        """It is always there."""

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", f"t.standins.{self.program}", str(self.port)]

    def environment(self) -> dict[str, str]:
        """Return the environment: ours, with this tree as where modules are."""
        return {**os.environ, "PYTHONPATH": str(ROOT)}


class HttpStandIn(StandIn):
    """One that speaks HTTP; tests can turn its clock."""

    def pass_time(self, seconds: float) -> None:
        """Let it believe that so much time has passed."""
        url = f"http://127.0.0.1:{self.port}/standin/pass-time"
        request = urllib.request.Request(url, data=str(seconds).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass


class ConsulStandIn(HttpStandIn):
    """What we know of Consul."""

    program = scheme = "consul"


class CouchbaseStandIn(StandIn):
    """What we know of Couchbase."""

    program = scheme = "couchbase"

    @property
    def url(self) -> str:
        """URL for ``result_backend``, without a bucket."""
        return f"couchbase://ann:secret@127.0.0.1:{self.port}"


class RiakStandIn(HttpStandIn):
    """What we know of Riak KV."""

    program = scheme = "riak"


class ArangoStandIn(HttpStandIn):
    """What we know of ArangoDB."""

    program = scheme = "arangodb"


class FirestoreStandIn(StandIn):
    """What we know of Firestore."""

    program = "firestore"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def firestore_standin() -> Iterator[FirestoreStandIn]:
    """One stand-in of Firestore for the run."""
    with FirestoreStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def consul_standin() -> Iterator[ConsulStandIn]:
    """One stand-in of Consul for the run."""
    with ConsulStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def arangodb_standin() -> Iterator[ArangoStandIn]:
    """One stand-in of ArangoDB for the run."""
    with ArangoStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def couchbase_standin() -> Iterator[CouchbaseStandIn]:
    """One stand-in of Couchbase for the run."""
    with CouchbaseStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def riak_standin() -> Iterator[RiakStandIn]:
    """One stand-in of Riak KV for the run."""
    with RiakStandIn() as server:
        yield server
