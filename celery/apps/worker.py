"""The worker as a program: banner, logging, signals, process title.

Signals only set flags in `celery.worker.state`, which the loop looks at after each turn;
a signal also wakes the loop. What each one does:

======== =============================================================================
TERM      warm: stop consuming, let running tasks finish
INT       the first one as TERM, with exit code 1; the second as QUIT
QUIT      cold: end running tasks, after the soft period if one is set; a second one
          during that period cancels the tasks and waits for the rest of it
HUP       warm, then run the same command line anew
USR1      log what every thread is doing
USR2      open the remote debugger (with ``CELERY_RDBSIG``)
======== =============================================================================
"""

from __future__ import annotations

import logging
import os
import platform as python_platform
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from billiard.process import current_process

from celery import platforms, signals
from celery._transport import farewell
from celery.app import trace
from celery.loaders.app import AppLoader
from celery.platforms import EX_FAILURE, EX_OK, check_privileges, isatty
from celery.utils import static, term
from celery.utils.debug import cry
from celery.utils.garbage import collect_as_usual
from celery.utils.imports import qualname
from celery.utils.log import flush_redirected, get_logger, set_in_sighandler
from celery.utils.text import pluralize
from celery.worker import WorkController, state

try:
    # Not the green one, which may not be called within a signal handler.
    from posix import write as _write
except ImportError:
    from os import write as _write

__all__ = ("Worker",)

logger = get_logger(__name__)

is_jython = sys.platform.startswith("java")
is_pypy = hasattr(sys, "pypy_version_info")

#: The sprig beside the banner; a line each, and blanks below them.
ARTLINES = [
    " --------------",
    "        ,      ",
    "   ,   /|   ,  ",
    "   |\\_| |_/|   ",
    "    \\  | |  /  ",
    "     \\ | | /   ",
    "      \\|_|/    ",
    "       |_|     ",
    "               ",
]

BANNER = """\
{hostname} v{version}

{platform} {timestamp}

[config]
.> app:         {app}
.> transport:   {conninfo}
.> results:     {results}
.> concurrency: {concurrency}
.> task events: {events}

[queues]
{queues}
"""

EXTRA_INFO_FMT = """
[tasks]
{tasks}
"""


def active_thread_count() -> int:
    """Return how many threads the interpreter knows that are not its own helpers."""
    return sum(1 for thread in threading.enumerate() if not thread.name.startswith("Dummy-"))


def safe_say(msg: str, f: Any = None) -> None:
    """Write *msg* to the standard error output, past buffers and locks: for signal handlers."""
    stream = sys.__stderr__ if f is None else f
    if stream is None:
        return
    try:
        _write(stream.fileno(), f"\n{msg}\n".encode())
    except (OSError, ValueError):
        # Nobody is left to read it, and a signal handler can't complain.
        return


