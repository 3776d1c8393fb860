"""Stores that are spoken to over HTTP with requests: no call may last for ever."""

from __future__ import annotations

from functools import partial
from typing import Any

import requests

#: Seconds for a connection, and for each part of an answer.
TIMEOUTS_S = (10, 30)


#: What a server answers that may answer otherwise soon.
PASSING = frozenset({408, 429, 500, 502, 503, 504})


class RefusedError(OSError):
    """A server answered that it did not do what it was asked for.

    Args:
        status: Status of the answer.
        what: What it was asked for, and what it says.
    """

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"{what} (HTTP {status})")
        self.status = status


def bound(session: Any) -> Any:
    """Let each request of *session* end in time, also where a driver names no time."""
    session.request = partial(session.request, timeout=TIMEOUTS_S)
    return session


def is_passing(exc: BaseException) -> bool:
    """Say whether a request that failed with *exc* may succeed another time."""
    if isinstance(exc, RefusedError):
        return exc.status in PASSING
    return isinstance(exc, (requests.ConnectionError, requests.Timeout))
