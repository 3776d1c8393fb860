"""``celery beat`` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celery._beat.file import FileStore

ROOT = Path(__file__).resolve().parents[3]
CELERY = (sys.executable, "-u", "-m", "celery", "-A", "t.integration.beat.proj")
SENT = "Scheduler: Sending due task often"


class Program:
    """One ``celery beat`` process; its output is read line by line."""

    def __init__(self, cwd, *options, **env):
        self.lines = []
        self.process = subprocess.Popen(
            [*CELERY, *options, "-l", "DEBUG"],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, text):
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}:\n{''.join(self.lines)}")

    def end(self, signum=None):
        """Send a signal, read the rest, return the exit code."""
        if signum is not None:
            self.process.send_signal(signum)
        self.lines.extend(self.process.stdout)
        return self.process.wait(60)

    @property
    def output(self):
        return "".join(self.lines)


def runs_in(path):
    store = FileStore(str(path))
    store.open()
    try:
        return store.load().runs
    finally:
        store.close()


@pytest.fixture
def beat(tmp_path):
    started = []

    def start(*options, command="beat", **env):
        program = Program(tmp_path, command, *options, **env)
        started.append(program)
        return program

    yield start
    for program in started:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(60)
        program.process.stdout.close()


def test_it_sends_until_it_is_told_to_end_and_saves_its_schedule(beat, tmp_path):
    """B-BEAT-033, B-BEAT-036, B-BEAT-039, B-BEAT-040: the file, saved at exit; code 0; pid file."""
    program = beat("--pidfile", str(tmp_path / "pid"))
    program.wait_for(SENT)
    program.wait_for(SENT)
    assert (tmp_path / "pid").read_text() == f"{program.process.pid}\n"

    assert program.end(signal.SIGTERM) == 0

    assert not (tmp_path / "pid").exists()
    assert runs_in(tmp_path / "celerybeat-schedule")["often"].count >= 2


def test_an_interrupt_ends_it_as_well(beat):
    """B-BEAT-039: INT, exit code 0."""
    program = beat()
    program.wait_for(SENT)
    assert program.end(signal.SIGINT) == 0
    assert "Traceback" not in program.output


def test_a_second_one_with_the_same_pidfile_is_refused(beat, tmp_path):
    """B-BEAT-040: the two lines and exit code 73."""
    pidfile = str(tmp_path / "pid")
    first = beat("--pidfile", pidfile)
    first.wait_for(SENT)
    second = beat("--pidfile", pidfile, "-s", "other")

    assert second.end() == 73
    assert f"ERROR: Pidfile ({pidfile}) already exists." in second.output
    assert f"Seems we're already running? (pid: {first.process.pid})" in second.output


def test_a_schedule_file_that_cannot_be_written_ends_it(beat):
    """B-BEAT-041: exit code 1; one sentence says why."""
    program = beat("-s", "/no/such/directory/schedule")
    assert program.end() == 1
    assert "(--schedule): there is no folder /no/such/directory" in program.output
    assert "Traceback" not in program.output


def test_an_entry_without_schedule_ends_it(beat):
    """B-BEAT-004: CRITICAL and exit code 1."""
    program = beat(T_BEAT_WITHOUT_SCHEDULE="1")
    assert program.end() == 1
    assert "beat raised exception <class 'AttributeError'>" in program.output
    assert program.output.count("Traceback") == 1


def test_it_runs_as_a_daemon(beat, tmp_path):
    """B-CLI-054: forks, writes the pid file, logs to the file."""
    # The log is a pipe, so the test can wait for what is written, and for the end.
    log = tmp_path / "log"
    os.mkfifo(log)
    ours = os.open(log, os.O_RDWR)
    reader = open(log, encoding="utf-8")  # noqa: SIM115 - closed below
    program = beat("--detach", "--pidfile", str(tmp_path / "pid"), "-f", str(log))
    try:
        assert program.end() == 0
        for line in reader:
            if SENT in line:
                break
        pid = int((tmp_path / "pid").read_text())
        assert pid != program.process.pid
        assert os.getsid(pid) not in (pid, os.getsid(0))
        os.close(ours)
        os.kill(pid, signal.SIGTERM)
        reader.read()
    finally:
        reader.close()
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_may_have_one_as_its_child(beat, tmp_path, signum):
    """B-BEAT-042: ``worker -B`` embeds beat in a child process; its file comes from ``-s``."""
    program = beat("-B", "-P", "solo", "-s", "embedded", command="worker")
    program.wait_for(SENT)
    child = next(line for line in program.lines if SENT in line)
    assert "/Beat]" in child
    program.end(signum)

    assert "Traceback" not in program.output
    assert runs_in(tmp_path / "embedded")["often"].count >= 1
