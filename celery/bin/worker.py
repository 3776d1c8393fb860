"""
``celery worker``: start a worker, in the foreground or as a daemon.

A daemon is made by forking, giving up the terminal and executing the same command line again
without ``--detach``: the new process starts as clean as one started by an init system.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
from click.core import ParameterSource

from celery.bin.base import (
    COMMA_SEPARATED_LIST,
    LOG_LEVEL,
    CeleryDaemonCommand,
    ParamType,
    StringChoice,
    drop_privileges,
    handle_preload_options,
    options_under,
    project_traceback,
    require_writable,
    schedule_file,
)
from celery.exceptions import ImproperlyConfigured

_worker_option = options_under("Worker Options")
_pool_option = options_under("Pool Options")
_queue_option = options_under("Queue Options")
_features_option = options_under("Features")
_embedded_beat_option = options_under("Embedded Beat Options")

#: Set in the environment to stay in the foreground in spite of ``--detach``, for debugging.
C_FAKEFORK = os.environ.get("C_FAKEFORK")

_GREEN_POOLS = ("eventlet", "gevent")

_POOLS = ("prefork", "eventlet", "gevent", "solo", "processes", "threads", "asyncio", "custom")

#: Options that ``detach`` has obeyed already, so that the new process must not do so again.
_SPENT_OPTIONS = ("--uid", "--gid", "--umask", "--executable", "--workdir")

#: Short flags without a value, which may be written together, as in ``-ED``.
_SHORT_FLAGS = frozenset("BDECq")


class CeleryBeat(ParamType):
    """The flag for a scheduler inside the worker."""

    name = "beat"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Return whether the flag is set, on systems where it works."""
        wanted = bool(click.BOOL.convert(value, param, ctx))
        if wanted and sys.platform == "win32":
            self.fail("-B does not work on Windows; run 'celery beat' beside it", param, ctx)
        return wanted


