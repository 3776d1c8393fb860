"""Servers that are brokers and nothing else to the tests."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.emulators import Emulator, answers, program
from t.harness.servers import (
    Server,
    accepts_connections,
    ask,
    free_port,
    missing,
    require_program,
)


class EtcdServer(Server):
    """etcd, with the second version of its interface, which the driver speaks."""

    program = "etcd"

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.peer_port = free_port()

    def command(self) -> list[str]:
        """Return the command line."""
        here, peers = (f"http://127.0.0.1:{port}" for port in (self.port, self.peer_port))
        return [
            require_program(self.program), "--name", "n1", "--data-dir", str(self.folder / "data"),
            "--enable-v2=true", "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"n1={peers}", *self.options,
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Ask for its health."""
        return answers(f"http://127.0.0.1:{self.port}/health")


class ZooKeeperServer(Server):
    """ZooKeeper."""

    program = "zkServer.sh"
    SCRIPTS = Path("/usr/share/zookeeper/bin")

    def require(self) -> None:
        """Skip the test where it is missing."""
        if not (self.SCRIPTS / self.program).is_file():
            missing("ZooKeeper is not installed")
        require_program("java")

    def prepare(self) -> None:
        """Write the configuration."""
        (self.folder / "zoo.cfg").write_text(
            f"tickTime=2000\ndataDir={self.folder}/data\nclientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\n"
            "4lw.commands.whitelist=ruok\n"
        )

    def environment(self) -> dict[str, str]:
        """Return the environment, with its folders."""
        return {**os.environ, "ZOOCFGDIR": str(self.folder), "ZOO_LOG_DIR": str(self.folder)}

    def command(self) -> list[str]:
        """Return the command line."""
        script = str(self.SCRIPTS / self.program)
        return [script, "start-foreground", str(self.folder / "zoo.cfg")]

    def is_ready(self) -> bool:
        """Ask whether it is well."""
        return ask(self.port, b"ruok") == b"imok"


class KafkaServer(Emulator):
    """Kafka, as noida-db has it."""

    program = "noida-db"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            program(self.program), "start", "--host", "127.0.0.1", "--data-dir", str(self.folder),
            "--only", "kafka", "--kafka-port", str(self.port),
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Listen."""
        return accepts_connections(self.port)


class PubSubServer(Server):
    """Google Pub/Sub: the emulator of its vendor, where Google's programs are installed."""

    program = "pubsub"
    JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"

    def jar(self) -> str | None:
        """Return the path of the emulator, None where it is not installed."""
        gcloud = shutil.which("gcloud")
        folders = [Path(gcloud).resolve().parents[1]] if gcloud else []
        folders += [Path("/usr/lib/google-cloud-sdk"), Path("/opt/google-cloud-sdk")]
        found = [path for folder in folders for path in sorted(glob.glob(str(folder / self.JAR)))]
        return found[-1] if found else None

    def require(self) -> None:
        """Skip the test where it is missing."""
        require_program("java")
        if self.jar() is None:
            missing("the emulator of Google Pub/Sub is not installed")

    def command(self) -> list[str]:
        """Return the command line."""
        where = ["--host=127.0.0.1", f"--port={self.port}"]
        return [require_program("java"), "-Xmx256m", "-jar", str(self.jar()), *where]

    def is_ready(self) -> bool:
        """Ask it something."""
        return answers(f"http://127.0.0.1:{self.port}/")


def install_pgmq(url: str) -> None:
    """Make the tables and functions of PGMQ in a database, where there is no extension of it."""
    import psycopg

    install = pytest.importorskip("pgmq.install")
    with psycopg.connect(url.replace("postgresql+psycopg2", "postgresql"), autocommit=True) as db:
        db.execute(install.get_embedded_install_sql())


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """One etcd for the run."""
    with EtcdServer() as server:
        yield server


@pytest.fixture(scope="session")
def zookeeper_server() -> Iterator[ZooKeeperServer]:
    """One ZooKeeper for the run."""
    with ZooKeeperServer() as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[KafkaServer]:
    """One emulator of Kafka for the run."""
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="session")
def pubsub_server() -> Iterator[PubSubServer]:
    """One emulator of Google Pub/Sub for the run."""
    with PubSubServer() as server:
        yield server
