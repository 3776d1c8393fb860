"""Setting up logging: handlers, signals, formats, colour, printed text."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery import _state, signals
from celery.app.log import Logging, TaskFormatter
from celery.contrib.testing.app import TestApp
from celery.utils.log import ColorFormatter, get_task_logger

NAMES = ("", "celery", "celery.task", "celery.redirected")
VARIABLES = (
    "CELERY_LOG_LEVEL",
    "CELERY_LOG_FILE",
    "CELERY_LOG_REDIRECT",
    "CELERY_LOG_REDIRECT_LEVEL",
)


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The logging of an app, on loggers that are put back afterwards."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(x, list(x.handlers), x.level, x.propagate) for x in loggers]
    out, err = sys.stdout, sys.stderr
    for logger in loggers:
        logger.handlers.clear()
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(Logging, "_setup_done", False)
    monkeypatch.setattr(Logging, "_added", [])
    yield TestApp(log=Logging, config={"worker_hijack_root_logger": True}).log
    sys.stdout, sys.stderr = out, err
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            if handler not in handlers:
                handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def ours() -> list[logging.Handler]:
    """The handlers we added to the root logger; the test runner has some there, too."""
    handlers = logging.getLogger().handlers
    return [each for each in handlers if isinstance(each.formatter, ColorFormatter)]


def test_records_look_as_documented(logs: Any, tmp_path: Path) -> None:
    """B-WORK-004: [time with comma and milliseconds: LEVEL/MainProcess] message."""
    file = tmp_path / "w.log"
    logs.setup("INFO", str(file))

    logging.getLogger("some.library").info("hello %s", "world")
    logging.getLogger("some.library").debug("not shown")

    assert len(file.read_text().splitlines()) == 1
    prefix, _, message = file.read_text().strip().partition("] ")
    assert message == "hello world"
    assert prefix.endswith(": INFO/MainProcess")
    assert prefix.split(": ")[0][-4] == ","


def test_handlers_of_the_root_logger_are_replaced(logs: Any) -> None:
    """B-CLI-059: worker_hijack_root_logger removes existing root handlers."""
    old = logging.NullHandler()
    logging.getLogger().addHandler(old)

    logs.setup("INFO")

    assert old not in logging.getLogger().handlers
    assert len(ours()) == 1


def test_handlers_are_kept_where_that_is_wanted(logs: Any) -> None:
    logs.app.conf.worker_hijack_root_logger = False
    old = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(old)

    logs.setup("INFO")

    assert old in logging.getLogger().handlers
    assert ours() == []


def test_a_receiver_of_setup_logging_does_everything_itself(logs: Any) -> None:
    """B-CLI-059: a receiver on setup_logging disables all logging set-up."""
    seen: list[dict[str, Any]] = []

    def receiver(**kwargs: Any) -> None:
        seen.append(kwargs)

    signals.setup_logging.connect(receiver)
    try:
        stdout = sys.stdout
        handled = logs.setup("ERROR", redirect_stdouts=True)
    finally:
        signals.setup_logging.disconnect(receiver)

    assert handled
    assert ours() == []
    assert sys.stdout is stdout
    assert seen[0]["loglevel"] == logging.ERROR
    assert {"logfile", "format", "colorize"} <= set(seen[0])


def test_other_receivers_add_to_the_loggers(logs: Any) -> None:
    """B-CLI-059: after_setup_logger and after_setup_task_logger augment it."""
    seen: list[Any] = []

    def root(logger: Any, **kwargs: Any) -> None:
        seen.append(("root", logger.name, kwargs["loglevel"]))

    def task(logger: Any, **kwargs: Any) -> None:
        seen.append(("task", logger.name, kwargs["loglevel"]))

    signals.after_setup_logger.connect(root)
    signals.after_setup_task_logger.connect(task)
    try:
        logs.setup("INFO")
    finally:
        signals.after_setup_logger.disconnect(root)
        signals.after_setup_task_logger.disconnect(task)

    assert seen == [("root", "root", 20), ("task", "celery.task", 20)]


def test_logging_is_set_up_once(logs: Any) -> None:
    logs.setup("INFO")
    handlers = list(logging.getLogger().handlers)

    logs.setup("DEBUG")

    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().level == logging.INFO
    assert logs.already_setup


def test_task_loggers_say_which_task_speaks(logs: Any, tmp_path: Path) -> None:
    """B-TASK-075: lines of get_task_logger(name) end NAME[ID]: message."""
    file = tmp_path / "w.log"
    logs.setup("INFO", str(file))
    logger = get_task_logger("proj.tasks")
    assert logger.parent is not None
    assert logger.parent.name == "celery.task"

    @logs.app.task(name="proj.add")
    def add() -> None:
        logger.info("counting")

    add.push_request(id="id-1", called_directly=False)
    _state._task_stack.push(add)
    try:
        add.run()
    finally:
        _state._task_stack.pop()
        add.pop_request()
    logger.info("outside")

    first, second = file.read_text().splitlines()
    assert first.endswith("/MainProcess] proj.add[id-1]: counting")
    assert second.endswith("/MainProcess] ???[???]: outside")


def test_a_name_given_by_the_caller_is_kept() -> None:
    record = logging.makeLogRecord({"msg": "m", "task_name": "mine", "task_id": "1"})

    assert TaskFormatter("%(task_name)s %(task_id)s", use_color=False).format(record) == "mine 1"


def test_printed_text_goes_to_the_log(logs: Any, tmp_path: Path) -> None:
    """B-TASK-075: print is logged at worker_redirect_stdouts_level, in the plain format."""
    file = tmp_path / "w.log"
    logs.setup("INFO", str(file), redirect_stdouts=True, redirect_level="WARNING")

    print("from a print")

    assert file.read_text().strip().endswith("WARNING/MainProcess] from a print")
    # Children that are started afresh read these.
    assert os.environ["CELERY_LOG_REDIRECT"] == "1"
    assert os.environ["CELERY_LOG_REDIRECT_LEVEL"] == "WARNING"
    assert os.environ["CELERY_LOG_FILE"] == str(file)


def test_only_one_stream_may_be_redirected(logs: Any) -> None:
    out, err = sys.stdout, sys.stderr

    proxy = logs.redirect_stdouts_to_logger(logging.getLogger("x"), stdout=False)

    assert sys.stdout is out
    assert sys.stderr is proxy is not err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "wish", "setting", "logfile", "expected"),
    [
        (Terminal(), None, None, None, True),
        (Terminal(), True, None, None, True),
        (Terminal(), False, True, None, False),
        (Terminal(), None, False, None, False),
        (Terminal(), True, True, "w.log", False),
        (io.StringIO(), True, True, None, False),
    ],
)
def test_colour_is_for_terminals(
    logs: Any,
    monkeypatch: pytest.MonkeyPatch,
    stream: Any,
    wish: bool | None,
    setting: bool | None,
    logfile: str | None,
    expected: bool,
) -> None:
    """B-CLI-060: colour only when logging to a terminal; worker_log_color; --no-color."""
    monkeypatch.setattr(sys, "stderr", stream)
    logs.colorize = setting

    assert logs.supports_color(wish, logfile) is expected
    assert logs.colored(logfile, enabled=wish).enabled is expected


def test_the_formats_of_a_log_file_are_replaced(logs: Any, tmp_path: Path) -> None:
    """B-CLI-051: %n in --logfile is the name part of the node."""
    logs.setup("INFO", str(tmp_path / "%n.log"), hostname="w1@example.com")

    assert (tmp_path / "w1.log").exists()


def test_a_pool_process_opens_a_file_of_its_own(
    logs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-CLI-047, B-CLI-051: --logfile=%n%I.log gives w1.log and, in a child, w1-2.log."""
    path = str(tmp_path / "%n%I.log")
    logs.app.conf.worker_hijack_root_logger = False
    logs.setup("INFO", path, hostname="w1@h")
    # As after a fork: the loggers were set up by another process.
    monkeypatch.setattr(Logging, "_setup_pid", os.getpid() + 1)
    monkeypatch.setattr("celery.utils.log.current_process_index", lambda base=1: 2)

    for _ in range(2):
        logs.setup("INFO", path, hostname="w1@h")
    get_task_logger("child").warning("from the child")

    assert (tmp_path / "w1.log").read_text() == ""
    assert (tmp_path / "w1-2.log").read_text().count("from the child") == 1


def test_an_open_file_may_take_the_log(logs: Any) -> None:
    out = io.StringIO()
    logs.setup("INFO", out)

    logging.getLogger("x").warning("here")

    assert out.getvalue().strip().endswith("here")


def test_loggers_live_below_the_own_one(logs: Any) -> None:
    assert logs.get_default_logger().name == "celery"
    assert logs.get_default_logger("proj").name == "proj"
