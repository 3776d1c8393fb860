"""Printing events as lines of text: ``celery events --dump``."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import UTC, datetime
from time import sleep
from typing import IO, TYPE_CHECKING, Any

from kombu.utils.functional import LRUCache

from celery import _state
from celery._protocol import events as wire

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Dumper", "evdump")

#: How tasks were called, by id: only their first event says so.
TASK_NAMES = LRUCache(limit=0xFFF)

HUMAN_TYPES = {
    "worker-offline": "shutdown",
    "worker-online": "started",
    "worker-heartbeat": "heartbeat",
}

#: Seconds until a broker is asked again that has refused something.
REFUSED_S = 1.0

CONNECTION_ERROR = "-> Cannot connect to %s: %s. Trying again %s"

_NAMING = ("task-received", "task-sent")


def humanize_type(type: str) -> str:
    """Return an event type in words."""
    kind = type.lower()
    return HUMAN_TYPES.get(kind) or kind.replace("-", " ")


def _listed(event: dict[str, Any]) -> str:
    return ", ".join(f"{name}={event[name]}" for name in sorted(event))


class Dumper:
    """Writes events to a file."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self.out = sys.stdout if out is None else out

    def say(self, msg: str) -> None:
        """Write one line; it shows at once."""
        print(msg, file=self.out, flush=True)

    def on_event(self, ev: dict[str, Any]) -> None:
        """Write one event; its fields are used up."""
        timestamp = datetime.fromtimestamp(ev.pop("timestamp"), UTC)
        kind = ev.pop("type").lower()
        hostname = ev.pop("hostname")
        if wire.group_of(kind) != wire.TASK_GROUP:
            self._line(hostname, timestamp, kind, _listed(ev))
            return
        uuid = ev.pop("uuid")
        if kind in _NAMING:
            name, args, kwargs = ev.pop("name"), ev.pop("args", None), ev.pop("kwargs", None)
            TASK_NAMES[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
        task = TASK_NAMES.get(uuid) or f"({uuid})"
        self.format_task_event(hostname, timestamp, kind, task, ev)

    def format_task_event(
        self,
        hostname: str,
        timestamp: datetime,
        type: str,
        task: str,
        event: dict[str, Any],
    ) -> None:
        """Write the event of a task; *task* says how it was called."""
        self._line(hostname, timestamp, type, f"{task} {_listed(event)}".rstrip())

    def _line(self, hostname: str, timestamp: datetime, kind: str, rest: str) -> None:
        colon = ": " if rest else ""
        self.say(f"{hostname} [{timestamp}] {humanize_type(kind)}{colon}{rest}")


def evdump(app: Celery | None = None, out: IO[str] | None = None) -> None:
    """Write all events to *out* until interrupted; comes back after a lost connection.

    Raises:
        Exception: That of the broker's driver, when the broker refuses the first connection.
    """
    app = _state.app_or_default(app)
    dumper = Dumper(out=out)
    dumper.say("-> evdump: starting capture...")
    was_connected = False
    # An interrupt is the way to leave.
    with suppress(KeyboardInterrupt, SystemExit), app.connection_for_read() as connection:

        def tell(exc: BaseException, interval: float) -> None:
            again = f"in {interval} seconds..." if interval else "..."
            url = connection.as_uri()
            # Some transports name the broker themselves.
            why = str(exc).removeprefix(f"{url}: ").rstrip(".")
            dumper.say(CONNECTION_ERROR % (url, why, again))

        while True:
            try:
                connection.ensure_connection(tell)
                was_connected = True
                receiver = app.events.Receiver(connection, handlers={"*": dumper.on_event})
                receiver.capture()
            except connection.connection_errors + connection.channel_errors as exc:
                if not was_connected:
                    raise
                dumper.say(f"-> Connection lost ({exc!r}), attempting reconnect")
                connection.close()
                if not isinstance(exc, connection.recoverable_connection_errors):
                    # It would be refused again at once.
                    sleep(REFUSED_S)
