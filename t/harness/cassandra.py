"""A stand-in for Cassandra, see `t.standins.cassandra`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t.harness.servers import Server

ROOT = Path(__file__).resolve().parents[2]


class CassandraStandIn(Server):
    """One node; it keeps its tables when it is restarted, without their rows."""

    program = "cassandra-stand-in"

    def require(self) -> None:
        """Do nothing: it is a part of these tests."""

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "t.standins.cassandra", str(self.port)]

    def environment(self) -> dict[str, str]:
        """Return the environment."""
        return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def cassandra_standin() -> Iterator[CassandraStandIn]:
    """One stand-in for Cassandra for the run."""
    with CassandraStandIn() as server:
        yield server
