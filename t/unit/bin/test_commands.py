"""The commands that talk to workers and brokers, or read and write files."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery import states
from celery.bin.logtool import Audit, task_info
from t.unit.bin.conftest import Run

# -- inspect, control, status


class Control:
    """Replies like two workers."""

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = replies
        self.calls: list[tuple[str, dict[str, Any], Any]] = []

    def inspect(
        self, timeout: float | None = None, destination: Any = None, callback: Any = None
    ) -> Any:
        def request(command: str, **arguments: Any) -> Any:
            self.calls.append((command, arguments, (timeout, destination)))
            for node, reply in self.replies.items():
                if callback:
                    callback({node: reply})
            return self.replies

        return SimpleNamespace(_request=request, ping=lambda: request("ping"))

    def broadcast(
        self,
        command: str,
        arguments: Any = None,
        callback: Any = None,
        timeout: float | None = None,
        destination: Any = None,
        reply: bool = False,
    ) -> Any:
        self.calls.append((command, arguments, (timeout, destination)))
        replies = [{node: answer} for node, answer in self.replies.items()]
        for each in replies:
            if callback:
                callback(each)
        return replies


def replying(app: Any, replies: dict[str, Any]) -> Control:
    app.__dict__["control"] = control = Control(replies)
    return control


PONG = {"w1@h": {"ok": "pong"}, "w2@h": {"ok": "pong"}}


def test_inspect_prints_replies_and_the_number_of_nodes(run: Run, app: Any) -> None:
    """B-CLI-013: ->  NODE: OK, the reply indented, a blank line and N nodes online."""
    replying(app, PONG)

    result = run("-A", "proj", "inspect", "ping")

    assert result.output == ("->  w1@h: OK\n    pong\n->  w2@h: OK\n    pong\n\n2 nodes online.\n")


def test_one_node_is_one_node(run: Run, app: Any) -> None:
    """B-CLI-013: 1 node online."""
    replying(app, {"w1@h": {"ok": "pong"}})

    assert run("-A", "proj", "inspect", "ping").output.endswith("\n\n1 node online.\n")


def test_status_prints_no_replies(run: Run, app: Any) -> None:
    """B-CLI-014: ->  NODE: OK lines and the count; -j the mapping and the count."""
    replying(app, PONG)

    assert run("-A", "proj", "status").output == ("->  w1@h: OK\n->  w2@h: OK\n\n2 nodes online.\n")
    lines = run("-A", "proj", "status", "-j").output.splitlines()
    assert json.loads(lines[0]) == PONG
    assert lines[-1] == "2 nodes online."


def test_replies_are_json_on_request(run: Run, app: Any) -> None:
    """B-CLI-015: inspect prints one object, control a list of objects."""
    replying(app, PONG)

    assert json.loads(run("-A", "proj", "inspect", "ping", "-j").output) == PONG
    assert json.loads(run("-A", "proj", "control", "pool_grow", "-j").output) == [
        {"w1@h": {"ok": "pong"}},
        {"w2@h": {"ok": "pong"}},
    ]


def test_an_error_reply_is_no_error_of_the_command(run: Run, app: Any) -> None:
    """B-CLI-016: ->  NODE: ERROR with the text, still exit 0."""
    replying(app, {"w1@h": {"error": "unknown task"}})

    result = run("-A", "proj", "control", "rate_limit", "x", "1/m")

    assert (result.exit_code, result.output) == (0, "->  w1@h: ERROR\n    unknown task\n")


def test_control_does_not_count_nodes(run: Run, app: Any) -> None:
    """B-CLI-017: no online count; -d restricts, -t sets the wait."""
    control = replying(app, PONG)

    result = run("-A", "proj", "control", "enable_events", "-d", "w1@h,w2@h", "-t", "3")

    assert "online" not in result.output
    assert control.calls == [("enable_events", {}, (3.0, ["w1@h", "w2@h"]))]


@pytest.mark.parametrize("words", [["inspect", "ping"], ["control", "shutdown"], ["status"]])
def test_no_reply_is_an_error(run: Run, app: Any, words: list[str]) -> None:
    """B-CLI-012, B-CLI-019: No nodes replied within time constraint, exit 69."""
    replying(app, {})

    result = run("-A", "proj", *words)

    assert result.exit_code == 69
    assert "Error: No nodes replied within time constraint" in result.output


def test_an_unknown_remote_command_lists_those_there_are(run: Run, app: Any) -> None:
    """B-CLI-018: usage error listing the available commands, exit 2."""
    replying(app, PONG)

    result = run("-A", "proj", "inspect", "nosuch")

    assert result.exit_code == 2
    assert "active_queues" in result.output
    assert "did you mean 'celery control revoke'" in (
        run("-A", "proj", "inspect", "revoke").output.lower()
    )


def test_remote_commands_are_listed_with_usage_and_help(run: Run) -> None:
    """B-CLI-018: --list prints commands with signature and help, exit 0."""
    result = run("-A", "proj", "control", "--list")

    assert result.exit_code == 0
    assert "rate_limit <task_name> <rate_limit>" in result.output
    assert "hello" not in run("-A", "proj", "inspect", "-l").output


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["control", "rate_limit", "add", "10/m"], {"task_name": "add", "rate_limit": "10/m"}),
        (["control", "autoscale", "6", "2"], {"max": 6, "min": 2}),
        (["control", "revoke", "a", "b"], {"task_id": ["a", "b"]}),
        (["control", "terminate", "KILL", "a"], {"signal": "KILL", "task_id": ["a"]}),
        (["inspect", "conf", "true"], {"with_defaults": True}),
        (["inspect", "registered"], {"taskinfoitems": []}),
    ],
)
def test_words_become_arguments(run: Run, app: Any, words: list[str], arguments: Any) -> None:
    control = replying(app, PONG)

    assert run("-A", "proj", *words).exit_code == 0
    assert control.calls[0][1] == arguments


@pytest.mark.parametrize(
    "words",
    [
        ["autoscale", "many"],
        ["pool_grow", "1", "2"],
        ["shutdown", "now"],
        ["add_consumer"],
        ["rate_limit", "proj.add"],
    ],
)
def test_words_that_do_not_fit_are_usage_errors(run: Run, app: Any, words: list[str]) -> None:
    control = replying(app, PONG)

    assert run("-A", "proj", "control", *words).exit_code == 2
    assert control.calls == []


# -- call, result, list, purge


def test_call_prints_the_id(run: Run, app: Any) -> None:
    """B-CLI-021: prints the task id, exit 0, also for unknown names."""
    result = run(
        "-A", "proj", "call", "no.such", "-a", "[1]", "-k", '{"x": 2}', "--countdown", "5",
        "--queue", "elsewhere",
    )  # fmt: skip

    assert result.exit_code == 0
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("elsewhere").get(block=False)
    assert message.headers["id"] == result.output.strip()
    assert message.headers["task"] == "no.such"
    assert message.headers["eta"]
    assert message.payload[:2] == [[1], {"x": 2}]


def test_call_refuses_a_serializer_nobody_has(run: Run, app: Any) -> None:
    result = run("-A", "proj", "call", "proj.add", "--serializer", "nosuch")

    assert result.exit_code == 2
    assert "No encoder installed for nosuch" in result.output


def test_call_refuses_invalid_json(run: Run) -> None:
    """B-CLI-021: usage error, exit 2."""
    assert run("-A", "proj", "call", "proj.add", "-a", "[1").exit_code == 2


def test_result_prints_what_a_task_returned(run: Run, app: Any) -> None:
    """B-CLI-022: waits and prints it; --traceback prints the stored one without waiting."""
    app.backend.mark_as_done("result-1", 42)
    app.backend.store_result("result-2", ValueError("boom"), states.FAILURE, traceback="Traceback")

    assert run("-A", "proj", "result", "result-1").output == "42\n"
    assert run("-A", "proj", "result", "result-1", "-t", "proj.add").output == "42\n"
    assert run("-A", "proj", "result", "result-2", "--traceback").output == "Traceback\n"
    assert run("-A", "proj", "result", "unknown", "--traceback").output == "\n"
    assert run("-A", "proj", "result", "x", "-t", "proj.nosuch").exit_code == 2


def test_bindings_are_listed(run: Run, app: Any) -> None:
    """B-CLI-023: a table Queue | Exchange | Routing Key."""
    result = run("-A", "proj", "list", "bindings")

    header, _, *rows = result.output.splitlines()
    assert header.split("  ")[0] == "Queue"
    assert any(row.split() == [app.conf.task_default_queue] * 3 for row in rows), rows


def test_purge_asks_first(run: Run, app: Any) -> None:
    """B-CLI-024: warns with the queue names and asks; no gives Aborted! and exit 1."""
    app.send_task("proj.add")

    refused = run("-A", "proj", "purge", input="n\n")
    assert refused.exit_code == 1
    assert app.conf.task_default_queue in refused.output
    assert "Are you sure you want to delete all tasks? [y/N]" in refused.output
    assert "Aborted!" in refused.output

    agreed = run("-A", "proj", "purge", input="y\n")
    assert "Purged 1 message from 1 known task queue." in agreed.output
    assert run("-A", "proj", "purge", "-f").output == "No messages purged from 1 queue.\n"


def test_purge_takes_only_the_chosen_queues(run: Run, app: Any) -> None:
    """B-CLI-025: -Q names queues, -X excludes."""
    for queue in ("purge-a", "purge-b", "purge-c"):
        app.send_task("proj.add", queue=queue)

    result = run("-A", "proj", "purge", "-f", "-Q", "purge-a,purge-b,purge-c", "-X", "purge-b")

    assert "Purged 2 messages from 2 known task queues." in result.output
    with app.connection_for_read() as connection:
        assert len(connection.SimpleQueue("purge-b")) == 1


# -- report, graph, migrate, amqp, shell


def test_a_report_shows_versions_and_settings(run: Run) -> None:
    """B-CLI-027: software, platform, loader, settings, then the changed settings."""
    output = run("-A", "proj", "report").output

    for word in ("software -> celery:5.7.0", "kombu:", "platform ->", "loader   ->", "settings ->"):
        assert word in output
    assert "broker_url: 'memory:" in output


@pytest.mark.parametrize("words", [[], ["worker"], ["consumer"], ["worker", "consumer"]])
def test_parts_are_drawn(run: Run, words: list[str]) -> None:
    """B-CLI-028: Graphviz digraph dependencies {…}."""
    result = run("-A", "proj", "graph", "bootsteps", *words)

    assert result.exit_code == 0, result.output
    assert result.output.startswith("digraph dependencies {")
    assert result.output.rstrip().endswith("}")


def test_a_cluster_is_drawn(run: Run, app: Any) -> None:
    """B-CLI-028: graph workers nodes:a,b threads:2."""
    output = run("-A", "proj", "graph", "workers", "nodes:a,b", "threads:2").output

    assert output.startswith("digraph dependencies {")
    assert '"a: 2" -> "a"' in output
    assert f'"b" -> "{app.connection_for_read().as_uri()}"' in output
    assert run("-A", "proj", "graph", "workers", "nodes:a", "threads:x").exit_code == 2
    assert run("-A", "proj", "graph", "workers", "colour:red").exit_code == 2
    assert run("-A", "proj", "graph", "bootsteps", "nosuch").exit_code == 2

    replying(app, {"w1@h": {"pool": {"processes": [11]}}})
    app.control.inspect = lambda: SimpleNamespace(stats=lambda: app.control.replies)
    assert '"w1@h: 11" -> "w1@h"' in run("-A", "proj", "graph", "workers").output


def test_a_broker_shell_command_answers(run: Run) -> None:
    """B-CLI-032: -> connecting to URL., -> connected., queue:zz messages:0 consumers:0, OK."""
    output = run("-A", "proj", "amqp", "queue.declare", "zz-declared").output

    lines = output.splitlines()
    assert lines[0].startswith("-> connecting to memory://")
    assert lines[1:] == ["-> connected.", "queue:zz-declared messages:0 consumers:0", "OK"]


def test_messages_are_sent_and_taken_in_the_broker_shell(run: Run) -> None:
    """B-CLI-032: exchange.declare, queue.bind, basic.publish|get, queue.purge, queue.delete."""
    for words in (
        ["exchange.declare", "zz-ex", "direct"],
        ["queue.declare", "zz-q"],
        ["queue.bind", "zz-q", "zz-ex", "key"],
        ["basic.publish", "hello", "zz-ex", "key"],
        ["basic.publish", "again", "zz-ex", "key"],
    ):
        assert run("-A", "proj", "amqp", *words).output.endswith("OK\n")

    assert "hello" in run("-A", "proj", "amqp", "basic.get", "zz-q", "true").output
    assert "1 messages deleted." in run("-A", "proj", "amqp", "queue.purge", "zz-q").output
    assert "No messages in queue" in run("-A", "proj", "amqp", "basic.get", "zz-q").output
    assert run("-A", "proj", "amqp", "queue.delete", "zz-q").output.endswith("OK\n")


def test_migrate_needs_both_brokers(run: Run) -> None:
    """B-CLI-031: both arguments are required."""
    assert run("-A", "proj", "migrate", "memory://").exit_code == 2


def test_the_shell_knows_app_canvas_and_tasks(app: Any) -> None:
    """B-CLI-033: celery/app, tasks, chord, group, chain, signature, subtask, xmap, xstarmap."""
    from celery.bin.shell import namespace

    names = namespace(app)
    assert names["app"] is names["celery"] is app
    assert names["add"].name == "proj.add"
    assert {"chord", "group", "chain", "signature", "subtask", "xmap", "xstarmap"} <= set(names)
    assert "add" not in namespace(app, with_tasks=False)


def test_the_plain_shell_runs_what_is_typed(run: Run) -> None:
    """B-CLI-033: --python."""
    result = run("-A", "proj", "shell", "--python", input="print(add(2, 40))\n")

    assert "42" in result.output


# -- upgrade


def upgraded(run: Run, project: Path, text: str, *words: str) -> str:
    file = project / "settings.py"
    file.write_text(textwrap.dedent(text))
    result = run("upgrade", "settings", str(file), *words)
    assert result.exit_code == 0, result.output
    return file.read_text()


OLD = """\
    # BROKER_URL is set below
    BROKER_URL = "amqp://"
    CELERY_RESULT_BACKEND = "rpc://"
    CELERYD_CONCURRENCY = 4
    CELERY_ROUTES = {"BROKER_URL": "x"}
    MY_OWN = CELERYD_CONCURRENCY
    """


def test_old_names_are_rewritten(run: Run, project: Path) -> None:
    """B-CLI-029: rewrites old names in place, keeping a .orig backup."""
    assert upgraded(run, project, OLD).splitlines() == [
        "# BROKER_URL is set below",
        'broker_url = "amqp://"',
        'result_backend = "rpc://"',
        "worker_concurrency = 4",
        'task_routes = {"BROKER_URL": "x"}',
        "MY_OWN = worker_concurrency",
    ]
    assert (project / "settings.py.orig").read_text() == textwrap.dedent(OLD)


def test_django_names_get_the_prefix(run: Run, project: Path) -> None:
    """B-CLI-029: --django writes names with the CELERY_ prefix (CELERY_BROKER_URL)."""
    text = upgraded(run, project, OLD, "--django", "--no-backup")

    assert 'CELERY_BROKER_URL = "amqp://"' in text
    assert "CELERY_WORKER_CONCURRENCY = 4" in text
    assert not (project / "settings.py.orig").exists()


def test_what_is_done_is_told(run: Run, project: Path) -> None:
    """B-CLI-029: processing FILE..., writing backup to FILE.orig..., Changes ... made!"""
    file = project / "s.py"
    file.write_text("BROKER_URL = 1\n")

    output = run("upgrade", "settings", str(file)).output
    assert f"processing {file}..." in output
    assert f"writing backup to {file}.orig..." in output
    assert "Changes to your setting have been made!" in output
    assert "up to date" in run("upgrade", "settings", str(file)).output


def test_a_missing_settings_file_is_an_error(run: Run) -> None:
    """B-CLI-029: exit 1."""
    result = run("upgrade", "settings", "/no/such/file.py")

    assert result.exit_code == 1
    assert "Cannot read /no/such/file.py" in result.output


# -- logtool

LOG = """\
[2026-01-01 10:00:00,001: INFO/MainProcess] w1@h ready.
[2026-01-01 10:00:01,001: INFO/MainProcess] Task proj.add[id-1] received
[2026-01-01 10:00:01,002: INFO/ForkPoolWorker-1] Task proj.add[id-1] succeeded in 0.1s: 3
[2026-01-01 10:00:02,001: INFO/MainProcess] Task proj.fail[id-2] received
[2026-01-01 10:00:02,002: ERROR/ForkPoolWorker-1] Task proj.fail[id-2] raised unexpected: KeyError()
Traceback (most recent call last):
  File "tasks.py", line 1, in fail
