"""Worker programs as real processes, with their log, for integration tests.

A test starts one with `WorkerProcess`, waits for log lines (never for time), sends signals, and
looks at its exit code. What tasks did they write to a file, see `Journal`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]

#: Seconds for anything that a test waits for, on a loaded machine.
PATIENCE_S = 60.0

#: The app that `t.integration.worker` tests run.
PROJECT = "t.integration.worker.proj"

#: Environment variable with the settings of that app, as JSON.
CONF_VARIABLE = "T_WORKER_CONF"


class WorkerProcess:
    """One ``celery -A PROJECT worker`` process.

    Args:
        options: Of the worker command.
        conf: Settings for the project's app.
        level: Log level.
        env: Added to the environment.
        app: Module of the app.
        cwd: Folder to start in, where the project's modules are.
    """

    def __init__(
        self,
        *options: str,
        conf: dict[str, Any],
        level: str = "INFO",
        env: dict[str, str] | None = None,
        app: str = PROJECT,
        cwd: Path = ROOT,
    ) -> None:
        self.cwd = cwd
        self.command = [
            sys.executable, "-u", "-m", "celery", "-A", app, "worker", "-l", level,
            *options,
        ]  # fmt: skip
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            CONF_VARIABLE: json.dumps(conf),
            **(env or {}),
        }
        self._quiet = False
        self.lines: list[str] = []
        self._grown = threading.Condition()
        self.process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.launch()
        if not self._quiet:
            self.wait_for(r" ready\.$")
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        # Shown by pytest when the test fails.
        print(self.text())

    def quietly(self) -> Self:
        """Don't wait for the log line that says the worker is ready: its level hides it."""
        self._quiet = True
        return self

    def launch(self) -> None:
        """Start the process; it is not ready yet."""
        self.process = subprocess.Popen(
            self.command,
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("  . "):
                # The long list of tasks in the banner is not for reading.
                continue
            with self._grown:
                self.lines.append(line.rstrip("\n"))
                self._grown.notify_all()
        with self._grown:
            self._grown.notify_all()

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        assert self.process is not None
        return self.process.pid

    def text(self) -> str:
        """Return the log so far."""
        with self._grown:
            return "\n".join(self.lines)

    def count(self, pattern: str) -> int:
        """Return how many lines of the log match *pattern*."""
        with self._grown:
            return sum(1 for line in self.lines if re.search(pattern, line))

    def wait_for(
        self, pattern: str, *, times: int = 1, timeout_s: float = PATIENCE_S
    ) -> re.Match[str]:
        """Wait until *times* lines of the log match *pattern*; returns the last match.

        Raises:
            AssertionError: They did not within *timeout_s*, or the process ended before.
        """
        end = time.monotonic() + timeout_s
        with self._grown:
            while True:
                found = [
                    match for line in self.lines if (match := re.search(pattern, line)) is not None
                ]
                if len(found) >= times:
                    return found[times - 1]
                left = end - time.monotonic()
                ended = self._reader is not None and not self._reader.is_alive()
                if left <= 0 or ended:
                    why = "the worker has ended" if ended else f"not within {timeout_s} s"
                    raise AssertionError(f"no line matches {pattern!r}: {why}\n" + self.text_now())
                self._grown.wait(min(left, 0.5))

    def text_now(self) -> str:
        """Return the log so far, for those that hold the lock."""
        return "\n".join(self.lines)

    def signal(self, *signums: Signals) -> None:
        """Send signals to the main process."""
        for signum in signums:
            os.kill(self.pid, signum)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end of the process; returns its exit code."""
        assert self.process is not None
        assert self._reader is not None
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def stop(self, signum: Signals = SIGTERM) -> int:
        """Send *signum* and wait for the end; returns the exit code."""
        self.signal(signum)
        return self.wait()

    def kill(self) -> None:
        """End the process and its pool, if they still run."""
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        with suppress(ProcessLookupError):
            # It leads a process group of its own, so this ends what it may have left behind.
            os.killpg(process.pid, SIGKILL)
        process.wait(PATIENCE_S)
        if self._reader is not None:
            self._reader.join(PATIENCE_S)
        if process.stdout is not None:
            process.stdout.close()

    def children(self) -> list[int]:
        """Return the process ids of the pool."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


class Journal:
    """A file that tasks write lines to, each in one system call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def lines(self) -> list[str]:
        """The lines so far."""
        return self.path.read_text().split("\n")[:-1]

    def wait_for(self, *wanted: str, timeout_s: float = PATIENCE_S) -> list[str]:
        """Wait until every one of *wanted* stands in the file, as often as named here.

        Raises:
            AssertionError: That took longer than *timeout_s*.
        """
        end = time.monotonic() + timeout_s
        pause = threading.Event()
        while True:
            lines = self.lines
            if all(lines.count(line) >= wanted.count(line) for line in set(wanted)):
                return lines
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout_s} s for {wanted}, got {lines}")
            pause.wait(0.01)


def eventually(condition: Any, timeout_s: float = PATIENCE_S) -> Any:
    """Call *condition* until it answers with something true, and return that.

    Raises:
        AssertionError: It did not within *timeout_s*.
    """
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"{condition} still answers {answer!r} after {timeout_s} s")
        pause.wait(0.02)
