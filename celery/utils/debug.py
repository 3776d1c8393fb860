"""Looking into a process: where its threads are, what memory it takes, whether it is stuck."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any, TextIO, TypeVar

from celery.local import try_import
from celery.utils.text import WhateverIO

__all__ = (
    "blockdetection",
    "cry",
    "humanbytes",
    "mem_rss",
    "memdump",
    "ps",
    "sample",
    "sample_mem",
)

T = TypeVar("T")

UNITS = ((2**40.0, "TB"), (2**30.0, "GB"), (2**20.0, "MB"), (2**10.0, "KB"), (0.0, "b"))

_mem_sample: list[str] = []
_process: Any = None


def _on_blocking(signum: int, frame: Any) -> None:
    where = "".join(traceback.format_stack(frame))
    raise RuntimeError(f"blocked in:\n{where}")


@contextmanager
def blockdetection(timeout: float) -> Iterator[None]:
    """Raise RuntimeError in the body if it takes more than *timeout* seconds; 0 means no limit."""
    if not timeout:
        yield
        return
    previous = signal.signal(signal.SIGALRM, _on_blocking)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous or signal.SIG_DFL)


def sample_mem() -> str | None:
    """Note the memory this process takes now, for `memdump`."""
    current = mem_rss()
    if current is not None:
        _mem_sample.append(current)
    return current


def memdump(samples: int = 10, file: TextIO | None = None) -> None:
    """
    Write some of what `sample_mem` noted, and forget it.

    Args:
        samples: Number of lines, taken evenly from all.
        file: Where to write; by default stdout.
    """
    out = file or sys.stdout
    if not _mem_sample:
        hint = "psutil is needed here" if mem_rss() is None else "memsample takes one"
        out.write(f"- rss: no sample was taken since the last call ({hint})\n")
        return
    taken = list(_mem_sample)
    _mem_sample.clear()
    out.write("- rss (sample):\n")
    for memory in sample(taken, samples):
        out.write(f"-    > {memory},\n")
    out.write(f"- rss (end): {taken[-1]}.\n")


def sample(x: Sequence[T], n: int, k: int = 0) -> Iterator[T]:
    """Yield *n* items of *x* at even distances, beginning at *k*."""
    step = max(len(x) // n, 1) if n else 1
    for _ in range(n):
        if k >= len(x):
            break
        yield x[k]
        k += step


def hfloat(f: float, p: int = 5) -> str:
    """Write a number with *p* digits, a whole one without fraction."""
    return str(int(f)) if f == int(f) else f"{f:.{p}g}"


def humanbytes(s: float) -> str:
    """Write a number of bytes in the largest unit that fits."""
    return next(f"{hfloat(s / size if size else s)}{unit}" for size, unit in UNITS if s >= size)


def mem_rss() -> str | None:
    """Return the memory this process takes, for people; None where neither psutil nor /proc is."""
    process = ps()
    used = process.memory_info().rss if process is not None else _rss_of_proc()
    return None if used is None else humanbytes(used)


def _rss_of_proc(path: str = "/proc/self/statm") -> int | None:
    """Return the resident memory in bytes, as Linux tells it."""
    try:
        with open(path) as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def ps() -> Any:
    """Return psutil's view of this process; None without psutil."""
    global _process  # noqa: PLW0603 - made once in each process
    # Every worker imports this module, and few ever ask.
    psutil = try_import("psutil")
    if psutil is None:
        return None
    if _process is None or _process.pid != os.getpid():
        _process = psutil.Process(os.getpid())
    return _process


def cry(out: StringIO | None = None, sepchr: str = "=", seplen: int = 49) -> str:
    """Return what each thread is doing, as text; *out* is where to write it first."""
    text = out or WhateverIO()
    threads = {thread.ident: thread for thread in threading.enumerate()}
    separator = sepchr * seplen
    for ident, frame in sys._current_frames().items():
        thread = threads.get(ident)
        if thread is None:
            continue  # it ended meanwhile, or is not of Python's making
        text.write(f"{thread.name}\n{separator}\n")
        text.write("".join(traceback.format_stack(frame)))
        text.write(f"{separator}\nLOCAL VARIABLES\n{separator}\n")
        text.write("".join(_locals_of(frame.f_locals.items())))
        text.write("\n\n")
    return text.getvalue()


def _locals_of(items: Iterable[tuple[str, Any]]) -> Iterator[str]:
    from celery.utils.saferepr import saferepr

    for name, value in items:
        yield f"{name} = {saferepr(value, 1000)}\n"
