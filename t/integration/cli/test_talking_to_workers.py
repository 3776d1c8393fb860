"""Commands that talk to a worker over the broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from t.harness.worker import WorkerProcess
from t.integration.cli.conftest import Program

pytestmark = pytest.mark.redis


def test_a_worker_answers(program: Program, worker: WorkerProcess) -> None:
    """B-CLI-013, B-CLI-014, B-CLI-015: ping, status and their JSON forms."""
    assert program.output("inspect", "ping") == "->  w1@lab: OK\n    pong\n\n1 node online.\n"
    assert program.output("status") == "->  w1@lab: OK\n\n1 node online.\n"
    assert json.loads(program.output("inspect", "ping", "-j")) == {"w1@lab": {"ok": "pong"}}
    stats = json.loads(program.output("inspect", "stats", "-j"))["w1@lab"]
    assert stats["pid"] == worker.pid
    assert "proj.add" in program.output("inspect", "registered")


def test_destinations_and_patterns_choose_nodes(program: Program, worker: WorkerProcess) -> None:
    """B-CLI-017: -d node1,node2 restricts."""
    assert program.run("inspect", "ping", "-d", "w1@lab").returncode == 0
    result = program.run("inspect", "ping", "-d", "w2@lab")
    assert result.returncode == 69
    assert "No nodes replied within time constraint" in result.stderr


def test_errors_of_commands_are_replies(program: Program, worker: WorkerProcess) -> None:
    """B-CLI-016, B-EVT-024, B-EVT-029: ->  NODE: ERROR with the text, exit 0."""
    for words, text in (
        (["rate_limit", "nosuch", "1/m"], "unknown task"),
        (["terminate", "SIGFOO", "some-id"], "AttributeError("),
        (["autoscale", "3", "1"], "ValueError('Autoscale not enabled')"),
    ):
        output = program.output("control", *words)
        assert output.startswith("->  w1@lab: ERROR\n    "), output
        assert text in output
    # What is missing is said here, and no worker is asked.
    result = program.run("control", "rate_limit", "proj.add")
    assert result.returncode == 2
    assert "rate_limit needs 2 arguments" in result.stderr


def test_a_task_is_called_and_its_result_printed(program: Program, worker: WorkerProcess) -> None:
    """B-CLI-021, B-CLI-022: the id on call; the result, or the traceback."""
    task_id = program.output("call", "proj.add", "-a", "[20, 22]").strip()
    assert program.output("result", task_id) == "42\n"

    failed = program.output("call", "proj.fail").strip()
    worker.wait_for(rf"proj\.fail\[{failed}\] raised")
    assert "ValueError: boom" in program.output("result", failed, "--traceback")
    result = program.run("result", failed)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("\nError: The task ended as FAILURE: ValueError('boom')\n")


def test_a_revoked_task_is_discarded(program: Program, worker: WorkerProcess) -> None:
    """B-WORK-041: flagged at once, discarded when its time comes."""
    task_id = program.output("call", "proj.add", "-a", "[1, 2]", "--countdown", "600").strip()
    worker.wait_for(rf"proj\.add\[{task_id}\] received")
    assert task_id in program.output("inspect", "scheduled")

    assert "flagged as revoked" in program.output("control", "revoke", task_id)
    assert task_id in program.output("inspect", "revoked")
    result = program.run("result", task_id)
    assert result.returncode == 1
    assert "TaskRevokedError" in result.stderr


def test_a_remote_shutdown_ends_a_worker_warmly(program: Program, worker: WorkerProcess) -> None:
    """B-EVT-025, B-WORK-081: the worker exits with 0.

    B-CLI-019: it doesn't reply, but those who were there are named, and the exit code is 0.
    """
    said = program.output("control", "shutdown")

    assert said == "->  w1@lab: OK\n    told to shut down\n"
    assert worker.wait() == 0
    assert worker.count("WARNING/MainProcess. Got shutdown from remote") == 1
    assert program.run("control", "shutdown", "-t", "0.2").returncode == 69


def test_events_are_printed_as_lines(program: Program) -> None:
    """B-CLI-034, B-EVT-016: evdump: starting capture..., then a line for each event."""
    import subprocess
    import sys

    with (
        program.worker("-n", "w1@lab", "-P", "solo", "-E"),
        subprocess.Popen(
            [sys.executable, "-u", "-m", "celery", "-A", "proj", "events", "-d"],
            cwd=program.folder,
            env=program.env,
            stdout=subprocess.PIPE,
            text=True,
        ) as events,
    ):
        try:
            assert events.stdout is not None
            assert events.stdout.readline() == "-> evdump: starting capture...\n"
            # B-EVT-010: the worker is woken up at once.
            assert events.stdout.readline().startswith("w1@lab [")
            task_id = program.output("call", "proj.add", "-a", "[1, 2]").strip()
            seen: list[str] = []
            for line in events.stdout:
                if task_id in line:
                    seen.append(line)
                if "task succeeded" in line:
                    break
        finally:
            events.terminate()
    assert [line.split("] ")[1].split(":")[0] for line in seen] == [
        "task received",
        "task started",
        "task succeeded",
    ]
    assert f"proj.add({task_id}) args=" in seen[0]


def test_waiting_messages_are_listed_and_deleted(program: Program) -> None:
    """B-CLI-023, B-CLI-024: list bindings also works on Redis; purge -f."""
    for _ in range(3):
        program.output("call", "proj.add")
    assert "celery" in program.output("list", "bindings")
    assert program.output("purge", "-f") == "Purged 3 messages from 1 known task queue.\n"
    assert program.output("purge", "-f") == "No messages purged from 1 queue.\n"


def test_a_worker_deletes_waiting_messages_on_request(program: Program) -> None:
    """B-CLI-037: celery worker --purge discards waiting messages before starting."""
    task_id = program.output("call", "proj.add", "-a", "[1, 1]").strip()

    with program.worker("-P", "solo", "--purge") as worker:
        again = program.output("call", "proj.add", "-a", "[1, 1]").strip()
        worker.wait_for(rf"{again}\] succeeded")
        assert worker.count(task_id) == 0


def test_tasks_move_to_another_broker(program: Program, redis_server: Any) -> None:
    """B-CLI-031: moved and acknowledged; others go back to their queue."""
    source = program.env["T_BROKER"]
    dest = source.rsplit("/", 1)[0] + "/9"
    wanted = program.output("call", "proj.add", "--queue", "moving").strip()
    left = program.output("call", "proj.fail", "--queue", "moving").strip()

    output = program.output("migrate", source, dest, "-Q", "moving", "-T", "proj.add")

    assert f"proj.add[{wanted}]" in output
    assert "1 task migrated." in output
    program.env["T_BROKER"] = dest
    assert wanted in program.output("amqp", "basic.get", "moving")
    program.env["T_BROKER"] = source
    taken = program.output("amqp", "basic.get", "moving")
    assert left in taken
    assert wanted not in taken


def test_the_broker_shell_reads_commands(program: Program) -> None:
    """B-CLI-032: one connection for all commands of the shell."""
    output = program.output(
        "amqp", input="queue.declare zz\nbasic.publish hi '' zz\nbasic.get zz true\n"
    )

    assert output.count("-> connected.") == 1
    assert "queue:zz messages:0 consumers:0" in output
    assert "b'hi'" in output


def test_a_broker_shell_survives_a_mistake(program: Program, amqp_url: str) -> None:
    """B-CLI-032: an error is told, and the connection made anew."""
    program.env["T_BROKER"] = amqp_url

    result = program.run("amqp", input="basic.get nosuchqueue\nqueue.declare zz\n")

    assert "ERROR" in result.stderr
    assert "queue:zz messages:0 consumers:0" in result.stdout
    assert result.returncode == 0


def test_a_result_that_cannot_be_read_is_one_sentence(program: Program) -> None:
    for store, why in (
        ("disabled://", "Error: No result backend is configured"),
        (f"db+sqlite:///{program.folder}/nowhere/r.db", "Error: Cannot read the result: "),
    ):
        program.env["T_BACKEND"] = store
        result = program.run("result", "x")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith(why)
