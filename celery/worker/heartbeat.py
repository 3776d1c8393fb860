"""The worker's sign of life: an event every few seconds (not the broker's heartbeats)."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import heartbeat_sent
from celery.worker import state

__all__ = ("Heart",)

#: Seconds between two heartbeats unless said otherwise.
DEFAULT_INTERVAL = 2.0


class Heart:
    """Sends ``worker-online``, then ``worker-heartbeat`` now and then, then ``worker-offline``.

    It beats while the event dispatcher is enabled, and stops and starts with it.

    Args:
        timer: Where the beats are scheduled.
        eventer: The event dispatcher.
        interval: Seconds between two beats; None or 0 for 2.
    """

    def __init__(self, timer: Any, eventer: Any, interval: float | None = None) -> None:
        self.timer = timer
        self.eventer = eventer
        self.interval = float(interval or DEFAULT_INTERVAL)
        self.tref: Any = None
        eventer.on_enabled.add(self.start)
        eventer.on_disabled.add(self.stop)

    def start(self) -> None:
        """Announce the worker and begin to beat, if events are enabled."""
        if self.eventer.enabled and self.tref is None:
            self._send("worker-online")
            self.tref = self.timer.call_repeatedly(self.interval, self._send, ("worker-heartbeat",))

    def stop(self) -> None:
        """Stop beating and say good-bye; harmless when not started."""
        tref, self.tref = self.tref, None
        if tref is not None:
            self.timer.cancel(tref)
            if self.eventer.enabled:
                self._send("worker-offline")

    def _send(self, event: str) -> Any:
        heartbeat_sent.send(sender=self)
        # Not tried again: that would hold up the loop, which has yet to see that the broker is
        # gone, until it is back.
        return self.eventer.send(
            event,
            freq=self.interval,
            active=len(state.active_requests),
            processed=state.all_total_count[0],
            loadavg=_load_average(),
            retry=False,
            **state.SOFTWARE_INFO,
        )


def _load_average() -> list[float]:
    """Return the load of 1, 5 and 15 minutes, in hundredths; zeros where it can't be told."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (AttributeError, OSError):
        return [0.0, 0.0, 0.0]
