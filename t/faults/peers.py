"""The faults with workers of other libraries, which know nothing of celery.

A run is the same as in `t.faults.scenarios`, with these differences: a fault strikes all processes
of the worker, as some libraries leave children behind that go on; one that has ended is started
again, as a supervisor would; what has not run within `ROUNDS` times `PATIENCE_S` counts as lost.
In each round one more task is sent: some libraries look for what was left behind only then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from celery import states
from t.faults.scenarios import (
    PROJECT,
    RESTORE_S,
    STEP_S,
    Broker,
    Load,
    Outcome,
    Run,
    Scenario,
    cut,
    half_open,
    kill_connections,
    restart_broker,
    swallow,
)
from t.harness.ledger import Ledger, Runs
from t.harness.proxy import Proxy
from t.harness.worker import WorkerProcess

#: Seconds for every task to run once the fault is over, and how often.
PATIENCE_S, ROUNDS = 8.0, 5

#: Seconds between two signs of life on RabbitMQ.
HEARTBEAT_S = 2


@dataclass(frozen=True, slots=True)
class Library:
    """How the worker program of a library is started, and how it says that it is ready."""

    name: str
    #: Behind the interpreter; two processes with one task each.
    arguments: tuple[str, ...]
    ready: str
    #: How often it says so.
    times: int = 1

    @property
    def module(self) -> str:
        """The module with its task."""
        return f"fault_{self.name}"


LIBRARIES = {
    library.name: library
    for library in (
        Library(
            "dramatiq",
            ("-m", "dramatiq", "fault_dramatiq", "-p", "2", "-t", "1"),
            r"Worker process is ready for action",
            times=2,
        ),
        Library(
            "taskiq",
            (
                "-m", "taskiq", "worker", "fault_taskiq:broker", "--workers", "2",
                "--max-async-tasks", "1", "--max-threadpool-threads", "1", "--max-prefetch", "4",
                "--ack-type", "when_executed",
            ),
            r"Listening started",
            times=2,
        ),
    )
}  # fmt: skip


class _Group(WorkerProcess):
    """A worker whose processes get signals together."""

    def signal(self, *signums: signal.Signals) -> None:
        """Send signals to all processes."""
        for signum in signums:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signum)


@dataclass
class PeerRun(Run):
    """A run with the workers of another library."""

    counted_queues: ClassVar[str] = r"\t(\d+)$"

    library: Library = field(kw_only=True)
    client: subprocess.Popen[str] | None = None

    def _environment(self, port: int) -> dict[str, str]:
        conf = {
            "broker_url": self.broker.url(port),
            "restore_s": RESTORE_S,
            "heartbeat_s": HEARTBEAT_S,
        }
        return {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "FAULT_CONF": json.dumps(conf),
            "FAULT_LEDGER": str(self.ledger.path),
        }

    def start_worker(self) -> None:
        """Start a worker and wait until it is ready."""
        env = self._environment(self.proxy.port)
        worker = _Group(conf={}, cwd=PROJECT, env=env)
        worker.command = [self.python, "-u", *self.library.arguments]
        self.workers.append(worker)
        worker.launch()
        worker.wait_for(self.library.ready, times=self.library.times, timeout_s=STEP_S)

    def publish(self, count: int = 1, gate: bool = False) -> list[str]:
        """Send tasks by the client of the library; returns their ids."""
        client = self._client()
        assert client.stdin is not None
        assert client.stdout is not None
        ids = []
        for _ in range(count):
            client.stdin.write(f"{self.load.pause_s} {self.gate if gate else ''}\n")
            client.stdin.flush()
            ids.append(client.stdout.readline().strip())
            if not ids[-1]:
                raise AssertionError("the client could not publish")
            self.ledger.published.append(ids[-1])
        return ids

    def _client(self) -> subprocess.Popen[str]:
        """Return a client that lives; the broker may have closed its connection."""
        if self.client is None:
            self.client = subprocess.Popen(
                [self.python, str(PROJECT / "fault_client.py"), self.library.module],
                env=self._environment(self.broker.server.port), cwd=PROJECT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        return self.client

    def forget_client(self) -> None:
        """Connect anew with the next task."""
        client, self.client = self.client, None
        if client is not None:
            client.kill()
            client.wait(STEP_S)
            for end in (client.stdin, client.stdout):
                if end is not None:
                    end.close()

    def kill_worker(self) -> None:
        """Kill all processes."""
        self.worker.signal(signal.SIGKILL)
        self.worker.wait(STEP_S)

    def revive(self) -> None:
        """Start a worker if there is none any more."""
        assert self.worker.process is not None
        if self.worker.process.poll() is not None:
            self.start_worker()

    def store(self) -> dict[str, str]:
        """Return what the ledger says; no results are stored."""
        ended = set(self.ledger.runs().ends)
        return {
            task_id: states.SUCCESS if task_id in ended else states.PENDING
            for task_id in self.ledger.published
        }

    def close(self) -> None:
        """End what still runs."""
        self.forget_client()
        for worker in self.workers:
            worker.signal(signal.SIGCONT, signal.SIGKILL)
        super().close()


def kill(run: Run) -> None:
    """SIGKILL to the worker."""
    run.kill_worker()
    run.strikes()
    run.open_gate()
    run.start_worker()


def freeze(run: Run) -> None:
    """SIGSTOP to a busy worker, more messages, SIGKILL."""
    run.worker.signal(signal.SIGSTOP)
    run.publish(5)
    kill(run)


def freeze_idle(run: Run) -> None:
    """The same to a worker that waits for messages."""
    run.open_gate()
    sent = set(run.ledger.published)
    run.wait_for(lambda runs: sent <= set(runs.ends), "the end of all tasks")
    freeze(run)


def kill_child(run: Run) -> None:
    """SIGKILL to the process that runs the task at the gate."""
    os.kill(run.ledger.runs().pids[run.at_gate], signal.SIGKILL)
    run.strikes()
    run.open_gate()


def terminate(run: Run) -> None:
    """SIGTERM to the main process."""
    assert run.worker.process is not None
    run.worker.process.send_signal(signal.SIGTERM)
    run.strikes()
    run.open_gate()
    run.worker.wait(STEP_S)
    run.start_worker()


#: Those that need no words of a worker's log.
FAULTS: dict[str, Callable[[Run], None]] = {
    "kill": kill,
    "freeze": freeze,
    "freeze_idle": freeze_idle,
    "term": terminate,
    "child": kill_child,
    "restart": restart_broker,
    "disconnect": kill_connections,
    "cut": cut,
    "half_open": half_open,
    "swallow": swallow,
}


def run_peer(
    library: Library, python: str, scenario: Scenario, broker: Broker, folder: Path
) -> Outcome:
    """Play *scenario* with the workers of *library*, which *python* can import, and count."""
    broker.begin()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(broker.server.port))
        run = PeerRun(
            scenario, broker, folder, python, proxy, Ledger(folder / "ledger"), Load(),
            library=library,
        )  # fmt: skip
        stack.callback(run.close)
        complaints = []
        try:
            _play(run)
        except (AssertionError, TimeoutError, OSError, subprocess.TimeoutExpired) as exc:
            complaints.append(str(exc).partition("\n")[0])
        verdict = run.ledger.verdict(run.store())
        return Outcome(scenario, verdict, complaints, None, run.log())


def _play(run: PeerRun) -> None:
    load = run.load
    run.start_worker()
    run.publish(load.before)
    run.at_gate = run.publish(gate=True)[0]
    run.publish(load.behind)
    run.wait_for(lambda runs: run.at_gate in runs.running, "the task at the gate")
    FAULTS[run.scenario.fault](run)
    # Its connection may have been closed, by the fault or because it did nothing meanwhile.
    run.forget_client()
    run.publish(load.after)

    def all_ran(runs: Runs) -> bool:
        run.revive()
        return set(run.ledger.published) <= set(runs.ends)

    for _ in range(ROUNDS):
        if run.ledger.wait_until(all_ran, PATIENCE_S):
            return
        run.forget_client()
        run.publish()
