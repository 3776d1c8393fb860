"""Emulators that come from npm, kept in a folder of their own (``.npm-emulators``).

They are large, and take minutes to install, so an ordinary run uses what is there and skips the
rest, with the command that would get it; ``make stores`` installs all and then skips nothing.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from t.harness.servers import Server, missing, require_program

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
