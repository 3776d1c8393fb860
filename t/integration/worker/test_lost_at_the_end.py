"""A process that is killed after the body of its task: one final state, whatever arrives.

It may be sending what follows on the task, or storing how that ended. The processes stop at a point
that the id of the task names (`t.integration.worker.gated_store`), or that of one that follows.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celery import Celery, chain, chord
from celery.states import READY_STATES
from t.harness.servers import RedisServer
from t.harness.worker import Journal, WorkerProcess, eventually
from t.integration.worker.gated_store import FOLDER_VARIABLE

STORE = "t.integration.worker.gated_store.GatedBackend+"


class Bed:
    """A worker whose processes stop while they store, and what its store announces."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal")
        conf = {"broker_url": url, "result_backend": STORE + url, "task_default_queue": "gates"}
        self.app = Celery("client", set_as_current=False)
        self.app.conf.update({**conf, "result_backend": url})
        self._channel = redis.Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
        self._channel.psubscribe("celery-task-meta-*")
        self._channel.get_message(timeout=30)
        env = {FOLDER_VARIABLE: str(folder)}
        self.worker = WorkerProcess("-c", "1", conf=conf, env=env)
        self._options: dict[str, Any] = {"conf": {**conf, "task_default_queue": "cold"}, "env": env}

    def send(self, name: str, task_id: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(name, args, task_id=task_id, **options)

    def stopped(self, task_id: str) -> int:
        """Wait for a process that has stopped with this task; return its id."""
        path = self.folder / f"{task_id}.pid"
        eventually(path.exists)
        return int(path.read_text())

    def kill(self, task_id: str, ended: str | None = None) -> None:
        """Kill the process that has stopped with this task, when *ended* (or this) had ended."""
        os.kill(self.stopped(task_id), signal.SIGKILL)
        self.worker.wait_for(rf"\[{ended or task_id}\] had ended when its process was lost")

    def follows(self, task_id: str, **options: Any) -> Any:
        """Return a task that follows on another one, and writes down that it runs."""
        path = str(self.journal.path)
        return self.app.signature("follows", (path,), {}, app=self.app).set(
            task_id=task_id, **options
        )

    def runs(self, *task_ids: str) -> list[int]:
        """Say how often each of these tasks has run."""
        return [self.journal.lines.count(task_id) for task_id in task_ids]

    def finals(self, task_id: str) -> list[str]:
        """Return the final states that the store announced, until now."""
        found = []
        # One that is announced last comes last.
        self.app.backend.store_result("last", None, "SUCCESS")
        self.app.backend.forget("last")
        while True:
            message = self._channel.get_message(timeout=30)
            assert message is not None, found
            document = json.loads(message["data"])
            if document["task_id"] == "last":
                return found
            if document["task_id"] == task_id and document["status"] in READY_STATES:
                found.append(document["status"])

    def another_worker(self) -> WorkerProcess:
        """Return a worker for the queue ``cold``."""
        return WorkerProcess("-c", "1", "-n", "cold@%h", **self._options)

    def close(self) -> None:
        self.app.close()
        self._channel.close()


@pytest.fixture(scope="module")
def bed(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    redis_server.flush()
    bed = Bed(redis_server.url, tmp_path_factory.mktemp("gates"))
    with bed.worker:
        yield bed
    bed.close()


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_task_that_had_ended_has_succeeded(bed: Bed, point: str) -> None:
    result = bed.send("add", f"{point}-add", 2, 2)
    bed.kill(result.id)

    assert result.get(timeout=30) == 4
    bed.worker.wait_for(rf"Task add\[{result.id}\]|had ended")
    assert bed.finals(result.id) == ["SUCCESS"]


def test_what_arrives_at_the_store_after_all_changes_nothing(bed: Bed) -> None:
    result = bed.send("add", "late-add", 2, 2)
    bed.kill(result.id)
    assert result.get(timeout=30) == 4

    bed.app.backend._store_result(*pickle.loads((bed.folder / f"{result.id}.late").read_bytes()))

    assert bed.finals(result.id) == ["SUCCESS"]


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_late_task_that_had_ended_is_not_done_again(bed: Bed, point: str) -> None:
    """B-WORK-013, B-WORK-020: given back are messages of tasks that had not."""
    path = bed.folder / "unlocked"
    path.touch()
    task_id = f"{point}-late"
    result = bed.send("late_lost_gated", task_id, str(bed.journal.path), task_id, str(path))
    bed.kill(task_id)
    assert result.get(timeout=30) == task_id

    # The process that takes the next one would have taken a message that was given back before.
    assert bed.send("add", f"next-{point}", 1, 1).get(timeout=30) == 2
    assert bed.journal.lines.count(f"begin {task_id}") == 1
    assert bed.finals(task_id) == ["SUCCESS"]


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_body_that_failed_has_failed_for_its_own_reason(bed: Bed, point: str) -> None:
    result = bed.send("fails", f"{point}-error")
    bed.kill(result.id)

    assert type(result.get(timeout=30, propagate=False)) is KeyError
    assert set(bed.finals(result.id)) == {"FAILURE"}


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_retry_that_was_sent_is_the_next_attempt(bed: Bed, point: str) -> None:
    result = bed.send("retries_once", f"{point}-retry")
    bed.kill(result.id)

    assert result.get(timeout=30) == "second attempt"
    assert bed.finals(result.id) == ["SUCCESS"]


def test_a_retry_that_was_sent_is_the_next_attempt_while_the_body_cleans_up(bed: Bed) -> None:
    result = bed.send("retries_and_cleans_up", "cleaning-up")
    bed.kill(result.id)

    assert result.get(timeout=30) == "second attempt"
    assert bed.finals(result.id) == ["SUCCESS"]


def test_errbacks_that_were_sent_are_not_sent_again(bed: Bed) -> None:
    errback = bed.app.signature("notes_failure", (str(bed.journal.path),), {}, app=bed.app)
    result = bed.send("fails_mourned", "mourned", link_error=errback)
    bed.kill(result.id)

    assert type(result.get(timeout=30, propagate=False)) is KeyError
    # Messages are taken in turn, by the one process there is.
    assert bed.send("add", "next-errbacks", 1, 1).get(timeout=30) == 2
    noted = [line for line in bed.journal.lines if line.endswith(" of mourned")]
    assert len(noted) == 1
    assert bed.finals(result.id) == ["FAILURE"]


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_long_value_is_not_lost(bed: Bed, point: str) -> None:
    result = bed.send("repeats", f"{point}-long", "x", 1_000_000)
    bed.kill(result.id)

    assert result.get(timeout=30) == "x" * 1_000_000
    assert bed.finals(result.id) == ["SUCCESS"]


def test_a_part_that_had_not_been_counted_is_counted(bed: Bed) -> None:
    add = bed.app.signature("add", app=bed.app)
    header = [add.clone((number, 1), task_id=f"chord-{number}") for number in range(2)]
    result = chord(header, bed.app.signature("total", app=bed.app), app=bed.app).apply_async()
    for number in range(2):
        bed.kill(f"chord-{number}")

    assert result.get(timeout=30) == 3


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_task_that_stores_its_end_in_a_cold_shutdown_has_succeeded(bed: Bed, point: str) -> None:
    """B-WORK-073: what a cold shutdown cancels has failed, unless it has ended by then."""
    with bed.another_worker() as worker:
        result = bed.send("add", f"{point}-cold", 2, 2, queue="cold")
        bed.stopped(result.id)
        worker.signal(signal.SIGQUIT)
        worker.wait_for("Waiting for the tasks that were cancelled to end")
        (bed.folder / f"{result.id}.go").touch()

        assert worker.wait() == 0
    assert result.get(timeout=30) == 4
    assert bed.finals(result.id) == ["SUCCESS"]


#: Where the process is killed, and how often the task runs that was being sent.
INSTANTS = pytest.mark.parametrize(("instant", "times"), [("sending", 1), ("sent", 2)])


@INSTANTS
@pytest.mark.parametrize("name", ["leads", "leads_late"])
def test_a_callback_that_was_being_sent_is_sent_for_sure(
    bed: Bed, instant: str, times: int, name: str
) -> None:
    """B-WORK-013, B-WORK-020: late or early, the body is not run again."""
    leader, follower = f"lead-{instant}-{name}", f"{instant}-after-{name}"
    path = str(bed.journal.path)
    result = bed.send(name, leader, path, link=bed.follows(follower))
    bed.kill(follower, leader)

    assert result.get(timeout=30) == 1
    assert bed.app.AsyncResult(follower).get(timeout=30) == 2
    eventually(lambda: bed.runs(follower) == [times])
    assert bed.runs(f"body of {leader}") == [1]
    assert bed.finals(leader) == ["SUCCESS"]
    assert [child.id for child in result.children] == [follower]


@INSTANTS
def test_a_chain_goes_on_after_the_process_of_a_step_was_lost(
    bed: Bed, instant: str, times: int
) -> None:
    step, last = f"{instant}-step", f"last-{instant}"
    head = bed.app.signature("leads", (str(bed.journal.path),), app=bed.app)
    head.set(task_id=f"head-{instant}")
    result = chain(head, bed.follows(step), bed.follows(last), app=bed.app).apply_async()
    bed.kill(step, f"head-{instant}")

    assert result.get(timeout=30) == 3
    eventually(lambda: bed.runs(f"body of head-{instant}", step, last) == [1, times, times])


def test_the_rest_of_a_long_chain_is_not_lost(bed: Bed) -> None:
    """A long one travels as text, which the process does not decode."""
    head = bed.app.signature("leads", (str(bed.journal.path),), app=bed.app).set(task_id="head")
    rest = [bed.follows(f"step-{number}") for number in range(60)]
    rest[0].set(task_id="sending-step-0")
    result = chain(head, *rest, app=bed.app).apply_async()
    bed.kill("sending-step-0", "head")

    assert result.get(timeout=60) == 61


def test_what_had_been_sent_before_is_not_sent_again(bed: Bed) -> None:
    """Of callbacks and a chain, the callbacks come first; several are one group."""
    path = str(bed.journal.path)
    head = bed.app.signature("leads", (path,), app=bed.app).set(task_id="both")
    for number in range(2):
        head.link(bed.follows(f"callback-{number}"))
    result = chain(head, bed.follows("sending-link"), app=bed.app).apply_async()
    bed.kill("sending-link", "both")

    assert result.get(timeout=30) == 2
    assert bed.runs("callback-0", "callback-1", "sending-link") == [1, 1, 1]
    group, link = bed.app.AsyncResult("both").children
    assert [child.id for child in group.children] == ["callback-0", "callback-1"]
    assert link.id == "sending-link"


def test_a_group_that_was_being_gathered_keeps_its_ids(bed: Bed) -> None:
    path = str(bed.journal.path)
    head = bed.app.signature("leads", (path,), app=bed.app).set(task_id="lead-group")
    head.link(bed.follows("member-0"))
    head.link(bed.follows("sent-member-1"))
    result = head.apply_async()
    bed.kill("sent-member-1", "lead-group")

    assert result.get(timeout=30) == 1
    for member in ("member-0", "sent-member-1"):
        assert bed.app.AsyncResult(member).get(timeout=30) == 2
    assert bed.runs("member-0", "sent-member-1") == [1, 1]


def test_what_follows_on_a_task_without_a_result_is_sent(bed: Bed) -> None:
    path = str(bed.journal.path)
    options = {"ignore_result": True, "link": bed.follows("sending-ignored")}
    bed.send("leads_late", "lead-ignored", path, **options)
    bed.kill("sending-ignored", "lead-ignored")

    assert bed.app.AsyncResult("sending-ignored").get(timeout=30) == 2
    assert bed.runs("body of lead-ignored") == [1]


def test_a_part_of_a_chord_that_was_sending_its_callback_is_counted(bed: Bed) -> None:
    path = str(bed.journal.path)
    part = bed.app.signature("leads", (path,), app=bed.app).set(task_id="lead-part")
    part.link(bed.follows("sending-part"))
    add = bed.app.signature("add", (2, 2), app=bed.app)
    result = chord([part, add], bed.app.signature("total", app=bed.app), app=bed.app).apply_async()
    bed.kill("sending-part", "lead-part")

    assert result.get(timeout=30) == 5
    assert bed.app.AsyncResult("sending-part").get(timeout=30) == 2
