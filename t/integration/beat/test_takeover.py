"""Several ``celery beat`` processes with one store: one sends, whatever becomes of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from kombu import Connection, Exchange, Queue

from celery._beat.store import open_store
from t.harness.servers import RedisServer
from t.harness.worker import eventually

ROOT = Path(__file__).resolve().parents[3]
IS_LONG = bool(os.environ.get("T_LONG"))

#: Entries, and seconds between two runs of each. Beside other tests a machine may get ten sent a
#: second, and a minute behind time beat leaves intervals out.
ENTRIES, EVERY = 100 if IS_LONG else 20, 1.0


class Broker:
    """Takes what comes into a queue, and keeps it."""

    def __init__(self, url, queue):
        self.connection = Connection(url)
        self.queue = Queue(queue, Exchange(queue), queue)
        self.taken = []

    def messages(self):
        """Return (task id, number of the entry) of all messages so far, in order."""
        bound = self.queue(self.connection.default_channel)
        bound.declare()
        while (message := bound.get(no_ack=True)) is not None:
            self.taken.append((message.headers["id"], message.payload[0][0]))
        return self.taken

    def close(self):
        self.connection.close()


class Beats:
    """Processes with one store, and the books about them."""

    def __init__(self, broker, store, folder, entries=(ENTRIES, EVERY)):
        self.name = f"beat-{uuid.uuid4()}"
        self.broker = Broker(broker, self.name)
        self.folder = folder
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "T_BEAT_BROKER": broker,
            "T_BEAT_STORE": store,
            "T_BEAT_NAME": self.name,
            "T_BEAT_ENTRIES": json.dumps(entries),
        }
        self.store = open_store(store, self.name)
        self.store.open()
        self.processes = {}
        self.is_closed = False

    def start(self, *options):
        number = len(os.listdir(self.folder))
        command = [sys.executable, "-m", "celery", "-A", "t.integration.beat.shared", "beat"]
        with (self.folder / f"beat-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-l", "INFO", *options],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        self.processes[process.pid] = process
        return process

    def stands_by(self, process):
        """Wait until *process* has seen that another one sends, or sends."""
        logs = sorted(self.folder.iterdir(), key=lambda path: int(path.stem.rpartition("-")[2]))
        log = logs[list(self.processes).index(process.pid)]
        eventually(
            lambda: any(text in log.read_text() for text in ("Standing by", "This one sends"))
        )

    def sender(self):
        """Return the process that sends; None if that is a dead one, or nobody."""
        owner = self.store.lease().owner
        process = self.processes.get(int(owner.partition("@")[0] or 0))
        return process if process is not None and process.poll() is None else None

    def kill_sender(self):
        """Kill it; return the seconds until another one sends."""
        process = eventually(self.sender)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at = time.monotonic()
        eventually(self.sender)
        return time.monotonic() - killed_at

    def stop(self):
        living = [process for process in self.processes.values() if process.poll() is None]
        for process in living:
            process.terminate()
        return [process.wait(30) for process in living]

    def close(self):
        """End everything; harmless twice."""
        if self.is_closed:
            return
        self.is_closed = True
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.store.close()
        self.broker.close()
        for path in sorted(self.folder.iterdir()):
            print(f"--- {path.name}\n{path.read_text()[-3000:]}")

    def messages(self):
        """Return (task id, number of the entry) of all messages, in order."""
        return self.broker.messages()

    def verdict(self):
        """Compare the messages with what the store says has run: (ticks, lost, doubled)."""
        sent = self.messages()
        ids = Counter(task_id for task_id, _ in sent)
        by_entry = Counter(number for _, number in sent)
        runs = self.store.load().runs
        expected = {int(name.partition("-")[2]): run.count for name, run in runs.items()}
        doubled = {task_id: count for task_id, count in ids.items() if count > 1}
        lost = {n: (by_entry[n], count) for n, count in expected.items() if by_entry[n] < count}
        return sum(expected.values()), lost, doubled


@pytest.fixture
def beats(tmp_path, redis_url):
    opened = []

    def make(store, broker=redis_url, **kwargs):
        (tmp_path / "logs").mkdir()
        made = Beats(broker, store, tmp_path / "logs", **kwargs)
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.close()


def store_url(request, kind, tmp_path_factory):
    match kind:
        case "redis":
            return request.getfixturevalue("redis_url")
        case "postgresql":
            return request.getfixturevalue("postgresql_url")
        case _:
            return f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.db'}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["redis", "postgresql", *(["sqlite"] if IS_LONG else [])])
def test_no_tick_is_lost_or_doubled_however_often_the_sender_is_killed(
    beats, request, kind, tmp_path_factory
):
    """Each interval has its one message, those during a hand-over as well."""
    kills = 20 if IS_LONG else 1 + (kind == "redis")
    made = beats(store_url(request, kind, tmp_path_factory))
    for _ in range(2):
        made.stands_by(made.start())
    began = made.store.load().runs
    handed_over = []
    for _ in range(kills):
        sent = len(made.messages())
        eventually(lambda sent=sent: len(made.messages()) >= sent + ENTRIES)
        # Anywhere within a second, so also between a claim and its message.
        time.sleep(random.random() * EVERY)
        handed_over.append(made.kill_sender())
        made.stands_by(made.start())
    sent = len(made.messages())
    eventually(lambda: len(made.messages()) >= sent + ENTRIES)
    codes = made.stop()

    ticks, lost, doubled = made.verdict()
    print(
        f"{kind}: {kills} kills, {ticks} ticks, {len(lost)} lost, {len(doubled)} doubled,"
        f" handed over within {max(handed_over):.2f} s"
    )
    assert codes == [0, 0]
    assert (lost, doubled) == ({}, {})
    assert len(made.messages()) == ticks
    assert max(handed_over) < (5 if IS_LONG else 15)
    # Every interval since the first counts: none was left out while nobody sent.
    for name, run in made.store.load().runs.items():
        assert (run.at - began[name].at).total_seconds() == pytest.approx(
            (run.count - began[name].count) * EVERY, abs=1e-3
        ), name


@pytest.mark.timeout(600)
def test_with_another_broker_a_kill_doubles_one_message_at_most(beats, redis_url, amqp_url):
    """It has no mark that would tell it; the second message has the id of the first."""
    kills = 10 if IS_LONG else 1
    made = beats(redis_url, broker=amqp_url)
    for _ in range(2):
        made.stands_by(made.start())
    for _ in range(kills):
        sent = len(made.messages())
        eventually(lambda sent=sent: len(made.messages()) >= sent + ENTRIES)
        made.kill_sender()
        made.stands_by(made.start())
    sent = len(made.messages())
    eventually(lambda: len(made.messages()) >= sent + ENTRIES)
    assert made.stop() == [0, 0]

    ticks, lost, doubled = made.verdict()
    print(f"rabbitmq: {kills} kills, {ticks} ticks, {len(lost)} lost, {len(doubled)} doubled")
    assert lost == {}
    assert len(doubled) <= kills
    assert set(doubled.values()) <= {2}
    assert len(made.messages()) == ticks + len(doubled)


def test_a_broker_that_falls_silent_gets_each_message_once(beats, redis_url):
    """Whether a message came that nobody confirmed is not known, so it is sent again."""
    with RedisServer() as broker:
        made = beats(redis_url, broker=broker.url)
        made.env["T_BEAT_TRANSPORT"] = '{"socket_timeout": 1}'
        made.stands_by(made.start())
        log = made.folder / "beat-0.log"
        for _ in range(2):
            sent = len(made.messages())
            eventually(lambda sent=sent: len(made.messages()) >= sent + ENTRIES)
            told = log.read_text().count("Message Error")
            with broker.frozen():
                eventually(lambda told=told: log.read_text().count("Message Error") > told)
            sent = len(made.messages())
            eventually(lambda sent=sent: len(made.messages()) >= sent + 2 * ENTRIES)
        assert made.stop() == [0]

        ticks, lost, doubled = made.verdict()
        assert (lost, doubled) == ({}, {})
        assert len(made.messages()) == ticks
        made.close()


def test_without_the_store_nothing_is_sent_until_it_is_back(beats, redis_url):
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        made = beats(server.url, broker=redis_url)
        made.stands_by(made.start())
        eventually(lambda: len(made.messages()) >= ENTRIES)
        server.kill()
        log = made.folder / "beat-0.log"
        eventually(lambda: "Trying again in" in log.read_text())
        server.start()
        sent = len(made.messages())
        eventually(lambda: len(made.messages()) >= sent + 3 * ENTRIES)
        assert made.stop() == [0]

        ticks, lost, doubled = made.verdict()
        assert (lost, doubled) == ({}, {})
        assert len(made.messages()) == ticks
        made.close()


@pytest.mark.timeout(600)
def test_a_paused_sender_does_not_send_what_its_successor_has_sent(beats, redis_url):
    """It wakes up in the middle of its work, and finds itself replaced."""
    made = beats(redis_url)
    for _ in range(2):
        made.stands_by(made.start())
    for _ in range(5 if IS_LONG else 1):
        sent = len(made.messages())
        eventually(lambda sent=sent: len(made.messages()) >= sent + ENTRIES)
        paused = eventually(made.sender)
        paused.send_signal(signal.SIGSTOP)
        fence = made.store.lease().fence
        eventually(lambda fence=fence: made.store.lease().fence > fence)
        paused.send_signal(signal.SIGCONT)
        sent = len(made.messages())
        eventually(lambda sent=sent: len(made.messages()) >= sent + 2 * ENTRIES)
    assert made.stop() == [0, 0]

    ticks, lost, doubled = made.verdict()
    assert (lost, doubled) == ({}, {})
    assert len(made.messages()) == ticks


def test_entries_change_while_beats_run(beats, redis_url):
    """Added, changed and removed entries are kept in the store."""
    made = beats(redis_url, entries=(1, 3600))
    made.stands_by(made.start())
    definition = {"task": "t.tick", "schedule": {"every": 0.2}, "args": [7]}
    made.store.put("added", definition)
    eventually(lambda: (defaultdict(int, Counter(n for _, n in made.messages())))[7] >= 3)

    made.store.put("added", {**definition, "args": [8]})
    eventually(lambda: Counter(n for _, n in made.messages())[8] >= 3)
    made.store.remove("added")
    eventually(lambda: "added" not in made.store.load().runs)
    count = len(made.messages())
    assert made.stop() == [0]
    assert len(made.messages()) <= count + 1
