"""``celery list``: what is declared on the broker."""

from __future__ import annotations

import click

from celery.bin.base import CeleryCommand, consume_preload_options, handle_preload_options

_ROW = "{:<28} {:<28} {}"


@click.group("list", invoke_without_command=False, context_settings={"allow_extra_args": True})
@click.pass_context
def list_(ctx: click.Context) -> None:
    """List what is declared on the broker."""


@list_.command("bindings", cls=CeleryCommand)
@click.pass_context
@handle_preload_options
@consume_preload_options
def bindings(ctx: click.Context) -> None:
    """List the bindings between exchanges and the queues of the app."""
    app, echo = ctx.obj.app, ctx.obj.echo
    with app.connection_for_read() as connection:
        app.amqp.TaskConsumer(connection).declare()
        try:
            found = connection.manager.get_bindings()
        except NotImplementedError as exc:
            raise click.UsageError(
                f"Bindings cannot be listed on {connection.as_uri()}: its transport doesn't know.",
                ctx,
            ) from exc
    echo(_ROW.format("Queue", "Exchange", "Routing Key"))
    echo("=" * 70)
    for binding in found:
        echo(_ROW.format(binding["destination"], binding["source"], binding["routing_key"]))
