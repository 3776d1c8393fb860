"""
Parts shared by all commands: the context object, option groups, parameter types, error texts.

Packages with commands of their own (entry points ``celery.commands``) build on this module too:
they subclass or pass :class:`CeleryCommand` and read ``ctx.obj`` (a :class:`CLIContext`).
"""

from __future__ import annotations

import functools
import json
import numbers
import os
import pprint
import shutil
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from celery.app.base import Celery

    # Generic since click 8.2; earlier versions know no subscript at run time.
    ParamType = click.ParamType[Any]
    StringChoice = click.Choice[str]
else:
    ParamType, StringChoice = click.ParamType, click.Choice

#: Exit code of commands that found nobody to talk to (sysexits.h).
EX_UNAVAILABLE = 69

#: Columns of a mapping in a list, which is printed indented on a terminal of 80.
_ITEM_WIDTH = 74

#: Attribute of a command's function that takes the options of ``app.user_options["preload"]``.
TAKES_PRELOAD = "__takes_preload_options__"

_LAZY_PYGMENTS = ("highlight", "LEXER", "FORMATTER")


def __getattr__(name: str) -> Any:
    """Load the syntax highlighter, an optional dependency, when it is first asked for."""
    if name not in _LAZY_PYGMENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        pygments = import_module("pygments")
        formatter = import_module("pygments.formatters").Terminal256Formatter()
        lexer = import_module("pygments.lexers").PythonLexer()
    except ImportError:
        globals().update(highlight=_plain, LEXER=None, FORMATTER=None)
    else:
        globals().update(highlight=pygments.highlight, LEXER=lexer, FORMATTER=formatter)
    return globals()[name]


def _plain(text: str, *_: Any) -> str:
    return text


def _highlighted(text: str) -> str:
    namespace = globals()
    painter = namespace.get("highlight") or __getattr__("highlight")
    return str(painter(text, namespace["LEXER"], namespace["FORMATTER"]))


class CLIContext:
    """What every command finds in ``ctx.obj``: the app, and how to talk to the user."""

    def __init__(
        self,
        app: Celery | None,
        no_color: bool,
        workdir: str | None,
        quiet: bool = False,
    ) -> None:
        self._app = app
        self.no_color = no_color
        self.quiet = quiet
        self.workdir = workdir

    @property
    def app(self) -> Celery:
        """The app given with ``-A``, else the default one, which is made on first use."""
        if self._app is None:
            from celery import _state

            self._app = _state.get_current_app()
        return self._app

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    @property
    def has_own_app(self) -> bool:
        """Whether an app is loaded, without making the default one."""
        return self._app is not None

    @functools.cached_property
    def OK(self) -> str:
        """The word OK in green."""
        return self.style("OK", fg="green", bold=True)

    @functools.cached_property
    def ERROR(self) -> str:
        """The word ERROR in red."""
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: str | None = None, **kwargs: Any) -> str:
        """Paint *message*, unless ``--no-color`` was given."""
        return (message or "") if self.no_color else click.style(message, **kwargs)

    def secho(self, message: str | None = None, **kwargs: Any) -> None:
        """Print *message*, painted."""
        self._settle_color(kwargs)
        click.secho(message, **kwargs)

    def echo(self, message: str | None = None, **kwargs: Any) -> None:
        """Print *message*."""
        self._settle_color(kwargs)
        click.echo(message, **kwargs)

    def error(self, message: str | None = None, **kwargs: Any) -> None:
        """Print *message* to standard error."""
        self._settle_color(kwargs)
        click.secho(message, **{"err": True, **kwargs})

    def _settle_color(self, kwargs: dict[str, Any]) -> None:
        # None leaves the choice to click, which looks whether the output is a terminal.
        kwargs["color"] = False if self.no_color else kwargs.get("color")

    def pretty(self, n: Any) -> tuple[str, str]:
        """Return a status word and readable text for the reply of a remote command."""
        if isinstance(n, list):
            return self.OK, self.pretty_list(n)
        if isinstance(n, dict):
            if "ok" in n or "error" in n:
                return self.pretty_dict_ok_error(n)
            return self.OK, self._code(json.dumps(n, sort_keys=True, indent=4, default=str))
        if isinstance(n, str):
            return self.OK, n
        return self.OK, self._code(pprint.pformat(n))

    def pretty_list(self, n: Sequence[Any]) -> str:
        """Return one line for each item."""
        if not n:
            return "- empty -"
        return "\n".join(f"{self.style('*', fg='white')} {_item_text(item)}" for item in n)

    def pretty_dict_ok_error(self, n: Mapping[str, Any]) -> tuple[str, str]:
        """Return status and text of a reply that says itself how it went."""
        if "ok" in n:
            return self.OK, self.pretty(n["ok"])[1]
        return self.ERROR, self.pretty(n["error"])[1]

    def say_chat(self, direction: str, title: str, body: str = "", show_body: bool = False) -> None:
        """
        Print one message of a conversation with other nodes.

        Args:
            direction: ``<-`` for what we ask (left out when quiet), ``->`` for what we are told.
            title: First line.
            body: Text of the message, printed indented.
            show_body: Whether the body is wanted.
        """
        if direction == "<-" and self.quiet:
            return
        arrow = self.style(direction, fg="white", bold=True)
        self.echo(f"{arrow} {title}")
        if body and show_body:
            self.echo("\n".join(f"    {line}" for line in body.splitlines()))

    def _code(self, text: str) -> str:
        return text if self.no_color else _highlighted(text)


