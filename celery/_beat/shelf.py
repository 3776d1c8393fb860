"""Schedule files of earlier versions: they were shelves, under one or several names."""

from __future__ import annotations

import os
import shelve
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from celery._beat.store import Run
from celery.local import try_import

__all__ = (
    "SUFFIXES",
    "Unreadable",
    "exists",
    "keep_copy",
    "locked",
    "put_aside",
    "read",
    "remove",
)

#: What libraries of databases add to the name.
SUFFIXES = ("", ".db", ".dat", ".bak", ".dir")
#: What belongs to a database of SQLite.
_JOURNALS = ("-wal", "-shm")

_fcntl: Any = try_import("fcntl")


class Unreadable(Exception):
    """The file is damaged, or no shelf."""


def read(filename: str) -> tuple[dict[str, Run], dict[str, Any]]:
    """
    Return last runs by entry, and settings, that a shelf holds.

    Raises:
        Unreadable: It is damaged, or no shelf.
    """
    try:
        with shelve.open(filename, flag="r") as shelf:
            entries = shelf.get("entries") or {}
            notes = {
                key: shelf[key] for key in ("tz", "utc_enabled", "__version__") if key in shelf
            }
        runs = {
            name: Run(entry.last_run_at, int(entry.total_run_count or 0))
            for name, entry in entries.items()
            if isinstance(entry.last_run_at, datetime)
        }
    # What a pickle raises depends on what is wrong with it.
    except Exception as exc:
        if isinstance(exc, PermissionError):
            raise
        raise Unreadable(repr(exc)) from exc
    notes["tz"] = None if notes.get("tz") is None else str(notes["tz"])
    return runs, notes


def exists(filename: str) -> bool:
    """Say whether there is a file of that name, or one that a library would have made of it."""
    return any(os.path.exists(filename + suffix) for suffix in SUFFIXES)


def put_aside(filename: str, suffix: str, parts: Iterable[str] = (*SUFFIXES, *_JOURNALS)) -> None:
    """Rename whatever the file consists of."""
    for part in parts:
        with suppress(FileNotFoundError):
            os.replace(filename + part, filename + part + suffix)


def keep_copy(filename: str, suffix: str) -> None:
    """Copy the file itself, if there is one."""
    with suppress(FileNotFoundError):
        shutil.copy2(filename, filename + suffix)


def remove(filename: str) -> None:
    """Delete a file and its journals."""
    for part in ("", *_JOURNALS):
        with suppress(FileNotFoundError):
            os.remove(filename + part)


@contextmanager
def locked(filename: str) -> Iterator[None]:
    """Keep other processes from converting the file meanwhile, where the system can."""
    if _fcntl is None:
        yield
        return
    path = filename + ".lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            os.remove(path)
