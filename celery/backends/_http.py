"""Stores that are spoken to over HTTP with requests: no call may last for ever."""

from __future__ import annotations

from functools import partial
from typing import Any

import requests

#: Seconds for a connection, and for each part of an answer.
TIMEOUTS_S = (10, 30)


def bound(session: Any) -> Any:
    """Let each request of *session* end in time, also where a driver names no time."""
    session.request = partial(session.request, timeout=TIMEOUTS_S)
    return session


def is_passing(exc: BaseException) -> bool:
    """Say whether a request that failed with *exc* may succeed another time."""
    return isinstance(exc, (requests.ConnectionError, requests.Timeout))
