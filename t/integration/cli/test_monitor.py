"""``celery events`` on a terminal of 80 columns, with real workers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t.harness.servers import RedisServer
from t.harness.terminal import Terminal
from t.harness.worker import eventually
from t.integration.cli.conftest import Program

pytestmark = pytest.mark.redis


def monitor(program: Program, **size: int) -> Terminal:
    return Terminal(
        [sys.executable, "-m", "celery", "-A", "proj", "events"],
        cwd=program.folder,
        env={**program.env, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        **size,
    )


@pytest.fixture
def redis(tmp_path: Path) -> Any:
    with RedisServer() as server:
        yield server


@pytest.fixture
def program(tmp_path: Path, redis: RedisServer) -> Program:
    """The program on a broker that may be stopped."""
    return Program(tmp_path, redis.url)


def test_tasks_are_watched_and_commanded(program: Program, redis: RedisServer) -> None:
    """B-EVT-016: without an option a monitor in the terminal starts."""
    with (
        program.worker("-n", "w1@lab", "-P", "threads", "-c", "2") as worker,
        monitor(program) as screen,
    ):
        screen.wait_for("workers 1/1", "no tasks yet")
        screen.press("e")
        screen.wait_for("w1@lab: OK", "task events enabled")
        screen.press("q")  # any key goes back
        screen.wait_for("TASK", gone="task events enabled")

        program.output("call", "proj.add", "-a", "[40, 2]")
        screen.wait_for("proj.add", "SUCCESS 1", "w1@lab", "result=42")
        program.output("call", "proj.fail")
        screen.wait_for("proj.fail", "FAILURE 1")

        screen.press("i")
        screen.wait_for("exception    ValueError('boom')", "args         []")
        screen.press("q")
        screen.wait_for("TASK", "RUNTIME")
        screen.press("j")
        screen.wait_for("Selected: args=[40, 2]")
        screen.press("l")
        screen.wait_for("Rate limit of proj.add")
        screen.press("7/m\r")
        screen.wait_for("new rate limit set successfully")
        screen.press("q")
        screen.wait_for("TASK", "RUNTIME")
        screen.press("w")
        screen.wait_for("WORKER", "online")
        screen.press("n")
        screen.wait_for("About w1@lab", "ran proj.add 1", "queues celery")
        screen.press("q")
        screen.press("w")
        shown = screen.wait_for("TASK", "RUNTIME")
        assert max(map(len, shown.splitlines())) <= 80

        screen.resize(12, 60)
        eventually(lambda: len(screen.text().splitlines()) == 12)
        screen.wait_for("TASK", "proj.add")
        screen.resize(30, 120)
        eventually(lambda: len(screen.text().splitlines()) == 30)

        redis.stop()
        screen.wait_for("no broker")
        redis.start()
        screen.wait_for("TASK", gone="no broker")
        worker.wait_for("Connected to", times=2)
        program.output("call", "proj.fail")
        screen.wait_for("FAILURE 2")

        screen.press("q")
        assert screen.wait() == 0


def test_a_task_is_ended_from_the_screen(program: Program, until: Callable[..., Any]) -> None:
    (program.folder / "proj.py").write_text(
        (program.folder / "proj.py").read_text()
        + "\nimport time\n@app.task\ndef nap(s):\n    time.sleep(s)\n"
    )
    with program.worker("-n", "w1@lab", "-c", "1", "-E") as worker, monitor(program) as screen:
        screen.wait_for("workers 1/1")
        program.output("call", "proj.nap", "-a", "[600]")
        screen.wait_for("proj.nap", "STARTED 1")
        screen.press("x")
        screen.wait_for("Terminate", "[y/N]")
        # While it asks, the screen follows the terminal.
        screen.resize(20, 100)
        eventually(lambda: len(screen.text().splitlines()) == 20)
        screen.wait_for("proj.nap", "[y/N]")
        screen.press("y")
        screen.wait_for("w1@lab: OK", "terminate:")
        screen.press("q")
        screen.wait_for("REVOKED 1")
        worker.wait_for("Terminating")

        screen.press("l")
        screen.wait_for("Rate limit of proj.nap")
        screen.press("\x03")
        assert screen.wait() == 0
