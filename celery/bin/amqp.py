"""
``celery amqp``: a shell for the basic operations of a broker.

Started without a command it reads commands from a prompt; the connection is kept between them and
made anew after an error.
"""

from __future__ import annotations

import pprint
from collections.abc import Callable
from typing import Any

import click

from celery.bin.base import handle_preload_options, handle_remote_command_error

__all__ = ("amqp",)


def dump_message(message: Any) -> Any:
    """Return the parts of a message that are worth printing."""
    if message is None:
        return "No messages in queue. basic.publish something."
    return {
        "body": message.body,
        "properties": message.properties,
        "delivery_info": message.delivery_info,
    }


class AMQPContext:
    """The connection of the shell, and how it answers."""

    def __init__(self, cli_context: Any) -> None:
        self.cli_context = cli_context
        self.connection = self.app.connection_for_write()
        self.channel: Any = None
        #: Number of the command at the prompt.
        self.number = 1

    @property
    def app(self) -> Any:
        """The app whose broker is talked to."""
        return self.cli_context.app

    def respond(self, retval: Any) -> None:
        """Print what an operation returned."""
        self.cli_context.echo(retval if isinstance(retval, str) else pprint.pformat(retval))

    def echo_error(self, exception: BaseException) -> None:
        """Print that an operation failed."""
        self.cli_context.error(f"{self.cli_context.ERROR}: {exception}")

    def echo_ok(self) -> None:
        """Print that an operation worked."""
        self.cli_context.echo(self.cli_context.OK)

    def reconnect(self) -> None:
        """Connect, again if need be."""
        echo = self.cli_context.echo
        if self.connection is not None:
            self.connection.close()
        else:
            self.connection = self.app.connection_for_write()
        echo(f"-> connecting to {self.connection.as_uri()}.")
        try:
            self.connection.connect()
        except self.connection.connection_errors as exc:
            handle_remote_command_error("amqp", exc)
        self.channel = self.connection.default_channel
        echo("-> connected.")

    def run(self, operation: Callable[[Any], Any], describe: Callable[[Any], Any] | None) -> None:
        """
        Do something on the channel and print how it went.

        Args:
            operation: Called with the channel.
            describe: Turns what it returned into the answer; just OK without it.
        """
        if self.channel is None:
            self.reconnect()
        errors = self.connection.connection_errors + self.connection.channel_errors
        try:
            answer = operation(self.channel)
        except (*errors, NotImplementedError) as exc:
            self.echo_error(exc)
            # The broker closes a channel on which something went wrong.
            self.reconnect()
            return
        if describe is not None:
            self.respond(describe(answer))
        self.echo_ok()


@click.group("amqp", invoke_without_command=True, context_settings={"allow_extra_args": True})
@click.pass_context
@handle_preload_options
def amqp(ctx: click.Context, **_: Any) -> None:
    """Talk to the broker directly: declare, bind, delete, publish, get."""
    if isinstance(ctx.obj, AMQPContext):
        ctx.obj.number += 1
    else:
        ctx.obj = AMQPContext(ctx.obj)
    if ctx.invoked_subcommand is None:
        ctx.invoke(repl)


@amqp.command("repl")
@click.pass_context
def repl(ctx: click.Context) -> None:
    """Read commands from a prompt, which counts them."""
    from click_repl import repl as read_commands
    from prompt_toolkit.formatted_text import FormattedText

    shell = _shell(ctx)
    # The prompt is drawn many times for one command, so it must not count itself.
    read_commands(
        ctx, prompt_kwargs={"message": lambda: FormattedText([("", f"{shell.number}> ")])}
    )


def _shell(ctx: click.Context) -> AMQPContext:
    assert isinstance(ctx.obj, AMQPContext)
    return ctx.obj


@amqp.command("exchange.declare")
@click.argument("exchange")
@click.argument("type")
@click.argument("passive", type=bool, default=False)
@click.argument("durable", type=bool, default=False)
@click.argument("auto_delete", type=bool, default=False)
@click.pass_context
def exchange_declare(
    ctx: click.Context, exchange: str, type: str, passive: bool, durable: bool, auto_delete: bool
) -> None:
    """Declare an exchange."""
    _shell(ctx).run(
        lambda channel: channel.exchange_declare(
            exchange=exchange,
            type=type,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
        ),
        None,
    )


