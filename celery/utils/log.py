"""
Loggers, levels and formatting.

`get_logger` puts loggers under ``celery``; `get_task_logger` puts those of tasks under
``celery.task``, which has a format of its own.  `ColorFormatter` colours lines by level,
`LoggingProxy` turns a stream (stdout) into log records.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, ClassVar, TextIO

from celery.utils.term import colored

__all__ = (
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
)

#: Level by name, and name by level.
LOG_LEVELS: dict[Any, Any] = {
    "CRITICAL": 50,
    "FATAL": 50,
    "ERROR": 40,
    "WARN": 30,
    "WARNING": 30,
    "INFO": 20,
    "DEBUG": 10,
    "NOTSET": 0,
    50: "CRITICAL",
    40: "ERROR",
    30: "WARNING",
    20: "INFO",
    10: "DEBUG",
    0: "NOTSET",
}

MP_LOG = bool(os.environ.get("MP_LOG"))
RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

base_logger = logging.getLogger("celery")
task_logger = logging.getLogger("celery.task")

_in_sighandler = False


def set_in_sighandler(value: bool) -> None:
    """Note that a signal handler runs; logging may then dead-lock on the lock of a handler."""
    global _in_sighandler  # noqa: PLW0603 - a fact about the process
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """Note that the body is run by a signal handler."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


def logger_isa(l: logging.Logger, p: logging.Logger, max: int = 1000) -> bool:  # noqa: E741
    """Say whether *p* is *l* or above it; looks at *max* ancestors at most."""
    current: logging.Logger | None = l
    for _ in range(max):
        if current is None or current is p:
            return current is p
        current = current.parent
    raise RuntimeError(f"the hierarchy of logger {l.name} has a loop")


def _under(parent: logging.Logger, logger: logging.Logger) -> logging.Logger:
    if not logger_isa(logger, parent):
        logger.parent = parent
    return logger


