"""The pages that --help shows."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from celery.bin.celery import celery


def walk(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            own = click.Context(child, info_name=name, parent=context, terminal_width=80)
            yield from walk(child, own)


PAGES = {
    context.command_path: context
    for context in walk(celery, click.Context(celery, info_name="celery", terminal_width=80))
}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_help_fits_a_terminal_and_explains_all(path: str) -> None:
    context = PAGES[path]
    text = context.get_help()

    assert text.startswith(f"Usage: {path} ")
    assert max(map(len, text.splitlines())) <= 80
    # What is cut off says nothing.
    assert "...\n" not in text.partition("Commands:")[2] + "\n"
    assert context.command.get_short_help_str(100).endswith(".")
    for param in context.command.params:
        if isinstance(param, click.Option):
            assert param.help, param.opts
            assert param.help.strip()[-1] in ".]", param.opts
