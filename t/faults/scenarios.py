"""Runs with a fault in their middle, and the rules that their verdicts have to meet.

A run publishes tasks to a real worker program on a real broker. One of the tasks stays at a gate;
while it does and others go on, the fault strikes. Then the gate opens, a worker that died gets a
successor, more tasks are published, and once all is quiet `run` compares the books. Nothing here
waits for time to pass: every wait is for a line in the ledger, a process or a broker, with a
deadline. Nothing needs pytest either: see `t.faults.__main__`.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import redis
from kombu import pools
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from celery import Celery, states
from t.harness.ledger import Ledger, Runs, Verdict
from t.harness.proxy import Proxy
from t.harness.servers import RabbitMQServer, RedisServer, Server, ask, freeze, wait_until
from t.harness.worker import ROOT, WorkerProcess

PROJECT = Path(__file__).with_name("project")

#: Seconds for everything to be quiet again after a fault, on a loaded machine.
QUIET_S = 60.0
#: Seconds for one step of a run.
STEP_S = 30.0
#: Seconds after which messages of a worker that is dead or silent are delivered again on Redis.
#: kombu's transport counts from the delivery, so no run may hold a message as long as that.
RESTORE_S = 3
#: Seconds after which a silent broker counts as gone.
SILENCE_S = 1.5

#: Seconds after the return of a broker within which the worker has to be connected: its pauses
#: between attempts grow to thirty.
BACK_S = 10.0
#: Part of a processor that an idle worker may use, seconds over which that is measured, and how
#: often before it counts.
IDLE_LOAD, IDLE_WINDOW_S, IDLE_WINDOWS = 0.01, 1.0, 5

CONCURRENCY = {"prefork": 2, "threads": 2, "solo": 1}
PREFETCH_MULTIPLIER = 4

#: Seconds that a slow network takes, each way.
DELAY_S = 0.02
#: Tasks published to a frozen worker.
UNSEEN = 5

CONNECTED = re.compile(r"^\[([^]]+): INFO/MainProcess\] Connected to ", re.MULTILINE)
RECEIVED = re.compile(r"Task faults\.step\[([^]]+)\] received")
TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault, and where it strikes."""

    fault: str
    broker: str
    pool: str
    late: bool

    def __str__(self) -> str:
        return f"{self.fault}-{self.broker}-{self.pool}-{'late' if self.late else 'early'}"


