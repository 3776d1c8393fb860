"""Emulators that come from npm, kept in a folder of their own (``.npm-emulators``).

Installed when a test first needs one. None of them runs scripts while it is installed.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

from t.harness.servers import missing, require_program

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("EMULATORS_NPM") or ROOT / ".npm-emulators")

#: Programs and modules, and the packages that bring them.
PACKAGES = {
    "azurite": "azurite@3.37.0",
}


def module(name: str) -> Path:
    """Return the folder of a package, installed by now, and with it all that it needs."""
    found = HOME / "node_modules" / name
    if not (found / "package.json").is_file():
        # Test runs beside this one may want it too.
        with HOME.with_name(f"{HOME.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (found / "package.json").is_file():
                _install(name)
    return found


def program(name: str) -> str:
    """Return the path of a program, installed by now."""
    module(name)
    return str(HOME / "node_modules" / ".bin" / name)


def _install(name: str) -> None:
    npm = require_program("npm")
    require_program("node")
    HOME.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            npm, "install", "--prefix", str(HOME), "--ignore-scripts", "--no-audit", "--no-fund",
            "--loglevel", "error", PACKAGES[name],
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        missing(f"{name} cannot be installed: {done.stderr[-500:]}")
