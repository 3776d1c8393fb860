"""The reference implementation in a virtual environment of its own, as a black box."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = "celery[redis]==5.7.0"
FLOWER = "flower>=2,<3"
EXTRAS = (
    "pyyaml", "msgpack", "sqlalchemy",
    # Drivers of stores.
    "boto3", "cassandra-driver", "Django", "django-celery-results", "elasticsearch>=8,<9",
    "google-cloud-firestore", "google-cloud-storage", "psycopg2-binary",
    "pymemcache", "pymongo", "python-consul2",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests the time to make an environment, which the first that needs it does."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def reference_python() -> str:
    """Interpreter with the reference implementation; the environment is made on first use."""
    home = Path(os.environ.get("INTEROP_VENV") or ROOT / ".venv-interop")
    python = home / "bin" / "python"
    stamp = home / ".complete"
    wanted = "\n".join((REFERENCE, *EXTRAS))
    if not stamp.exists() or stamp.read_text() != wanted:
        if not python.exists():
            venv.create(home, with_pip=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", REFERENCE, *EXTRAS], check=True, timeout=600
        )
        stamp.write_text(wanted)
    return str(python)


@pytest.fixture(scope="session")
def our_python() -> str:
    """Interpreter with this implementation."""
    return sys.executable


@pytest.fixture(scope="session")
def flower_python() -> str:
    """Interpreter with Flower from PyPI and this implementation; made on first use."""
    home = Path(os.environ.get("INTEROP_FLOWER_VENV") or ROOT / ".venv-flower")
    python = home / "bin" / "python"
    stamp = home / ".complete"
    if not stamp.exists():
        venv.create(home, with_pip=True, clear=True)
        # Our package satisfies what Flower asks for, so pip gets no other.
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[redis]", FLOWER],
            check=True,
            timeout=600,
        )
        stamp.touch()
    return str(python)
