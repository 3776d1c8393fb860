"""
The umbrella command ``celery``: global options, the app, and the table of commands.

Modules of commands are imported when their command is called, so ``celery --version`` or
``celery worker`` don't pay for the others.
"""

from __future__ import annotations

import copy
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import UsageError
from click_didyoumean import DYMGroup

from celery.bin import base
from celery.utils.garbage import collect_as_usual

if TYPE_CHECKING:
    from importlib import metadata

    from celery.app.base import Celery

_option = base.options_under("Global Options")

#: Group of entry points through which packages add commands.
PLUGIN_GROUP = "celery.commands"

UNABLE_TO_LOAD_APP_MODULE_NOT_FOUND = """
Unable to load celery application.
The module {0} was not found.

{1}"""

UNABLE_TO_LOAD_APP_ERROR_OCCURRED = """
Unable to load celery application.
While trying to load the module {0} the following error occurred:
{1}"""

UNABLE_TO_LOAD_APP_APP_MISSING = """
Unable to load celery application.
{0}

Name the attribute that holds your app, as in -A MODULE:ATTRIBUTE, or call it 'app'."""

WRONG_APP_OPTION_USAGE_MESSAGE = """\
{option_name} is an option of 'celery' itself and has to come before the command:

    celery {option_name} VALUE {command} ...
"""

#: How a usage error was shown before anyone replaced it; offered for extensions.
previous_show_implementation = UsageError.show

#: Key of a run's command in the meta data of its context.
_CHOSEN = f"{__name__}.chosen"

_COMMANDS = {
    "amqp": ("celery.bin.amqp:amqp", "Talk to an AMQP broker directly."),
    "beat": ("celery.bin.beat:beat", "Start the scheduler of periodic tasks."),
    "call": ("celery.bin.call:call", "Send a task by its name."),
    "control": ("celery.bin.control:control", "Change workers while they run."),
    "doctor": ("celery.bin.doctor:doctor", "Find out why tasks don't run."),
    "events": ("celery.bin.events:events", "Watch the events of workers and tasks."),
    "graph": ("celery.bin.graph:graph", "Draw the parts of a worker or a cluster."),
    "help": ("celery.bin.celery:help_", "Explain a command."),
    "inspect": ("celery.bin.control:inspect", "Ask workers about their state."),
    "list": ("celery.bin.list:list_", "List the bindings of queues."),
    "logtool": ("celery.bin.logtool:logtool", "Evaluate the log files of workers."),
    "migrate": ("celery.bin.migrate:migrate", "Move tasks from one broker to another."),
    "multi": ("celery.bin.multi:multi", "Start and stop several workers."),
    "purge": ("celery.bin.purge:purge", "Delete all waiting tasks."),
    "report": ("celery.bin.celery:report", "Show what a bug report should contain."),
    "result": ("celery.bin.result:result", "Print the return value of a task."),
    "schedule": ("celery.bin.schedule:schedule", "Show and change the entries of beat."),
    "shell": ("celery.bin.shell:shell", "Start an interpreter with app and tasks at hand."),
    "status": ("celery.bin.control:status", "Show which workers are online."),
    "upgrade": ("celery.bin.upgrade:upgrade", "Rewrite settings of earlier versions."),
    "worker": ("celery.bin.worker:worker", "Start a worker."),
}


