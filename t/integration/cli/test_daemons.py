"""Workers in the background: --detach, multi, pid files and log files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from t.integration.cli.conftest import Program

pytestmark = pytest.mark.redis

Until = Callable[..., Any]


@pytest.fixture
def reaped(program: Program) -> Iterator[None]:
    """End daemons that a failed test leaves, by their pid files."""
    yield
    for file in program.folder.glob("*.pid"):
        try:
            os.kill(int(file.read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


FILES = ("--pidfile=%n.pid", "--logfile=%n%I.log")


@pytest.mark.usefixtures("reaped")
def test_a_detached_worker_runs_on(program: Program, until: Until) -> None:
    """B-CLI-054: forks, writes the pidfile, logs to the file; the pidfile is removed at exit."""
    result = program.run("worker", "--detach", "-l", "INFO", "-P", "solo", "-n", "w1@lab", *FILES)
    assert result.returncode == 0, result.stderr
    log, pidfile = program.folder / "w1.log", program.folder / "w1.pid"
    until(lambda: "ready." in text(log), "the log of the daemon")

    pid = int(pidfile.read_text())
    command = Path(f"/proc/{pid}/cmdline").read_text()
    assert "--detach" not in command
    assert os.getsid(pid) != os.getsid(0)
    assert program.output("inspect", "ping", "-d", "w1@lab").startswith("->  w1@lab: OK")

    # B-CLI-055: a live one aborts with 73.
    second = program.run("worker", "-P", "solo", "-n", "w1@lab", *FILES)
    assert second.returncode == 73
    assert str(pid) in second.stderr

    os.kill(pid, signal.SIGTERM)
    until(lambda: not pidfile.exists(), "the end of the daemon")


@pytest.mark.usefixtures("reaped")
def test_a_stale_pid_file_is_removed(program: Program) -> None:
    """B-CLI-055: a stale pidfile (no such process) is removed with a message on stderr."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    (program.folder / "w1.pid").write_text(f"{ended.pid}\n")

    with program.worker("-P", "solo", "-n", "w1@lab", "--pidfile=%n.pid") as worker:
        assert int((program.folder / "w1.pid").read_text()) == worker.pid
        worker.stop()
    assert not (program.folder / "w1.pid").exists()


@pytest.mark.usefixtures("reaped")
def test_each_pool_process_may_have_a_log_file(program: Program, until: Until) -> None:
    """B-CLI-047, B-CLI-051: --logfile=%n%I.log gives w1.log, w1-1.log, w1-2.log."""
    with program.worker("-n", "w1@lab", "-c", "2", "--logfile=%n%I.log").quietly() as worker:
        until(lambda: "ready." in text(program.folder / "w1.log"), "the log")
        program.output("call", "proj.add", "-a", "[1, 2]")
        until(
            lambda: any("succeeded" in text(f) for f in program.folder.glob("w1-*.log")),
            "the log of a pool process",
        )
        worker.stop()
    names = {file.name for file in program.folder.glob("w1*.log")}
    assert names >= {"w1.log", "w1-1.log", "w1-2.log"}


@pytest.mark.usefixtures("reaped")
def test_several_workers_are_started_and_stopped(program: Program, until: Until) -> None:
    """B-CLI-046, B-CLI-048: multi start, status, restart of one, stopwait."""
    base = ("2", "-P", "solo", "-l", "INFO", *FILES)

    started = program.output("multi", "start", *base)
    assert started.count(": OK") == 2
    for name in ("celery1", "celery2"):
        log = program.folder / f"{name}.log"
        until(lambda log=log: "ready." in text(log), f"{log}")
    assert program.output("status").rstrip().endswith("2 nodes online.")
    pids = {name: int((program.folder / f"{name}.pid").read_text()) for name in
            ("celery1", "celery2")}  # fmt: skip

    stopped = program.output("multi", "stopwait", *base)
    for name, pid in pids.items():
        assert f"{name}@" in stopped
        assert f"TERM -> {pid}" in stopped
    assert stopped.count("DOWN") == 2
    assert not list(program.folder.glob("*.pid"))
    assert program.output("multi", "stopwait", *base).count("DOWN") == 2


@pytest.mark.usefixtures("reaped")
def test_a_running_node_is_not_started_twice(program: Program, until: Until) -> None:
    """B-CLI-045: the second process reports ERROR: Pidfile (…) already exists."""
    base = ("1", "-P", "solo", "-l", "INFO", *FILES)
    program.output("multi", "start", *base)
    until(lambda: "ready." in text(program.folder / "celery1.log"), "the first one")
    pid = (program.folder / "celery1.pid").read_text()

    result = program.run("multi", "start", *base)

    assert "already exists" in result.stdout + result.stderr + text(program.folder / "celery1.log")
    assert (program.folder / "celery1.pid").read_text() == pid
    program.output("multi", "kill", *base)
