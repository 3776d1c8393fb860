"""``celery call``: send a task by its name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from celery.bin.base import (
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    consume_preload_options,
    handle_preload_options,
    options_under,
)

_calling_option = options_under("Calling Options")
_routing_option = options_under("Routing Options")


@click.command("call", cls=CeleryCommand)
@click.argument("name")
@_calling_option(
    "-a",
    "--args",
    type=JSON_ARRAY,
    default="[]",
    help="Positional arguments, as a JSON array.",
)
@_calling_option(
    "-k",
    "--kwargs",
    type=JSON_OBJECT,
    default="{}",
    help="Keyword arguments, as a JSON object.",
)
@_calling_option(
    "--eta",
    type=ISO8601,
    help="Time before which the task must not run, in ISO 8601.",
)
@_calling_option(
    "--countdown",
    type=float,
    help="Seconds before which the task must not run.",
)
@_calling_option(
    "--expires",
    type=ISO8601_OR_FLOAT,
    help="Time in ISO 8601, or seconds, after which the task must not run.",
)
@_calling_option(
    "--serializer",
    default="json",
    show_default=True,
    help="Name of the serializer of the message.",
)
@_routing_option(
    "--queue",
    help="Queue to send to.",
)
@_routing_option(
    "--exchange",
    help="Exchange to send to.",
)
@_routing_option(
    "--routing-key",
    help="Routing key to send with.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def call(
    ctx: click.Context,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    eta: datetime | None,
    countdown: float | None,
    expires: datetime | float | None,
    serializer: str,
    queue: str | None,
    exchange: str | None,
    routing_key: str | None,
) -> None:
    """Send a task by its NAME and print its id."""
    from kombu.exceptions import SerializerNotInstalled

    try:
        result = ctx.obj.app.send_task(
            name,
            args=args,
            kwargs=kwargs,
            eta=eta,
            countdown=countdown,
            expires=expires,
            serializer=serializer,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
        )
    except SerializerNotInstalled as exc:
        raise click.BadParameter(str(exc), ctx, param_hint="--serializer") from exc
    ctx.obj.echo(result.id)