def _item_text(item: Any) -> str:
    """Return one item of a list, the lines of a mapping below each other."""
    if not isinstance(item, Mapping):
        return str(item)
    return pprint.pformat(item, width=_ITEM_WIDTH, sort_dicts=False).replace("\n", "\n  ")


class BrokerUnreachable(click.ClickException):
    """The broker did not answer; carries the exit code for "service unavailable"."""

    exit_code = EX_UNAVAILABLE


def fold(text: str) -> str:
    """
    Return the paragraphs of an error folded to the width of the terminal.

    What is not read on a terminal stays as it is, so that programs find it in one line.
    """
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns - 1
    # The first line follows the word "Error".
    folded = click.wrap_text(f"Error: {text}", width, preserve_paragraphs=True)
    return folded.removeprefix("Error: ")


def is_refused(exc: BaseException) -> bool:
    """Say whether RabbitMQ refuses what was asked: the login, the virtual host, or a right."""
    # Who never loaded the driver cannot have raised its error.
    errors = sys.modules.get("amqp.exceptions")
    return errors is not None and isinstance(exc, (errors.AccessRefused, errors.NotAllowed))


def handle_remote_command_error(command: str, exc: BaseException) -> NoReturn:
    """
    Explain to the user why *command* could not reach the broker, or was refused by it.

    Raises:
        click.ClickException: Always; exits with 69.
    """
    url = _tried_url()
    what = (
        "The message broker refuses this. Please make sure that user name, password and virtual "
        "host are correct, and that the user has the rights that are needed there. "
        if is_refused(exc)
        else "Could not connect to the message broker. Please make sure your broker (e.g., "
        "RabbitMQ or Redis) is running and the connection settings are correct. "
    )
    raise BrokerUnreachable(
        fold(
            f"{what}Reason: {type(exc).__name__}: {str(exc).rstrip('.')} (while running {command!r}"
            f"{f' with {url}' if url else ''}).\n\n"
            "The URL is taken from the setting broker_url, from the environment variable "
            "CELERY_BROKER_URL or from the option --broker."
        )
    ) from exc


def project_traceback(exc: BaseException) -> str:
    """Return the traceback of an error from where the user's code begins, without its importing."""
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if "importlib" not in f.filename]
    theirs = [not is_machinery(frame.filename) for frame in frames]
    if True in theirs:
        frames = frames[theirs.index(True) :]
    elif isinstance(exc, (SyntaxError, ModuleNotFoundError)):
        # These say themselves where or what it is.
        frames = []
    return "".join([*traceback.format_list(frames), *traceback.format_exception_only(exc)])


