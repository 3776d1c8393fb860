"""The program ``celery`` in processes of its own, on Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t.harness.terminal import Terminal
from t.harness.worker import PATIENCE_S, ROOT, WorkerProcess

PROJECT = """
    import os
    from celery import Celery

    app = Celery("proj", broker=os.environ["T_BROKER"], backend=os.environ["T_BACKEND"])
    app.conf.result_expires = 600

    @app.task
    def add(x, y):
        return x + y

    @app.task
    def fail():
        raise ValueError("boom")
"""


class Program:
    """Runs ``celery`` in the folder of a project."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "T_BROKER": broker,
            "T_BACKEND": f"file://{folder / 'results'}",
        }
        (folder / "results").mkdir()
        (folder / "proj.py").write_text(textwrap.dedent(PROJECT), encoding="utf-8")

    def run(self, *words: str, input: str | None = None, app: str = "proj") -> Any:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", app, *words],
            cwd=self.folder,
            env=self.env,
            input=input,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )

    def output(self, *words: str, **options: Any) -> str:
        """Run a command that has to succeed; returns what it printed."""
        result = self.run(*words, **options)
        assert result.returncode == 0, result.stdout + result.stderr
        output: str = result.stdout
        return output

    def worker(self, *options: str) -> WorkerProcess:
        """Return a worker, to be used as a context."""
        return WorkerProcess(*options, conf={}, app="proj", cwd=self.folder, env=self.env)


def terminal(program: Program, *words: str, **env: str) -> Terminal:
    """Return a command on a terminal of 80 columns, to be used as a context."""
    return Terminal(
        [sys.executable, "-m", "celery", "-A", "proj", *words],
        cwd=program.folder,
        env={**program.env, "TERM": "xterm", "LANG": "C.UTF-8", "NO_COLOR": "1", **env},
    )


def shown(program: Program, *words: str, code: int = 0, **env: str) -> str:
    """Return what a command shows that ends with *code*."""
    with terminal(program, *words, **env) as screen:
        assert screen.wait() == code, screen.output()
        return screen.text()


@pytest.fixture
def program(tmp_path: Path, redis_url: str) -> Program:
    """The program in a new folder, with an empty broker."""
    return Program(tmp_path, redis_url)


@pytest.fixture
def worker(program: Program) -> Iterator[WorkerProcess]:
    """A worker w1@lab that is ready."""
    with program.worker("-n", "w1@lab", "-P", "solo") as worker:
        yield worker


def wait_until(claim: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Return the first true answer of *claim*."""
    end, pause = time.monotonic() + timeout_s, threading.Event()
    while time.monotonic() < end:
        answer = claim()
        if answer:
            return answer
        pause.wait(0.02)
    raise AssertionError(f"waited {timeout_s} s for {what}")


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a claim to become true."""
    return wait_until
