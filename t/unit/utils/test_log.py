from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading

import pytest

from celery.utils import log
from celery.utils.log import (
    ColorFormatter,
    LoggingProxy,
    get_logger,
    get_task_logger,
    in_sighandler,
    iter_open_logger_fds,
    mlevel,
)
from t.harness.forks import forked


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelno, record.getMessage()))


@pytest.fixture
def logger():
    logger = logging.Logger("test")  # noqa: LOG001 - one that nobody else has
    logger.addHandler(Lines())
    return logger


def record(msg="hello %s", args=("world",), level=logging.INFO, exc_info=None):
    return logging.LogRecord("name", level, "/path.py", 7, msg, args, exc_info)


def test_levels_have_names_and_numbers():
    assert mlevel("info") == 20
    assert mlevel("INFO") == 20
    assert mlevel(30) == 30
    assert mlevel(None) is None
    assert mlevel(0) == 0


def test_task_loggers_are_below_the_one_of_tasks():
    """B-TASK-075: ``get_task_logger(name)`` loggers are children of ``celery.task``."""
    logger = get_task_logger("some.module.of.mine")

    assert logger.parent is logging.getLogger("celery.task")
    assert get_task_logger("some.module.of.mine") is logger
    with pytest.raises(RuntimeError, match="reserved"):
        get_task_logger("celery.task")


def test_loggers_right_below_the_root_move_below_ours():
    assert get_logger("alone_at_the_top").parent is log.base_logger
    assert get_logger("celery").parent is not log.base_logger
    assert get_logger(logging.getLogger("celery.x.y")).name == "celery.x.y"


def test_a_loop_of_loggers_is_found():
    one, two, three = (logging.Logger(name) for name in "abc")  # noqa: LOG001
    one.parent, two.parent = two, one
    with pytest.raises(RuntimeError, match="loop"):
        log.logger_isa(one, three, max=10)


def test_lines_are_coloured_by_level():
    formatter = ColorFormatter("%(message)s")

    assert formatter.format(record()) == "hello world"
    assert formatter.format(record(level=logging.ERROR)).startswith("\x1b[1;31m")
    plain = ColorFormatter("%(message)s", use_color=False)
    assert plain.format(record(level=logging.ERROR)) == "hello world"


def test_a_record_that_cannot_be_formatted_is_shown_with_the_reason():
    text = ColorFormatter("%(message)s").format(record(args=(1, 2, 3)))

    assert "Unrepresentable" in text
    assert "/path.py:7" in text
    assert "hello %s" in text


def test_tracebacks_are_formatted():
    formatter = ColorFormatter("%(message)s", use_color=False)
    try:
        raise KeyError("missing")
    except KeyError:
        text = formatter.format(record(exc_info=sys.exc_info()))
        assert "KeyError: 'missing'" in text
        assert "KeyError" in formatter.formatException(None)


def test_a_stream_becomes_records(logger):
    stream = LoggingProxy(logger, "WARNING")

    assert stream.write("one\n\ntwo\n") == 9
    stream.writelines(["three\n", b"four\n"])
    stream.write("\n")
    stream.flush()

    assert logger.handlers[0].lines == [
        (30, "one"),
        (30, "two"),
        (30, "three"),
        (30, "four"),
    ]
    assert not stream.isatty()
    assert stream.encoding == "utf-8"


def test_the_pieces_of_a_line_are_one_record(logger):
    stream = LoggingProxy(logger)

    print("a", 1, end="", file=stream)
    assert logger.handlers[0].lines == []
    print("b", file=stream)
    stream.write("c\nd")
    stream.write("")

    assert logger.handlers[0].lines == [(40, "a 1b"), (40, "c")]


def test_a_begun_line_is_logged_when_flushed_and_when_closed(logger):
    stream = LoggingProxy(logger)

    print("asking…", end="", flush=True, file=stream)
    print("and", end="", file=stream)
    stream.close()

    assert logger.handlers[0].lines == [(40, "asking…"), (40, "and")]


def test_a_line_without_end_is_logged_when_it_has_become_long(logger):
    stream = LoggingProxy(logger)

    for _ in range(stream.longest + 1):
        stream.write(".")
    stream.write("!\n")

    assert [len(line) for _, line in logger.handlers[0].lines] == [stream.longest, 2]


