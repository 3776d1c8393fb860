"""The embedded broker beside others that need no server: rates and CPU time.

Run ``python -m t.benchmarks.bench_embedded``; with ``--huey PYTHON`` (an interpreter with huey)
its SQLite queue takes part. The transports of kombu that keep messages in a database or in files
run with the workers of this package. Each enqueues no-op tasks from one process, then two worker
processes drain them; each task appends a byte to a file, by which progress is seen.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

CELERY_APP = """
import os
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
folder = os.environ["BENCH_FOLDER"]
if app.conf.broker_url.startswith("filesystem"):
    for name in ("messages", "control"):
        os.makedirs(f"{folder}/{name}", exist_ok=True)
    app.conf.broker_transport_options = {
        "data_folder_in": f"{folder}/messages",
        "data_folder_out": f"{folder}/messages",
        "control_folder": f"{folder}/control",
    }
progress = os.open(f"{folder}/progress", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(name="bench.noop")
def noop():
    os.write(progress, b".")

def send():
    noop.delay()
"""

HUEY_APP = """
import os
from huey import SqliteHuey

folder = os.environ["BENCH_FOLDER"]
huey = SqliteHuey("bench", filename=f"{folder}/huey.db", results=False)
progress = os.open(f"{folder}/progress", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@huey.task()
def noop():
    os.write(progress, b".")

def send():
    noop()
"""

CLIENT = """
import sys, time
from bench_app import send
send()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[1]) - 1):
    send()
print(time.perf_counter() - wall, time.process_time() - cpu)
"""

CELERY_WORKER = ["-m", "celery", "-A", "bench_app", "worker", "-c", "2", "-l", "WARNING"]
HUEY_WORKER = [
    "-c", "from huey.bin.huey_consumer import consumer_main; consumer_main()",
    "bench_app.huey", "-w", "2", "-k", "process", "-n", "-q", "-d", "0.001", "-m", "0.01",
]  # fmt: skip


class Peer(NamedTuple):
    """One queue under test."""

    name: str
    python: str
    app: str
    worker: list[str]
    #: From the folder of the run.
    broker: Callable[[Path], str]


class Figures(NamedTuple):
    """What a run showed: tasks per second, and microseconds of CPU time for each."""

    enqueued: float
    enqueue_us: float
    drained: float
    drain_us: float


def measure(peer: Peer, tasks: int, cap_s: float) -> Figures:
    """Enqueue and drain; the drain counts from the first tenth on, and ends after *cap_s*."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "bench_app.py").write_text(peer.app)
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT if peer.app is CELERY_APP else folder),
            "BENCH_FOLDER": name,
            "BENCH_BROKER": peer.broker(folder),
        }
        client = subprocess.run(
            [peer.python, "-c", CLIENT, str(tasks)],
            cwd=folder, env=env, check=True, capture_output=True, text=True,
        )  # fmt: skip
        wall_s, cpu_s = map(float, client.stdout.split())
        progress = folder / "progress"
        with subprocess.Popen(
            [peer.python, *peer.worker], cwd=folder, env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as worker:  # fmt: skip
            try:
                _wait(progress, tasks // 10, time.monotonic() + 60)
                done, begun, used = _size(progress), time.monotonic(), _cpu_s(worker.pid)
                _wait(progress, tasks, begun + cap_s)
                count, lasted = _size(progress) - done, time.monotonic() - begun
                used = _cpu_s(worker.pid) - used
            finally:
                worker.terminate()
        return Figures(
            tasks / wall_s, cpu_s / tasks * 1e6, count / lasted, used / max(count, 1) * 1e6
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wait(path: Path, size: int, until: float) -> None:
    while _size(path) < size and time.monotonic() < until:
        time.sleep(0.005)


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its children, in seconds."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure all peers in turn, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m t.benchmarks.bench_embedded")
    parser.add_argument("--huey", metavar="PYTHON", help="interpreter with huey")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--cap", type=float, default=20.0, help="seconds of a drain, at most")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    own = sys.executable
    peers = [
        Peer("embedded", own, CELERY_APP, CELERY_WORKER, lambda at: f"sqlite:///{at}/q.db"),
        Peer("kombu sqla", own, CELERY_APP, CELERY_WORKER, lambda at: f"sqla+sqlite:///{at}/a.db"),
        Peer("kombu files", own, CELERY_APP, CELERY_WORKER, lambda at: "filesystem://"),
    ]
    if options.huey:
        peers.insert(1, Peer("huey", options.huey, HUEY_APP, HUEY_WORKER, lambda at: ""))
    print(f"{'':12} {'enqueued/s':>11} {'us each':>8} {'drained/s':>10} {'us each':>8}")
    for _ in range(options.rounds):
        for peer in peers:
            found = measure(peer, options.tasks, options.cap)
            print(
                f"{peer.name:12} {found.enqueued:11,.0f} {found.enqueue_us:8.0f}"
                f" {found.drained:10,.0f} {found.drain_us:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