def is_machinery(filename: str) -> bool:
    """Say whether a file is part of this package or of what imports for it."""
    import kombu

    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    libraries = (ours, os.path.dirname(str(kombu.__file__)))
    return filename.startswith(libraries) or "importlib" in filename


def require_writable(files: Mapping[str, str | None]) -> None:
    """
    Look at the files that a program will write before it begins.

    Args:
        files: Paths by the option that names them.

    Raises:
        click.ClickException: One can't be written; says which and why.
    """
    from celery import platforms

    for option, path in files.items():
        if path and (trouble := platforms.why_not_writable(path)):
            raise click.ClickException(f"Cannot write {path} ({option}): {trouble}.")


def schedule_file(conf: Any, scheduler: str | None, path: str | None) -> str | None:
    """Return the file in which beat will keep its times; None if a store or a class does so."""
    writes = (scheduler or conf.beat_scheduler) == "celery.beat:PersistentScheduler"
    return path if writes and not conf.beat_store_url else None


def drop_privileges(uid: str | None, gid: str | None) -> None:
    """
    Become another user or group, where one is given.

    Raises:
        click.ClickException: There is none of that name, or it is not allowed.
    """
    if not uid and not gid:
        return
    from celery import platforms
    from celery.exceptions import SecurityError

    try:
        platforms.maybe_drop_privileges(uid=uid, gid=gid)
    except (KeyError, OSError, SecurityError) as exc:
        reason = exc.args[0] if isinstance(exc, KeyError) else exc
        given = " ".join(f"{o} {v}" for o, v in (("--uid", uid), ("--gid", gid)) if v)
        raise click.ClickException(f"Cannot run with {given}: {reason}") from exc


def _tried_url() -> str:
    """Return the URL of the broker without its password, if an app with a good one is at hand."""
    ctx = click.get_current_context(silent=True)
    context = ctx.find_object(CLIContext) if ctx is not None else None
    if context is None:
        return ""
    try:
        return str(context.app.connection_for_read().as_uri())
    except Exception:  # noqa: BLE001 - only decorates another error; a bad URL is reported there
        return ""


def user_options(app: Celery, kind: str) -> list[click.Option]:
    """Return the click options which extensions added for a program, in the order of names."""
    return sorted(app.user_options.get(kind, ()), key=lambda option: str(option.name))


def _split_preload(ctx: click.Context, kwargs: dict[str, Any]) -> dict[str, Any]:
    names = [option.name for option in user_options(ctx.obj.app, "preload")]
    return {name: kwargs[name] for name in names if name in kwargs}


