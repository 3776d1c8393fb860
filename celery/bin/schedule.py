"""``celery schedule``: show and change the entries of beat, also while it runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from celery.bin.base import (
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    handle_preload_options,
    options_under,
)


@click.group("schedule")
@click.option("--store", help="Path or URL of the store; by default that of the settings.")
@click.pass_context
@handle_preload_options
def schedule(ctx: click.Context, store: str | None) -> None:
    """Show and change the entries of beat, which follows within seconds if it runs."""
    if store:
        ctx.obj.app.conf.beat_store_url = store


def _command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of `schedule` that tells errors of the store without a traceback."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def reporting(ctx: click.Context, *args: Any, **kwargs: Any) -> None:
            from celery._beat.store import StoreError
            from celery.exceptions import ImproperlyConfigured

            try:
                function(ctx, *args, **kwargs)
            except KeyError as exc:
                raise click.ClickException(str(exc.args[0])) from exc
            except (ValueError, OSError, ImproperlyConfigured, StoreError) as exc:
                raise click.ClickException(str(exc)) from exc

        return schedule.command(name, cls=CeleryCommand)(click.pass_context(reporting))

    return decorate


_option = options_under("Entry Options")


def _entry_options(function: Any) -> Any:
    for decorate in (
        _option("--options", type=JSON_OBJECT, help="Options of apply_async, as JSON."),
        _option("--kwargs", type=JSON_OBJECT, help="Keyword arguments, as JSON."),
        _option("--args", type=JSON_ARRAY, help="Positional arguments, as JSON."),
        _option(
            "--solar",
            nargs=3,
            help="Event of the sun, latitude, longitude.",
            metavar="EVENT LAT LON",
        ),
        _option("--crontab", help="The five fields of a crontab file."),
        _option("--relative", is_flag=True, help="Round the interval to its unit."),
        _option("--every", type=float, help="Seconds between two runs."),
    ):
        function = decorate(function)
    return function


def _fields(
    every: float | None,
    relative: bool,
    crontab: str | None,
    solar: tuple[str, str, str] | None,
    **others: Any,
) -> dict[str, Any]:
    """Return what was given, as `celery._beat.definition` has it."""
    described = {"every": every, "crontab": crontab, "solar": list(solar) if solar else None}
    given = {kind: value for kind, value in described.items() if value is not None}
    if len(given) > 1:
        raise click.UsageError("An entry has one of --every, --crontab and --solar.")
    if relative:
        given["relative"] = True
    fields = {name: value for name, value in others.items() if value is not None}
    return {**fields, "schedule": given} if given else fields


@_command("list")
@_option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def list_(ctx: click.Context, as_json: bool) -> None:
    """List all entries."""
    entries = ctx.obj.app.control.schedule.entries()
    if as_json:
        ctx.obj.echo(json.dumps({entry.name: _described(entry) for entry in entries}, indent=2))
        return
    if not entries:
        ctx.obj.echo("There are no entries.")
    for entry in entries:
        origin = "settings" if entry.is_in_settings else "run time"
        if entry.is_in_settings and entry.is_defined:
            origin = "settings, changed"
        state = "" if entry.enabled else ", disabled"
        last = entry.last_run_at.isoformat(timespec="seconds") if entry.last_run_at else "never"
        ctx.obj.echo(f"{entry.name}: {entry.task} {entry.schedule!r} ({origin}{state})")
        ctx.obj.echo(f"    runs: {entry.total_run_count}, last or first seen: {last}")


def _described(entry: Any) -> Mapping[str, Any]:
    return {
        "task": entry.task,
        "schedule": repr(entry.schedule),
        "args": repr(entry.args),
        "kwargs": repr(entry.kwargs),
        "enabled": entry.enabled,
        "in_settings": entry.is_in_settings,
        "defined": entry.is_defined,
        "last_run_at": entry.last_run_at and entry.last_run_at.isoformat(),
        "total_run_count": entry.total_run_count,
    }


@_command("add")
@click.argument("name")
@click.argument("task")
@_entry_options
def add(ctx: click.Context, name: str, task: str, **given: Any) -> None:
    """Add the entry NAME, which runs TASK."""
    fields = _fields(**given)
    if "schedule" not in fields:
        raise click.UsageError("Say when: --every, --crontab or --solar.", ctx)
    ctx.obj.app.control.schedule.add(name, task, **fields)
    ctx.obj.echo(f"{ctx.obj.OK}: {name} was added")


@_command("change")
@click.argument("name")
@_option("--task", help="Name of the task.")
@_entry_options
def change(ctx: click.Context, name: str, **given: Any) -> None:
    """Change what is given of the entry NAME."""
    fields = _fields(**given)
    if not fields:
        raise click.UsageError("Say what to change.", ctx)
    ctx.obj.app.control.schedule.change(name, **fields)
    ctx.obj.echo(f"{ctx.obj.OK}: {name} was changed")


@_command("enable")
@click.argument("name")
def enable(ctx: click.Context, name: str) -> None:
    """Switch the entry NAME on again."""
    ctx.obj.app.control.schedule.enable(name)
    ctx.obj.echo(f"{ctx.obj.OK}: {name} is enabled")


@_command("disable")
@click.argument("name")
def disable(ctx: click.Context, name: str) -> None:
    """Switch the entry NAME off."""
    ctx.obj.app.control.schedule.disable(name)
    ctx.obj.echo(f"{ctx.obj.OK}: {name} is disabled")


@_command("remove")
@click.argument("name")
def remove(ctx: click.Context, name: str) -> None:
    """
    Remove the entry NAME.

    An entry of the settings is again as they say.
    """
    ctx.obj.app.control.schedule.remove(name)
    ctx.obj.echo(f"{ctx.obj.OK}: {name} was removed")
