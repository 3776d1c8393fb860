"""The worker program: banner and signals, without a broker."""

from __future__ import annotations

import logging
import re
import signal

import pytest

from celery import Celery, platforms, signals
from celery.apps import worker as module
from celery.apps.worker import Worker
from celery.worker import state


@pytest.fixture(autouse=True)
def flags():
    state.should_stop = state.should_terminate = None
    yield
    state.should_stop = state.should_terminate = None


@pytest.fixture
def app(monkeypatch):
    monkeypatch.setattr(module, "check_privileges", lambda content: None)
    app = Celery("prog", broker="memory://", set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    return app


@pytest.fixture
def worker(app, monkeypatch):
    monkeypatch.setattr(Worker, "setup_logging", lambda self, colorize=None: True)
    monkeypatch.setattr(module.trace, "setup_worker_optimizations", lambda app, hostname: None)
    return Worker(app, hostname="w@test", pool="solo", concurrency=3, loglevel="INFO")


def test_the_banner(worker, app):
    """B-WORK-005, B-WORK-007."""
    text = worker.startup_info()

    assert text.splitlines()[0] == " -------------- w@test v5.7.0 (collider)"
    assert re.search(r"\.> app: +prog:0x", text)
    assert re.search(r"\.> transport: +memory://", text)
    assert re.search(r"\.> results: +disabled://", text)
    assert re.search(r"\.> concurrency: +3 \(solo\)", text)
    assert "task events: OFF (enable -E to monitor tasks in this worker)" in text
    assert ".> celery           exchange=celery(direct) key=celery" in text


def test_tasks_are_listed_at_info_without_built_in_ones(worker, app):
    """B-WORK-005."""

    @app.task(name="mine")
    def mine():
        pass

    assert worker.extra_info() == "\n[tasks]\n  . mine\n"
    worker.loglevel = logging.DEBUG
    assert "  . celery.backend_cleanup" in worker.extra_info()
    worker.loglevel = logging.WARNING
    assert worker.extra_info() is None


class Handlers(dict):
    """Takes the place of the signal table."""

    def send(self, name):
        self[name](getattr(signal, name), None)


@pytest.fixture
def handlers(monkeypatch):
    handlers, said = Handlers(), []
    monkeypatch.setattr(platforms, "signals", handlers)
    monkeypatch.setattr(module, "safe_say", said.append)
    handlers.said = said
    return handlers


@pytest.fixture
def installed(worker, handlers):
    module.install_worker_term_handler(worker)
    module.install_worker_term_hard_handler(worker)
    module.install_worker_int_handler(worker)
    return handlers


WARM, COLD = "worker: Warm shutdown (MainProcess)", "worker: Cold shutdown (MainProcess)"


@pytest.mark.parametrize(
    ("sent", "stop", "terminate", "last"),
    [
        (["SIGTERM"], 0, None, WARM),
        (["SIGTERM", "SIGTERM"], 0, None, WARM),
        (["SIGINT"], 1, None, WARM),
        (["SIGINT", "SIGINT"], 1, 1, COLD),
        (["SIGINT", "SIGINT", "SIGINT"], 1, 1, COLD),
        (["SIGTERM", "SIGINT"], 0, None, WARM),
        (["SIGTERM", "SIGINT", "SIGINT"], 0, 0, COLD),
        (["SIGTERM", "SIGQUIT"], 0, 0, COLD),
        (["SIGQUIT"], None, 0, COLD),
        (["SIGQUIT", "SIGQUIT"], None, 0, COLD),
    ],
)
def test_signals_ask_for_a_way_to_stop(installed, sent, stop, terminate, last):
    """B-WORK-070: and the first one decides about the exit code."""
    for name in sent:
        installed.send(name)

    assert (state.should_stop, state.should_terminate) == (stop, terminate)
    assert installed.said[-1] == last


def test_what_is_said_on_the_way(installed):
    """B-WORK-070."""
    for _ in range(3):
        installed.send("SIGINT")

    assert [line for line in installed.said if line not in {WARM, COLD}] == [
        "worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!",
        "worker: Hitting Ctrl+C again will terminate all running tasks!",
        "Waiting gracefully for cold shutdown to complete...",
    ]


def test_a_second_quit_hurries_a_soft_shutdown(worker, app, installed):
    """B-WORK-070."""
    app.conf.worker_soft_shutdown_timeout = 30
    installed.send("SIGQUIT")
    assert not worker._hurries
    installed.send("SIGQUIT")
    assert worker._hurries


def test_stopping_is_announced(worker, installed):
    """B-WORK-071, B-WORK-080."""
    told = []

    def receiver(sender, sig, how, exitcode, **kwargs):
        told.append((sender, sig, how, exitcode))

    signals.worker_shutting_down.connect(receiver)
    installed.send("SIGINT")
    installed.send("SIGQUIT")

    assert told == [("w@test", "SIGINT", "Warm", 1), ("w@test", "SIGQUIT", "Cold", 0)]


def test_hup_restarts(worker, handlers, monkeypatch):
    """B-WORK-070."""
    monkeypatch.setattr(module.sys, "argv", ["celery", "worker", "-c1"])
    module.install_worker_restart_handler(worker)
    handlers.send("SIGHUP")

    assert handlers.said == ["Restarting celery worker (celery worker -c1)"]
    assert state.should_stop == 0
    assert worker._restarts


def test_hup_may_be_unsupported(worker, handlers):
    module.install_HUP_not_supported_handler(worker)
    handlers.send("SIGHUP")

    assert "not supported" in handlers.said[0]
    assert state.should_stop is None


def test_usr1_shows_the_threads(worker, handlers):
    """B-WORK-070."""
    module.install_cry_handler()
    handlers.send("SIGUSR1")

    assert "MainThread" in handlers.said[0]


def test_the_debugger_needs_permission(handlers, monkeypatch):
    """B-TEST-012."""
    monkeypatch.delenv("CELERY_RDBSIG", raising=False)
    module.install_rdb_handler()
    assert "SIGUSR2" not in handlers
    monkeypatch.setenv("CELERY_RDBSIG", "1")
    module.install_rdb_handler()
    assert "SIGUSR2" in handlers


def test_saying_something_never_fails(tmp_path):
    with open(tmp_path / "out", "w+") as out:
        module.safe_say("hello", out)
        out.seek(0)
        assert out.read() == "\nhello\n"
    module.safe_say("into the void", out)