KeyError
[2026-01-01 10:00:03,001: INFO/MainProcess] Task proj.add[id-3] received
"""


@pytest.fixture
def log(project: Path) -> str:
    file = project / "w.log"
    file.write_text(LOG)
    return str(file)


def test_statistics_are_read_from_a_log(run: Run, log: str) -> None:
    """B-CLI-030: stats prints a Report with the totals and a table of task names."""
    output = run("logtool", "stats", log).output

    assert output.startswith("Report\n======\n")
    for line in ("Task total: 3", "Task errors: 1", "Task success: 1", "Task completed: 2"):
        assert line in output
    assert "proj.add   2" in output


def test_logs_are_searched(run: Run, log: str) -> None:
    """B-CLI-030: traces, errors, incomplete and debug."""
    assert run("logtool", "traces", log).output.startswith("Traceback (most recent call last):")
    assert "id-2] raised" in run("logtool", "errors", log).output
    assert "proj.add[id-3]" in run("logtool", "incomplete", log).output
    assert run("logtool", "debug", log).output.strip().endswith("w1@h ready.")


def test_a_line_names_its_task() -> None:
    line = "[2026-01-01 10:00:00,0: INFO/ForkPool[1]] Task a.b[id-1] received"
    assert task_info(line) == ("a.b", "id-1")
    with pytest.raises(ValueError, match="no task"):
        task_info("nothing here")
    assert Audit().report()["task"]["types"].format == "- none -"
