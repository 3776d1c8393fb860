"""Emulators that come from npm, kept in a folder of their own (``.npm-emulators``).

They are large, and take minutes to install, so an ordinary run uses what is there and skips the
rest, with the command that would get it; ``make stores`` installs all and then skips nothing.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.emulators import answers
from t.harness.servers import Server, free_port, missing, require_program

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("NPM_EMULATORS") or ROOT / ".npm-emulators")
MODULES = HOME / "node_modules"

#: Set to have missing emulators installed, and to fail where that does not work.
INSTALL = "T_STORES"

#: Folders of packages, and the versions that were tried.
PACKAGES = {
    "azurite": "azurite@3.37.0",
    "pouchdb-server": "pouchdb-server@4.2.0",
    "@vercel/cosmosdb-server": "@vercel/cosmosdb-server@1.0.1",
}


def package(name: str) -> Path:
    """Return the folder of a package that is installed by now, or skip the test."""
    folder = MODULES / name
    stamp = HOME / f".{name.replace('/', '-')}.complete"
    if stamp.exists():
        return folder
    if not os.environ.get(INSTALL):
        pytest.skip(f"{name} from npm is not installed: {INSTALL}=1 does that, and `make stores`")
    HOME.mkdir(parents=True, exist_ok=True)
    # Test runs beside this one may want it too.
    with HOME.with_name(f"{HOME.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists():
            _install(name)
            stamp.touch()
    return folder


def _install(name: str) -> None:
    done = subprocess.run(
        [
            require_program("npm"), "install", "--prefix", str(HOME), "--no-audit", "--no-fund",
            "--ignore-scripts", "--loglevel=error", PACKAGES[name],
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        missing(f"{name} cannot be installed: {done.stderr[-500:]}")


class NodeServer(Server):
    """A server that runs on Node.js. It keeps nothing when it ends."""

    #: Package that it comes from; `Server.program` names its command.
    package = ""

    def require(self) -> None:
        """Skip the test where it is missing."""
        package(self.package)
        require_program("node")

    def script(self) -> list[str]:
        """Return the beginning of the command line."""
        return [require_program("node"), str(MODULES / ".bin" / self.program)]


def _speaks_http(url: str) -> bool:
    """Say whether there is an answer, be it that this is not allowed."""
    try:
        with urllib.request.urlopen(url, timeout=20):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


class CouchServer(NodeServer):
    """CouchDB, as PouchDB Server has it."""

    package = "pouchdb-server"
    program = "pouchdb-server"

    @property
    def url(self) -> str:
        """URL for ``result_backend``, without a database."""
        return f"couchdb://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [*self.script(), "-o", "127.0.0.1", "-p", str(self.port), "-m", "-n"]

    def is_ready(self) -> bool:
        """Ask who it is."""
        return answers(f"http://127.0.0.1:{self.port}/")


class AzuriteServer(NodeServer):
    """Blobs and queues of Azure Storage, as the vendor's Azurite has them."""

    package = "azurite"
    program = "azurite"
    #: Of the one account that it has, as everybody knows.
    ACCOUNT = "devstoreaccount1"
    KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.queue_port = free_port()
        self.table_port = free_port()

    @property
    def url(self) -> str:
        """URL for ``result_backend``."""
        return (
            "azureblockblob://DefaultEndpointsProtocol=http;"
            f"AccountName={self.ACCOUNT};AccountKey={self.KEY};"
            f"BlobEndpoint=http://127.0.0.1:{self.port}/{self.ACCOUNT};"
        )

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            *self.script(), "--location", str(self.folder), "--silent", "--disableTelemetry",
            "--skipApiVersionCheck",
            "--blobHost", "127.0.0.1", "--blobPort", str(self.port),
            "--queueHost", "127.0.0.1", "--queuePort", str(self.queue_port),
            "--tableHost", "127.0.0.1", "--tablePort", str(self.table_port),
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Ask all its services."""
        return all(
            _speaks_http(f"http://127.0.0.1:{port}/{self.ACCOUNT}?comp=list")
            for port in (self.port, self.queue_port)
        )


class CosmosServer(NodeServer):
    """Cosmos DB, as @vercel/cosmosdb-server has it."""

    package = "@vercel/cosmosdb-server"
    program = "cosmosdb-server"

    @property
    def url(self) -> str:
        """URL for ``result_backend``."""
        return f"cosmosdbsql://:a2V5@127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        launcher = str(Path(__file__).with_name("cosmos.js"))
        return [require_program("node"), launcher, str(self.port)]

    def environment(self) -> dict[str, str]:
        """Return the environment: ours, and where the package is."""
        return {**os.environ, "NODE_PATH": str(MODULES)}

    def is_ready(self) -> bool:
        """Ask for its account."""
        return answers(f"http://127.0.0.1:{self.port}/")


@pytest.fixture(scope="session")
def couch_server() -> Iterator[CouchServer]:
    """One emulator of CouchDB for the run."""
    with CouchServer() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server() -> Iterator[AzuriteServer]:
    """One emulator of Azure Storage for the run."""
    with AzuriteServer() as server:
        yield server


@pytest.fixture(scope="session")
def cosmos_server() -> Iterator[CosmosServer]:
    """One emulator of Cosmos DB for the run."""
    with CosmosServer() as server:
        yield server
