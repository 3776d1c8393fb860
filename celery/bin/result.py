"""``celery result``: print the return value of a task."""

from __future__ import annotations

import click

from celery.bin.base import (
    CeleryCommand,
    consume_preload_options,
    handle_preload_options,
    options_under,
)

_option = options_under("Result Options")


@click.command("result", cls=CeleryCommand)
@click.argument("task_id")
@_option(
    "-t",
    "--task",
    help="Name of the task, if it has a result store of its own.",
)
@_option(
    "--traceback",
    is_flag=True,
    help="Print the stored traceback instead, without waiting.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def result(ctx: click.Context, task_id: str, task: str | None, traceback: bool) -> None:
    """Wait for the task TASK_ID and print what it returned."""
    app = ctx.obj.app
    if task and task not in app.tasks:
        raise click.UsageError(
            f"This app has no task {task!r}; 'celery inspect registered' lists those of workers.",
            ctx,
        )
    pending = app.tasks[task].AsyncResult(task_id) if task else app.AsyncResult(task_id)
    value = pending.traceback if traceback else pending.get()
    ctx.obj.echo("" if value is None and traceback else str(value))