class Worker(WorkController):
    """A worker that owns its process."""

    _restarts = False

    def on_before_init(self, quiet: bool = False, **kwargs: Any) -> None:
        """Prepare the process for tasks, and let users adapt the settings."""
        self.quiet = quiet
        trace.setup_worker_optimizations(self.app, self.hostname)
        signals.celeryd_init.send(
            sender=self.hostname, instance=self, conf=self.app.conf, options=kwargs
        )
        check_privileges(self.app.conf.accept_content)

    def on_after_init(
        self,
        purge: bool = False,
        no_color: bool | None = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: Any = None,
        **kwargs: Any,
    ) -> None:
        """Read the options that concern a program."""
        conf = self.app.conf
        self.redirect_stdouts = (
            conf.worker_redirect_stdouts if redirect_stdouts is None else redirect_stdouts
        )
        self.redirect_stdouts_level = (
            conf.worker_redirect_stdouts_level
            if redirect_stdouts_level is None
            else redirect_stdouts_level
        )
        self.purge = purge
        self.no_color = no_color
        self.colored = term.colored(
            enabled=not no_color
            and self.app.log.supports_color(conf.worker_log_color, self.logfile)
        )

    def on_init_blueprint(self) -> None:
        """Set up logging, and let users see the finished set-up."""
        self._custom_logging = self.setup_logging()
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)

    def on_start(self) -> None:
        """Say who we are, and take over the process."""
        super().on_start()
        if not self.quiet:
            self.emit_banner()
        self.set_process_status("-active-")
        self.install_platform_tweaks(self)
        if self.purge:
            self.purge_messages()
        if not self._custom_logging and self.redirect_stdouts:
            self.app.log.redirect_stdouts(self.redirect_stdouts_level)
        collect_as_usual()

    def start(self) -> None:
        """Run until stopped; after SIGHUP, run the same command line in place of this."""
        super().start()
        if self._restarts:
            farewell.close_all()
            flush_redirected()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        left = len(state.active_requests) + len(self.consumer.abandoned if self.consumer else ())
        if state.is_terminating() and left:
            # Threads can't be ended, and the interpreter would wait for them.
            logger.warning("Leaving %s tasks that run on.", left)
            farewell.close_all()
            flush_redirected()
            logging.shutdown()
            os._exit(self.exitcode or EX_OK)

    def emit_banner(self) -> None:
        """Print the banner, with a picture where the terminal can show one."""
        image = term.supports_images() and isatty(sys.stdout)
        if image:
            print(term.imgcat(static.logo()))  # noqa: T201 - the banner belongs on the terminal
        text = self.startup_info(artlines=not image) + (self.extra_info() or "")
        print(str(self.colored.cyan(" \n", text)), file=sys.__stdout__, flush=True)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Tell that we consume."""
        signals.worker_ready.send(sender=consumer)
        logger.info("%s ready.", self.hostname)

    def setup_logging(self, colorize: bool | None = None) -> bool:
        """Set up logging; returns whether users have done it themselves."""
        if colorize is None and self.no_color is not None:
            colorize = not self.no_color
        return bool(
            self.app.log.setup(
                self.loglevel,
                self.logfile,
                redirect_stdouts=False,
                colorize=colorize,
                hostname=self.hostname,
            )
        )

    def purge_messages(self) -> None:
        """Delete all waiting messages (``--purge``)."""
        with self.app.connection_for_write() as connection:
            count = self.app.control.purge(connection=connection)
        if count:
            print(f"purge: Erased {count} {pluralize(count, 'message')} from the queue.\n")  # noqa: T201

    def tasklist(
        self, include_builtins: bool = True, sep: str = "\n", int_: str = "celery."
    ) -> str:
        """Return the names of the tasks, a line each.

        Args:
            int_: Prefix of built-in tasks.
        """
        return sep.join(
            f"  . {name}"
            for name in sorted(self.app.tasks)
            if include_builtins or not name.startswith(int_)
        )

    def extra_info(self) -> str | None:
        """Return the list of tasks for the banner, at INFO or lower."""
        if self.loglevel is None or self.loglevel > logging.INFO:
            return None
        return EXTRA_INFO_FMT.format(
            tasks=self.tasklist(include_builtins=self.loglevel <= logging.DEBUG)
        )

    def startup_info(self, artlines: bool = True) -> str:
        """Return the banner.

        Args:
            artlines: With the sprig beside it.
        """
        app = self.app
        lines = BANNER.format(
            app=_describe(app),
            hostname=self.hostname,
            version=_version(),
            platform=_platform(),
            timestamp=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            conninfo=app.connection().as_uri(),
            results=app.backend.as_uri(),
            concurrency=self._concurrency_text(),
            events="ON" if self.task_events else "OFF (enable -E to monitor tasks in this worker)",
            queues=app.amqp.queues.format(indent=0, indent_first=False),
        ).splitlines()
        width = len(ARTLINES[0])
        art = ARTLINES if artlines else [ARTLINES[0]]
        shown = [
            f"{art[number] if number < len(art) else '':{width}} {line}".rstrip()
            for number, line in enumerate(lines)
        ]
        return "\n".join(shown) + "\n"

    def _concurrency_text(self) -> str:
        size = str(self.concurrency)
        if self.autoscale:
            most, least = self.autoscale
            size = f"{{min={least}, max={most}}}"
        kind = self.pool_cls
        name = kind if isinstance(kind, str) else kind.__module__
        text = f"{size} ({name.rpartition('.')[2]})"
        return text if self.pool is None or self.pool.limit else f"{text} (no limit)"

    def install_platform_tweaks(self, worker: Any) -> None:
        """Install the signal handlers."""
        if platforms.IS_macOS:
            self.macOS_proxy_detection_workaround()
        if isatty(sys.stdin):
            # The terminal sends HUP when it goes away; that has to end us.
            if platforms.IS_macOS:
                install_HUP_not_supported_handler(worker)
        else:
            install_worker_restart_handler(worker)
        install_worker_term_handler(worker)
        install_worker_term_hard_handler(worker)
        install_worker_int_handler(worker)
        install_cry_handler()
        install_rdb_handler()

    def macOS_proxy_detection_workaround(self) -> None:
        """Keep the system's proxy detection, which does not survive a fork, from running."""
        os.environ.setdefault("celery_dummy_proxy", "set_by_celeryd")

    def set_process_status(self, info: str) -> Any:
        """Show *info* in the process title."""
        return platforms.set_mp_process_title(
            "celeryd",
            info=f"{info} ({platforms.strargv(sys.argv)})",
            hostname=self.hostname,
        )


def _version() -> str:
    from celery import VERSION_BANNER

    return VERSION_BANNER


