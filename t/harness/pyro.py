"""The broker of kombu's Pyro transport and the name server that it is found by, in one process.

``python -m t.harness.pyro HOST`` runs both.
"""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Iterator

import pytest

from t.harness.servers import Server, missing
from t.harness.standins import ROOT

#: Where the transport looks for the name server, whatever the URL says.
PORT = 9090
NAME = "kombu.broker"


class PyroServer(Server):
    """A broker, with an address of its own on loopback, as its port is not ours to choose."""

    program = "pyro"

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.host = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.1"

    @property
    def url(self) -> str:
        """URL for ``broker_url``."""
        return f"pyro://{self.host}/{NAME}"

    def require(self) -> None:
        """Skip where its package is missing, see `missing`."""
        try:
            import Pyro4  # noqa: F401 - only whether it is there
        except ImportError:
            missing("Pyro4 is not installed")

    def command(self) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-m", "t.harness.pyro", self.host]

    def environment(self) -> dict[str, str]:
        """Return the environment: ours, with this tree as where modules are."""
        return {**super().environment(), "PYTHONPATH": str(ROOT)}

    def is_ready(self) -> bool:
        """Listen; what is asked now is answered once all is there."""
        try:
            socket.create_connection((self.host, PORT), timeout=1).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def pyro_server() -> Iterator[PyroServer]:
    """One broker over Pyro for the run."""
    with PyroServer() as server:
        yield server


def serve(host: str) -> None:
    """Run the name server, and in it the broker."""
    from kombu.transport.pyro import KombuBroker
    from Pyro4.naming import NameServerDaemon

    with NameServerDaemon(host, PORT) as daemon:
        uri = daemon.register(KombuBroker, NAME)
        daemon.nameserver.register(NAME, uri)
        daemon.requestLoop()


if __name__ == "__main__":
    serve(sys.argv[1])
