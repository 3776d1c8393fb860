"""``celery upgrade``: rewrite settings files of earlier versions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from celery.bin.base import (
    CeleryCommand,
    consume_preload_options,
    handle_preload_options,
    options_under,
)

_option = options_under("Upgrading Options")


@click.group("upgrade", invoke_without_command=False, context_settings={"allow_extra_args": True})
def upgrade() -> None:
    """Rewrite what earlier versions spelled differently."""


@upgrade.command("settings", cls=CeleryCommand)
@click.argument("filename")
@_option(
    "--django",
    is_flag=True,
    help="Write names in upper case with the prefix CELERY_, for Django's settings.",
)
@_option(
    "--compat",
    is_flag=True,
    help="Write names as versions before 4.0 knew them.",
)
@_option(
    "--no-backup",
    is_flag=True,
    help="Keep no copy of the file as it was.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def settings(
    ctx: click.Context, filename: str, django: bool, compat: bool, no_backup: bool
) -> None:
    """Write new names for old ones into the settings file FILENAME."""
    path, echo = Path(filename), ctx.obj.echo
    echo(f"processing {filename}...")
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as exc:
        raise click.ClickException(f"Cannot read {filename}: {exc}") from exc
    renamed = list(_rewritten(lines, _new_names(django=django, compat=compat)))
    if renamed == lines:
        echo("Your settings are already up to date.")
        return
    if not no_backup:
        backup = path.with_name(path.name + ".orig")
        echo(f"writing backup to {backup}...")
        shutil.copy2(path, backup)
    path.write_text("".join(renamed), encoding="utf-8")
    echo("Changes to your setting have been made!")


def _new_names(*, django: bool, compat: bool) -> dict[str, str]:
    """Return the name to write for each name that may be found."""
    from celery.app.defaults import NAMESPACES, flatten

    names = {}
    for new, option in flatten(NAMESPACES):
        # The first of the old names is the one that was current.
        old = [name.upper() for name in sorted(option.old)]
        if compat:
            wanted = old[0] if old else new.upper()
            if old:
                names[new] = wanted
            continue
        wanted = f"CELERY_{new.upper()}" if django else new
        names.update(dict.fromkeys((new, *old), wanted))
        if not django:
            names[new.upper()] = wanted
    return names


# An assignment at the start of a line, or a reference to a setting, is a word of its own.
_WORD = re.compile(r"(?<![\w.'\"])[A-Za-z_][A-Za-z0-9_]*(?=\s*(=(?!=)|\[|\.|\+=|\)|$))")


def _rewritten(lines: list[str], names: dict[str, str]) -> Iterator[str]:
    def renamed(match: re.Match[str]) -> str:
        return names.get(match[0], match[0])

    for line in lines:
        # Continued values and keyword arguments are indented; only top-level names are settings.
        yield line if line[:1].isspace() or line.startswith("#") else _WORD.sub(renamed, line)
