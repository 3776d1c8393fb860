"""The program ``celery beat``: banner, logging, pid file and signals around a `Service`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery import VERSION_BANNER, beat, platforms
from celery.app import app_or_default
from celery.utils.imports import qualname
from celery.utils.log import LOG_LEVELS, get_logger
from celery.utils.time import humanize_seconds

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Beat",)

STARTUP_INFO_FMT = """
LocalTime -> {timestamp}
Configuration ->
    . broker -> {conninfo}
    . loader -> {loader}
    . scheduler -> {scheduler}
{scheduler_info}
    . logfile -> {logfile}@%{loglevel}
    . maxinterval -> {hmax_interval} ({max_interval}s)
""".strip()

logger = get_logger("celery.beat")

#: What a service is given that has the same name here.
_SERVICE_OPTIONS = ("app", "max_interval", "scheduler_cls", "remote_control", "hostname")


class Beat:
    """
    Beat as a program.

    Args:
        max_interval: Seconds after which to look at the schedule again at the latest.
        app: Whose tasks they are.
        socket_timeout: Seconds that an operation on any socket may take.
        pidfile: Path of the pid file.
        no_color: Leave colours out.
        loglevel: Level, by name or number.
        logfile: Path of the log; stderr by default.
        schedule: Path of the schedule file.
        scheduler: Class of the scheduler.
        scheduler_cls: The same.
        redirect_stdouts: Log what is printed.
        redirect_stdouts_level: At this level.
        quiet: Leave the banner out.
        remote_control: Answer ``ping``.
        hostname: Node name for that.
        kwargs: Ignored.
    """

    Service = beat.Service
    app: Celery = None  # type: ignore[assignment]  # each has its own
    #: What ended the service, once it is logged.
    failure: Exception | None = None

    def __init__(
        self,
        max_interval: float | None = None,
        app: Celery | None = None,
        socket_timeout: float = 30,
        pidfile: str | None = None,
        no_color: bool | None = None,
        loglevel: str | int = "WARN",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: Any = None,
        scheduler_cls: Any = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | int | None = None,
        quiet: bool = False,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app = app_or_default(app or self.app)
        either = app.either
        self.quiet = quiet
        self.schedule = either("beat_schedule_filename", schedule)
        self.scheduler_cls = either("beat_scheduler", scheduler, scheduler_cls)
        self.max_interval = max_interval
        self.hostname, self.remote_control = hostname, remote_control
        self.pidfile, self.socket_timeout = pidfile, socket_timeout
        # -- logging
        self.loglevel = loglevel if isinstance(loglevel, int) else LOG_LEVELS[loglevel.upper()]
        self.logfile, self.no_color = logfile, no_color
        self.redirect_stdouts = either("worker_redirect_stdouts", redirect_stdouts)
        self.redirect_stdouts_level = either(
            "worker_redirect_stdouts_level", redirect_stdouts_level
        )
        self.colored = app.log.colored(logfile, enabled=self._wants_color())

    def _wants_color(self) -> bool | None:
        """Say whether colours are wanted; None leaves it to the stream."""
        return None if self.no_color is None else not self.no_color

    def run(self) -> None:
        """Run until a signal comes."""
        if not self.quiet:
            print(str(self.colored.cyan(f"celery beat v{VERSION_BANNER} is starting.")))  # noqa: T201
        for step in (self.init_loader, self.set_process_title, self.start_scheduler):
            step()

    def setup_logging(self, colorize: bool | None = None) -> None:
        """Set logging up."""
        self.app.log.setup(
            loglevel=self.loglevel,
            logfile=self.logfile,
            colorize=self._wants_color() if colorize is None else colorize,
            redirect_stdouts=self.redirect_stdouts,
            redirect_level=self.redirect_stdouts_level,
        )

    def start_scheduler(self) -> None:
        """Run the service; an error is logged and raised."""
        if self.pidfile:
            platforms.create_pidlock(self.pidfile)
        options = {name: getattr(self, name) for name in _SERVICE_OPTIONS}
        service = self.Service(schedule_filename=self.schedule, **options)
        if not self.quiet:
            print(self.banner(service), flush=True)  # noqa: T201
        self.setup_logging()
        if self.socket_timeout:
            socket.setdefaulttimeout(self.socket_timeout)
            logger.debug("Sockets give up after %r seconds", self.socket_timeout)
        try:
            self.install_sync_handler(service)
            service.start()
        except Exception as exc:
            logger.critical("beat raised exception %s: %r", type(exc), exc, exc_info=True)
            self.failure = exc
            raise

    def banner(self, service: Any) -> str:
        """Return the text that is shown at start."""
        paint = self.colored.blue
        return "\n".join(str(paint(part)) for part in ("celery beat", self.startup_info(service)))

    def init_loader(self) -> None:
        """Import what the settings tell to import."""
        self.app.loader.init_worker()
        self.app.finalize()

    def startup_info(self, service: Any) -> str:
        """Describe the configuration."""
        # Lazily, so that a schedule file which can't be opened fails where it is logged.
        scheduler = service.get_scheduler(lazy=True)
        info = STARTUP_INFO_FMT.format(
            timestamp=datetime.now().replace(microsecond=0),  # noqa: DTZ005 - local time is meant
            conninfo=self.app.connection().as_uri(),
            loader=qualname(self.app.loader),
            scheduler=qualname(scheduler),
            scheduler_info=scheduler.info,
            logfile=self.logfile or "[stderr]",
            loglevel=LOG_LEVELS[self.loglevel],
            hmax_interval=humanize_seconds(scheduler.max_interval),
            max_interval=scheduler.max_interval,
        )
        if service.remote_control:
            info += f"\n    . remote control -> {service.hostname}"
        return info

    def set_process_title(self) -> None:
        """Say in process lists what we are."""
        arguments = platforms.strargv(sys.argv) if len(sys.argv) > 1 else ""
        platforms.set_process_title("celery beat", info=arguments)

    def install_sync_handler(self, service: Any) -> None:
        """Have SIGTERM and SIGINT end the service, with its schedule saved and status 0."""
        handlers: dict[str, Callable[..., Any]] = {"TERM": service.end, "INT": service.end}
        platforms.signals.update(handlers)
