"""``celery status``, ``celery inspect`` and ``celery control``: talking to running workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

import click
from kombu.utils.json import dumps

from celery.bin.base import (
    COMMA_SEPARATED_LIST,
    EX_UNAVAILABLE,
    CeleryCommand,
    consume_preload_options,
    fold,
    handle_preload_options,
    options_under,
)

_option = options_under("Remote Control Options")

#: Commands that workers obey without a reply, and what is told of each that was there to hear.
_UNANSWERED = {"shutdown": "told to shut down"}

_NO_REPLY = "No nodes replied within time constraint"


class NoReply(click.ClickException):
    """Nobody answered in time."""

    exit_code = EX_UNAVAILABLE


def no_reply(app: Any, timeout: float, destination: Sequence[str] | None) -> NoReply:
    """Return the error, with what helps to find out why."""
    asked = ", ".join(destination) if destination else "any worker"
    hint = "Is a worker running, with this app and this broker? A busy one answers later: see -t."
    if destination and not all("@" in name for name in destination):
        hint = "The names of nodes have an @, as in celery@host; 'celery status' lists them."
    with app.connection_for_read() as connection:
        facts = [f"    broker  {connection.as_uri()}"]
        facts += [f"    queue   {text}" for text in _waiting_tasks(connection, app.amqp.queues)]
    paragraphs = (
        fold(f"{_NO_REPLY}: waited {timeout:g} s for {asked}."),
        "\n".join(facts),
        fold(f"{hint} 'celery doctor' looks deeper."),
    )
    return NoReply("\n\n".join(paragraphs))


def _waiting_tasks(connection: Any, queues: Iterable[str]) -> Iterator[str]:
    """Say of each queue how many tasks wait there, and that nobody consumes if that is known."""
    knows_consumers = connection.transport.driver_type == "amqp"
    for name in sorted(queues):
        try:
            with connection.channel() as channel:
                state = channel.queue_declare(queue=name, passive=True)
        except connection.channel_errors:
            # Some brokers know nothing of queues that are empty.
            yield f"{name}: nothing waits there"
        else:
            nobody = ", nobody consumes" if knows_consumers and not state.consumer_count else ""
            yield f"{name}: {state.message_count} waiting{nobody}"


class NoBroadcast(click.ClickException):
    """The broker reaches no worker with a question."""

    exit_code = EX_UNAVAILABLE


def _require_broadcasts(app: Any) -> None:
    from celery._transport.capabilities import carries_broadcasts, limits

    with app.connection_for_write() as connection:
        if not carries_broadcasts(connection):
            raise NoBroadcast(f"Workers cannot be asked here. {limits(connection)}")


def _commands(kind: str) -> dict[str, Any]:
    """Return what is registered under *kind*: facts by name, sorted, without the hidden ones."""
    from celery.worker.control import Panel

    return {
        name: info
        for name, info in sorted(Panel.meta.items())
        if info.type == kind and info.visible
    }


def _usage(name: str, info: Any) -> str:
    return f"{name} {info.signature}" if info.signature else name


def _list_option(kind: str) -> Any:
    """Return the callback of ``--list``, which prints the commands and ends."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if not wanted:
            return
        formatter = click.HelpFormatter()
        with formatter.section(f"{kind.capitalize()} Commands"):
            formatter.write_dl(
                [(_usage(name, info), info.help) for name, info in _commands(kind).items()]
            )
        click.echo(formatter.getvalue().rstrip("\n"))
        ctx.exit()

    return show


def _facts(ctx: click.Context, kind: str, name: str) -> Any:
    """
    Return the facts about a command.

    Raises:
        click.UsageError: There is none of that name and kind; lists those there are.
    """
    known = _commands(kind)
    if name not in known:
        other = "control" if kind == "inspect" else "inspect"
        hint = f" Did you mean 'celery {other} {name}'?" if name in _commands(other) else ""
        raise click.UsageError(
            fold(
                f"Command {name} not recognized.{hint} "
                f"Available {kind} commands: {', '.join(known)}"
            ),
            ctx,
        )
    return known[name]


def _arguments(ctx: click.Context, name: str, info: Any, words: Sequence[str]) -> dict[str, Any]:
    """
    Turn the words of the command line into named arguments.

    Raises:
        click.UsageError: There are too many or too few, or one cannot be converted.
    """
    if len(words) < (least := _least(name, info)):
        raise click.UsageError(
            f"{name} needs {least} argument{'s' if least > 1 else ''}. Usage: {_usage(name, info)}",
            ctx,
        )
    arguments: dict[str, Any] = {}
    for (key, convert), word in zip(info.args, words, strict=False):
        try:
            arguments[key] = convert(word)
        except (TypeError, ValueError) as exc:
            raise click.UsageError(f"{name} cannot use {word!r} as {key}: {exc}", ctx) from exc
    rest = list(words[len(info.args) :])
    if info.variadic:
        arguments[info.variadic] = rest
    elif rest:
        raise click.UsageError(
            f"{name} takes no more arguments: {' '.join(rest)}. Usage: {_usage(name, info)}", ctx
        )
    return arguments