class WorkersPool(StringChoice):
    """Turns the alias of a pool into its class."""

    name = "pool"

    def __init__(self) -> None:
        super().__init__(_POOLS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the class of the pool; the setting decides where nobody asked."""
        if isinstance(value, type):
            return value
        alias = super().convert(value, param, ctx)
        if param is not None and ctx is not None and ctx.obj is not None:
            source = ctx.get_parameter_source(param.name or "")
            if source is ParameterSource.DEFAULT:
                # Nobody asked for a pool here, so the setting decides.
                alias = ctx.obj.app.conf.worker_pool or alias
        from celery import concurrency

        try:
            return concurrency.get_implementation(alias)
        except (ImportError, KeyError) as exc:
            self.fail(f"the pool {alias!r} cannot be loaded: {exc}", param, ctx)


class Hostname(click.types.StringParamType):
    """Turns ``%n``, ``%h`` and ``%d`` in a node name into the parts of this host's name."""

    name = "hostname"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the node name, ``celery@HOST`` by default."""
        from celery.utils.nodenames import default_nodename, host_format

        return str(host_format(default_nodename(value)))


class Autoscale(ParamType):
    """Turns ``MAX,MIN`` into two numbers."""

    name = "<min workers>, <max workers>"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return the most and the least number of processes."""
        parts = value.split(",") if isinstance(value, str) else list(value)
        try:
            numbers = [int(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or min(numbers) < 0:
            self.fail(
                f"{value!r} must be two integers, the most and the least processes, like '10,3'",
                param,
                ctx,
            )
        most, least = max(numbers), min(numbers) if len(numbers) == 2 else 0
        return most, least


class _Concurrency(ParamType):
    """A number of processes, or ``auto``."""

    name = "concurrency"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return a number or the word ``auto``."""
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"{value!r} must be a non-negative integer or 'auto'", param, ctx)
        return number


AUTOSCALE = Autoscale()
CELERY_BEAT = CeleryBeat()
HOSTNAME = Hostname()
WORKERS_POOL = WorkersPool()


def detach(
    path: str,
    argv: Sequence[str],
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: str | int | None = None,
    gid: str | int | None = None,
    umask: str | int | None = None,
    workdir: str | None = None,
    fake: bool | str | None = False,
    app: Any = None,
    executable: str | None = None,
    hostname: str | None = None,
) -> int:
    """
    Become a daemon and execute *path* with the arguments *argv* there.

    Args:
        path: Program to run; *executable* takes its place.
        argv: Its arguments, without the name of the program.
        logfile: Checked for being writable, and told if the program cannot be run.
        fake: Don't fork.
        app: App to log the error with.
        hostname: Node name for the formats in *logfile* and *pidfile*.

    Returns:
        An exit code, where the program could not be run; else the call doesn't return.
    """
    from celery import platforms
    from celery.utils.nodenames import node_format

    if hostname:
        logfile = node_format(logfile, hostname) if logfile else logfile
        pidfile = node_format(pidfile, hostname) if pidfile else pidfile
    program = executable or path
    with platforms.detached(
        logfile,
        pidfile,
        uid,
        gid,
        umask or 0,
        workdir or os.getcwd(),
        bool(fake),
        after_forkers=False,
    ):
        try:
            os.execv(program, [program, *argv])
        except OSError:
            # The terminal is gone by now, so the log is the only place to complain.
            if app is None:
                from celery import _state

                app = _state.get_current_app()
            app.log.setup_logging_subsystem("ERROR", logfile)
            from celery.utils.log import get_logger

            get_logger(__name__).critical("Cannot run %s %s", program, argv, exc_info=True)
            return platforms.EX_FAILURE


def without_detach_options(argv: Sequence[str]) -> list[str]:
    """Remove from a command line what only concerns the process that detaches."""
    return list(_kept(argv))


def _kept(argv: Sequence[str]) -> Iterator[str]:
    rest = iter(argv)
    for arg in rest:
        name, has_value, _ = arg.partition("=")
        if name in _SPENT_OPTIONS:
            if not has_value:
                next(rest, None)
        elif arg == "--detach":
            continue
        elif arg[:1] == "-" and arg[1:2] != "-" and "D" in arg and _SHORT_FLAGS.issuperset(arg[1:]):
            if others := arg[1:].replace("D", ""):
                yield f"-{others}"
        else:
            yield arg


def _become_daemon(ctx: click.Context, hostname: str, options: dict[str, Any]) -> None:
    # In the new process this variable would order the next fork.
    os.environ.pop("CELERY_WORKER_DETACH", None)
    argv = ["-m", "celery", *without_detach_options(sys.argv[1:])]
    if (program := options["executable"]) and shutil.which(program) is None:
        # The daemon would have nowhere to say so.
        raise click.ClickException(f"There is no program {program} (--executable).")
    code = detach(
        sys.executable,
        argv,
        fake=C_FAKEFORK,
        app=ctx.obj.app,
        hostname=hostname,
        **{
            name: options[name]
            for name in ("logfile", "pidfile", "uid", "gid", "umask", "executable")
        },
    )
    ctx.exit(code)


@click.command(
    "worker",
    cls=CeleryDaemonCommand,
    context_settings={"allow_extra_args": True},
)
@_worker_option(
    "-n",
    "--hostname",
    default="celery@%h",
    show_default=True,
    type=HOSTNAME,
    help="Node name; %h is the host with its domain, %n the host alone, %d the domain.",
)
@_worker_option(
    "-D",
    "--detach",
    is_flag=True,
    default=False,
    help="Run as a daemon.",
)
@_worker_option(
    "-S",
    "--statedb",
    type=click.Path(),
    callback=lambda ctx, _, value: value or (ctx.obj and ctx.obj.app.conf.worker_state_db),
    help="File that keeps revoked tasks over restarts; '.db' may be added.",
)
@_worker_option(
    "-l",
    "--loglevel",
    default="WARNING",
    show_default=True,
    type=LOG_LEVEL,
    help="Least level of messages that is logged.",
)
@_worker_option(
    "-O",
    "--optimization",
    default="default",
    show_default=True,
    type=click.Choice(("default", "fair")),
    help="Way of giving tasks to the processes of the pool.",
)
@_worker_option(
    "--prefetch-multiplier",
    type=int,
    callback=lambda ctx, _, value: (
        value if value is not None else ctx.obj and ctx.obj.app.conf.worker_prefetch_multiplier
    ),
    help="Messages to fetch ahead for each process.",
)
@_worker_option(
    "--disable-prefetch",
    is_flag=True,
    default=None,
    callback=lambda ctx, _, value: (
        value if value is not None else ctx.obj and ctx.obj.app.conf.worker_disable_prefetch
    ),
    help="Fetch a message only when a process is free to run it.",
)
@_pool_option(
    "-c",
    "--concurrency",
    type=_Concurrency(),
    callback=lambda ctx, _, value: (
        value if value is not None else ctx.obj and ctx.obj.app.conf.worker_concurrency
    ),
    help="Number of processes, threads or green threads; 'auto' follows the limits of the "
    "container. The default is the number of processors.",
)
@_pool_option(
    "-P",
    "--pool",
    default="prefork",
    show_default=True,
    type=WORKERS_POOL,
    help="Kind of pool.",
)
@_pool_option(
    "-E",
    "--task-events",
    "--events",
    is_flag=True,
    default=None,
    help="Send events about tasks, for monitors.",
)
@_pool_option(
    "--time-limit",
    type=float,
    help="Seconds after which a running task is killed.",
)
@_pool_option(
    "--soft-time-limit",
    type=float,
    help="Seconds after which SoftTimeLimitExceeded is raised in a running task.",
)
@_pool_option(
    "--max-tasks-per-child",
    type=int,
    help="Tasks after which a pool process is replaced.",
)
@_pool_option(
    "--pool-start-method",
    type=click.Choice(("fork", "spawn")),
    help="How pool processes are started.",
)
@_pool_option(
    "--max-memory-per-child",
    type=int,
    help="KiB of resident memory beyond which a pool process is replaced.",
)
@_queue_option(
    "--purge",
    "--discard",
    is_flag=True,
    help="Delete all waiting messages before the start.",
)
@_queue_option(
    "--queues",
    "-Q",
    type=COMMA_SEPARATED_LIST,
    help="Queues to consume from, separated by commas.",
)
@_queue_option(
    "--exclude-queues",
    "-X",
    type=COMMA_SEPARATED_LIST,
    help="Queues not to consume from, separated by commas.",
)
@_queue_option(
    "--include",
    "-I",
    type=COMMA_SEPARATED_LIST,
    help="Modules to import, separated by commas.",
)
@_features_option(
    "--without-gossip",
    is_flag=True,
    help="Don't listen to other workers.",
)
@_features_option(
    "--without-mingle",
    is_flag=True,
    help="Don't ask other workers for their state at the start.",
)
@_features_option(
    "--without-heartbeat",
    is_flag=True,
    help="Don't send heartbeat events.",
)
@_features_option(
    "--heartbeat-interval",
    type=int,
    help="Seconds between heartbeat events.",
)
@_features_option(
    "--health",
    metavar="HOST:PORT",
    help="Answer /live, /ready and /metrics there, for orchestrators and Prometheus.",
)
@_features_option(
    "--autoscale",
    type=AUTOSCALE,
    help="Most and least processes, as in 10,3; the pool grows and shrinks with the load.",
)
@_embedded_beat_option(
    "-B",
    "--beat",
    type=CELERY_BEAT,
    is_flag=True,
    help="Run the scheduler of periodic tasks inside; for one worker at most.",
)
@_embedded_beat_option(
    "-s",
    "--schedule-filename",
    "--schedule",
    callback=lambda ctx, _, value: value or (ctx.obj and ctx.obj.app.conf.beat_schedule_filename),
    help="File that keeps the times of the last runs; '.db' may be added.",
)
@_embedded_beat_option(
    "--scheduler",
    help="Class of the scheduler.",
)
@click.pass_context
@handle_preload_options
def worker(
    ctx: click.Context,
    hostname: str,
    detach: bool = False,
    pool: Any = None,
    loglevel: int | None = None,
    logfile: str | None = None,
    pidfile: str | None = None,
    statedb: str | None = None,
    uid: str | None = None,
    gid: str | None = None,
    **options: Any,
) -> None:
    """
    Start a worker.

    \b
    Examples:
        celery -A proj worker -l INFO
        celery -A proj worker -l INFO -Q hipri,lopri -c 4
        celery -A proj worker --pool=threads -n threads@%h
    """  # noqa: D301 - click keeps the lines of a block that begins with this escape
    from celery.utils.nodenames import node_format

    if options.get("beat") and getattr(pool, "is_green", False):
        raise click.UsageError(
            "-B does not work with the pools eventlet and gevent; run 'celery beat' beside.", ctx
        )
    context = ctx.obj
    if ctx.args:
        # As in -Q a, b
        context.error(f"Not understood and left out: {' '.join(ctx.args)}")
    if not detach:
        drop_privileges(uid, gid)
    files = {"--logfile": logfile, "--pidfile": pidfile, "--statedb": statedb}
    if options.get("beat"):
        files["--schedule"] = schedule_file(
            context.app.conf, options["scheduler"], options["schedule_filename"]
        )
    files = {option: node_format(path, hostname) for option, path in files.items() if path}
    require_writable(files)
    if detach:
        _become_daemon(
            ctx,
            hostname,
            {"logfile": logfile, "pidfile": pidfile, "uid": uid, "gid": gid} | options,
        )
    try:
        instance = context.app.Worker(
            hostname=hostname,
            pool_cls=pool,
            loglevel=loglevel,
            # Its processes may have files of their own.
            logfile=logfile,
            pidfile=files.get("--pidfile"),
            statedb=files.get("--statedb"),
            no_color=context.no_color,
            quiet=context.quiet,
            **options,
        )
    except ImproperlyConfigured:
        raise
    except ImportError as exc:
        raise click.ClickException(
            f"While importing the modules of tasks this error occurred:\n{project_traceback(exc)}"
        ) from exc
    instance.start()
    ctx.exit(instance.exitcode or 0)
