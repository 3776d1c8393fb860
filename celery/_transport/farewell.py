"""Connections of this process that are to be closed politely when it ends.

AMQP has no answer to a publish, and RabbitMQ throws away what it has read and not yet routed when
a connection ends without a word: some hundred messages of a client that publishes fast. So who
has published closes with a handshake, also where nobody thinks of it: at the end of the
interpreter, of a process of `multiprocessing` or billiard, and of a pool's child. What is ended by
SIGKILL or ``os._exit`` can't; the option ``confirm_publish`` of the transport is for that.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Protocol
from weakref import WeakSet

__all__ = ("close_all", "watch")


class _Connection(Protocol):
    def part(self) -> None:
        """End, after all that was published has arrived; never raises."""


#: Open connections by the process that opened them; a child inherits those of its parent.
_open: dict[int, WeakSet[_Connection]] = {}

#: Early among the finalizers of `multiprocessing`: before its own resources go.
_PRIORITY = 100


def watch(connection: _Connection) -> None:
    """Have *connection* part at the end of this process, if it still is there."""
    pid = os.getpid()
    if pid not in _open:
        _open.clear()
        _open[pid] = WeakSet()
        atexit.register(close_all)
        # Their children leave by os._exit, after finalizers of their own.
        for name in ("multiprocessing.util", "billiard.util"):
            if module := sys.modules.get(name):
                module.Finalize(None, close_all, exitpriority=_PRIORITY)
    _open[pid].add(connection)


def close_all() -> None:
    """Close the connections of this process; for who leaves it by ``os._exit``."""
    connections = _open.get(os.getpid())
    while connections:
        connections.pop().part()
