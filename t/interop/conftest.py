"""The reference implementation in a virtual environment of its own, as a black box."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from t.interop.environments import THIS, interpreter

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
    """Interpreter with the reference implementation."""
    return interpreter(".venv-interop", "INTEROP_VENV", REFERENCE, *EXTRAS)


@pytest.fixture(scope="session")
def our_python() -> str:
    """Interpreter with this implementation."""
    return sys.executable


@pytest.fixture(scope="session")
def flower_python() -> str:
    """Interpreter with Flower from PyPI and this implementation."""
    return interpreter(".venv-flower", "INTEROP_FLOWER_VENV", *THIS, FLOWER)
