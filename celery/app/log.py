"""
Logging of workers and other programs.

A program calls :meth:`Logging.setup` once at its start. It replaces the handlers of the root
logger by one that writes to the terminal or to a file, gives ``celery.task`` a handler of its own
that knows the running task, and may send everything printed to the log. A receiver of the signal
``setup_logging`` takes the whole job over; receivers of ``after_setup_logger`` and
``after_setup_task_logger`` add to it.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from typing import IO, TYPE_CHECKING, Any, ClassVar

from celery import _state, platforms, signals
from celery.utils import log, term
from celery.utils.nodenames import node_format

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Logging", "TaskFormatter")

MP_LOG = bool(os.environ.get("MP_LOG"))

LogFile = str | os.PathLike[str] | IO[str] | None

_NO_TASK = "???"


class TaskFormatter(log.ColorFormatter):
    """Offer ``%(task_name)s`` and ``%(task_id)s`` of the running task, ``???`` outside of one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format *record* with the fields of the task, unless the caller gave them."""
        task = _state.get_current_task()
        request = task.request if task is not None else None
        if task is not None and request is not None and request.id:
            name, task_id = task.name, request.id
        else:
            name = task_id = _NO_TASK
        # A name given by the caller (``extra=``) is kept.
        record.__dict__.setdefault("task_name", name)
        record.__dict__.setdefault("task_id", task_id)
        return super().format(record)


class Logging:
    """Sets logging up as the settings of one app say (``app.log``)."""

    #: Loggers are shared by the whole process, and so is the note that they are ready.
    _setup_done = False
    #: Process that set them up itself; None where receivers of ``setup_logging`` did.
    _setup_pid: int | None = None
    #: What was added to which logger, for a pool process that does it anew.
    _added: ClassVar[list[tuple[logging.Logger, logging.Handler]]] = []

    def __init__(self, app: Celery) -> None:
        conf = app.conf
        self.app = app
        self.loglevel: int = logging.WARNING
        self.format: str = conf.worker_log_format
        self.datefmt: str | None = conf.worker_log_datefmt
        self.task_format: str = conf.worker_task_log_format
        self.task_datefmt: str | None = conf.worker_task_log_datefmt
        self.colorize: bool | None = conf.worker_log_color

    @property
    def already_setup(self) -> bool:
        """Whether logging was set up in this process; reset it to set up anew."""
        return self._setup_done

    @already_setup.setter
    def already_setup(self, done: bool) -> None:
        type(self)._setup_done = done

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: LogFile = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """
        Set logging up and remember how, for the child processes.

        Args:
            loglevel: Least level that is shown; WARNING by default.
            logfile: Path (may hold ``%n``, ``%i``, …) or open file; stderr by default.
            redirect_stdouts: Log what is printed, at *redirect_level*.
            colorize: None follows the setting ``worker_log_color`` and the terminal.
            hostname: Node name for the formats in *logfile*.

        Returns:
            What the receivers of ``setup_logging`` answered, if any of them did the work.
        """
        level = log.mlevel(loglevel) if loglevel is not None else self.loglevel
        handled = self.setup_logging_subsystem(level, logfile, colorize=colorize, hostname=hostname)
        if redirect_stdouts and not handled:
            self.redirect_stdouts(redirect_level)
        os.environ["CELERY_LOG_LEVEL"] = str(level)
        os.environ["CELERY_LOG_FILE"] = str(logfile) if _is_path(logfile) else ""
        return handled

    def redirect_stdouts(
        self, loglevel: int | str | None = None, name: str = "celery.redirected"
    ) -> None:
        """Log what this process and its children print."""
        self.redirect_stdouts_to_logger(log.get_logger(name), loglevel)
        os.environ["CELERY_LOG_REDIRECT"] = "1"
        os.environ["CELERY_LOG_REDIRECT_LEVEL"] = str(loglevel or "")

    def redirect_stdouts_to_logger(
        self,
        logger: logging.Logger,
        loglevel: int | str | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> log.LoggingProxy:
        """Put a file-like object that writes to *logger* in the place of stdout and stderr."""
        proxy = log.LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy  # enough of a text file for print()
        if stderr:
            sys.stderr = proxy
        # Runs before the handlers are closed, as logging registered its part earlier.
        atexit.register(proxy.flush_all)
        return proxy

    def setup_logging_subsystem(
        self,
        loglevel: int | str | None = None,
        logfile: LogFile = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Configure the root logger and ``celery.task``, once a process.

        Returns:
            Answers of the receivers of ``setup_logging``; with any, nothing else is touched.
            None when it was done before.
        """
        if self.already_setup and not self._wants_file_of_its_own(logfile):
            return None
        self.already_setup = True
        Logging._setup_pid = None
        while self._added:
            logger, handler = self._added.pop()
            logger.removeHandler(handler)
        level = log.mlevel(loglevel) if loglevel else self.loglevel
        if hostname and logfile and isinstance(logfile, (str, os.PathLike)):
            logfile = _path_of_process(os.fspath(logfile), hostname)
        how: dict[str, Any] = {
            "loglevel": level,
            "logfile": logfile,
            "format": format or self.format,
            "colorize": self.supports_color(colorize, logfile),
        }
        log.reset_multiprocessing_logger()
        receivers = signals.setup_logging.send(sender=None, **how)
        if receivers:
            return receivers
        Logging._setup_pid = os.getpid()
        root = logging.getLogger()
        if self.app.conf.worker_hijack_root_logger:
            for name in ("", "celery", "celery.task", "celery.redirected"):
                logging.getLogger(name).handlers.clear()
        self._configure(root, datefmt=datefmt or self.datefmt, **how, **kwargs)
        pool_logger = log.get_multiprocessing_logger() if MP_LOG else None
        if pool_logger is not None:
            self._configure(pool_logger, datefmt=datefmt or self.datefmt, **how, **kwargs)
        signals.after_setup_logger.send(sender=None, logger=root, **how)
        self.setup_task_loggers(level, logfile, colorize=colorize)
        return receivers

    def _wants_file_of_its_own(self, logfile: LogFile) -> bool:
        """Say whether this is a pool process, and each of them writes to another file."""
        if self._setup_pid in (None, os.getpid()) or not isinstance(logfile, str):
            return False
        return "%i" in logfile or "%I" in logfile

    def setup_task_loggers(
        self,
        loglevel: int | str | None = None,
        logfile: LogFile = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give the logger ``celery.task``, parent of all task loggers, its handler."""
        how: dict[str, Any] = {
            "loglevel": log.mlevel(loglevel) if loglevel else self.loglevel,
            "logfile": logfile,
            "format": format or self.task_format,
            "colorize": self.supports_color(colorize, logfile),
        }
        logger = log.get_logger("celery.task")
        self._configure(
            logger,
            datefmt=datefmt or self.task_datefmt,
            formatter=TaskFormatter,
            **how,
            **kwargs,
        )
        logger.propagate = propagate
        signals.after_setup_task_logger.send(sender=None, logger=logger, **how)
        return logger

    def _configure(
        self, logger: logging.Logger, *, loglevel: int, logfile: LogFile, **how: Any
    ) -> None:
        self.setup_handlers(logger, logfile, **how)
        logger.setLevel(loglevel)

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: LogFile,
        format: str | None,
        colorize: bool | None,
        formatter: type[log.ColorFormatter] = log.ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Add one handler to *logger*, unless it has some already."""
        if any(not isinstance(each, logging.NullHandler) for each in logger.handlers):
            return logger
        handler = _handler_for(logfile)
        handler.setFormatter(formatter(format, use_color=bool(colorize), datefmt=datefmt))
        logger.addHandler(handler)
        self._added.append((logger, handler))
        return logger

    def supports_color(self, colorize: bool | None = None, logfile: LogFile = None) -> bool:
        """
        Say whether log lines are coloured: only on a terminal, and only if wanted.

        Args:
            colorize: The user's wish; None follows ``worker_log_color``.
            logfile: Target of the log; files never get colour.
        """
        wanted = self.colorize if colorize is None else colorize
        if wanted is False or logfile or platforms.IS_WINDOWS:
            return False
        return bool(platforms.isatty(sys.stderr))

    def colored(self, logfile: LogFile = None, enabled: bool | None = None) -> term.colored:
        """Return a painter for terminal text that knows whether colour is possible."""
        return term.colored(enabled=self.supports_color(enabled, logfile))

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        """Return the logger of that name, below the library's own."""
        return log.get_logger(name)


def _path_of_process(path: str, hostname: str) -> str:
    """Replace the formats in *path*; ``%i`` and ``%I`` stand for the index in the pool."""
    index = log.current_process_index() or 0
    return node_format(path, hostname, i=str(index), I=f"-{index}" if index else "")


def _is_path(logfile: LogFile) -> bool:
    return bool(logfile) and isinstance(logfile, (str, os.PathLike))


def _handler_for(logfile: LogFile) -> logging.Handler:
    """Open the target of a log; files are opened anew after rotation."""
    if logfile is None or logfile == "":
        return logging.StreamHandler(sys.__stderr__)
    if isinstance(logfile, (str, os.PathLike)):
        return WatchedFileHandler(logfile, encoding="utf-8")
    return logging.StreamHandler(logfile)
