"""Fixtures of the tests of transports."""

from __future__ import annotations

from pathlib import Path

import pytest

from t.harness.certificates import make_certificate


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for the loopback address, and its key."""
    return make_certificate(tmp_path)
