"""Distributed task queue.

Everything users need is a name of this package; each loads when it is first used,
so that ``import celery`` itself is cheap. Inside the library nobody imports from here.
"""

from __future__ import annotations

import os
import re
import sys
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.local import recreate_module

SERIES = "collider"

__version__ = "5.7.0"
__author__ = "The contributors"
__contact__ = "maintainers@example.invalid"
__homepage__ = "https://example.invalid/celery"
__docformat__ = "restructuredtext"
__keywords__ = "task job queue distributed messaging actor"

__all__ = (
    "Celery",
    "Signature",
    "Task",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "xmap",
    "xstarmap",
)

VERSION_BANNER = f"{__version__} ({SERIES})"

version_info_t = namedtuple("version_info_t", ("major", "minor", "micro", "releaselevel", "serial"))

_parts = re.match(r"(\d+)\.(\d+)\.(\d+)(.*)", __version__)
assert _parts is not None
VERSION = version_info = version_info_t(
    int(_parts[1]), int(_parts[2]), int(_parts[3]), _parts[4] or "", ""
)
del _parts


def _announce_imports() -> None:
    """Print every import statement that runs from now on, and where, to find slow ones."""
    import builtins

    load = builtins.__import__

    def announcing_import(name: str, globals: Any = None, *args: Any, **kwargs: Any) -> Any:
        importer = (globals or {}).get("__name__", "?")
        sys.stderr.write(f"-- {importer} imports {name}\n")
        return load(name, globals, *args, **kwargs)

    builtins.__import__ = announcing_import


if os.environ.get("C_IMPDEBUG"):
    _announce_imports()

if TYPE_CHECKING:
    from kombu.utils.uuid import uuid

    from celery._state import current_app, current_task
    from celery.app import bugreport, shared_task
    from celery.app.base import Celery
    from celery.app.task import Task
    from celery.canvas import (
        Signature,
        chain,
        chord,
        chunks,
        group,
        maybe_signature,
        signature,
        subtask,
        xmap,
        xstarmap,
    )


def _patch_eventlet() -> None:
    import eventlet.debug

    eventlet.monkey_patch()
    blocking_s = float(os.environ.get("EVENTLET_NOBLOCK", "0"))
    if blocking_s:
        eventlet.debug.hub_blocking_detection(blocking_s, blocking_s)


def _patch_gevent() -> None:
    import gevent.monkey

    gevent.monkey.patch_all()


#: Pools that need the standard library patched before anything else is imported.
_GREEN_POOLS: Mapping[str, Any] = {"eventlet": _patch_eventlet, "gevent": _patch_gevent}


def _option_value(
    argv: Sequence[str], short_opts: Sequence[str], long_opts: Sequence[str]
) -> str | None:
    """Return the value of the first of these options in *argv*, in any form of writing it."""
    for index, word in enumerate(argv):
        following = argv[index + 1] if index + 1 < len(argv) else None
        for option in long_opts:
            if word == option:
                return following
            if word.startswith(f"{option}="):
                return word[len(option) + 1 :]
        for option in short_opts:
            if word == option:
                return following
            if word.startswith(option) and not word.startswith("--"):
                return word[len(option) :].lstrip("=")
    return None


def maybe_patch_concurrency(
    argv: Sequence[str] | None = None,
    short_opts: Sequence[str] | None = None,
    long_opts: Sequence[str] | None = None,
    patches: Mapping[str, Any] | None = None,
) -> None:
    """Patch the standard library when the command line asks for a pool that needs it.

    Has to run before modules that it replaces are imported, so ``celery.__main__`` calls
    it first.

    Args:
        argv: The command line; None for that of this process.
        short_opts, long_opts: The options that name the pool; ``-P`` and ``--pool``.
        patches: Pool name to the function that patches; None for eventlet and gevent.
    """
    pool = _option_value(
        sys.argv if argv is None else argv, short_opts or ["-P"], long_opts or ["--pool"]
    )
    patchers = (
        {"eventlet": _patch_eventlet, "gevent": _patch_gevent} if patches is None else patches
    )
    if not pool or pool not in patchers:
        return
    patchers[pool]()
    from celery import concurrency

    # The implementation has to be importable now; a missing package shows here.
    if pool in _GREEN_POOLS:
        concurrency.get_implementation(pool)


recreate_module(
    __name__,
    compat_modules=("execute", "log", "messaging", "registry"),
    by_module={
        "celery._state": ("current_app", "current_task"),
        "celery.app": ("bugreport", "shared_task"),
        "celery.app.base": ("Celery",),
        "celery.app.task": ("Task",),
        "celery.canvas": (
            "Signature",
            "chain",
            "chord",
            "chunks",
            "group",
            "maybe_signature",
            "signature",
            "subtask",
            "xmap",
            "xstarmap",
        ),
        "kombu.utils.uuid": ("uuid",),
    },
    direct={
        "_state": "celery._state",
        "app": "celery.app",
        "bootsteps": "celery.bootsteps",
        "schedules": "celery.schedules",
        "signals": "celery.signals",
        "states": "celery.states",
        "exceptions": "celery.exceptions",
    },
)
