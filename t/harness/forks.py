"""Forked children of the process that runs the tests.

Drivers of other tests have left threads and connections in that process. A child has none of those
threads, so whatever waits for one of them there waits for ever: what was inherited must not be
collected in it, as the pool's own children see to.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from t.harness.servers import wait_until

#: Seconds that a child may take.
PATIENCE_S = 120.0


@contextmanager
def forked(body: Callable[[], object]) -> Iterator[int]:
    """Run *body* in a child, beside the block of the statement; yields the process id.

    Raises:
        AssertionError: The child failed or did not end; what it did then is on standard error.
    """
    pid = os.fork()
    if pid == 0:
        _live(body)
    try:
        yield pid
    finally:
        status = _status_of(pid)
    assert status == 0, f"a forked child ended with {status}"


def _live(body: Callable[[], object]) -> None:
    gc.freeze()
    # For the signal to one that does not end, and for a crash.
    faulthandler.enable(sys.__stderr__ or 2, all_threads=True)
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _status_of(pid: int) -> int:
    """Wait for a child and return its exit status, negative for a signal."""
    found: list[int] = []

    def has_ended() -> bool:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append(status)
        return bool(ended)

    try:
        wait_until(has_ended, "a forked child", PATIENCE_S)
    except TimeoutError:
        os.kill(pid, signal.SIGABRT)
        found.append(os.waitpid(pid, 0)[1])
    return os.waitstatus_to_exitcode(found[0])