class _Commands(MutableMapping[str, click.Command]):
    """Commands by name: our own are imported and plug-ins searched for when asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}
        self._plugins: dict[str, metadata.EntryPoint] | None = None

    def plugins(self) -> dict[str, metadata.EntryPoint]:
        """Return the commands other installed packages offer."""
        if self._plugins is None:
            from importlib import metadata

            found = metadata.entry_points(group=PLUGIN_GROUP)
            self._plugins = {point.name: point for point in found if point.name not in _COMMANDS}
        return self._plugins

    def __getitem__(self, name: str) -> click.Command:
        command = self._loaded.get(name)
        if command is None:
            if name in _COMMANDS:
                module, _, attribute = _COMMANDS[name][0].partition(":")
                command = getattr(import_module(module), attribute)
            else:
                command = _load_plugin(self.plugins()[name])
            self._loaded[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**_COMMANDS, **self.plugins(), **self._loaded})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in _COMMANDS or name in self._loaded or name in self.plugins()


def _load_plugin(point: metadata.EntryPoint) -> click.Command:
    """Load the command of another package; one that is broken must not break the rest."""
    try:
        command = point.load()
    except Exception as exc:  # noqa: BLE001 - foreign code; told when the command is called
        reason = f"The command {point.name!r} ({point.value}) cannot be loaded: {exc!r}"

        @click.command(
            point.name,
            short_help=f"Not available: {exc!r}",
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        def broken() -> None:
            raise click.ClickException(reason)

        return broken
    assert isinstance(command, click.Command), f"{point.value} is no click command"
    return command


class CeleryGroup(DYMGroup):  # type: ignore[misc]  # click_didyoumean has no types
    """The group of all commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group, then the commands."""
        base.CeleryCommand.format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            if name in _COMMANDS:
                rows.append((name, _COMMANDS[name][1]))
            else:
                rows.append((name, self.commands[name].get_short_help_str()))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a copy of a command, to which the app may add options for this run."""
        command: click.Command | None = super().get_command(ctx, cmd_name)
        if command is not None:
            command = copy.copy(command)
            command.params = list(command.params)
            # click asks for the command before it calls the group, which loads the app.
            ctx.meta[_CHOSEN] = (cmd_name, command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and translate what users get wrong most often."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as exc:
            _explain_misplaced_option(self, exc)
            raise
        except Exception as exc:
            from celery.exceptions import ImproperlyConfigured, SecurityError

            if isinstance(exc, (ImproperlyConfigured, SecurityError)):
                raise click.ClickException(base.fold(str(exc))) from exc
            # Who never loaded the module cannot have raised its error.
            errors = sys.modules.get("kombu.exceptions")
            if base.is_refused(exc) or (
                errors is not None and isinstance(exc, errors.OperationalError)
            ):
                base.handle_remote_command_error(ctx.invoked_subcommand or "celery", exc)
            raise


def _explain_misplaced_option(group: click.Group, exc: click.NoSuchOption) -> None:
    """Say that a global option was written after the command."""
    known = {spelling for param in group.params for spelling in param.opts}
    if exc.option_name in known and exc.ctx is not None and exc.ctx.parent is not None:
        text = WRONG_APP_OPTION_USAGE_MESSAGE.format(
            option_name=exc.option_name, command=exc.ctx.command.name
        )
        raise UsageError(text, exc.ctx.parent) from exc


def _add_user_options(ctx: click.Context) -> None:
    """Give the chosen command the options that extensions of the app add to it."""
    if _CHOSEN not in ctx.meta or not ctx.obj.has_own_app:
        return
    name, command = ctx.meta[_CHOSEN]
    if name in ("worker", "beat"):
        command.params += base.user_options(ctx.obj.app, name)
    if getattr(command.callback, base.TAKES_PRELOAD, False):
        command.params += base.user_options(ctx.obj.app, "preload")


def _enter_workdir(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Change the directory at once: the app is looked up from there."""
    if path and not ctx.resilient_parsing:
        try:
            os.chdir(path)
        except OSError as exc:
            raise click.ClickException(f"Cannot change to --workdir {path!r}: {exc}") from exc
    return path


def _load_app(name: str) -> Celery:
    """
    Import the app that ``-A`` names.

    Raises:
        click.UsageError: With the reason and the way out.
    """
    from celery.app.utils import find_app

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return find_app(name)
    except (ImportError, AttributeError) as exc:
        raise UsageError(_why_no_app(name, exc)) from exc
    except Exception as exc:
        raise UsageError(_import_failed(name, exc)) from exc


def _import_failed(name: str, exc: BaseException) -> str:
    return UNABLE_TO_LOAD_APP_ERROR_OCCURRED.format(name, base.project_traceback(exc))


def _why_no_app(name: str, exc: ImportError | AttributeError) -> str:
    """Tell a wrong ``-A`` from an error inside the modules of the project."""
    module = name.partition(":")[0]
    if isinstance(exc.__cause__ or exc, AttributeError):
        if _is_raised_by_project(exc.__cause__ or exc):
            return _import_failed(name, exc.__cause__ or exc)
        if isinstance(exc, AttributeError):
            return UNABLE_TO_LOAD_APP_APP_MISSING.format(exc)
        return UNABLE_TO_LOAD_APP_MODULE_NOT_FOUND.format(name, str(exc))
    missing = exc.name or "" if isinstance(exc, ModuleNotFoundError) else ""
    if not missing:
        return _import_failed(name, exc)
    if missing in (name, module) or module.startswith(f"{missing}."):
        hint = f"Searched: {os.getcwd()} and sys.path; is -A spelled right?"
        return UNABLE_TO_LOAD_APP_MODULE_NOT_FOUND.format(name, hint)
    return f"{_import_failed(name, exc)}\nIs {missing} installed here?"


def _is_raised_by_project(exc: BaseException) -> bool:
    """Say whether an error comes from the user's code, not from looking for the app in it."""
    return not base.is_machinery(traceback.extract_tb(exc.__traceback__)[-1].filename)


@click.group(
    "celery",
    cls=CeleryGroup,
    commands=_Commands(),
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "CELERY"},
)
@_option(
    "-A",
    "--app",
    envvar="APP",
    help="Module, module:attribute or module.attribute of the app.",
)
@_option(
    "-b",
    "--broker",
    envvar="BROKER_URL",
    help="URL of the broker, for an app that names none.",
)
@_option(
    "--result-backend",
    envvar="RESULT_BACKEND",
    help="URL of the result back-end, for an app that names none.",
)
@_option(
    "--loader",
    envvar="LOADER",
    help="Class of the loader.",
)
@_option(
    "--config",
    envvar="CONFIG_MODULE",
    help="Module with the settings.",
)
@_option(
    "--workdir",
    type=click.Path(),
    is_eager=True,
    callback=_enter_workdir,
    help="Directory to work in; the app is searched for there.",
)
@_option(
    "-C",
    "--no-color",
    envvar="NO_COLOR",
    is_flag=True,
    help="Print without colour.",
)
@_option(
    "-q",
    "--quiet",
    is_flag=True,
    help="Print less.",
)
@_option(
    "--version",
    is_flag=True,
    help="Print the version and exit.",
)
@_option(
    "--skip-checks",
    envvar="SKIP_CHECKS",
    is_flag=True,
    help="Leave out the start-up checks of Django.",
)
@click.pass_context
def celery(
    ctx: click.Context,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    workdir: str | None,
    no_color: bool,
    quiet: bool,
    version: bool,
    skip_checks: bool,
) -> None:
    """Run workers of a task queue, and the tools around them."""
    if version:
        import celery as package

        click.echo(package.VERSION_BANNER)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    environment = {
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": result_backend,
        "CELERY_LOADER": loader,
        "CELERY_CONFIG_MODULE": config,
        "CELERY_SKIP_CHECKS": "true" if skip_checks else None,
    }
    os.environ.update({name: value for name, value in environment.items() if value})
    ctx.obj = base.CLIContext(
        app=_load_app(app) if app else None, no_color=no_color, workdir=workdir, quiet=quiet
    )
    _add_user_options(ctx)
    if ctx.invoked_subcommand != "worker":
        # The worker has most of its imports before it.
        collect_as_usual()


@click.command("report", cls=base.CeleryCommand)
@click.pass_context
@base.handle_preload_options
@base.consume_preload_options
def report(ctx: click.Context) -> None:
    """Show what a bug report should contain: versions, platform and settings."""
    ctx.obj.echo(ctx.obj.app.bugreport())


@click.command("help", cls=base.CeleryCommand)
@click.argument("command", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Explain COMMAND, as its option --help does, or list the commands."""
    parent = ctx.find_root()
    for name in command:
        group = parent.command
        found = group.get_command(parent, name) if isinstance(group, click.Group) else None
        if found is None:
            raise UsageError(f"No such command {name!r}.", parent)
        parent = click.Context(found, info_name=name, parent=parent)
    click.echo(parent.get_help())


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Show warnings to users without the line of code that gave them."""
    from celery.exceptions import CeleryWarning

    if issubclass(category, CeleryWarning):
        return base.fold(f"{category.__name__}: {str(message).strip()}") + "\n"
    return _usual_format(message, category, filename, lineno, line)


_usual_format = warnings.formatwarning


def main() -> int:
    """Run the command line; exits by itself."""
    warnings.formatwarning = _format_warning
    return int(celery(auto_envvar_prefix="CELERY") or 0)
