"""Workers of both implementations side by side: remote control, events, mingle, gossip."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from t.harness.worker import eventually
from t.interop.nodes import APPS, CLIENT_S, Site, Worker


def options(whose: str) -> tuple[str, ...]:
    return ("-E", "-Q", f"celery,only-{whose}")


class Both:
    """A site with one worker of each kind; theirs came second."""

    def __init__(self, pythons: dict[str, str], site: Site) -> None:
        self.pythons, self.site = pythons, site
        self.ours = Worker(pythons["ours"], site, "ours", *options("ours"))
        self.workers = [self.ours]

    def celery(self, whose: str, *words: str) -> Any:
        """Run the command line of one side."""
        return subprocess.run(
            [self.pythons[whose], "-m", "celery", "-A", "interop_app", *words],
            cwd=APPS,
            env=self.site.environment(),
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )

    def ask(self, whose: str, *commands: tuple[Any, ...]) -> dict[str, Any]:
        """Send commands with the client of one side; returns the last replies to each.

        Args:
            commands: Name, arguments and, if they differ, options of the call.
        """
        done = subprocess.run(
            [self.pythons[whose], "asker.py"],
            cwd=APPS,
            env=self.site.environment(),
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        replies: dict[str, Any] = json.loads(done.stdout)
        return replies


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ],
)
def both(request: pytest.FixtureRequest, our_python: str, reference_python: str) -> Iterator[Both]:
    server = request.getfixturevalue(f"{request.param}_server")
    results = request.getfixturevalue("redis_server")
    site = Site(server.url, f"redis://127.0.0.1:{results.port}/9")
    both = Both({"ours": our_python, "theirs": reference_python}, site)
    with both.ours:
        # Known before the other comes, which has to learn of it.
        done = both.celery("ours", "control", "revoke", "revoked-before", "-t", "5")
        assert done.returncode == 0, done.stdout + done.stderr
        theirs = Worker(reference_python, site, "theirs", *options("theirs"))
        both.workers.append(theirs)
        with theirs:
            yield both
    for worker in both.workers:
        # Shown by pytest when the test fails.
        print("".join(worker.log))


def nodes(replies: Any) -> set[str]:
    """Return the names, without their hosts, of those that replied."""
    names = replies if isinstance(replies, dict) else [name for each in replies for name in each]
    return {name.partition("@")[0] for name in names}


BOTH = {"ours", "theirs"}


@pytest.mark.parametrize("whose", sorted(BOTH))
def test_either_command_line_talks_to_both(both: Both, whose: str) -> None:
    ping = both.celery(whose, "inspect", "ping", "--json", "-t", "3")
    status = both.celery(whose, "status", "-t", "3")
    limit = both.celery(whose, "control", "rate_limit", "interop.add", "100/s", "-j", "-t", "3")

    assert nodes(json.loads(ping.stdout)) == BOTH
    assert "2 nodes online." in status.stdout
    assert nodes(json.loads(limit.stdout)) == BOTH
    assert limit.stdout.count("new rate limit set successfully") == 2


INSPECTED = (
    "stats", "active", "reserved", "scheduled", "revoked", "registered", "active_queues", "conf",
    "clock", "report",
)  # fmt: skip


@pytest.mark.parametrize("whose", sorted(BOTH))
def test_either_client_inspects_both(both: Both, whose: str) -> None:
    commands = [(name, {}) for name in INSPECTED]
    told = both.ask(whose, *commands, ("query_task", {"ids": ["x"]}))

    for command, replies in told.items():
        assert nodes(replies) == BOTH, command
        (ours,), (theirs,) = (each.values() for each in replies)
        assert type(ours) is type(theirs), command


STEERED = {
    "time_limit": ({"task_name": "interop.add", "soft": 30, "hard": 60}, "time limits set succ"),
    "pool_grow": ({"n": 1}, "pool will grow"),
    "add_consumer": ({"queue": "extra"}, "add consumer extra"),
    "cancel_consumer": ({"queue": "extra"}, "no longer consuming from extra"),
    "enable_events": ({}, "task events already enabled"),
}


@pytest.mark.parametrize("whose", sorted(BOTH))
def test_either_client_steers_both(both: Both, whose: str) -> None:
    told = both.ask(whose, *((name, arguments) for name, (arguments, _) in STEERED.items()))

    for command, replies in told.items():
        assert nodes(replies) == BOTH, command
        for each in replies:
            for answer in each.values():
                assert STEERED[command][1] in answer["ok"]


@pytest.mark.parametrize("whose", sorted(BOTH))
def test_either_receiver_hears_both(both: Both, whose: str) -> None:
    watcher = subprocess.Popen(
        [both.pythons[whose], "event_watcher.py", "20"],
        cwd=APPS,
        env=both.site.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "listening\n"
        program = (
            "from interop_app import app\n"
            "for n in range(20):\n"
            "    app.send_task('interop.add', (1, 2), queue=('only-ours', 'only-theirs')[n % 2])"
        )
        command = [both.pythons["ours"], "-c", program]
        subprocess.run(command, cwd=APPS, env=both.site.environment(), check=True, timeout=CLIENT_S)
        out, _ = watcher.communicate(timeout=CLIENT_S)
    finally:
        watcher.kill()
        watcher.wait()
    heard = json.loads(out)

    assert {name.partition("@")[0] for name in heard["alive"]} == BOTH
    for kind in ("worker-heartbeat", "task-received", "task-started", "task-succeeded"):
        assert {name.partition("@")[0] for name in heard["kinds"][kind]} == BOTH, kind
    shown = {(name, re.sub(r"[\[\]()]", "", args), result) for name, args, result in heard["tasks"]}
    assert shown == {("interop.add", "1, 2", "3")}


def test_both_elect_the_same_worker(both: Both) -> None:
    """B-EVT-017: ours stands first, then theirs too; one of them acts, and both know who.

    That theirs is not alone is meant: a worker of 5.7.0 ends with an IndexError when the votes
    are in and it knows of one candidate, as in elections that only it has begun.
    """
    host = socket.gethostname()
    ids = [f"election-{number}" for number in range(5)]
    action = {"task": "interop.echo", "args": [1], "kwargs": {}, "options": {"queue": "elected"}}

    def elect(whose: str) -> None:
        how = {"reply": False, "limit": None, "destination": [f"{whose}@{host}"]}
        fields = {"topic": "task", "action": action}
        both.ask("ours", *(("election", {"id": id, **fields}, how) for id in ids))

    def clock_of(whose: str) -> int:
        how = {"limit": 1, "destination": [f"{whose}@{host}"]}
        ((reply,),) = (each.values() for each in both.ask("ours", ("clock", {}, how))["clock"])
        return int(reply["clock"])

    def said(worker: Worker, text: str) -> bool:
        return all(any(f"{text} {id!r}" in line for line in worker.log) for id in ids)

    ours, theirs = both.workers
    elect("ours")
    eventually(lambda: said(ours, "I won the election"))
    # Heartbeats bring the clocks together; who stands now is later.
    deadline = clock_of("ours")
    eventually(lambda: clock_of("theirs") > deadline)
    elect("theirs")
    leader = f"ours@{host}.{ours.process.pid}"
    eventually(lambda: said(theirs, f"node {leader} elected for"))

    told = both.celery("ours", "purge", "-f", "-Q", "elected").stdout
    assert told == "Purged 5 messages from 1 known task queue.\n"


def test_they_know_each_other_without_an_error(both: Both) -> None:
    """B-BACK-035: mingle exchanges revoked ids; neither log has an error."""
    replies = both.ask("ours", ("revoked", {}))["revoked"]

    assert all("revoked-before" in ids for each in replies for ids in each.values())
    theirs = "".join(both.workers[1].log)
    assert "mingle: sync with 1 nodes" in theirs
    assert "sync with theirs@" in "".join(both.ours.log)
    for worker in both.workers:
        troubles = re.compile(r"ERROR|CRITICAL|Traceback|missed heartbeat")
        assert [line for line in worker.log if troubles.search(line)] == []
