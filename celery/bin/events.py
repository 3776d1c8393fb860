"""``celery events``: watch what workers and tasks tell."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from celery.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    consume_preload_options,
    fold,
    handle_preload_options,
    options_under,
)

_dumper_option = options_under("Dumper")
_snapshot_option = options_under("Snapshot")


def _set_title(ctx: click.Context, what: str) -> None:
    from celery.platforms import set_process_title

    set_process_title(f"celery events:{what}", info=ctx.obj.app.main or "")


class _EventsCommand(CeleryDaemonCommand):
    """A command with one letter for two options: ``-d`` dumps, with a camera it detaches."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the options; the shared letter is meant, so nothing is said about it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*-d is used more than once")
            return super().get_params(ctx)


@click.command("events", cls=_EventsCommand)
@_snapshot_option(
    "-c",
    "--camera",
    help="Class of a camera to take snapshots with.",
)
@_snapshot_option(
    "-d",
    "--detach",
    is_flag=True,
    help="Run the camera as a daemon.",
)
# The letter belongs to the later of the two; the body looks at the camera.
@_dumper_option(
    "-d",
    "--dump",
    is_flag=True,
    help="Print events as lines.",
)
@_snapshot_option(
    "-F",
    "--frequency",
    "--freq",
    type=float,
    default=1.0,
    show_default=True,
    help="Seconds between snapshots.",
)
@_snapshot_option(
    "-r",
    "--maxrate",
    help="Most snapshots in a time, as in 10/m.",
)
@_snapshot_option(
    "-l",
    "--loglevel",
    default="WARNING",
    show_default=True,
    type=LOG_LEVEL,
    help="Least level of messages that is logged.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def events(
    ctx: click.Context,
    dump: bool,
    camera: str | None,
    detach: bool,
    frequency: float,
    maxrate: str | None,
    loglevel: int,
    **options: Any,
) -> None:
    """Watch events: in a terminal monitor, as lines, or with a camera."""
    app = ctx.obj.app
    if dump and not camera:
        from celery.events.dumper import evdump

        _set_title(ctx, "dump")
        evdump(app=app)
    elif camera:
        _run_camera(
            ctx,
            camera,
            detach or dump,
            {"freq": frequency, "maxrate": maxrate, "loglevel": loglevel, **options},
        )
    else:
        if not sys.stdout.isatty():
            raise click.UsageError(
                "The monitor needs a terminal. Write events as lines with --dump."
            )
        from celery.events.cursesmon import evtop

        _set_title(ctx, "top")
        evtop(app=app)


def _run_camera(ctx: click.Context, camera: str, detach: bool, options: dict[str, Any]) -> None:
    from celery import platforms
    from celery.events.snapshot import evcam
    from celery.utils.imports import symbol_by_name

    try:
        symbol_by_name(camera)
    except (ImportError, AttributeError) as exc:
        why = f"Cannot load the camera {camera!r}: {exc}. Name a class, as in module.Class."
        raise click.UsageError(fold(why), ctx) from exc
    process = {name: options.pop(name, None) for name in ("uid", "gid", "umask", "executable")}
    logfile, pidfile = options.pop("logfile", None), options.pop("pidfile", None)
    _set_title(ctx, "cam")
    if detach:
        with platforms.detached(
            logfile,
            pidfile,
            process["uid"],
            process["gid"],
            process["umask"] or 0,
            ctx.obj.workdir,
        ):
            evcam(camera, app=ctx.obj.app, logfile=logfile, **options)
        return
    if process["uid"] or process["gid"]:
        platforms.maybe_drop_privileges(uid=process["uid"], gid=process["gid"])
    evcam(camera, app=ctx.obj.app, logfile=logfile, pidfile=pidfile, **options)
