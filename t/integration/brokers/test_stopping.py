"""What becomes of messages that a worker took and has not begun, where taking removes them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from t.harness.worker import eventually
from t.integration.brokers.table import CASES
from t.integration.worker.conftest import Project


def test_an_orderly_stop_puts_back_what_has_not_begun(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """B-BROK-006."""
    [case] = [case for case in CASES if case.id == "filesystem"]
    project = Project("", tmp_path)
    project.conf.update(case.settings(request, tmp_path))
    try:
        worker = project.worker("-c1", "--prefetch-multiplier=4")
        gate = project.gate()
        project.send("gated", str(project.journal), "a", str(gate))
        project.journal.wait_for("begin a")
        for _ in range(3):
            project.send("add", 1, 1)
        worker.wait_for(r"Task add\[.*received", times=3)
        assert project.queue_length() == 0

        worker.signal(signal.SIGTERM)
        worker.wait_for("Warm shutdown")
        gate.touch()
        assert worker.wait() == 0
        assert "end a" in project.journal.lines
        assert eventually(project.queue_length) == 3
    finally:
        project.close()
