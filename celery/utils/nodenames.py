"""Names of workers: ``name@host``, the formats that expand in them, and the queue of one worker."""

from __future__ import annotations

import os
from functools import lru_cache
from socket import gethostname as _gethostname

from kombu.entity import Exchange, Queue

from celery.utils.text import simple_format

__all__ = (
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
)

#: Every worker has a queue of its own on this exchange if `worker_direct` is on.
WORKER_DIRECT_EXCHANGE = Exchange("C.dq2")
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"

NODENAME_SEP = "@"
NODENAME_DEFAULT = "celery"

# The name of the machine does not change while we run, and asking costs a system call.
gethostname = lru_cache(maxsize=1)(_gethostname)


def worker_direct(hostname: str | Queue) -> Queue:
    """Return the queue of the worker *hostname*; a queue is returned as it is."""
    if isinstance(hostname, Queue):
        return hostname
    return Queue(
        WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname),
        WORKER_DIRECT_EXCHANGE,
        hostname,
    )


def nodename(name: str, hostname: str) -> str:
    """Join the two parts of a node name."""
    return f"{name}{NODENAME_SEP}{hostname}"


def nodesplit(name: str) -> tuple[str | None, str]:
    """Take a node name apart; one without ``@`` is a host: ``(None, host)``."""
    node, separator, host = name.partition(NODENAME_SEP)
    return (node, host) if separator else (None, node)


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """Name this process where it is not a worker: ``gen<PID>@<host>``."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """Fill in what *hostname* leaves out: the name, the host, or both."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: str) -> str:
    """Expand ``%n``, ``%h``, ``%d``, ``%p`` (all of *name*), ``%i`` and ``%I`` in *s*."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: str) -> str:
    """Expand ``%h`` (host), ``%d`` (domain), ``%n`` (name), ``%i``, ``%I`` and *extra* in *s*."""
    host = host or gethostname()
    _, _, domain = host.partition(".")
    keys = {"h": host, "n": name or NODENAME_DEFAULT, "d": domain, "i": "0", "I": "", **extra}
    return str(simple_format(s, keys))
