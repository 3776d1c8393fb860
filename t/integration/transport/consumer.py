"""A process that consumes, for tests that freeze and kill it.

``python -m t.integration.transport.consumer KIND URL JOURNAL MODE OPTIONS``: appends the body of
each message to the journal, and acknowledges it (mode ``ack``) or holds it (mode ``hold``).
Says "ready" once it waits for messages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from kombu import Connection, Consumer, Queue

from celery._transport.connection import BrokerConnection

KINDS: dict[str, Any] = {"ours": BrokerConnection, "kombu": Connection}
ROOT = Path(__file__).resolve().parents[3]
QUEUE = "work"


class ConsumerProcess:
    """One consuming process; see the module."""

    def __init__(
        self, url: str, journal: Path, *, kind: str = "ours", mode: str = "ack", **options: Any
    ) -> None:
        journal.touch()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", __name__, kind, url, str(journal), mode, json.dumps(options),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def freeze(self) -> None:
        """Stop the process; returns once it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> None:
        """Ask it to end; returns when it has."""
        self.process.terminate()
        assert self.process.wait(30) == 0


def main(kind: str, url: str, journal: str, mode: str, options: str) -> None:
    """Consume until told to end."""
    running = True

    def stop(*_: Any) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    held: list[Any] = []
    file = os.open(journal, os.O_WRONLY | os.O_APPEND)

    def on_message(message: Any) -> None:
        os.write(file, f"{message.payload}\n".encode())
        if mode == "ack":
            message.ack()
        else:
            held.append(message)

    known = json.loads(options)
    prefetch = known.pop("prefetch", 4)
    with KINDS[kind](url, transport_options=known) as connection:
        channel = connection.default_channel
        channel.basic_qos(0, prefetch, False)
        with Consumer(channel, [Queue(QUEUE)], on_message=on_message):
            said = False
            while running:
                try:
                    connection.drain_events(timeout=0.2)
                except TimeoutError:
                    # It has been seen that nothing is there: from now on it waits.
                    if not said:
                        print("ready", flush=True)
                        said = True


if __name__ == "__main__":
    main(*sys.argv[1:])