@dataclass(frozen=True, slots=True)
class Load:
    """What a run publishes, and when the fault strikes."""

    #: Tasks before the one at the gate, behind it, and after the fault.
    before: int = 20
    behind: int = 40
    after: int = 15
    #: Seconds that each task takes.
    pause_s: float = 0.01
    #: How many of those behind have to end before the fault, where the gate doesn't hold them.
    passing: int = 0

    @classmethod
    def drawn(cls, draw: random.Random) -> Load:
        """Choose by chance."""
        behind = draw.randint(0, 100)
        return cls(
            before=draw.randint(0, 60),
            behind=behind,
            after=draw.randint(1, 30),
            pause_s=draw.choice([0.0, 0.001, 0.01, 0.05]),
            passing=draw.randint(0, behind // 2),
        )


# -- Brokers


def revive(server: Server) -> None:
    """Start *server* if the last run has left it dead."""
    if server.process is None:
        server.start()


class RedisBroker:
    """A Redis server that keeps its data through a crash; results are stored in it as well."""

    name = "redis"

    def __init__(self) -> None:
        self.server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.path = "/0"

    def begin(self) -> None:
        """Forget the last run."""
        revive(self.server)
        # A server that reads its data, or is busy, refuses.
        wait_until(lambda: ask(self.server.port, b"FLUSHALL\r\n").startswith(b"+OK"), "FLUSHALL")

    def url(self, port: int) -> str:
        """Return the URL of the broker as seen through *port*."""
        return f"redis://127.0.0.1:{port}/0"

    def store_url(self, folder: Path) -> str:
        """Return the URL of the result store."""
        return f"redis://127.0.0.1:{self.server.port}/1"

    def settings(self) -> dict[str, Any]:
        """Return settings of the worker that make it notice soon what is gone."""
        return {
            "broker_transport_options": {
                "visibility_timeout": RESTORE_S,
                "claim_lease": RESTORE_S,
                "unacked_restore_interval": 1,
                "unacked_restore_throttle": 1,
                "health_check_interval": 1,
                "socket_timeout": SILENCE_S,
            },
        }

    def _client(self, **options: Any) -> redis.Redis:
        patience = Retry(ConstantBackoff(0.1), round(STEP_S / 0.1))
        return redis.Redis(port=self.server.port, retry=patience, **options)

    def held(self) -> set[str]:
        """Return the ids of all messages that the broker keeps in whatever place."""
        # Typed as if every command might be asynchronous.
        client: Any = self._client(decode_responses=True)
        found: set[str] = set()
        for key in client.scan_iter():
            kind = client.type(key)
            values: Iterable[str] = ()
            if kind == "list":
                values = client.lrange(key, 0, -1)
            elif kind == "hash":
                values = client.hvals(key)
            elif kind == "zset":
                values = client.zrange(key, 0, -1)
            elif kind == "stream":
                values = [str(fields) for _, fields in client.xrange(key)]
            for value in values:
                # Found by the header: the arguments, which may name ids too, are encoded.
                found.update(match for match in re.findall(r'"id": ?"([^"]+)"', value))
        client.close()
        return {task_id for task_id in found if TASK_ID.fullmatch(task_id)}

    def waiting_clients(self) -> list[float]:
        """Return for each client blocked in a read how many seconds it has been."""
        client: Any = self._client()
        found = [
            float(entry["idle"])
            for entry in client.client_list()
            if "b" in entry["flags"] and entry["cmd"].startswith(("br", "bl", "bz"))
        ]
        client.close()
        return found


class RabbitMQBroker:
    """A RabbitMQ node; results are stored in files."""

    name = "rabbitmq"

    def __init__(self, server: RabbitMQServer | None = None) -> None:
        self.server = server or RabbitMQServer()
        self.vhost = ""

    def begin(self) -> None:
        """Take a virtual host for the run."""
        revive(self.server)
        self.vhost = self.server.new_vhost()

    def url(self, port: int) -> str:
        """Return the URL of the broker as seen through *port*."""
        return f"amqp://guest:guest@127.0.0.1:{port}/{self.vhost}"

    def store_url(self, folder: Path) -> str:
        """Return the URL of the result store."""
        (folder / "results").mkdir(exist_ok=True)
        return f"file://{folder / 'results'}"

    def settings(self) -> dict[str, Any]:
        """Return settings of the worker that make it notice soon what is gone."""
        return {"broker_heartbeat": 2, "broker_connection_timeout": SILENCE_S}

    def held(self) -> set[str]:
        """Return the ids of all messages in the queue; nobody may consume meanwhile."""
        with Celery(broker=self.url(self.server.port), set_as_current=False).connection() as link:
            link.ensure_connection(timeout=STEP_S, interval_start=0.1, interval_step=0)
            channel = link.channel()
            found = set()
            while (message := channel.basic_get("celery")) is not None:
                found.add(message.headers["id"])
            return found


class NoServer(AbstractContextManager[None]):
    """Stands where others have a server."""

    port = 0

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


class EmbeddedBroker:
    """A file for each run, with the results in it as well."""

    name = "embedded"

    def __init__(self) -> None:
        self.server = NoServer()
        self._folder = tempfile.TemporaryDirectory()
        self._runs = 0

    def begin(self) -> None:
        """Take a new file."""
        self._runs += 1

    def url(self, port: int) -> str:
        """Return the URL of the broker."""
        return f"sqlite:///{self._folder.name}/{self._runs}.db"

    def store_url(self, folder: Path) -> str:
        """Return the URL of the result store."""
        return self.url(0)

    def settings(self) -> dict[str, Any]:
        """Return nothing: a process that is gone is noticed soon."""
        return {}

    def is_free(self) -> bool:
        """Say whether nobody writes to the store now."""
        with closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as store:
            try:
                store.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True

    @property
    def _path(self) -> str:
        return self.url(0).removeprefix("sqlite:///")

    def held(self) -> set[str]:
        """Return the ids of all messages that are stored."""
        with closing(sqlite3.connect(self._path, timeout=STEP_S)) as store:
            if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'messages'").fetchall():
                return set()  # no worker has ever got as far
            heads = store.execute("SELECT head FROM messages WHERE queue = 'celery'").fetchall()
        return {json.loads(head)["headers"]["id"] for (head,) in heads}


Broker = RedisBroker | RabbitMQBroker | EmbeddedBroker

#: By the names in scenarios.
BROKERS: dict[str, type[Broker]] = {
    kind.name: kind for kind in (RedisBroker, RabbitMQBroker, EmbeddedBroker)
}


# -- One run


@dataclass
class Run:
    """A run in progress, as faults see it."""

    scenario: Scenario
    broker: Broker
    folder: Path
    python: str
    proxy: Proxy
    ledger: Ledger
    load: Load = field(default_factory=Load)
    workers: list[WorkerProcess] = field(default_factory=list)
    #: Processes that have to end because their worker died.
    orphans: set[int] = field(default_factory=set)
    app: Celery = field(init=False)
    at_gate: str = ""
    #: When the broker had started again, in seconds since the epoch.
    back_at: float = 0.0
    #: Finds in a list of queues how many tasks they hold.
    counted_queues: ClassVar[str] = r"^celery\t(\d+)"

    def __post_init__(self) -> None:
        self.app = Celery("client", set_as_current=False)
        # Nothing here tests how soon a client gives up.
        self.app.conf.update(
            broker_url=self.broker.url(self.broker.server.port),
            broker_connection_timeout=STEP_S,
            task_publish_retry_policy={"max_retries": 100, "interval_max": 0.3},
        )
        if isinstance(self.broker, RabbitMQBroker):
            # Only what the broker has confirmed counts as published.
            self.app.conf.broker_transport_options = {"confirm_publish": True}

    @property
    def is_ours(self) -> bool:
        """Whether the worker is of this library."""
        return self.python == sys.executable

    @property
    def imported(self) -> str:
        """What the worker imports: the tasks, and this library from where this process has it."""
        return os.pathsep.join(map(str, [PROJECT, ROOT] if self.is_ours else [PROJECT]))

    @property
    def gate(self) -> Path:
        """The file that the task at the gate waits for."""
        return self.folder / "gate"

    @property
    def concurrency(self) -> int:
        """Tasks that run at once."""
        return CONCURRENCY[self.scenario.pool]

    @property
    def window(self) -> int:
        """How many messages a worker may hold.

        Those it has prefetched, those that have ended but whose acknowledgement is on its way,
        and on Redis one that a pending read may bring.
        """
        return self.concurrency * PREFETCH_MULTIPLIER + self.concurrency + 1

    @property
    def worker(self) -> WorkerProcess:
        """The worker that runs now."""
        return self.workers[-1]

    def start_worker(self) -> None:
        """Start a worker and wait until it is ready."""
        conf = {
            "broker_url": self.broker.url(self.proxy.port),
            "result_backend": self.broker.store_url(self.folder),
            "broker_connection_retry_on_startup": True,
            "task_acks_late": self.scenario.late,
            "task_reject_on_worker_lost": self.scenario.late,
            "worker_prefetch_multiplier": PREFETCH_MULTIPLIER,
            **self.broker.settings(),
        }
        worker = WorkerProcess(
            "-P", self.scenario.pool, "-c", str(self.concurrency),
            "-n", f"w{len(self.workers)}@faults",
            conf={},
            app="fault_tasks",
            cwd=PROJECT,
            env={
                "PYTHONPATH": self.imported,
                "FAULT_CONF": json.dumps(conf),
                "FAULT_LEDGER": str(self.ledger.path),
            },
        )  # fmt: skip
        worker.command[0] = self.python
        self.workers.append(worker)
        worker.launch()
        worker.wait_for(r" ready\.$", timeout_s=STEP_S)

    def publish(self, count: int = 1, gate: bool = False) -> list[str]:
        """Send tasks; returns their ids."""
        ids = []
        for _ in range(count):
            arguments = [self.load.pause_s, str(self.gate)] if gate else [self.load.pause_s]
            ids.append(self.app.send_task("faults.step", arguments).id)
            self.ledger.published.append(ids[-1])
        return ids

    def wait_for(self, condition: Callable[[Runs], bool], what: str) -> None:
        """Wait for a state of the ledger.

        Raises:
            TimeoutError: It was not reached.
        """
        if not self.ledger.wait_until(condition, STEP_S):
            raise TimeoutError(f"{what} took longer than {STEP_S} s")

    def strikes(self, sleepers: Iterable[int] = ()) -> None:
        """Note in the ledger that the fault happens now; *sleepers* will wake up with messages."""
        self.ledger.fault_happens(self.window, RECEIVED.findall(self.worker.text()), sleepers)

    def open_gate(self) -> None:
        """Let the task at the gate go on."""
        self.gate.touch()

    def kill_worker(self) -> None:
        """Kill the main process and nothing else."""
        assert self.worker.process is not None
        self.orphans.update(self.worker.children())
        self.worker.process.send_signal(signal.SIGKILL)
        self.worker.process.wait(STEP_S)

    def store(self) -> dict[str, str]:
        """Return the state of each published task in the result store."""
        reader = Celery("reader", set_as_current=False)
        reader.conf.update(result_backend=self.broker.store_url(self.folder))
        backend = reader.backend
        found = {task_id: str(backend.get_state(task_id)) for task_id in self.ledger.published}
        reader.close()
        return found

    def close(self) -> None:
        """End what still runs."""
        for worker in self.workers:
            worker.kill()
        self.app.close()
        # kombu keeps connections for the whole process, by URL.
        pools.reset()

    def log(self) -> str:
        """Return what the workers printed."""
        return "\n".join(f"-- worker {n}\n{w.text()}" for n, w in enumerate(self.workers))


# -- Faults. Each strikes, opens the gate at its moment, and leaves a worker that can go on.


def kill_worker(run: Run) -> None:
    """SIGKILL to the worker."""
    run.kill_worker()
    run.strikes()
    run.open_gate()
    run.start_worker()


def freeze_and_kill_worker(run: Run) -> None:
    """SIGSTOP to the worker, which holds messages, then SIGKILL."""
    _freeze(run)
    run.publish(UNSEEN)
    run.kill_worker()
    run.strikes()
    run.open_gate()
    run.start_worker()


def freeze_idle_worker(run: Run) -> None:
    """SIGSTOP to a worker that waits for messages; publish; SIGKILL."""
    run.open_gate()
    sent = set(run.ledger.published)
    run.wait_for(lambda runs: sent <= set(runs.ends), "the end of all tasks")
    wait_until(lambda: not run.broker.held() if run.broker.name != "rabbitmq" else True, "the acks")
    if isinstance(run.broker, RedisBroker) and is_stock_redis(run):
        _freeze_in_read(run, run.broker)
    else:
        _freeze(run)
    run.publish(UNSEEN)
    run.kill_worker()
    run.strikes()
    run.start_worker()


def _freeze(run: Run) -> None:
    """Stop the worker, but not while it writes to the embedded store.

    Who is frozen there keeps all others out, publishers too, until it goes on or is gone.
    """

    def is_frozen() -> bool:
        freeze(run.worker.pid)
        if not isinstance(run.broker, EmbeddedBroker) or run.broker.is_free():
            return True
        run.worker.signal(signal.SIGCONT)
        return False

    wait_until(is_frozen, "a moment without the lock of the store", STEP_S)


def _freeze_in_read(run: Run, broker: RedisBroker) -> None:
    # Freeze the worker while a read with a second ahead of it is pending.
    def is_frozen() -> bool:
        if not any(idle < 1 for idle in broker.waiting_clients()):
            return False
        freeze(run.worker.pid)
        if broker.waiting_clients():
            return True
        run.worker.signal(signal.SIGCONT)
        return False

    wait_until(is_frozen, "a pending read", STEP_S)


def put_worker_to_sleep(run: Run) -> None:
    """SIGSTOP to the worker until another one has got its messages, then SIGCONT."""
    sleeper = run.worker
    _freeze(run)
    run.strikes(sleepers=[sleeper.pid, *sleeper.children()])
    run.start_worker()
    run.wait_for(lambda runs: runs.starts.count(run.at_gate) > 1, "the delivery to another")
    sleeper.signal(signal.SIGCONT)
    run.open_gate()


def terminate_worker(run: Run) -> None:
    """SIGTERM to the worker: it ends what it runs and gives back the rest."""
    run.worker.signal(signal.SIGTERM)
    run.worker.wait_for("Warm shutdown", timeout_s=STEP_S)
    run.strikes()
    run.open_gate()
    assert run.worker.process is not None
    code = run.worker.process.wait(STEP_S)
    if code:
        raise AssertionError(f"a worker that was asked to stop ended with {code}")
    run.start_worker()


def kill_child(run: Run) -> None:
    """SIGKILL to the process of the pool whose task is at the gate."""
    os.kill(run.ledger.runs().pids[run.at_gate], signal.SIGKILL)
    run.strikes()
    run.wait_for(
        lambda runs: (
            run.at_gate in runs.running
            if not run.scenario.late
            else runs.starts.count(run.at_gate) > 1
        ),
        "the second delivery",
    )
    run.open_gate()


def restart_broker(run: Run) -> None:
    """SIGKILL to the broker, and a new start."""
    if isinstance(run.broker, RabbitMQBroker):
        _wait_until_acknowledged(run, run.broker)
    run.broker.server.kill()
    run.strikes()
    run.open_gate()
    run.broker.server.start()
    run.back_at = time.time()


def _wait_until_acknowledged(run: Run, broker: RabbitMQBroker) -> None:
    # The node writes acknowledgements some time after it got them. What has ended long ago must
    # not come back, so let the tasks stop first: all that may run are at the gate.
    run.publish(run.concurrency - 1, gate=True)

    def is_quiet() -> bool:
        runs = run.ledger.runs()
        if len(runs.running) < run.concurrency:
            return False
        counted = broker.server.ctl("list_queues", "-p", broker.vhost, "name", "messages")
        kept = sum(int(count) for count in re.findall(run.counted_queues, counted, re.MULTILINE))
        settled = set(runs.ends) if run.scenario.late else set(runs.starts)
        # A worker without a pool writes nothing while its task is at the gate.
        unwritten = run.window if run.scenario.pool == "solo" else 0
        return 0 <= kept - (len(run.ledger.published) - len(settled)) <= unwritten

    wait_until(is_quiet, "the acknowledgements", STEP_S)


def kill_connections(run: Run) -> None:
    """The broker closes all connections."""
    run.broker.server.disconnect_clients()
    run.strikes()
    run.open_gate()


def cut(run: Run) -> None:
    """The network resets the connections of the worker."""
    run.proxy.cut()
    run.strikes()
    run.open_gate()


def half_open(run: Run) -> None:
    """The broker has lost the worker, which does not know."""
    run.proxy.half_open()
    run.strikes()
    run.open_gate()


def swallow(run: Run) -> None:
    """The network loses all that is sent, and nobody knows."""
    run.proxy.swallow()
    run.strikes()
    run.open_gate()


def blackhole(run: Run) -> None:
    """As before, and connections made until the worker has noticed are silent too."""
    made = run.proxy.accepted
    run.proxy.blackhole()
    run.strikes()
    run.open_gate()
    wait_until(lambda: run.proxy.accepted > made, "a new connection", STEP_S)
    run.proxy.restore()


def refuse(run: Run) -> None:
    """Nobody listens at the address of the broker for some time."""
    run.proxy.refuse()
    run.strikes()
    run.open_gate()
    run.worker.wait_for("Cannot connect to", timeout_s=STEP_S)
    run.proxy.restore()


def delay(run: Run) -> None:
    """All that is sent takes longer."""
    run.proxy.delay_s = DELAY_S
    run.strikes()
    run.open_gate()


FAULTS: dict[str, Callable[[Run], None]] = {
    "kill": kill_worker,
    "freeze": freeze_and_kill_worker,
    "freeze_idle": freeze_idle_worker,
    "sleep": put_worker_to_sleep,
    "term": terminate_worker,
    "child": kill_child,
    "restart": restart_broker,
    "disconnect": kill_connections,
    "cut": cut,
    "half_open": half_open,
    "swallow": swallow,
    "blackhole": blackhole,
    "refuse": refuse,
    "delay": delay,
}

_BOTH = ("redis", "rabbitmq")
_ALL = (*_BOTH, "embedded")
#: The short form: fault, brokers, pools with late acknowledgement, pools with early.
_TABLE: list[tuple[str, tuple[str, ...], list[str], list[str]]] = [
    ("kill", _ALL, ["prefork", "threads", "solo"], ["prefork"]),
    ("freeze", _ALL, ["prefork"], []),
    ("freeze_idle", _ALL, ["prefork"], []),
    ("sleep", _BOTH, ["prefork"], []),
    ("term", _ALL, ["prefork"], ["threads"]),
    ("child", _ALL, ["prefork"], ["prefork"]),
    ("restart", _BOTH, ["prefork"], []),
    ("disconnect", _BOTH, ["threads"], ["prefork"]),
    ("cut", _BOTH, ["prefork"], ["threads"]),
    ("half_open", ("rabbitmq",), ["prefork"], []),
    # The worker sees the same as with a half-open connection; on Redis the broker does too.
    ("swallow", _BOTH, ["prefork"], []),
    ("blackhole", ("rabbitmq",), ["threads"], []),
    ("refuse", _BOTH, ["solo"], []),
    ("delay", _BOTH, ["prefork"], []),
]

SCENARIOS = [
    Scenario(fault, broker, pool, late)
    for fault, brokers, late_pools, early_pools in _TABLE
    for broker in brokers
    for late, chosen in ((True, late_pools), (False, early_pools))
    for pool in chosen
]


def scenario_drawn(draw: random.Random) -> Scenario:
    """Choose any scenario that makes sense."""
    fault = draw.choice(list(FAULTS))
    brokers = next(brokers for name, brokers, _, _ in _TABLE if name == fault)
    return Scenario(
        fault,
        draw.choice([*_BOTH, *(name for name in brokers if name not in _BOTH)]),
        "prefork" if fault == "child" else draw.choice(list(CONCURRENCY)),
        fault == "sleep" or draw.random() < 0.6,
    )


#: Faults that end the worker without notice.
DEADLY = {"kill", "freeze", "freeze_idle"}
#: Faults that must not show in any way.
HARMLESS = {"term", "delay"}
#: Faults after which our worker on Redis still has what it holds: nothing is delivered again.
KEPT_ON_REDIS = {"disconnect", "cut"}
#: Faults after which a worker might try in vain, over and over.
MAY_SPIN = {"restart", "disconnect", "cut", "half_open", "swallow", "blackhole", "refuse"}


# -- Verdicts


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run."""

    scenario: Scenario
    verdict: Verdict
    #: Rules that the run broke; empty when all is well.
    complaints: list[str]
    #: Seconds from the end of the fault to the end of a task published after it; None for never.
    recovery_s: float | None
    log: str


def is_stock_redis(run: Run) -> bool:
    """Say whether the worker uses kombu's own Redis transport.

    That one takes a message off the queue first and files it as unacknowledged afterwards, so
    a worker that dies in between loses it.
    """
    if run.broker.name != "redis":
        return False
    if not run.is_ours:
        return True
    transport = type(run.app.connection_for_write().transport)
    return transport.__module__.startswith("kombu.")


def loses_what_it_reads(run: Run) -> bool:
    """Say whether this run may lose the message that is on its way to the worker."""
    return run.scenario.fault not in HARMLESS | {"child"} and is_stock_redis(run)


def accepted_at_most(run: Run) -> int:
    """
    Return how many tasks a dying worker may lose that have not written their first line.

    An early acknowledgement leaves when a process or thread of the pool takes the task, an instant
    before its body begins: later, the task could run twice.
    """
    dies_early = run.scenario.fault in DEADLY and not run.scenario.late
    return run.concurrency if dies_early else 0


def complain(run: Run, verdict: Verdict) -> list[str]:
    """Return which rules *verdict* breaks."""
    scenario, flying = run.scenario, run.ledger.in_flight()
    lost, unstored = verdict.lost, verdict.unstored
    found = []
    if loses_what_it_reads(run):
        gone = verdict.lost_unstarted
        if len(gone) > 1 or (scenario.fault == "freeze_idle" and not gone):
            found.append(f"lost {sorted(gone)}, not the one message of the pending read")
        lost -= gone
    if scenario.late or scenario.fault not in DEADLY:
        if lost:
            found.append(f"lost {sorted(lost)}")
        if unstored:
            found.append(f"results not stored: {sorted(unstored)}")
    else:
        # Acknowledged early, and the worker died: what had started may be lost.
        unstarted = lost & verdict.lost_unstarted
        if len(unstarted) > accepted_at_most(run):
            found.append(f"lost before they started: {sorted(unstarted)}")
        unwritten = run.ledger.unwritten_at_fault(verdict)
        if away := (lost | unstored) - flying - unwritten:
            found.append(f"lost though not in flight: {sorted(away)}")
    if scenario.fault == "child" and not scenario.late:
        if verdict.failed != {run.at_gate}:
            found.append("the task of the killed process has to fail, and no other")
    elif verdict.failed:
        found.append(f"failed {sorted(verdict.failed)}")
    if verdict.duplicated_without_need:
        found.append(f"ran again, not in flight: {sorted(verdict.duplicated_without_need)}")
    keeps = run.broker.name == "redis" and run.is_ours and not is_stock_redis(run)
    untouched = scenario.fault in HARMLESS or (keeps and scenario.fault in KEPT_ON_REDIS)
    if len(verdict.duplicated) > (0 if untouched else run.window):
        found.append(f"ran again, too many: {sorted(verdict.duplicated)}")
    return found


def run_scenario(
    scenario: Scenario,
    broker: Broker,
    folder: Path,
    *,
    python: str = sys.executable,
    load: Load | None = None,
) -> Outcome:
    """Play *scenario* and judge it.

    Args:
        broker: A running one.
        folder: An empty one, for the ledger and such.
        python: Interpreter of the worker, to judge another celery.
    """
    broker.begin()
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(broker.server.port))
        ledger = Ledger(folder / "ledger")
        run = Run(scenario, broker, folder, python, proxy, ledger, load or Load())
        stack.callback(run.close)
        complaints = []
        recovery_s = None
        try:
            recovery_s = _play(run)
        except Exception as exc:  # whatever broke it is the outcome of this run
            complaints.append(f"{type(exc).__name__}: {str(exc).partition(chr(10))[0]}")
        run.open_gate()
        verdict = ledger.verdict(run.store(), broker.held())
        complaints += complain(run, verdict)
        return Outcome(scenario, verdict, complaints, recovery_s, run.log())


def _play(run: Run) -> float:
    load = run.load
    run.start_worker()
    run.publish(load.before)
    run.at_gate = run.publish(gate=True)[0]
    behind = set(run.publish(load.behind))
    run.wait_for(lambda runs: run.at_gate in runs.running, "the task at the gate")
    if run.concurrency > 1:
        run.wait_for(lambda runs: len(behind & set(runs.ends)) >= load.passing, "tasks behind")
    FAULTS[run.scenario.fault](run)
    over = time.monotonic()
    later = set(run.publish(load.after))
    run.wait_for(lambda runs: bool(later & set(runs.ends)), "the first task after the fault")
    recovery_s = time.monotonic() - over
    _wait_for_the_dead(run)
    _wait_until_quiet(run)
    if run.is_ours and run.scenario.fault == "restart":
        _check_connected_soon(run)
    if run.is_ours and run.scenario.fault in MAY_SPIN:
        _check_idle(run)
    living = [
        worker.process
        for worker in run.workers
        if worker.process is not None and worker.process.poll() is None
    ]
    for process in living:
        process.send_signal(signal.SIGTERM)
    codes = [process.wait(STEP_S) for process in living]
    if not codes or any(codes):
        raise AssertionError(f"the workers ended with {codes}")
    return recovery_s


def _check_connected_soon(run: Run) -> None:
    # By the log, because the next task waits for those before it as well.
    last = CONNECTED.findall(run.worker.text())[-1]
    took_s = datetime.strptime(last, "%Y-%m-%d %H:%M:%S,%f").timestamp() - run.back_at
    if took_s > BACK_S:
        raise AssertionError(f"the broker is back, and the worker connected {took_s:.1f} s later")


def _check_idle(run: Run) -> None:
    # What still comes from the fault, and other users of the machine, may spoil a window.
    loads = []
    for _ in range(IDLE_WINDOWS):
        before, start = _cpu_s(run.worker), time.monotonic()
        time.sleep(IDLE_WINDOW_S)
        loads.append((_cpu_s(run.worker) - before) / (time.monotonic() - start))
        if loads[-1] < IDLE_LOAD:
            return
    raise AssertionError(f"an idle worker uses {min(loads):.1%} of a processor")


def _cpu_s(worker: WorkerProcess) -> float:
    # The clocks that clock_getcpuclockid(3) names, which are finer than those in /proc.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in [worker.pid, *worker.children()])


def _wait_for_the_dead(run: Run) -> None:
    # What a killed worker leaves behind has to notice and go.
    wait_until(
        lambda: not any(map(is_alive, run.orphans)), "the end of the dead worker's pool", STEP_S
    )


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until_quiet(run: Run) -> None:
    excused: set[str] = set()
    if run.scenario.fault in DEADLY and not run.scenario.late:
        excused = run.ledger.started_before_fault()
    # The one message that cannot come is not waited for; the verdict counts it.
    spare = accepted_at_most(run) + (1 if loses_what_it_reads(run) else 0)
    published = set(run.ledger.published)

    def is_quiet(runs: Runs) -> bool:
        missing = published - set(runs.ends) - excused
        if missing == {run.at_gate} and run.scenario.fault == "child":
            return run.store()[run.at_gate] in states.EXCEPTION_STATES
        if len(missing) > spare or missing & set(runs.starts):
            return False
        return not missing or not missing & run.broker.held()

    if not run.ledger.wait_until(is_quiet, QUIET_S):
        raise TimeoutError(f"not quiet after {QUIET_S} s")