def _least(name: str, info: Any) -> int:
    """Return how many words the function of a command can't do without."""
    from celery.worker.control import Panel

    parameters = signature(Panel.data[name]).parameters
    return sum(
        1
        for key, _ in info.args
        if key in parameters and parameters[key].default is Parameter.empty
    )


def _say_reply(context: Any, reply: Any, show_body: bool) -> None:
    """Print the reply of each node in a message."""
    for node, answer in reply.items():
        status, text = context.pretty(answer)
        context.say_chat("->", f" {node}: {status}", text, show_body=show_body)


def _count_line(n: int) -> str:
    return f"\n{n} {'node' if n == 1 else 'nodes'} online."


_remote_options: tuple[Any, ...] = (
    _option(
        "-t",
        "--timeout",
        type=float,
        default=1.0,
        show_default=True,
        help="Seconds to wait for replies.",
    ),
    _option(
        "-d",
        "--destination",
        type=COMMA_SEPARATED_LIST,
        help="Names of the nodes to ask, separated by commas.",
    ),
    _option(
        "-j",
        "--json",
        is_flag=True,
        help="Print the replies as JSON.",
    ),
)


def _remote(fun: Any) -> Any:
    """Add the options all commands here have."""
    for option in reversed(_remote_options):
        fun = option(fun)
    return fun


def _reply_printer(context: Any, json: bool, *, show_body: bool) -> Any:
    """Return what prints each reply as it comes; None where all are printed as JSON.

    Raises:
        NoBroadcast: The broker takes no message to all workers.
    """
    _require_broadcasts(context.app)
    return None if json else partial(_say_reply, context, show_body=show_body)


def _conclude(
    context: Any, replies: Any, timeout: float, destination: list[str] | None, json: bool
) -> None:
    """Print *replies* if they are wanted as JSON; raises an error if there are none."""
    if not replies:
        raise no_reply(context.app, timeout, destination)
    if json:
        context.echo(dumps(replies))


@click.command("status", cls=CeleryCommand)
@_remote
@click.pass_context
@handle_preload_options
@consume_preload_options
def status(ctx: click.Context, timeout: float, destination: list[str] | None, json: bool) -> None:
    """Show which workers are online."""
    context = ctx.obj
    callback = _reply_printer(context, json, show_body=False)
    replies = context.app.control.inspect(
        timeout=timeout, destination=destination, callback=callback
    ).ping()
    _conclude(context, replies, timeout, destination, json)
    if not context.quiet:
        context.echo(_count_line(len(replies)))


@click.command("inspect", cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command", required=True)
@click.option(
    "--list",
    "-l",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_option("inspect"),
    help="List the commands and exit.",
)
@_remote
@click.pass_context
@handle_preload_options
@consume_preload_options
def inspect(
    ctx: click.Context,
    command: str,
    timeout: float,
    destination: list[str] | None,
    json: bool,
) -> None:
    """Ask workers about their state; --list names the commands."""
    context = ctx.obj
    info = _facts(ctx, "inspect", command)
    arguments = _arguments(ctx, command, info, ctx.args)
    callback = _reply_printer(context, json, show_body=not context.quiet)
    replies = context.app.control.inspect(
        timeout=timeout, destination=destination, callback=callback
    )._request(command, **arguments)
    _conclude(context, replies, timeout, destination, json)
    if not json and not context.quiet:
        context.echo(_count_line(len(replies)))


def _announced(
    control: Any, command: str, arguments: dict[str, Any], **where: Any
) -> list[dict[str, Any]]:
    """Send a command that nobody answers; returns what to tell of those who were there."""
    there = control.broadcast("ping", reply=True, **where)
    control.broadcast(command, arguments=arguments, **where)
    return [{node: {"ok": _UNANSWERED[command]}} for reply in there for node in reply]


@click.command("control", cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command", required=True)
@click.option(
    "--list",
    "-l",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_option("control"),
    help="List the commands and exit.",
)
@_remote
@click.pass_context
@handle_preload_options
@consume_preload_options
def control(
    ctx: click.Context,
    command: str,
    timeout: float,
    destination: list[str] | None,
    json: bool,
) -> None:
    """Change workers while they run; --list names the commands."""
    context = ctx.obj
    info = _facts(ctx, "control", command)
    arguments = _arguments(ctx, command, info, ctx.args)
    callback = _reply_printer(context, json, show_body=not context.quiet)
    where = {"timeout": timeout, "destination": destination}
    if command in _UNANSWERED:
        replies = _announced(context.app.control, command, arguments, **where)
        if callback is not None:
            for reply in replies:
                callback(reply)
    else:
        replies = context.app.control.broadcast(
            command, arguments=arguments, reply=True, callback=callback, **where
        )
    _conclude(context, replies, timeout, destination, json)
