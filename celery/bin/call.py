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
    CeleryOption,
    consume_preload_options,
    handle_preload_options,
)


@click.command("call", cls=CeleryCommand)
@click.argument("name")
@click.option(
    "-a",
    "--args",
    cls=CeleryOption,
    type=JSON_ARRAY,
    default="[]",
    help_group="Calling Options",
    help="Positional arguments, as a JSON array.",
)
@click.option(
    "-k",
    "--kwargs",
    cls=CeleryOption,
    type=JSON_OBJECT,
    default="{}",
    help_group="Calling Options",
    help="Keyword arguments, as a JSON object.",
)
@click.option(
    "--eta",
    cls=CeleryOption,
    type=ISO8601,
    help_group="Calling Options",
    help="Time before which the task must not run, in ISO 8601.",
)
@click.option(
    "--countdown",
    cls=CeleryOption,
    type=float,
    help_group="Calling Options",
    help="Seconds before which the task must not run.",
)
@click.option(
    "--expires",
    cls=CeleryOption,
    type=ISO8601_OR_FLOAT,
    help_group="Calling Options",
    help="Time in ISO 8601, or seconds, after which the task must not run.",
)
@click.option(
    "--serializer",
    cls=CeleryOption,
    default="json",
    show_default=True,
    help_group="Calling Options",
    help="Name of the serializer of the message.",
)
@click.option(
    "--queue",
    cls=CeleryOption,
    help_group="Routing Options",
    help="Queue to send to.",
)
@click.option(
    "--exchange",
    cls=CeleryOption,
    help_group="Routing Options",
    help="Exchange to send to.",
)
@click.option(
    "--routing-key",
    cls=CeleryOption,
    help_group="Routing Options",
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
    ctx.obj.echo(result.id)
