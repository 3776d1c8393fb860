"""Waiting for the connections of a Redis transport, with an event loop or without.

Each turn begins with `Poller.on_poll_start`, which sends what is due; then all connections are
waited for together: those of claims, those that hear broadcasts, and those on which kombu's code
pops.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any

from kombu.utils.eventio import READ

from celery._transport._kombu import KombuPoller

if TYPE_CHECKING:
    from celery._transport._redis_broadcasts import Subscriptions
    from celery._transport._redis_claims import Claims

__all__ = ("HEALTH_S", "Poller", "Tick")

#: Seconds between looks at connections that may be half open.
HEALTH_S = 1.0
#: Attributes with entries in the timer of an event loop, kombu's and ours. They would outlive
#: their connection, one set more after each reconnect.
TIMERS = (
    "_restore_messages_tref",
    "_subclient_health_tref",
    "_brpop_health_tref",
    "_reauth_tref",
    "_binding_expiry_tref",
    "_claims_health_tref",
)


class Poller(KombuPoller):  # type: ignore[misc]  # kombu's, untyped
    """Waits for all connections of a transport: ours, and those of kombu's code."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[Claims] = []
        #: Calls for descriptors of claims and subscriptions.
        self.watches: dict[int, Callable[[], Any]] = {}
        #: The event loop, None without.
        self.hub: Any = None
        self.tick: Any = None
        #: Whether any channel has begun or ceased to consume.
        self.consumers_changed = True
        #: What channels hear of broadcasts, of those that listen to any.
        self._subscriptions: list[Subscriptions] = []
        self._popping: list[Any] = []

    def on_new_claims(self, claims: Claims) -> None:
        """Care for the claims of one more channel."""
        self.claims.append(claims)
        hub = self.hub
        if hub is not None:
            self.use_loop(claims, hub)

    def use_loop(self, claims: Claims, hub: Any) -> None:
        """Let *claims* be called again by *hub* when they want to."""
        claims.watches_changed = True
        claims.call_later = lambda delay_s: hub.call_later(delay_s, claims.on_woken)
        claims.nudge = self._nudge

    def _nudge(self) -> None:
        """Have the loop notice a timer that was set in its tick, see `Tick`."""
        if self.tick is not None and self.tick.is_running:
            self.tick.wakes_loop = True

    def discard(self, channel: Any) -> None:
        """Forget a channel."""
        self.consumers_changed = True
        super().discard(channel)
        self.claims = [claims for claims in self.claims if claims.channel is not channel]
        self._subscriptions = [each for each in self._subscriptions if each.channel is not channel]
        self._watch()

    def close(self) -> None:
        """Forget everything."""
        if self.hub is not None:
            self.hub.on_tick.discard(self.tick)
            self.tick.close()
        for name in TIMERS:
            entry = getattr(self, name, None)
            if entry is not None:
                entry.cancel()
        self.claims.clear()
        self._subscriptions.clear()
        self._watch()
        super().close()

    def on_poll_start(self) -> None:
        """Send what is due, and see to it that answers are noticed."""
        changed = self.consumers_changed
        if changed:
            self._sort_channels()
        for claims in self.claims:
            if claims.ready and self.hub is not None:
                claims.deliver()
            claims.pump()
            changed = changed or claims.watches_changed
        for subscriptions in self._subscriptions:
            subscriptions.pump()
            changed = changed or subscriptions.watches_changed
        if changed:
            self._watch()
        if self._popping:
            self._update_brpop_polling()
            for channel in self._popping:
                if channel.qos.can_consume():
                    self._register_BRPOP(channel)

    def _sort_channels(self) -> None:
        """Note which channels hear broadcasts, and for which kombu's code consumes."""
        self.consumers_changed = False
        self._subscriptions = [
            channel.subscriptions for channel in self._channels if channel.active_fanout_queues
        ]
        self._popping = [channel for channel in self._channels if channel.active_queues]

    def _all(self) -> list[Claims | Subscriptions]:
        return [*self.claims, *self._subscriptions]

    def _watch(self) -> None:
        wanted: dict[int, Callable[[], Any]] = {}
        for each in self._all():
            wanted |= each.watches()
        known = self.watches
        self.watches = wanted
        for fd in known.keys() - wanted.keys():
            try:
                self._unregister_from_poll(fd)
            except (KeyError, ValueError, OSError):
                # Closed already, which ends polling as well.
                continue
        for fd in wanted:
            # Also if known: the number may stand for another connection by now.
            if self.hub is not None:
                self.hub.add_reader(fd, wanted[fd])
            else:
                self.poller.register(fd, self.eventflags)

    def maybe_restore_messages(self) -> None:
        """Leave that to the threads of leases, unless there is none."""
        if not self.claims:
            super().maybe_restore_messages()

    def on_poll_init(self, poller: Any) -> None:
        """Poll with *poller*."""
        self.poller = poller

    def check_health(self) -> None:
        """Raise for a server that owes an answer to any of the claims."""
        now = monotonic()
        for each in self._all():
            each.check_health(now)

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for one message and deliver it.

        Raises:
            Empty: There was none within *timeout*, or within a second.
        """
        end = monotonic() + (HEALTH_S if timeout is None else min(timeout, HEALTH_S))
        self._in_protected_read = True
        try:
            self.maybe_refresh_binding_expiry()
            while True:
                if any(claims.deliver_one() for claims in self.claims):
                    return
                self.on_poll_start()
                if self._wait_once(max(end - monotonic(), 0.0)):
                    return
                if monotonic() >= end and not any(claims.ready for claims in self.claims):
                    self.check_health()
                    self.maybe_check_brpop_health()
                    self.maybe_restore_messages()
                    raise Empty
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()

    def _wait_once(self, timeout: float) -> bool:
        """Poll once; True if something was delivered, other than by claims."""
        pauses = [claims.pause_s for claims in self.claims if claims.pause_s is not None]
        delivered = False
        for fd, event in self.poller.poll(min([timeout, *pauses])) or ():
            call = self.watches.get(fd)
            if call is not None:
                delivered = bool(call()) or delivered
                continue
            known = self._fd_to_chan.get(fd)
            if known is None or fd in self._paused_brpop:
                continue
            channel, kind = known
            if not event & READ:
                channel._poll_error(kind)
            elif channel.qos.can_consume():
                try:
                    delivered = bool(channel.handlers[kind]()) or delivered
                except Empty:
                    continue
            else:
                self.on_readable(fd)
        return delivered


class Tick:
    """What is done in every turn of an event loop, for one transport.

    The loop has settled by then how long it will wait, so a timer that is set in a tick would
    come too late. A byte in a pipe ends the wait.
    """

    def __init__(self, cycle: Poller, hub: Any, on_readable: Callable[[int], None]) -> None:
        self.cycle = cycle
        self.hub = hub
        self.on_readable = on_readable
        self.is_running = False
        #: Whether this turn has set a timer.
        self.wakes_loop = False
        self._known: dict[int, Any] = {}
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        hub.add_reader(self._wake_out, self._on_woken)

    def __call__(self) -> None:
        cycle = self.cycle
        self.is_running = True
        try:
            cycle.on_poll_start()
        finally:
            self.is_running = False
        if self.wakes_loop:
            self.wakes_loop = False
            os.write(self._wake_in, b"!")
        if cycle._fd_to_chan != self._known:
            self._known = dict(cycle._fd_to_chan)
            for fd in cycle.fds:
                self.hub.add_reader(fd, self.on_readable, fd)

    def _on_woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_out, 64)

    def close(self) -> None:
        """Close the pipe; harmless twice."""
        fds, self._wake_out, self._wake_in = (self._wake_out, self._wake_in), -1, -1
        if fds[0] >= 0:
            self.hub.remove_reader(fds[0])
            for fd in fds:
                os.close(fd)
