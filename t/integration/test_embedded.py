"""Workers and clients on the embedded broker, killed at any moment: every task runs.

``T_LONG=1`` takes a hundred thousand tasks.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from celery import Celery
from t.harness.servers import wait_until
from t.harness.worker import WorkerProcess

LONG = bool(os.environ.get("T_LONG"))
TASKS = 100_000 if LONG else 3_000
ALL_DONE_S = 1800.0 if LONG else 90.0

APP = """
import os
from celery import Celery

store = os.environ["EMBEDDED"]
app = Celery("embedded_app", broker=store, backend=store)
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=8)
ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(name="embedded.note", ignore_result=True)
def note(name):
    os.write(ledger, f"{name}\\n".encode())

@app.task(name="embedded.add")
def add(x, y):
    return x + y
"""

CLIENT = """
import sys
from embedded_app import note
for number in range(int(sys.argv[2])):
    name = f"{sys.argv[1]}-{number}"
    note.delay(name)
    print(name, flush=True)
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "embedded_app.py").write_text(APP)
    (tmp_path / "client.py").write_text(CLIENT)
    return {"EMBEDDED": f"sqlite:///{tmp_path}/broker.db", "LEDGER": str(tmp_path / "ledger")}


class Clients:
    """Programs that send tasks and say so, until all are sent; some are killed before that."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.published: list[str] = []
        self.count = 0

    def run(self, tasks: int, killed_after: int | None) -> None:
        self.count += 1
        said = self.folder / f"client-{self.count}"
        with said.open("wb") as out:
            client = subprocess.Popen(
                [sys.executable, "client.py", f"c{self.count}", str(tasks)],
                cwd=self.folder,
                env={**os.environ, **self.env},
                stdout=out,
            )
            if killed_after is not None:
                wait_until(
                    lambda: said.read_bytes().count(b"\n") >= killed_after or client.poll(),
                    "the client",
                    ALL_DONE_S,
                )
                client.kill()
            client.wait(ALL_DONE_S)
        lines = said.read_text().split("\n")
        # The last one may have been cut off.
        self.published += [line for line in lines[:-1] if line]


@pytest.mark.timeout(2400 if LONG else 240)
def test_nothing_is_lost_when_workers_and_clients_are_killed(
    tmp_path: Path, env: dict[str, str]
) -> None:
    draw = random.Random(9)
    clients = Clients(tmp_path, env)
    workers: list[WorkerProcess] = []

    def start_worker() -> None:
        number = len(workers)
        worker = WorkerProcess(
            "-c", "2", "-n", f"w{number}@here", conf={}, env=env, app="embedded_app", cwd=tmp_path,
            level="WARNING",
        ).quietly()  # fmt: skip
        worker.__enter__()
        workers.append(worker)

    ledger = Path(env["LEDGER"])
    ledger.touch()
    kills = 0
    try:
        start_worker()
        start_worker()
        while len(clients.published) < TASKS:
            dies = draw.random() < 0.5
            clients.run(TASKS // 6, draw.randint(1, TASKS // 8) if dies else None)
            victim = workers[-2]
            assert victim.process is not None
            victim.process.send_signal(signal.SIGKILL)
            victim.process.wait()
            kills += 1
            start_worker()
        sent = set(clients.published)
        wait_until(
            lambda: sent <= set(ledger.read_text().split("\n")), "the end of all tasks", ALL_DONE_S
        )
        wait_until(lambda: not _left(tmp_path / "broker.db"), "the acknowledgements", ALL_DONE_S)
    finally:
        for worker in workers:
            worker.kill()

    runs = Counter(ledger.read_text().split())
    repeated = sum(count - 1 for count in runs.values())
    # What a killed worker held may run again: two at once, and sixteen prefetched.
    assert repeated <= kills * (2 + 16)
    # Of a killed client one task may be stored that it did not come to speak of.
    assert len(runs.keys() - sent) <= clients.count
    store = sqlite3.connect(tmp_path / "broker.db")
    assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def _left(path: Path) -> int:
    store = sqlite3.connect(path)
    try:
        (count,) = store.execute("SELECT count(*) FROM messages WHERE queue = 'celery'").fetchone()
    finally:
        store.close()
    return int(count)


def test_remote_control_and_events_work(tmp_path: Path, env: dict[str, str]) -> None:
    app = Celery("client", broker=env["EMBEDDED"], backend=env["EMBEDDED"], set_as_current=False)
    options = {"conf": {}, "env": env, "app": "embedded_app", "cwd": tmp_path}
    seen: list[str] = []
    with (
        WorkerProcess("-c", "1", "-E", "-n", "one@here", **options),
        WorkerProcess("-c", "1", "-E", "-P", "threads", "-n", "two@here", **options),
        app.connection_for_read() as connection,
    ):
        receiver = app.events.Receiver(
            connection, handlers={"task-succeeded": lambda event: seen.append(event["uuid"])}
        )
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None})
        thread.start()
        assert len(app.control.ping(timeout=20, limit=2)) == 2
        assert len(app.control.inspect(timeout=20, limit=2).active_queues()) == 2

        def succeeded() -> bool:
            # The first ones may come before the receiver listens.
            result = app.send_task("embedded.add", (1, 2))
            assert result.get(timeout=30) == 3
            return bool(seen)

        wait_until(succeeded, "an event", 60)
        receiver.should_stop = True
        thread.join(30)
        assert not thread.is_alive()
        assert app.control.purge() == 0
    app.close()


def test_a_task_with_an_eta_survives_its_worker(tmp_path: Path, env: dict[str, str]) -> None:
    app = Celery("client", broker=env["EMBEDDED"], backend=env["EMBEDDED"], set_as_current=False)
    options = {"conf": {}, "env": env, "app": "embedded_app", "cwd": tmp_path}
    with WorkerProcess("-c", "1", **options) as worker:
        results = [app.send_task("embedded.add", (n, n), countdown=3) for n in range(20)]
        due = time.time() + 3
        assert app.send_task("embedded.add", (1, 1)).get(timeout=30) == 2
        worker.process.kill()
        worker.process.wait()
    with WorkerProcess("-c", "1", **options):
        assert [result.get(timeout=30) for result in results] == [2 * n for n in range(20)]
        assert time.time() >= due - 0.1
    app.close()
