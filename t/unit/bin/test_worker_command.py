"""``celery worker``: what it hands to the worker, and what it refuses."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from celery import concurrency, platforms
from celery.bin import worker as command
from t.unit.bin.conftest import Run


class Worker:
    """Notes how it was made."""

    made: list[dict[str, Any]] = []

    def __init__(self, **options: Any) -> None:
        self.made.append(options)
        self.exitcode = options.pop("exitcode", None)

    def start(self) -> None:
        """Do nothing."""


@pytest.fixture
def made(app: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(Worker, "made", [])
    app.__dict__["Worker"] = Worker
    return Worker.made


def test_options_reach_the_worker(run: Run, made: list[dict[str, Any]]) -> None:
    result = run(
        "-A", "proj", "worker", "-l", "info", "-c", "3", "-Q", "a,b", "-E", "-n", "w1@%h",
        "--autoscale", "10,3", "-O", "fair", "--time-limit", "5", "--without-gossip",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    (options,) = made
    assert options["loglevel"] == logging.INFO
    assert options["concurrency"] == 3
    assert options["queues"] == ["a", "b"]
    assert options["task_events"] is True
    assert options["hostname"].startswith("w1@")
    assert options["autoscale"] == (10, 3)
    assert options["optimization"] == "fair"
    assert options["time_limit"] == 5.0
    assert options["without_gossip"] is True
    assert options["pool_cls"] is concurrency.get_implementation("prefork")


def test_defaults_are_left_to_the_settings(run: Run, app: Any, made: list[dict[str, Any]]) -> None:
    """B-CLI-056: worker_logfile and the like give defaults for the options."""
    app.conf.worker_pool = "solo"
    app.conf.worker_concurrency = 7
    app.conf.update({"worker_logfile": "/tmp/some.log", "worker_pidfile": "/tmp/%n.pid"})

    assert run("-A", "proj", "worker", "-n", "w1@h").exit_code == 0

    (options,) = made
    assert options["pool_cls"] is concurrency.get_implementation("solo")
    assert options["concurrency"] == 7
    assert options["logfile"] == "/tmp/some.log"
    assert options["pidfile"] == "/tmp/w1.pid"
    assert options["loglevel"] == logging.WARNING
    assert options["task_events"] is None


def test_a_pool_named_here_wins_over_the_setting(
    run: Run, app: Any, made: list[dict[str, Any]]
) -> None:
    app.conf.worker_pool = "solo"

    assert run("-A", "proj", "worker", "-P", "prefork").exit_code == 0

    assert made[0]["pool_cls"] is concurrency.get_implementation("prefork")


def test_concurrency_may_be_automatic(run: Run, made: list[dict[str, Any]]) -> None:
    """B-WORK-009: --concurrency=auto."""
    assert run("-A", "proj", "worker", "-c", "auto").exit_code == 0
    assert made[0]["concurrency"] == "auto"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-c", "x"], "must be a non-negative integer or 'auto'"),
        (["-c", "-1"], "must be a non-negative integer or 'auto'"),
        (["-l", "loud"], "'WARNING'"),
        (["-P", "nosuch"], "'prefork'"),
        (["--autoscale", "x"], "two integers"),
        (["-O", "x"], "'fair'"),
    ],
)
def test_bad_options_are_usage_errors(
    run: Run, made: list[dict[str, Any]], words: list[str], reason: str
) -> None:
    """B-CLI-035: level, pool, -c x, --autoscale x: usage error, exit 2."""
    result = run("-A", "proj", "worker", *words)

    assert result.exit_code == 2
    assert reason in result.output
    assert made == []


def test_all_pool_names_are_accepted() -> None:
    """B-CLI-036: prefork, eventlet, gevent, solo, processes, threads, custom; and asyncio."""
    assert set(command.WORKERS_POOL.choices) == {
        "prefork",
        "eventlet",
        "gevent",
        "solo",
        "processes",
        "threads",
        "custom",
        "asyncio",
    }


def test_an_unknown_user_aborts_the_start(run: Run, made: list[dict[str, Any]]) -> None:
    """B-CLI-035, B-SEC-015: --uid of an unknown user: User does not exist: NAME, exit 1."""
    result = run("-A", "proj", "worker", "--uid", "nosuchuser")

    assert result.exit_code == 1
    assert "User does not exist: nosuchuser" in result.output
    assert made == []


@pytest.mark.parametrize("option", ["--logfile", "--pidfile", "--statedb"])
@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_file_that_cannot_be_written_is_told_at_once(
    run: Run, made: list[dict[str, Any]], option: str, detach: list[str]
) -> None:
    result = run("-A", "proj", "worker", option, "nosuch/%n.file", "-n", "w1@h", *detach)

    assert result.exit_code == 1
    assert f"Cannot write nosuch/w1.file ({option}): there is no folder" in result.output
    assert made == []


def test_the_schedule_of_a_beat_inside_is_looked_at_too(
    run: Run, app: Any, made: list[dict[str, Any]]
) -> None:
    words = ["-A", "proj", "worker", "-B", "-s", "nosuch/schedule"]

    result = run(*words)

    assert result.exit_code == 1
    assert "Cannot write nosuch/schedule (--schedule): there is no folder" in result.output
    assert made == []

    app.conf.beat_store_url = "redis://"
    assert run(*words).exit_code == 0
    app.conf.beat_store_url = None
    assert run(*words, "--scheduler", "other:Scheduler").exit_code == 0


def test_a_daemon_needs_a_program(run: Run, made: list[dict[str, Any]]) -> None:
    result = run("-A", "proj", "worker", "-D", "--executable", "/no/such/python")

    assert result.exit_code == 1
    assert "There is no program /no/such/python (--executable)" in result.output


def test_a_module_that_is_missing_is_one_sentence(run: Run) -> None:
    result = run("-A", "proj", "worker", "-I", "no_such_module")

    assert result.exit_code == 1
    assert "ModuleNotFoundError: No module named 'no_such_module'" in result.output
    assert "File" not in result.output


def test_an_import_that_fails_is_shown_from_the_project_on(run: Run, project: Path) -> None:
    (project / "needy.py").write_text("\nimport no_such_module\n")

    result = run("-A", "proj", "worker", "-I", "needy")

    assert result.exit_code == 1
    assert result.output.count("File ") == 1
    assert 'needy.py", line 2' in result.output


def test_words_that_are_no_option_are_told(run: Run, app: Any, made: list[dict[str, Any]]) -> None:
    result = run("-A", "proj", "worker", "-Q", "a,", "b")

    assert result.exit_code == 0
    assert "left out: b" in result.output
    assert made[0]["queues"] == ["a"]


def test_options_of_extensions_reach_the_worker(
    run: Run, app: Any, made: list[dict[str, Any]]
) -> None:
    """B-EXT-014: app.user_options['worker'].add(click.Option(…)) become keyword arguments."""
    import click

    app.user_options["worker"].add(click.Option(("--enable-thing",), is_flag=True))

    assert run("-A", "proj", "worker", "--enable-thing").exit_code == 0
    assert made[0]["enable_thing"] is True


def test_the_exit_code_is_that_of_the_worker(
    run: Run, app: Any, monkeypatch: pytest.MonkeyPatch, made: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: setattr(self, "exitcode", 3))

    assert run("-A", "proj", "worker").exit_code == 3


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["-A", "p", "worker", "-D", "-l", "INFO"], ["-A", "p", "worker", "-l", "INFO"]),
        (["worker", "--detach", "--uid=1", "--gid", "2"], ["worker"]),
        (["--workdir", "/x", "worker", "-ED"], ["worker", "-E"]),
        (["worker", "--umask=022", "--executable", "/py", "-Q", "D"], ["worker", "-Q", "D"]),
        (
            ["worker", "--pidfile=D.pid", "-f", "x.log"],
            ["worker", "--pidfile=D.pid", "-f", "x.log"],
        ),
    ],
)
def test_the_daemon_gets_no_option_twice(given: list[str], kept: list[str]) -> None:
    """B-CLI-054: --detach changes user, group, umask and directory before the program runs."""
    assert command.without_detach_options(given) == kept


def test_detaching_runs_the_same_command_in_a_daemon(
    run: Run, monkeypatch: pytest.MonkeyPatch, made: list[dict[str, Any]], project: Path
) -> None:
    """B-CLI-042: PYTHON -m celery -A APP worker … without --detach."""
    calls: list[Any] = []

    class Ran(Exception):
        pass

    class Context:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            calls.append((args, kwargs))

        def __enter__(self) -> None:
            """Fork nothing."""

        def __exit__(self, *exc: Any) -> None:
            """Let errors pass."""

    def execv(path: str, argv: list[str]) -> None:
        calls.append((path, argv))
        raise Ran

    monkeypatch.setattr(platforms, "detached", Context)
    monkeypatch.setattr(os, "execv", execv)
    words = ["-A", "proj", "worker", "-D", "-n", "w1@h", "--pidfile", "%n.pid", "--uid", "nobody"]
    monkeypatch.setattr(sys, "argv", ["celery", *words])

    assert isinstance(run(*words).exception, Ran)

    (detached, _), (path, argv) = calls
    assert detached[1] == "w1.pid"
    assert detached[2] == "nobody"
    assert detached[5] == str(project)
    assert path == sys.executable
    assert argv == [
        sys.executable, "-m", "celery", "-A", "proj", "worker", "-n", "w1@h", "--pidfile", "%n.pid",
    ]  # fmt: skip
    assert made == []