@amqp.command("exchange.delete")
@click.argument("exchange")
@click.argument("if_unused", type=bool)
@click.pass_context
def exchange_delete(ctx: click.Context, exchange: str, if_unused: bool) -> None:
    """Delete an exchange."""
    _shell(ctx).run(
        lambda channel: channel.exchange_delete(exchange=exchange, if_unused=if_unused), None
    )


@amqp.command("queue.bind")
@click.argument("queue")
@click.argument("exchange")
@click.argument("routing_key")
@click.pass_context
def queue_bind(ctx: click.Context, queue: str, exchange: str, routing_key: str) -> None:
    """Have an exchange send a routing key to a queue."""
    _shell(ctx).run(
        lambda channel: channel.queue_bind(queue=queue, exchange=exchange, routing_key=routing_key),
        None,
    )


@amqp.command("queue.declare")
@click.argument("queue")
@click.argument("passive", type=bool, default=False)
@click.argument("durable", type=bool, default=False)
@click.argument("auto_delete", type=bool, default=False)
@click.pass_context
def queue_declare(
    ctx: click.Context, queue: str, passive: bool, durable: bool, auto_delete: bool
) -> None:
    """Declare a queue and count its messages."""
    _shell(ctx).run(
        lambda channel: channel.queue_declare(
            queue=queue, passive=passive, durable=durable, auto_delete=auto_delete
        ),
        lambda answer: "queue:{} messages:{} consumers:{}".format(*answer),
    )


@amqp.command("queue.delete")
@click.argument("queue")
@click.argument("if_unused", type=bool, default=False)
@click.argument("if_empty", type=bool, default=False)
@click.pass_context
def queue_delete(ctx: click.Context, queue: str, if_unused: bool, if_empty: bool) -> None:
    """Delete a queue with its messages."""
    _shell(ctx).run(
        lambda channel: channel.queue_delete(queue, if_unused=if_unused, if_empty=if_empty),
        lambda removed: f"{removed or 0} messages deleted.",
    )


@amqp.command("queue.purge")
@click.argument("queue")
@click.pass_context
def queue_purge(ctx: click.Context, queue: str) -> None:
    """Delete the messages of a queue."""
    _shell(ctx).run(
        lambda channel: channel.queue_purge(queue=queue),
        lambda removed: f"{removed or 0} messages deleted.",
    )


@amqp.command("basic.get")
@click.argument("queue")
@click.argument("no_ack", type=bool, default=False)
@click.pass_context
def basic_get(ctx: click.Context, queue: str, no_ack: bool) -> None:
    """Take one message from a queue."""
    _shell(ctx).run(lambda channel: channel.basic_get(queue, no_ack=no_ack), dump_message)


@amqp.command("basic.publish")
@click.argument("msg")
@click.argument("exchange")
@click.argument("routing_key")
@click.argument("mandatory", type=bool, default=False)
@click.argument("immediate", type=bool, default=False)
@click.pass_context
def basic_publish(
    ctx: click.Context,
    msg: str,
    exchange: str,
    routing_key: str,
    mandatory: bool,
    immediate: bool,
) -> None:
    """Send a message with the text MSG."""

    def publish(channel: Any) -> Any:
        flags = {"mandatory": mandatory, "immediate": immediate}
        return channel.basic_publish(
            channel.prepare_message(msg, content_type="text/plain", content_encoding="utf-8"),
            exchange=exchange,
            routing_key=routing_key,
            **{name: True for name, wanted in flags.items() if wanted},
        )

    _shell(ctx).run(publish, None)


@amqp.command("basic.ack")
@click.argument("delivery_tag", type=int)
@click.pass_context
def basic_ack(ctx: click.Context, delivery_tag: int) -> None:
    """Acknowledge a message that was taken in this shell."""
    _shell(ctx).run(lambda channel: channel.basic_ack(delivery_tag), None)
