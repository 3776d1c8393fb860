"""``celery purge``: delete all waiting tasks."""

from __future__ import annotations

from typing import Any

import click

from celery.bin.base import (
    COMMA_SEPARATED_LIST,
    CeleryCommand,
    consume_preload_options,
    handle_preload_options,
    is_refused,
    options_under,
)

_option = options_under("Purging Options")


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"


@click.command("purge", cls=CeleryCommand, context_settings={"allow_extra_args": True})
@_option(
    "-f",
    "--force",
    is_flag=True,
    help="Don't ask.",
)
@_option(
    "-Q",
    "--queues",
    type=COMMA_SEPARATED_LIST,
    help="Queues to empty, separated by commas; all of the app by default.",
)
@_option(
    "-X",
    "--exclude-queues",
    type=COMMA_SEPARATED_LIST,
    help="Queues to leave alone, separated by commas.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def purge(
    ctx: click.Context,
    force: bool,
    queues: list[str] | None,
    exclude_queues: list[str] | None,
    **kwargs: Any,
) -> None:
    """Delete all messages from the app's queues, for ever."""
    app, context = ctx.obj.app, ctx.obj
    chosen = set(queues or app.amqp.queues) - set(exclude_queues or ())
    if not chosen:
        context.echo("No queue is left to purge.")
        return
    names = ", ".join(sorted(chosen))
    queues_text = f"{len(chosen)} {_plural(len(chosen), 'queue')}"
    if not force:
        context.secho(f"WARNING: This will remove all tasks from {queues_text}: {names}", fg="red")
        context.echo("         There is no undo for this operation!")
        context.echo("         (to skip this prompt use the -f option)")
        click.confirm("Are you sure you want to delete all tasks?", abort=True)
    with app.connection_for_write() as connection:
        removed = sum(_emptied(connection, name) for name in sorted(chosen))
    if removed:
        known = f"{len(chosen)} known task {_plural(len(chosen), 'queue')}"
        context.echo(f"Purged {removed} {_plural(removed, 'message')} from {known}.")
    else:
        context.echo(f"No messages purged from {queues_text}.")


def _emptied(connection: Any, queue: str) -> int:
    """Delete the messages of one queue and return their number; one that doesn't exist has none."""
    try:
        return connection.default_channel.queue_purge(queue) or 0
    except connection.channel_errors as exc:
        if is_refused(exc):
            raise
        return 0
