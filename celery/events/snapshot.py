"""
Snapshots: handing a picture of the cluster to a camera every few seconds.

A camera subclasses :class:`Polaroid` and overrides :meth:`Polaroid.on_shutter`; it may store what
it sees anywhere. ``celery events --camera`` runs one.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from kombu.utils.limits import TokenBucket

from celery import _state, platforms
from celery.utils import log, timer2
from celery.utils.dispatch import Signal
from celery.utils.imports import instantiate
from celery.utils.time import rate

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.events.state import State

__all__ = ("Polaroid", "evcam")

logger = log.get_logger("celery.evcam")


class Polaroid:
    """
    Takes pictures of a state at an interval.

    Args:
        state: What to take pictures of.
        freq: Seconds between pictures.
        maxrate: Rate limit of pictures, as in ``10/m``.
        cleanup_freq: Seconds between calls of :meth:`on_cleanup`.
        timer: Runs the calls; one with a thread of its own by default.
    """

    timer: Any = None
    #: Sent with the state as sender when a picture is taken.
    shutter_signal = Signal(name="shutter_signal", providing_args={"state"})
    #: Sent when it is time to remove old pictures.
    cleanup_signal = Signal(name="cleanup_signal")
    #: Forget finished tasks after each picture.
    clear_after = False

    _tref: Any = None
    _ctref: Any = None

    def __init__(
        self,
        state: State,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Celery | None = None,
    ) -> None:
        self.app = _state.app_or_default(app)
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.timer = timer or self.timer or timer2.Timer()
        self.logger = logger
        self.maxrate = TokenBucket(rate(maxrate)) if maxrate else None

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.cancel()

    def install(self) -> None:
        """Start taking pictures."""
        self._tref = self.timer.call_repeatedly(self.freq, self.capture)
        self._ctref = self.timer.call_repeatedly(self.cleanup_freq, self.cleanup)

    def cancel(self) -> None:
        """Take no more pictures; harmless twice."""
        entries, self._tref, self._ctref = (self._tref, self._ctref), None, None
        for entry in entries:
            if entry is not None:
                entry.cancel()

    def on_shutter(self, state: State) -> None:
        """Store a picture; no event is merged meanwhile. For subclasses."""

    def on_cleanup(self) -> None:
        """Remove old pictures. For subclasses."""

    def shutter(self) -> None:
        """Take a picture now, unless that were too many."""
        if self.maxrate is not None and not self.maxrate.can_consume():
            return
        self._announce(self.shutter_signal, "Shutter: %s", self.state)
        self.on_shutter(self.state)

    def cleanup(self) -> None:
        """Announce and do the removal of old pictures."""
        self._announce(self.cleanup_signal, "Cleanup: Running...")
        self.on_cleanup()

    def _announce(self, signal: Signal, text: str, *args: Any) -> None:
        self.logger.debug(text, *args)
        signal.send(sender=self.state)

    def capture(self) -> None:
        """Take a picture while the state stands still, and clear it if so configured."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)


def evcam(
    camera: str | type[Polaroid],
    freq: float = 1.0,
    maxrate: str | float | None = None,
    loglevel: int | str = 0,
    logfile: str | None = None,
    pidfile: str | None = None,
    timer: Any = None,
    app: Celery | None = None,
    **kwargs: Any,
) -> None:
    """
    Run a camera until the program is stopped.

    Args:
        camera: Class of the camera, or its path.
        freq: Seconds between pictures.
        maxrate: Rate limit of pictures.
        loglevel: Least level that is logged.
    """
    app = _state.app_or_default(app)
    if pidfile:
        platforms.create_pidlock(pidfile)
    app.log.setup(loglevel, logfile)
    logger.info("-> evcam: Taking snapshots with %s (every %s secs.)", camera, freq)
    state = app.events.State()
    taker = instantiate(camera, state, app=app, freq=freq, maxrate=maxrate, timer=timer)
    with app.connection_for_read() as connection, taker:
        receiver = app.events.Receiver(connection, app=app, handlers={"*": state.event})
        try:
            receiver.capture(limit=None)
        except KeyboardInterrupt as exc:
            raise SystemExit from exc
