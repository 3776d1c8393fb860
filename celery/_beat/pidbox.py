"""Remote control of beat: a mailbox that answers ``ping`` while the scheduler ticks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery._transport.capabilities import carries_broadcasts
from celery.utils.collections import AttributeDict
from celery.utils.log import get_logger
from celery.utils.time import humanize_seconds

if TYPE_CHECKING:
    from celery.beat import Service

logger = get_logger("celery.beat")


class BeatPidbox:
    """
    Answers the remote command ``ping``, in a thread with a connection of its own.

    A beat that hangs stays silent: whether the scheduler ticks is what the question is about.

    Args:
        service: Whose ticks count.
    """

    #: Seconds before trying to connect again.
    retry_interval = 5.0
    #: Seconds to wait for the thread to end.
    join_timeout = 3.0
    #: Seconds that a tick may take in any case.
    min_tick_age = 60.0

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = service.app
        self.hostname = service.hostname
        self.state = AttributeDict(app=self.app, hostname=self.hostname)
        self.node = self.app.control.mailbox.Node(
            self.hostname, handlers={"ping": self._ping}, state=self.state
        )
        self.thread: threading.Thread | None = None
        self.first_connection_attempt = True
        self._stop_requested = threading.Event()

    @staticmethod
    def _ping(state: Any, **kwargs: Any) -> dict[str, str]:
        return {"ok": "pong"}

    @property
    def max_tick_age(self) -> float:
        """Seconds since the last tick after which we are silent; 0 for never."""
        configured = self.app.conf.beat_remote_control_max_tick_age
        if configured is not None:
            return float(configured)
        return max(2 * self.service.effective_max_interval, self.min_tick_age)

    def tick_age(self) -> float:
        """Return the seconds since the last tick."""
        return time.monotonic() - self.service.last_tick_at

    def is_stale(self) -> bool:
        """Say whether the scheduler seems to hang."""
        limit = self.max_tick_age
        return bool(limit) and self.tick_age() > limit

    def on_message(self, body: Any, message: Any) -> None:
        """Answer a ``ping``; other commands are for workers."""
        self.app.clock.forward()
        if not isinstance(body, Mapping) or body.get("method") != "ping":
            return
        if self.is_stale():
            logger.warning(
                "beat pidbox: not answering ping, for the last tick was %s ago",
                humanize_seconds(self.tick_age()),
            )
            return
        try:
            self.node.handle_message(body, message)
        except Exception:
            logger.exception("beat pidbox: cannot answer ping")

    def fanout_support(self) -> bool:
        """Say whether the broker can send one message to many, as remote control needs."""
        with self.app.connection_for_read() as connection:
            return carries_broadcasts(connection)

    def start(self) -> None:
        """Start the thread."""
        if self.thread is not None:
            return
        if not self.fanout_support():
            logger.warning("beat pidbox: this broker has no remote control")
            return
        self.thread = threading.Thread(target=self._run, name="beat-pidbox", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread; harmless twice, or before `start`."""
        self._stop_requested.set()
        thread, self.thread = self.thread, None
        if thread is not None:
            thread.join(self.join_timeout)

    def _run(self) -> None:
        while not self._stop_requested.is_set():
            try:
                self._listen()
            except Exception as exc:  # noqa: BLE001 - the border of a thread
                logger.error("beat pidbox: lost the broker: %r", exc)  # noqa: TRY400 - expected
                self._stop_requested.wait(self.retry_interval)

    def _listen(self) -> None:
        with self.app.connection_for_read() as connection:
            connection.connect()
            self.first_connection_attempt = False
            logger.info("beat pidbox: Connected to %s.", connection.as_uri())
            self.node.channel = connection.channel()
            consumer = self.node.listen(callback=self.on_message)
            try:
                while not self._stop_requested.is_set():
                    try:
                        connection.drain_events(timeout=1.0)
                    except TimeoutError:
                        connection.heartbeat_check()
            finally:
                consumer.cancel()
                self.node.channel = None


BeatPidbox.__module__ = "celery.beat"
