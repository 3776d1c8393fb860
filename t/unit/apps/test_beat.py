from __future__ import annotations

import inspect
import logging
import re
import signal
import socket

import pytest

from celery import Celery, platforms
from celery.app.log import Logging
from celery.apps.beat import Beat
from celery.beat import Service


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = Celery("p", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.beat_schedule = {}
    return app


class StoppedService(Service):
    """Ends as soon as it has started."""

    seen: list[Service] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen.append(self)
        self._is_shutdown.set()


@pytest.fixture
def program(app, monkeypatch):
    monkeypatch.setattr(StoppedService, "seen", [])
    monkeypatch.setattr(Beat, "Service", StoppedService)
    monkeypatch.setattr(platforms, "set_process_title", lambda *args, **kwargs: None)
    monkeypatch.setattr(app.log, "setup", lambda *args, **kwargs: None)
    handlers = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGTERM", "SIGINT")}
    timeout = socket.getdefaulttimeout()
    yield lambda **kwargs: Beat(app=app, **{"no_color": True, **kwargs})
    socket.setdefaulttimeout(timeout)
    for name, handler in handlers.items():
        signal.signal(getattr(signal, name), handler)


def test_the_banner_tells_the_configuration(program, capsys):
    """B-BEAT-030: first line, LocalTime, broker, loader, scheduler, db, logfile, maxinterval."""
    program(loglevel="INFO").run()

    out = capsys.readouterr().out
    assert re.search(r"^celery beat v5\.7\.\d+ \(.*\) is starting\.", out)
    for line in (
        "LocalTime -> 20",
        ". broker -> memory://",
        ". loader -> celery.loaders",
        ". scheduler -> celery.beat.PersistentScheduler",
        ". db -> celerybeat-schedule",
        ". logfile -> [stderr]@%INFO",
        ". maxinterval -> 5.00 minutes (300s)",
    ):
        assert line in out
    assert "remote control" not in out


def test_the_banner_names_the_node_of_remote_control(program, app, capsys, monkeypatch):
    """B-BEAT-030: ``remote control -> NAME`` when enabled."""
    monkeypatch.setattr("celery.beat.BeatPidbox.start", lambda self: None)
    program(remote_control=True, hostname="b@h").run()
    assert ". remote control -> b@h" in capsys.readouterr().out


def test_a_quiet_beat_prints_nothing(program, capsys):
    program(quiet=True).run()
    assert capsys.readouterr().out == ""


def test_options_reach_the_service(program, app):
    program(max_interval=7, schedule="file", scheduler="celery.beat:Scheduler", quiet=True).run()
    (service,) = StoppedService.seen

    assert service.scheduler.max_interval == 7
    assert service.schedule_filename == "file"
    assert service.scheduler_cls == "celery.beat:Scheduler"
    assert socket.getdefaulttimeout() == 30


def test_settings_are_used_where_there_is_no_option(program, app):
    """B-BEAT-047: `beat_scheduler`."""
    app.conf.beat_scheduler = "celery.beat:Scheduler"
    app.conf.beat_schedule_filename = "other"
    beat = program(loglevel=10)

    assert beat.scheduler_cls == "celery.beat:Scheduler"
    assert beat.schedule == "other"
    assert beat.loglevel == 10


def test_a_signal_raises_system_exit(program):
    """B-BEAT-039: TERM and INT end beat with exit code 0."""
    program(quiet=True).run()
    for signum in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signum)
        assert not ended.value.code


def test_an_error_is_critical(program, app, caplog):
    """B-BEAT-004: CRITICAL ``beat raised exception <class 'AttributeError'>: …``."""

    class Broken(StoppedService):
        def start(self, embedded_process=False):
            raise AttributeError("no schedule")

    beat = program(quiet=True)
    beat.Service = Broken
    with caplog.at_level(logging.CRITICAL), pytest.raises(AttributeError):
        beat.run()
    assert "beat raised exception <class 'AttributeError'>: AttributeError('no schedule')" in (
        caplog.text
    )


def test_a_second_beat_with_the_same_pidfile_is_refused(program, tmp_path, capsys):
    """B-BEAT-040: exit code 73."""
    import os

    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{os.getppid()}\n")
    with pytest.raises(SystemExit) as ended:
        program(quiet=True, pidfile=str(pidfile)).run()
    assert ended.value.code == 73
    assert "already running?" in capsys.readouterr().err


def test_logging_is_set_up_as_asked(program, app, monkeypatch):
    calls = []
    bind = inspect.signature(Logging.setup).bind
    monkeypatch.setattr(
        app.log, "setup", lambda *args, **kw: calls.append(bind(app.log, *args, **kw).arguments)
    )
    program(loglevel="ERROR", logfile="log", redirect_stdouts=False).setup_logging()
    assert calls == [
        {
            "self": app.log,
            "loglevel": 40,
            "logfile": "log",
            "colorize": False,
            "redirect_stdouts": False,
            "redirect_level": "WARNING",
        }
    ]
