"""Workers and clients of either implementation, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

APPS = Path(__file__).parent / "apps"
READY_S = 60.0
CLIENT_S = 180.0
STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where an app sends its messages and reads its results."""

    broker: str
    backend: str
    queue: str = "celery"

    def environment(self) -> dict[str, str]:
        """The environment in which ``interop_app`` uses this site."""
        # Nothing of this process' paths: each interpreter has to find its own celery.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CELERY"))}
        return {
            **kept,
            "INTEROP_BROKER": self.broker,
            "INTEROP_BACKEND": self.backend,
            "INTEROP_QUEUE": self.queue,
            "PYTHONUNBUFFERED": "1",
            "C_FORCE_ROOT": "1",
        }


class Worker:
    """A worker process; ready when its log says so."""

    def __init__(self, python: str, site: Site, name: str, *options: str) -> None:
        self.log: list[str] = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [
                python, "-m", "celery", "-A", "interop_app", "worker", "-l", "INFO", "-c", "2",
                "-n", f"{name}@%h", *options,
            ],
            cwd=APPS,
            env=site.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if " ready." in line:
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> Self:
        """Return when the worker consumes."""
        if not self._ready.wait(READY_S) or self.process.poll() is not None:
            raise RuntimeError(f"the worker did not come up:\n{''.join(self.log)}")
        return self

    def __enter__(self) -> Self:
        return self.wait_ready()

    def __exit__(self, *exc_info: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def run_client(python: str, site: Site, *cases: str, program: str = "client.py") -> dict[str, Any]:
    """Run a program of ``apps`` and return the outcome of each case."""
    done = subprocess.run(
        [python, program, *cases],
        cwd=APPS,
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the client failed:\n{done.stdout}\n{done.stderr}")
    outcomes: dict[str, Any] = json.loads(done.stdout)
    return outcomes
