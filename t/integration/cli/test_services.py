"""The files of ``examples/daemon``, which run workers as services."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t.harness.worker import PATIENCE_S, ROOT
from t.integration.cli.conftest import Program

pytestmark = pytest.mark.redis

Until = Callable[..., Any]

EXAMPLES = ROOT / "examples" / "daemon"


def variables(text: str) -> set[str]:
    """Return the names of the environment file that a text uses."""
    return set(re.findall(r"\b(?:CELERYD|CELERYBEAT|CELERY)_[A-Z_]+\b", text))


def test_the_environment_file_names_what_scripts_and_units_use() -> None:
    """B-CLI-058."""
    offered = variables((EXAMPLES / "celery.env").read_text())
    documented = variables((ROOT / "docs/userguide/daemonizing.rst").read_text())
    for name in ("celery-nodes", "celery@.service", "celerybeat.service"):
        used = variables((EXAMPLES / name).read_text()) - {"CELERY_ENV", "CELERYD_MULTI"}
        assert used <= offered, name
    assert {name for name in offered if not name.startswith("CELERYBEAT")} <= documented
    assert {
        "CELERYD_NODES", "CELERY_BIN", "CELERY_APP", "CELERYD_OPTS", "CELERYD_PID_FILE",
        "CELERYD_LOG_FILE", "CELERYD_LOG_LEVEL", "CELERYD_USER", "CELERYD_GROUP",
        "CELERY_CREATE_DIRS",
    } <= offered  # fmt: skip


class Service:
    """``celery-nodes`` with an environment file of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        folder = program.folder
        launcher = folder / "celery"
        launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m celery "$@"\n')
        launcher.chmod(0o755)
        self.pids = folder / "run"
        (folder / "celery.env").write_text(
            f"CELERY_BIN={launcher}\n"
            "CELERY_APP=proj\n"
            f"CELERYD_CHDIR={folder}\n"
            'CELERYD_NODES="fast slow"\n'
            'CELERYD_OPTS="-P solo -Q:slow reports"\n'
            f"CELERYD_PID_FILE={self.pids}/%n.pid\n"
            f"CELERYD_LOG_FILE={folder}/log/%n%I.log\n"
            "CELERY_CREATE_DIRS=1\n"
        )

    def run(self, word: str, code: int = 0) -> str:
        done = subprocess.run(
            [EXAMPLES / "celery-nodes", word],
            env={**self.program.env, "CELERY_ENV": str(self.program.folder / "celery.env")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def running(self) -> list[Path]:
        return sorted(self.pids.glob("*.pid"))


def test_workers_are_started_and_stopped_by_the_script(program: Program, until: Until) -> None:
    """B-CLI-058, B-CLI-048: nodes, files, options of one node, and folders that are made."""
    service = Service(program)
    assert "usage:" in service.run("", code=2)
    try:
        service.run("start")
        until(lambda: len(service.running()) == 2, "pid files")
        until(lambda: "2 nodes online." in program.run("status").stdout, "both workers")
        queues = program.output("inspect", "active_queues", "-j")
        assert queues.count('"name": "reports", "exchange"') == 1
        task = program.output("call", "proj.add", "-a", "[1, 2]").strip()
        assert program.output("result", task) == "3\n"
        assert "ready." in (program.folder / "log" / "slow.log").read_text()
    finally:
        pids = [int(file.read_text()) for file in service.running()]
        told = service.run("stop")
    assert told.count("DOWN") + told.count("OK") >= 2
    assert service.running() == []
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}")