def handle_preload_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """
    Send ``user_preload_options`` before the command *f* runs.

    The function gets the values of these options too; see :func:`consume_preload_options`.
    """

    @functools.wraps(f)
    def announced(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        app = ctx.obj.app
        if app.user_options.get("preload"):
            from celery import signals

            options = _split_preload(ctx, kwargs)
            signals.user_preload_options.send(sender=f, app=app, options=options)
        return f(ctx, *args, **kwargs)

    setattr(announced, TAKES_PRELOAD, True)
    return announced


def consume_preload_options(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the values of preload options from a command that has no parameters for them."""

    @functools.wraps(fun)
    def relieved(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        taken = _split_preload(ctx, kwargs)
        return fun(ctx, *args, **{k: v for k, v in kwargs.items() if k not in taken})

    return relieved


class CeleryOption(click.Option):
    """
    An option that knows its section on the help page.

    Args:
        help_group: Title of the section.
        default_value_from_context: Attribute of ``ctx.obj`` that gives the default.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.help_group: str | None = kwargs.pop("help_group", None)
        self.default_value_from_context: str | None = kwargs.pop("default_value_from_context", None)
        super().__init__(*args, **kwargs)

    def get_default(self, ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        """Return the default, from ``ctx.obj`` where the option says so."""
        if self.default_value_from_context:
            return getattr(ctx.obj, self.default_value_from_context, None)
        return super().get_default(ctx, *args, **kwargs)


def options_under(title: str) -> Callable[..., Callable[[Any], Any]]:
    """Return a `click.option` for options that stand under *title* on the help page."""
    return partial(click.option, cls=CeleryOption, help_group=title)


class CeleryCommand(click.Command):
    """A command whose help page groups the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each ``help_group``, the rest under Options."""
        sections: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            # Arguments stand in the line with the usage.
            if record is not None and record[1]:
                sections[getattr(param, "help_group", None) or "Options"].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class DaemonOption(CeleryOption):
    """An option of background programs; settings like ``worker_logfile`` give its default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(
            *args,
            help_group=kwargs.pop("help_group", "Daemonization Options"),
            callback=kwargs.pop("callback", self.daemon_setting),
            **kwargs,
        )

    def daemon_setting(self, ctx: click.Context, opt: click.Parameter, value: Any) -> Any:
        """Fall back from the command line to the setting ``PROGRAM_OPTION``."""
        if value is not None and value != "":
            return value
        if ctx.obj is None or ctx.resilient_parsing:
            return None
        return ctx.obj.app.conf.get(f"{ctx.command.name}_{opt.name}")


class CeleryDaemonCommand(CeleryCommand):
    """A command that can run in the background."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            DaemonOption(
                ("--logfile", "-f"), help="File that gets the log instead of the terminal."
            ),
            DaemonOption(("--pidfile",), help="File for the process id, removed at exit."),
            DaemonOption(("--uid",), help="User, by name or number, to run as."),
            DaemonOption(("--gid",), help="Group, by name or number, to run as."),
            DaemonOption(("--umask",), help="Octal mask for the permissions of new files."),
            DaemonOption(("--executable",), help="Interpreter of the background process."),
        ]


class CommaSeparatedList(ParamType):
    """Turns ``a,b,c`` into a list."""

    name = "comma separated list"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """Split *value* at the commas; a list is taken as it is."""
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        return list(value)


class _JsonType(ParamType):
    """JSON text of one kind of value."""

    wanted: type
    kind: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse *value*; what is of the wanted type already is taken as it is."""
        if isinstance(value, self.wanted):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as exc:
            self.fail(f"{value!r} is not valid JSON: {exc}", param, ctx)
        if not isinstance(parsed, self.wanted):
            self.fail(f"{value} is not a JSON {self.kind}", param, ctx)
        return parsed


class JsonArray(_JsonType):
    """Turns JSON text into a list."""

    name = "json array"
    wanted = list
    kind = "array, like '[1, 2]'"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a list, or fail with the place of the syntax error."""
        return super().convert(value, param, ctx)


class JsonObject(_JsonType):
    """Turns JSON text into a dictionary."""

    name = "json object"
    wanted = dict
    kind = """object, like '{"x": 1}'"""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a dictionary, or fail with the place of the syntax error."""
        return super().convert(value, param, ctx)


class ISO8601DateTime(ParamType):
    """Turns ISO 8601 text into a datetime."""

    # The misspelling is part of the interface.
    name = "iso-86091"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return a datetime, naive if *value* names no zone."""
        from celery.utils.time import maybe_iso8601

        try:
            parsed = maybe_iso8601(value)
        except (TypeError, ValueError) as exc:
            self.fail(f"{value!r} is not an ISO 8601 date and time: {exc}", param, ctx)
        if parsed is None:
            self.fail(f"{value!r} is not an ISO 8601 date and time", param, ctx)
        return parsed


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """Turns text into a number of seconds, or else into a datetime."""

    name = "iso-86091 or float"

    def convert(  # type: ignore[override]  # wider than its parent on purpose
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | float:
        """Return seconds if *value* is a number, else a datetime."""
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(StringChoice):
    """Turns the name of a log level, in any case, into its number."""

    def __init__(self) -> None:
        super().__init__(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"))

    def convert(  # type: ignore[override]  # the choice is a name, its value a number
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number of the level; numbers are taken as they are."""
        if isinstance(value, numbers.Integral):
            return int(value)
        from celery.utils.log import mlevel

        return mlevel(super().convert(str(value).upper(), param, ctx)) or 0


COMMA_SEPARATED_LIST = CommaSeparatedList()
JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
