"""``celery beat``: start the scheduler of periodic tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from celery.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    drop_privileges,
    handle_preload_options,
    options_under,
    require_writable,
    schedule_file,
)

_option = options_under("Beat Options")


@click.command("beat", cls=CeleryDaemonCommand, context_settings={"allow_extra_args": True})
@_option(
    "--detach",
    is_flag=True,
    default=False,
    help="Run as a daemon.",
)
@_option(
    "-s",
    "--schedule",
    callback=lambda ctx, _, value: value or (ctx.obj and ctx.obj.app.conf.beat_schedule_filename),
    help="File that keeps the times of the last runs; '.db' may be added.",
)
@_option(
    "--store",
    help="URL of what several beats share in place of a file; one of them sends.",
)
@_option(
    "-S",
    "--scheduler",
    callback=lambda ctx, _, value: value or (ctx.obj and ctx.obj.app.conf.beat_scheduler),
    help="Class of the scheduler.",
)
@_option(
    "--max-interval",
    type=int,
    help="Most seconds to sleep before looking at the schedule again.",
)
@_option(
    "--enable-remote-control/--no-enable-remote-control",
    "remote_control",
    default=None,
    help="Answer to 'celery inspect ping'.",
)
@_option(
    "-n",
    "--hostname",
    help="Node name for remote control.",
)
@_option(
    "-l",
    "--loglevel",
    default="WARNING",
    show_default=True,
    type=LOG_LEVEL,
    help="Least level of messages that is logged.",
)
@click.pass_context
@handle_preload_options
def beat(
    ctx: click.Context,
    detach: bool,
    logfile: str | None,
    pidfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: str | None,
    executable: str | None,
    store: str | None,
    **options: Any,
) -> None:
    """Start the scheduler of periodic tasks: one, or several with one store."""
    from celery import platforms

    context = ctx.obj
    if store:
        context.app.conf.beat_store_url = store
    schedule = schedule_file(context.app.conf, options["scheduler"], options["schedule"])
    require_writable({"--logfile": logfile, "--pidfile": pidfile, "--schedule": schedule})
    start = partial(
        context.app.Beat,
        logfile=logfile,
        pidfile=pidfile,
        no_color=context.no_color,
        quiet=context.quiet,
        **options,
    )
    if detach:
        with platforms.detached(logfile, pidfile, uid, gid, umask or 0, context.workdir):
            start().run()
        return
    drop_privileges(uid, gid)
    program = start()
    try:
        program.run()
    except Exception as exc:
        if exc is not program.failure:
            raise
        # The log has it already.
        ctx.exit(1)
