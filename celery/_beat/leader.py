"""
The election: which of the beats with one store sends.

Clocks are not compared.  Whoever wants to send watches the lease; when it has not changed for a
while on the watcher's own clock, its owner counts as dead and the watcher takes its place.  Of
several, the store lets one.  The owner of the lease changes it three times within that while.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery._beat.store import OWNERS_HERE, Fenced, Lease, Run, Store
from celery.utils.log import get_logger

__all__ = ("Leader", "may_take")

logger = get_logger("celery.beat")


def may_take(lease: Lease, unchanged_s: float, lease_s: float, owner_is_gone: bool) -> bool:
    """
    Say whether to take the place of the sender.

    Args:
        lease: As it is.
        unchanged_s: Seconds since it was first seen to be so.
        lease_s: Seconds that the sender may be silent.
        owner_is_gone: It is known to have ended.
    """
    return not lease.owner or owner_is_gone or unchanged_s >= lease_s


class Leader:
    """
    Takes part in the election, and writes to the store when it is won.

    Args:
        store: It is open.
        clock: Seconds that only grow.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.owner = f"{os.getpid()}@{platform.node()}/{secrets.token_hex(4)}"
        OWNERS_HERE.add(self.owner)
        #: While we send.
        self.fence: int | None = None
        #: Changes when entries were changed at run time.
        self.revision = 0
        self._clock = clock
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._look_at = 0.0

    @property
    def leads(self) -> bool:
        """Whether we send, as far as is known."""
        return self.fence is not None

    @property
    def look_s(self) -> float:
        """Seconds until the next look at the store."""
        return max(self._look_at - self._clock(), 0.0)

    def look(self) -> bool:
        """Renew the lease or try to get it, if it is time to; say whether we send."""
        now = self._clock()
        if now >= self._look_at:
            try:
                if self.fence is None:
                    self._watch(now)
                else:
                    self.revision = self.store.renew(self.fence)
            except Fenced:
                self._deposed()
            self._look_at = now + (self.store.lease_s / 3 if self.leads else self.store.look_s)
        return self.leads

    def _watch(self, now: float) -> None:
        lease = self.store.lease()
        if lease != self._seen:
            if lease.owner and (self._seen is None or lease.fence != self._seen.fence):
                logger.info("beat: Standing by, for %s sends (%s)", lease.owner, self.store.info)
            self._seen, self._seen_at = lease, now
        gone = bool(lease.owner) and self.store.is_gone(lease.owner)
        if may_take(lease, now - self._seen_at, self.store.lease_s, gone):
            self.fence = self.store.take(lease, self.owner)
        if self.fence is not None:
            self.revision = lease.revision
            self._seen = None
            logger.info("beat: This one sends (%s, %s)", self.owner, self.store.info)

    def _deposed(self) -> None:
        logger.warning("beat: Another one sends now (%s)", self.store.info)
        self.fence = None
        self._look_at = 0.0

    def resign(self) -> None:
        """Let another one send; harmless if one does."""
        fence, self.fence = self.fence, None
        if fence is not None:
            self.store.release(fence)

    # -- what only the sender writes; each raises `Fenced` when that is another by now

    def _checked(self, write: Callable[..., Any], *args: Any) -> Any:
        if self.fence is None:
            raise Fenced("another beat sends")
        try:
            return write(self.fence, *args)
        except Fenced:
            self._deposed()
            raise

    def claim(self, runs: Mapping[str, Run], sent: Mapping[str, int]) -> int:
        """See `Store.claim`."""
        tick: int = self._checked(self.store.claim, runs, sent)
        return tick

    def settle(self, sent: Mapping[str, int]) -> None:
        """See `Store.settle`."""
        self._checked(self.store.settle, sent)

    def save(self, runs: Mapping[str, Run], gone: set[str], notes: Mapping[str, Any]) -> None:
        """See `Store.save`."""
        self._checked(self.store.save, runs, gone, notes)
