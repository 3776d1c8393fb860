"""What a workload runs on: a peer's programs, their processor time and memory, and servers.

Linux only: figures of processes are read from ``/proc``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t.harness.servers import RabbitMQServer, RedisServer, wait_until

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).with_name("peers")
PATIENCE_S = 60.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def _celery(peer: Peer, processes: int, at_once: int) -> list[str]:
    options = ["-l", "WARNING", "-c", str(at_once or processes), "-n", "bench@%h"]
    if peer.pool:
        options = ["-P", peer.pool, *options]
    return [peer.python, "-m", "celery", "-A", "celery_peer", "worker", *options]


def _dramatiq(peer: Peer, processes: int, at_once: int) -> list[str]:
    return [peer.python, "-m", "dramatiq", "dramatiq_peer", "-p", str(processes)]


def _huey(peer: Peer, processes: int, at_once: int) -> list[str]:
    program = str(Path(peer.python).with_name("huey_consumer"))
    return [program, "huey_peer.huey", "-q", "-k", "process", "-w", str(processes)]


def _taskiq(peer: Peer, processes: int, at_once: int) -> list[str]:
    options = ["--workers", str(processes), "--log-level", "WARNING"]
    options += ["--max-async-tasks", str(at_once)] if at_once else []
    return [peer.python, "-m", "taskiq", "worker", "taskiq_peer:broker", *options]


def _arq(peer: Peer, processes: int, at_once: int) -> list[str]:
    return [peer.python, "-m", "arq", "arq_peer.WorkerSettings"]


def _streaq(peer: Peer, processes: int, at_once: int) -> list[str]:
    program = str(Path(peer.python).with_name("streaq"))
    return [program, "run", "streaq_peer:worker", "-w", str(processes)]


#: The command of a worker by library, and brokers that the library knows.
LIBRARIES: dict[str, tuple[Callable[[Peer, int, int], list[str]], set[str]]] = {
    "celery": (_celery, {"redis", "rabbitmq"}),
    "dramatiq": (_dramatiq, {"redis", "rabbitmq"}),
    "huey": (_huey, {"redis"}),
    "taskiq": (_taskiq, {"redis"}),
    "arq": (_arq, {"redis"}),
    "streaq": (_streaq, {"redis"}),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One library in one environment."""

    label: str
    library: str
    python: str
    #: Of a Celery worker; empty for its default.
    pool: str = ""

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``mine``, or ``LIBRARY=VENV`` with the name of a library of `LIBRARIES`.

        The pool of a Celery worker may follow the name: ``mine:asyncio``, ``celery:gevent=VENV``.

        Raises:
            ValueError: It is neither.
        """
        label, _, venv = text.partition("=")
        library, _, pool = label.partition(":")
        if library == "mine" and not venv:
            return cls(label, "celery", sys.executable, pool)
        python = Path(venv).absolute() / "bin" / "python"
        if library not in LIBRARIES or not python.exists():
            raise ValueError(
                f"no peer: {text!r}; say mine or one of {', '.join(LIBRARIES)} = a venv"
            )
        return cls(label, library, str(python), pool)

    @property
    def is_mine(self) -> bool:
        """Whether it is this tree."""
        return self.label.partition(":")[0] == "mine"


class Bed:
    """Servers of our own and one peer; a fresh one for each workload.

    Args:
        broker: ``redis`` or ``rabbitmq``.
        results: Whether results are stored, which is in Redis.
        at_once: How many tasks a worker runs at once; 0 for one in each process.
    """

    def __init__(
        self,
        peer: Peer,
        broker: str,
        servers: dict[str, Any],
        folder: Path,
        *,
        results: bool = False,
        at_once: int = 0,
    ) -> None:
        self.peer = peer
        self.at_once = at_once
        self.servers = servers
        self.runs_file = folder / "runs"
        self.runs_file.write_bytes(b"")
        self.log_file = folder / "worker.log"
        servers["redis"].flush()
        redis_url = servers["redis"].url.rpartition("/")[0]
        url = f"{redis_url}/0"
        if broker == "rabbitmq":
            rabbit = servers["rabbitmq"]
            url = f"amqp://guest:guest@127.0.0.1:{rabbit.port}/{rabbit.new_vhost()}"
        path = [str(PEERS), str(ROOT)] if peer.is_mine else [str(PEERS)]
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "PYTHONPATH": os.pathsep.join(path),
            "BENCH_BROKER": url,
            "BENCH_RESULTS": f"{redis_url}/1" if results else "",
            "BENCH_RUNS": str(self.runs_file),
            "BENCH_AT_ONCE": str(at_once),
            "BENCH_POOL": peer.pool,
        }

    @property
    def runs(self) -> int:
        """How many tasks have run."""
        return self.runs_file.stat().st_size

    def wait_for_runs(self, count: int, patience_s: float = PATIENCE_S) -> None:
        """Wait until so many tasks have run.

        Raises:
            RuntimeError: That took too long; with the end of what the worker printed.
        """
        try:
            wait_until(lambda: self.runs >= count, f"{count} runs", patience_s)
        except TimeoutError as exc:
            log = self.log_file.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.peer.label}: {exc}; {self.runs} ran\n{log}") from exc

    def client(self, verb: str, number: int) -> dict[str, float] | None:
        """Have a client do *verb*; None where the library has no such thing."""
        done = subprocess.run(
            [
                self.peer.python, str(PEERS / "client.py"), f"{self.peer.library}_peer",
                verb, str(number),
            ],
            env=self.env, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.peer.label}: {verb} failed\n{done.stderr[-2000:]}")
        found: dict[str, float] | None = json.loads(done.stdout.splitlines()[-1])
        return found

    @contextmanager
    def worker(self, processes: int = 2) -> Iterator[Worker]:
        """Run a worker."""
        make_command, _ = LIBRARIES[self.peer.library]
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(
                make_command(self.peer, processes, self.at_once), cwd=self.runs_file.parent,
                env=self.env, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield Worker(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def ready_worker(self) -> Iterator[Worker]:
        """Run a worker that has run its first task."""
        with self.worker() as worker:
            self.client("send", 1)
            self.wait_for_runs(1)
            yield worker


class Worker:
    """A tree of processes, seen from outside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_s(self) -> float:
        """Return the processor time of the tree, with that of children that have ended."""
        total = 0
        for pid in _tree(self.pid):
            # One that ends meanwhile counts with its parent's children, the next time.
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))
        return total * TICK_S

    def memory_mib(self) -> float:
        """Return the resident memory of the main process, which keeps what waits."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_MIB

    def shared_memory_mib(self) -> float:
        """Return the memory of the tree; what processes share counts once in all."""
        total = 0
        for pid in _tree(self.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(text.split("\nPss:")[1].split()[0])
        return total / 1024


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                yield from _tree(int(child))


def make_servers(broker: str) -> dict[str, Any]:
    """Return servers to be started: Redis, which also keeps results, and the broker."""
    servers: dict[str, Any] = {"redis": RedisServer()}
    if broker == "rabbitmq":
        servers["rabbitmq"] = RabbitMQServer()
    return servers


def settle(worker: Worker) -> None:
    """Wait until *worker* is at rest: it uses less than a tenth of a processor."""
    before = worker.cpu_s()
    while True:
        time.sleep(0.3)
        now = worker.cpu_s()
        if now - before < 0.03:
            return
        before = now