def get_logger(name: str | logging.Logger) -> logging.Logger:
    """Return the logger *name*; one directly under the root logger moves under ``celery``."""
    logger = logging.getLogger(name) if isinstance(name, str) else name
    if logger.parent is logging.root and logger is not base_logger:
        logger = _under(base_logger, logger)
    return logger


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger *name*, a child of ``celery.task``, for use in tasks."""
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"the logger name {name!r} is reserved; use __name__ of your module")
    return _under(task_logger, logging.getLogger(name))


def mlevel(level: int | str | None) -> int | None:
    """Turn the name of a log level into its number; None and numbers pass through."""
    return int(LOG_LEVELS[level.upper()]) if isinstance(level, str) else level


class ColorFormatter(logging.Formatter):
    """
    Formats records, in colours that tell the level.

    A record that cannot be formatted (its arguments do not match) is shown with the reason in its
    place, for a log line is no reason to fail.
    """

    #: Colour by name.
    COLORS: ClassVar[dict[str, Any]] = colored().names
    #: Colour by level.
    colors: ClassVar[dict[str, Any]] = {
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(
        self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None
    ) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(self, ei: Any) -> str:
        """Format the traceback of *ei*, or of the error that is being handled."""
        return super().formatException(ei if ei and not isinstance(ei, bool) else sys.exc_info())

    def format(self, record: logging.LogRecord) -> str:
        """Format *record* without ever raising."""
        text = self._format_safely(record)
        paint = self.colors.get(record.levelname) if self.use_color else None
        return str(paint(text)) if paint else text

    def _format_safely(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as exc:  # noqa: BLE001 - a user's message may do anything
            stack = "".join(traceback.format_stack()) if record.levelno >= logging.ERROR else ""
            return (
                f"<Unrepresentable log record from {record.pathname}:{record.lineno}: "
                f"{exc!r} for {record.msg!r}>{stack and chr(10)}{stack}"
            )


class LoggingProxy:
    """
    A write-only stream whose lines become records of *logger*.

    What a thread writes is kept until its line ends, it flushes, or the line is very long; so
    what `print` writes piece by piece is one record.

    Args:
        logger: Receives them.
        loglevel: Their level, number or name; by default that of the logger, or else ERROR.
    """

    mode = "w"
    name: str | None = None
    closed = False
    loglevel: int = logging.ERROR
    #: Characters after which a line is logged without its end.
    longest = 16_384

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or logger.level or self.loglevel) or self.loglevel
        self._busy = threading.local()
        #: Begun lines by process and thread: a forked child leaves those of its parent alone.
        self._begun: dict[tuple[int, int], str] = {}
        self._silence_handler_errors()

    def _silence_handler_errors(self) -> None:
        """
        Let handlers report their own errors on the real stderr.

        A handler that fails writes to ``sys.stderr``, which may be this object.
        """

        def report(record: logging.LogRecord) -> None:
            if not logging.raiseExceptions or sys.__stderr__ is None:
                return
            with suppress(OSError):  # nobody is left who could be told
                traceback.print_exc(None, sys.__stderr__)

        for handler in self.logger.handlers:
            handler.handleError = report  # type: ignore[method-assign]

    def write(self, data: str | bytes) -> int:
        """Log the lines that *data* completes; blank ones are left out."""
        if _in_sighandler:
            # A handler's lock may be held by the code that the signal interrupted.
            print(_text(data), file=sys.__stderr__)
            return len(data)
        busy = getattr(self._busy, "here", None)
        if busy or self.closed:
            return 0  # our own handler writes to the stream we replace
        here = os.getpid(), threading.get_ident()
        begun = self._begun.pop(here, "")
        if busy is None:
            # The first words of this thread: a former one of the same number left these.
            self._log([begun])
            begun = ""
        lines = (begun + _text(data)).splitlines(keepends=True)
        if lines and len(lines[-1]) < self.longest and not _has_end(lines[-1]):
            self._begun[here] = lines.pop()
        self._log(lines)
        return len(data)

    def _log(self, lines: Iterable[str]) -> None:
        self._busy.here = True
        try:
            for line in lines:
                if line.strip():
                    self.logger.log(self.loglevel, "%s", line.splitlines()[0])
        finally:
            self._busy.here = False

    def writelines(self, sequence: Iterable[str | bytes]) -> None:
        """Write each item."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Log the line that this thread has begun."""
        # The interpreter flushes once more at its end, when greenlets and their locals are gone.
        if self._begun and not _in_sighandler and not getattr(self._busy, "here", False):
            self._log((self._begun.pop((os.getpid(), threading.get_ident()), ""),))

    def flush_all(self) -> None:
        """Log the lines that any thread has begun, and from now on at once: the process ends."""
        self.longest = 0
        pid = os.getpid()
        begun = [key for key in tuple(self._begun) if key[0] == pid]
        self._log([self._begun.pop(key, "") for key in begun])

    def close(self) -> None:
        """Log the lines that were begun, and ignore what is written from now on."""
        self.flush_all()
        self.closed = True

    def isatty(self) -> bool:
        """Say no."""
        return False

    @property
    def encoding(self) -> str:
        """What programs ask a text stream for."""
        return "utf-8"


def flush_redirected() -> None:
    """Log the lines begun on stdout and stderr, where these are redirected to the log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LoggingProxy):
            stream.flush_all()


def _text(data: str | bytes) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data


def _has_end(line: str) -> bool:
    return line != line.splitlines()[0]


def get_multiprocessing_logger() -> logging.Logger | None:
    """Return the logger of billiard, or None where that is not installed."""
    try:
        from billiard import util
    except ImportError:
        return None
    logger: logging.Logger = util.get_logger()
    return logger


def reset_multiprocessing_logger() -> None:
    """Make billiard set its logger up anew when it is next used."""
    try:
        from billiard import util
    except ImportError:
        return
    if hasattr(util, "_logger"):
        util._logger = None


def current_process() -> Any:
    """Return the process object of billiard."""
    from billiard import process

    return process.current_process()


def current_process_index(base: int = 1) -> int | None:
    """Return the number of this pool process, counted from *base*; None outside a pool."""
    index = getattr(current_process(), "index", None)
    return index + base if index is not None else None


def iter_open_logger_fds() -> Iterator[TextIO | IO[bytes]]:
    """Yield the open files of all logging handlers, each once."""
    seen = set()
    manager = logging.root.manager
    loggers = [logging.root, *manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            stream = getattr(handler, "stream", None)
            if (
                stream is not None
                and id(stream) not in seen
                and not getattr(stream, "closed", False)
            ):
                seen.add(id(stream))
                yield stream