def _platform() -> str:
    """Return what `platform.platform` does, which starts a program to ask for the processor."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        libc = None
    if not libc:
        return python_platform.platform()
    this = os.uname()
    return f"{this.sysname}-{this.release}-{this.machine}-with-{libc.replace(' ', '')}"


def _describe(app: Any) -> str:
    text = f"{app.main or '__main__'}:{id(app):#x}"
    loader = type(app.loader)
    return text if loader is AppLoader else f"{text} ({qualname(loader)})"


# -- signals


def _shutdown_handler(
    worker: Any,
    sig: str = "SIGTERM",
    how: str = "Warm",
    callback: Callable[[Any], Any] | None = None,
    exitcode: int = EX_OK,
) -> None:
    """Have signal *sig* stop *worker*.

    Args:
        how: ``Warm`` or ``Cold``.
        callback: Called first, each time the signal comes.
    """

    def on_signal(*args: Any) -> None:
        set_in_sighandler(True)
        try:
            # First of all: another signal may interrupt this handler after any line.
            _ask(how, exitcode)
            if callback is not None:
                callback(worker)
            if current_process()._name == "MainProcess":
                safe_say(f"worker: {how} shutdown (MainProcess)")
            signals.worker_shutting_down.send(
                sender=worker.hostname, sig=sig, how=how, exitcode=exitcode
            )
        finally:
            set_in_sighandler(False)

    on_signal.__name__ = f"on_{sig}"
    platforms.signals[sig] = on_signal


def _ask(how: str, exitcode: int) -> None:
    """Set the flag that the loop looks at; the exit code of the first request stays."""
    if how == "Warm":
        if state.should_stop is None:
            state.should_stop = exitcode
    elif state.should_terminate is None:
        first = state.should_stop
        state.should_terminate = exitcode if first is None else first


def on_SIGINT(worker: Any) -> None:
    """Have a second SIGINT act as SIGQUIT, and say so."""
    install_worker_term_hard_handler(worker, sig="SIGINT", exitcode=EX_FAILURE)
    safe_say(
        "worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!"
    )


def on_cold_shutdown(worker: Any) -> None:
    """Have the next SIGINT or SIGQUIT hurry, and say so."""
    # Installed first: the next signal may interrupt this very function.
    hurry = during_soft_shutdown if _has_soft_shutdown(worker) else on_hard_shutdown
    for sig in ("SIGINT", "SIGQUIT"):
        install_worker_term_hard_handler(worker, sig=sig, callback=hurry)
    safe_say("worker: Hitting Ctrl+C again will terminate all running tasks!")


def on_hard_shutdown(worker: Any) -> None:
    """Ask for patience: the cold shutdown is under way, and quick."""
    safe_say("Waiting gracefully for cold shutdown to complete...")


def during_soft_shutdown(worker: Any) -> None:
    """Cancel the running tasks, and let the soft period pass so that the broker hears of it."""
    for sig in ("SIGINT", "SIGQUIT"):
        install_worker_term_hard_handler(worker, sig=sig, callback=on_hard_shutdown)
    worker.hurry_soft_shutdown()
    on_hard_shutdown(worker)


def _has_soft_shutdown(worker: Any) -> bool:
    return bool(worker.app.conf.worker_soft_shutdown_timeout)


install_worker_term_handler = partial(_shutdown_handler, sig="SIGTERM", how="Warm", exitcode=EX_OK)
install_worker_term_hard_handler = partial(
    _shutdown_handler, sig="SIGQUIT", how="Cold", callback=on_cold_shutdown, exitcode=EX_OK
)
install_worker_int_handler = partial(
    _shutdown_handler, sig="SIGINT", how="Warm", callback=on_SIGINT, exitcode=EX_FAILURE
)
if os.environ.get("REMAP_SIGTERM") == "SIGQUIT":
    install_worker_term_handler = partial(
        _shutdown_handler,
        sig="SIGTERM",
        how="Cold",
        callback=on_cold_shutdown,
        exitcode=EX_OK,
    )


def install_worker_restart_handler(worker: Any, sig: str = "SIGHUP") -> None:
    """Have *sig* stop the worker warm and run the same command line anew."""

    def on_signal(*args: Any) -> None:
        set_in_sighandler(True)
        try:
            safe_say(f"Restarting celery worker ({' '.join(sys.argv)})")
            worker._restarts = True
            _ask("Warm", EX_OK)
        finally:
            set_in_sighandler(False)

    platforms.signals[sig] = on_signal


def install_cry_handler(sig: str = "SIGUSR1") -> None:
    """Have *sig* log what every thread is doing."""
    if is_pypy:
        # It offers no frames of other threads.
        return

    def on_signal(*args: Any) -> None:
        set_in_sighandler(True)
        try:
            safe_say(cry())
        finally:
            set_in_sighandler(False)

    platforms.signals[sig] = on_signal


def install_rdb_handler(envvar: str = "CELERY_RDBSIG", sig: str = "SIGUSR2") -> None:
    """Have *sig* open the remote debugger, if the environment has *envvar*."""
    if not os.environ.get(envvar):
        return

    def on_signal(signum: int, frame: Any = None) -> None:
        set_in_sighandler(True)
        try:
            from celery.contrib import rdb

            rdb.set_trace(frame)
        finally:
            set_in_sighandler(False)

    platforms.signals[sig] = on_signal


def install_HUP_not_supported_handler(worker: Any, sig: str = "SIGHUP") -> None:
    """Have *sig* say that restarting by it does not work here."""

    def on_signal(signum: int, frame: Any) -> None:
        set_in_sighandler(True)
        try:
            safe_say(f"{sig} not supported: Restarting with {sig} is unstable on this platform!")
        finally:
            set_in_sighandler(False)

    platforms.signals[sig] = on_signal
