"""Servers that stand for services of Google, see `emulators`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.emulators import Emulator, answers, program
from t.harness.servers import Server, find_program, require_program


class GcsServer(Emulator):
    """Google Cloud Storage, as fake-gcs-server has it."""

    program = "fake-gcs-server-linux-amd64"

    @property
    def url(self) -> str:
        """URL of the service."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            program(self.program), "-scheme", "http", "-host", "127.0.0.1", "-port",
            str(self.port), "-backend", "memory", "-public-host", f"127.0.0.1:{self.port}",
        ]  # fmt: skip

    def make_bucket(self, name: str) -> None:
        """Make a bucket; one of that name may be there."""
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b",
            method="POST",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=60).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise

    def is_ready(self) -> bool:
        """Ask for its buckets."""
        return answers(f"{self.url}/storage/v1/b")


class FirestoreServer(Server):
    """Firestore: the emulator of its vendor, which comes with gcloud and needs Java."""

    program = "java"
    JAR = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
    MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"

    @classmethod
    def jar(cls) -> Path | None:
        """Return where the emulator is, None where it is not."""
        gcloud = find_program("gcloud")
        if gcloud is None or find_program(cls.program) is None:
            return None
        homes = (Path(gcloud).resolve().parents[1], Path("/usr/lib/google-cloud-sdk"))
        return next((home / cls.JAR for home in homes if (home / cls.JAR).is_file()), None)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            require_program(self.program), "-Xmx256m", "-cp", str(self.jar()), self.MAIN, "start",
            "--host=127.0.0.1", f"--port={self.port}",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Ask whether it is there."""
        return answers(f"http://{self.address}/")


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """One emulator of Google Cloud Storage for the run."""
    with GcsServer() as server:
        yield server


@pytest.fixture(scope="session")
def firestore_server() -> Iterator[FirestoreServer]:
    """One emulator of Firestore for the run.

    It cannot be installed by itself, so where it is missing tests are skipped, in CI too.
    """
    if FirestoreServer.jar() is None:
        pytest.skip("the emulator of Firestore, a part of gcloud, is not installed")
    with FirestoreServer() as server:
        yield server
