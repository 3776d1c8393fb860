"""``celery migrate``: move tasks from one broker to another."""

from __future__ import annotations

from typing import Any

import click

from celery.bin.base import (
    BrokerUnreachable,
    CeleryCommand,
    consume_preload_options,
    fold,
    handle_preload_options,
    options_under,
)

_option = options_under("Migration Options")


def _connected(url: str, what: str) -> Any:
    """
    Return a connection that is made already.

    Raises:
        click.ClickException: It cannot be made.
    """
    from kombu.connection import Connection

    try:
        connection = Connection(url)
    except KeyError as exc:
        why = f"The {what} {url!r} is no URL of a broker: {exc.args[0]}."
        raise click.UsageError(fold(why)) from exc
    try:
        connection.connect()
    except (OSError, *connection.connection_errors) as exc:
        raise BrokerUnreachable(
            fold(f"Could not connect to the {what} {connection.as_uri()}: {exc}")
        ) from exc
    return connection


@click.command("migrate", cls=CeleryCommand)
@click.argument("source")
@click.argument("destination")
@_option(
    "-n",
    "--limit",
    type=int,
    help="Number of tasks to move at most.",
)
@_option(
    "-t",
    "--timeout",
    type=float,
    help="Seconds to wait for another task; 1 by default.",
)
@_option(
    "-a",
    "--ack-messages",
    is_flag=True,
    default=None,
    help="Remove moved tasks from the source; the default.",
)
@_option(
    "-T",
    "--tasks",
    help="Names of the tasks to move, separated by commas.",
)
@_option(
    "-Q",
    "--queues",
    help="Queues to empty, separated by commas; NAME:NEWNAME renames one.",
)
@_option(
    "-F",
    "--forever",
    is_flag=True,
    help="Go on until interrupted.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def migrate(
    ctx: click.Context,
    source: str,
    destination: str,
    timeout: float | None,
    ack_messages: bool | None,
    **options: Any,
) -> None:
    """Move the tasks that wait on the broker SOURCE to the broker DESTINATION."""
    from celery.contrib.migrate import migrate_tasks

    echo = ctx.obj.echo

    def tell(state: Any, body: Any, message: Any) -> None:
        echo(f"Migrating task {state.count}/{state.strtotal}: {body['task']}[{body['id']}]")

    state = migrate_tasks(
        _connected(source, "source"),
        _connected(destination, "destination"),
        app=ctx.obj.app,
        callback=tell,
        ack_messages=ack_messages is not False,
        timeout=1.0 if timeout is None else timeout,
        **options,
    )
    echo(f"{state.count} {'task' if state.count == 1 else 'tasks'} migrated.")