def test_threads_do_not_write_into_the_lines_of_each_other(logger):
    stream = LoggingProxy(logger)

    stream.write("mine, ")
    other = threading.Thread(target=lambda: (stream.write("theirs"), stream.write("!")))
    other.start()
    other.join()
    stream.write("to the end\n")
    stream.flush()
    assert logger.handlers[0].lines == [(40, "mine, to the end")]

    stream.flush_all()
    assert logger.handlers[0].lines[1:] == [(40, "theirs!")]


def test_a_thread_does_not_go_on_with_the_line_of_one_that_has_ended(logger):
    stream = LoggingProxy(logger)

    for words in ("left over", "of the next\n"):
        thread = threading.Thread(target=stream.write, args=(words,))
        thread.start()
        thread.join()
    stream.flush_all()

    assert sorted(logger.handlers[0].lines) == [(40, "left over"), (40, "of the next")]


def test_a_forked_process_leaves_the_begun_lines_of_its_parent_alone(logger):
    stream = LoggingProxy(logger)
    stream.write("of the parent")

    def child():
        stream.write("of the child")
        stream.flush_all()
        assert logger.handlers[0].lines == [(40, "of the child")]

    with forked(child):
        pass
    stream.flush()
    assert logger.handlers[0].lines == [(40, "of the parent")]


def test_a_flush_with_nothing_begun_asks_for_no_locals_of_the_thread(logger):
    """Those of greenlets are gone when the interpreter flushes for the last time."""
    stream = LoggingProxy(logger)
    del stream._busy

    stream.flush()


@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet"])
def test_begun_lines_are_logged_as_the_process_ends(pool):
    patch = {
        "prefork": "",
        "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
        "eventlet": "import eventlet; eventlet.monkey_patch()",
    }[pool]
    if patch:
        pytest.importorskip(pool)
    program = f"""
{patch}
import atexit, logging, sys, threading
from celery import Celery
logging.basicConfig(stream=sys.__stdout__, format="%(levelname)s %(message)s")
app = Celery(set_as_current=False)
atexit.register(print, "after all", end="")
app.log.redirect_stdouts_to_logger(logging.getLogger("x"), "WARNING")
thread = threading.Thread(target=lambda: print("in a thread", end=""))
thread.start()
thread.join()
print("at last", end="")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    # A stream that can't be flushed at the very end makes it 120.
    assert done.returncode == 0, done.stderr
    lines = ["WARNING after all", "WARNING at last", "WARNING in a thread"]
    assert sorted(done.stdout.splitlines()) == lines


def test_a_percent_sign_in_the_stream_is_text(logger):
    LoggingProxy(logger).write("100% %s\n")
    assert logger.handlers[0].lines == [(40, "100% %s")]


def test_a_closed_stream_is_silent(logger):
    stream = LoggingProxy(logger)
    stream.close()
    stream.write("x")
    assert stream.closed
    assert logger.handlers[0].lines == []


def test_a_handler_that_writes_to_the_stream_does_not_recurse(logger):
    stream = LoggingProxy(logger)

    class Echo(logging.Handler):
        def emit(self, record):
            stream.write("echo")

    logger.addHandler(Echo())
    stream.write("x\n")
    assert logger.handlers[0].lines == [(40, "x")]


def test_a_failing_handler_reports_on_the_real_stderr(logger, monkeypatch):
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)

    class Failing(logging.StreamHandler):
        def format(self, record):
            raise ValueError("cannot format")

    logger.addHandler(Failing(io.StringIO()))
    LoggingProxy(logger).write("x\n")

    assert "cannot format" in real.getvalue()


def test_a_signal_handler_writes_past_the_locks(logger, monkeypatch):
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)
    stream = LoggingProxy(logger)

    with in_sighandler():
        stream.write("dying")
    stream.write("alive\n")

    assert real.getvalue() == "dying\n"
    assert logger.handlers[0].lines == [(40, "alive")]


def test_open_log_files_are_found(tmp_path):
    logger = logging.getLogger("celery.test.of.files")
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    try:
        assert list(iter_open_logger_fds()).count(handler.stream) == 1
    finally:
        logger.removeHandler(handler)
        handler.close()


def test_the_logger_and_process_of_billiard_are_at_hand():
    logger = log.get_multiprocessing_logger()
    assert isinstance(logger, logging.Logger)
    log.reset_multiprocessing_logger()
    assert log.current_process().name
    assert log.current_process_index() is None
