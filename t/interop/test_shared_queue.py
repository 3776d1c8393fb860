"""Workers of both implementations share one Redis queue under load, and are killed in turn.

Ours is killed without notice. The reference loses the message that it is fetching when it is
killed; so no more than that many may be lost, and none where it is asked to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from t.harness.servers import RedisServer, wait_until
from t.interop.nodes import APPS, Site

pytestmark = pytest.mark.redis

TASKS = 3000
KILLS = 3
PATIENCE_S = 120.0


class Node:
    """A worker with its pool, in a process group of its own."""

    def __init__(self, python: str, env: dict[str, str], name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [
                python, "-m", "celery", "-A", "ledger_app", "worker", "-l", "WARNING", "-c", "2",
                "-n", f"{name}@%h", "--without-mingle", "--without-gossip",
            ],
            cwd=APPS,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def end(self, signum: signal.Signals) -> None:
        if signum == signal.SIGKILL:
            os.killpg(self.process.pid, signum)
        elif self.process.poll() is None:
            self.process.send_signal(signum)
        self.process.wait(PATIENCE_S)


@pytest.mark.parametrize("end_of_theirs", [signal.SIGTERM, signal.SIGKILL])
def test_no_task_is_lost_where_both_share_a_queue(
    reference_python: str, our_python: str, tmp_path: Path, end_of_theirs: signal.Signals
) -> None:
    ledger = tmp_path / "ledger"
    ledger.touch()

    def done() -> Counter[str]:
        return Counter(ledger.read_text().split())

    # What theirs pops and has not filed when it dies.
    spare = KILLS if end_of_theirs == signal.SIGKILL else 0

    with RedisServer() as server, redis.Redis.from_url(server.url) as store:
        env = {**Site(server.url, "").environment(), "INTEROP_LEDGER": str(ledger)}
        ours_env = {**env, "PYTHONPATH": str(Path(__file__).parents[2])}
        kinds: dict[str, tuple[str, dict[str, str], Any]] = {
            "ours": (our_python, ours_env, signal.SIGKILL),
            "theirs": (reference_python, env, end_of_theirs),
        }
        senders = [
            subprocess.Popen(
                [python, "ledger_app.py", str(first), str(first + TASKS // 2)],
                cwd=APPS,
                env=some_env,
            )
            for first, (python, some_env, _) in zip((0, TASKS // 2), kinds.values(), strict=True)
        ]
        nodes = {kind: Node(python, e, kind) for kind, (python, e, _) in kinds.items()}
        try:
            for number in range(KILLS):
                for kind, (python, some_env, signum) in kinds.items():
                    before = len(done())
                    wait_until(
                        lambda before=before: len(done()) >= min(before + 150, TASKS),
                        "progress", PATIENCE_S,
                    )  # fmt: skip
                    nodes[kind].end(signum)
                    nodes[kind] = Node(python, some_env, f"{kind}{number}")
            assert [sender.wait(PATIENCE_S) for sender in senders] == [0, 0]
            wait_until(lambda: len(done()) >= TASKS - spare, "all tasks", PATIENCE_S)
            wait_until(
                lambda: not store.exists("celery", "unacked", "unacked_index"),
                "the last acknowledgement", PATIENCE_S,
            )  # fmt: skip
        finally:
            for sender in senders:
                sender.kill()
                sender.wait()
            for node in nodes.values():
                if node.process.poll() is None:
                    node.end(signal.SIGKILL)

    counts = done()
    lost, again = TASKS - len(counts), sum(counts.values()) - len(counts)
    assert 0 <= lost <= spare
    # Only what was under way when a worker was killed may have run again.
    assert again <= KILLS * 2 * (8 if spare else 4)
    print(f"lost: {lost}, ran again: {again}", file=sys.stderr)
