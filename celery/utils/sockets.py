"""Looking at sockets without reading from them."""

from __future__ import annotations

import select
from typing import Any

__all__ = ("has_data",)


def has_data(sock: Any) -> bool:
    """Say whether a read from *sock* would return at once: with data, or at the end of it.

    Raises:
        OSError: It is closed.
        ValueError: The same, on some systems.
    """
    pending = getattr(sock, "pending", None)
    if pending is not None and pending():
        return True
    # Looked up late: gevent and eventlet replace the module's content, and eventlet has no poll.
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
