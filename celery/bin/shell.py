"""``celery shell``: an interpreter with the app and its tasks at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from celery.bin.base import (
    CeleryCommand,
    consume_preload_options,
    handle_preload_options,
    options_under,
)

_option = options_under("Shell Options")


def _ipython(names: dict[str, Any]) -> None:
    import_module("IPython").start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    import_module("bpython").embed(locals_=names)


def _plain(names: dict[str, Any]) -> None:
    import code

    try:
        import readline
        import rlcompleter
    except ImportError:
        # Not everywhere; the interpreter works without completion.
        pass
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab:complete")
    code.interact(local=names)


def _any(names: dict[str, Any]) -> None:
    for start in (_ipython, _bpython):
        try:
            return start(names)
        except ImportError:
            continue
    return _plain(names)


def namespace(app: Any, with_tasks: bool = True) -> dict[str, Any]:
    """Return what the interpreter knows by name: the app, the canvas, and the user's tasks."""
    from celery import canvas

    app.loader.import_default_modules()
    names: dict[str, Any] = {"app": app, "celery": app, "Task": app.Task}
    for name in (
        "chord",
        "group",
        "chain",
        "chunks",
        "xmap",
        "xstarmap",
        "subtask",
        "signature",
    ):
        names[name] = getattr(canvas, name)
    if with_tasks:
        tasks = {
            task.__name__: task
            for task in app.tasks.values()
            if not task.name.startswith("celery.")
        }
        names = {**tasks, **names}
    return names


@click.command("shell", cls=CeleryCommand, context_settings={"allow_extra_args": True})
@_option(
    "-I",
    "--ipython",
    is_flag=True,
    help="Use IPython.",
)
@_option(
    "-B",
    "--bpython",
    is_flag=True,
    help="Use bpython.",
)
@_option(
    "--python",
    is_flag=True,
    help="Use the plain interpreter.",
)
@_option(
    "-T",
    "--without-tasks",
    is_flag=True,
    help="Leave tasks out of the names at hand.",
)
@_option(
    "--eventlet",
    is_flag=True,
    help="Patch the standard library for eventlet.",
)
@_option(
    "--gevent",
    is_flag=True,
    help="Patch the standard library for gevent.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def shell(
    ctx: click.Context,
    ipython: bool = False,
    bpython: bool = False,
    python: bool = False,
    without_tasks: bool = False,
    eventlet: bool = False,
    gevent: bool = False,
    **kwargs: Any,
) -> None:
    """Start an interpreter that knows app, tasks, group, chain, chord and signature."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if eventlet:
        import_module("celery.concurrency.eventlet")
    if gevent:
        import_module("celery.concurrency.gevent")
    start: Callable[[dict[str, Any]], None] = _any
    for wanted, candidate in ((python, _plain), (bpython, _bpython), (ipython, _ipython)):
        if wanted:
            start = candidate
    try:
        start(namespace(ctx.obj.app, with_tasks=not without_tasks))
    except ImportError as exc:
        raise click.ClickException(
            f"That interpreter cannot be loaded: {exc}. Install it, or take --python."
        ) from exc
