"""Programs in a pseudo-terminal, as a user would see them."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from contextlib import suppress
from typing import Any, Self

import pyte

from t.harness.worker import PATIENCE_S


def _take_terminal() -> None:
    """Control the terminal, whose Ctrl-C and changes of size are told to who does."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Ignored by what a shell runs in the background, the tests for instance.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """One program on a screen of its own.

    Args:
        command: Words of the command line.
        options: Of `subprocess.Popen`.
        lines, columns: Size of the screen.
    """

    def __init__(
        self, command: list[str], *, lines: int = 24, columns: int = 80, **options: Any
    ) -> None:
        self.command, self.options = command, options
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._changed = threading.Condition()
        self._raw = bytearray()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._end, theirs = pty.openpty()
        self._set_size()
        self.process = subprocess.Popen(
            self.command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,
            **self.options,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        os.close(self._end)
        # Shown by pytest when the test fails.
        print(self.text())

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._end, 65536)
            except OSError:
                data = b""
            with self._changed:
                if data:
                    self._raw += data
                    self._stream.feed(data)
                self._changed.notify_all()
            if not data:
                return

    def _set_size(self) -> None:
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, size)

    def resize(self, lines: int, columns: int) -> None:
        """Change the size of the screen, which the program is told."""
        with self._changed:
            self.screen.resize(lines, columns)
        self._set_size()

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._end, keys.encode())

    @property
    def lines(self) -> list[str]:
        """The lines of the screen."""
        with self._changed:
            return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """Return the screen without empty lines at its end."""
        return "\n".join(self.lines).rstrip()

    def output(self) -> str:
        """Return all that was written, without what paints it."""
        with self._changed:
            return self._raw.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, *texts: str, gone: str = "", timeout_s: float = PATIENCE_S) -> str:
        """Wait until the screen shows all of *texts*, and not *gone*; returns the screen.

        Raises:
            AssertionError: It does not within *timeout_s*.
        """
        end = time.monotonic() + timeout_s
        while True:
            shown = self.text()
            if all(text in shown for text in texts) and not (gone and gone in shown):
                return shown
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"the screen does not show {texts} (gone: {gone!r}):\n{shown}")
            with self._changed:
                self._changed.wait(min(left, 0.1))

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end of the program; returns its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code
