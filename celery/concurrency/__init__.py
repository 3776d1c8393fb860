"""
The pools that run task bodies, by name.

`celery.concurrency.base` is the port, every other public module one implementation of it.  The
worker finds a pool class here by its short name (``-P``) or takes a class path as it is; pools
are imported only when asked for, because the green ones need drivers that may be missing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kombu.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celery.concurrency.base import BasePool

__all__ = ("get_available_pool_names", "get_implementation")

#: Class path of the pool that ``-P custom`` stands for.
CUSTOM_POOL_VARIABLE = "CELERY_CUSTOM_WORKER_POOL"

#: The short names; processes and threads are older spellings.
ALIASES: dict[str, str | None] = {
    "prefork": "celery.concurrency.prefork:TaskPool",
    "eventlet": "celery.concurrency.eventlet:TaskPool",
    "gevent": "celery.concurrency.gevent:TaskPool",
    "solo": "celery.concurrency.solo:TaskPool",
    "processes": "celery.concurrency.prefork:TaskPool",
    "threads": "celery.concurrency.thread:TaskPool",
    "asyncio": "celery.concurrency.asyncio:TaskPool",
    "custom": None,
}
custom = os.environ.get(CUSTOM_POOL_VARIABLE)
ALIASES["custom"] = custom


def get_implementation(cls: str | type[BasePool]) -> type[BasePool]:
    """Return the pool class for a short name, a class path or a class.

    Raises:
        ValueError: ``custom`` was asked for and CELERY_CUSTOM_WORKER_POOL is not set.
        ImportError: The pool's module or its driver is not installed.
    """
    if cls == "custom" and not ALIASES["custom"]:
        raise ValueError(
            f"the pool 'custom' needs the environment variable {CUSTOM_POOL_VARIABLE} "
            "to hold the path of a pool class, such as 'proj.pools:Pool'"
        )
    pool: type[BasePool] = symbol_by_name(cls, ALIASES)
    return pool


def get_available_pool_names() -> tuple[str, ...]:
    """Return the names that ``-P`` accepts besides class paths."""
    return tuple(ALIASES)
