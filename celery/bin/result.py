"""``celery result``: print the return value of a task."""

from __future__ import annotations

import click

from celery import states
from celery.bin.base import (
    CeleryCommand,
    consume_preload_options,
    fold,
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
    try:
        if traceback:
            ctx.obj.echo(pending.traceback or "")
            return
        value = pending.get(propagate=False)
    except NotImplementedError as exc:
        # There is no store.
        raise click.ClickException(fold(str(exc))) from exc
    except Exception as exc:
        # The task's own is returned; each driver of a store has others.
        why = f"Cannot read the result: {type(exc).__name__}: {exc}"
        raise click.ClickException(fold(why)) from exc
    if pending.state in states.PROPAGATE_STATES:
        if pending.traceback:
            ctx.obj.error(pending.traceback.rstrip())
        raise click.ClickException(fold(f"The task ended as {pending.state}: {value!r}"))
    ctx.obj.echo(str(value))
