"""What a request tells people and monitors: events, its line in the log, remote inspection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery._protocol import events
from celery.worker._fields import MessageFields

if TYPE_CHECKING:
    from datetime import datetime


class Announced(MessageFields):
    """Base of `celery.worker.request.Request`, which keeps the values."""

    __slots__ = ()

    if TYPE_CHECKING:
        time_start: float | None
        worker_pid: int | None
        acknowledged: bool
        _eventer: Any
        _eta: datetime | None
        _expires: datetime | None
        _hostname: str

    def send_event(self, type: Any, **fields: Any) -> None:
        """Send a task event, if events are on and the task does not decline."""
        eventer = self._eventer
        if eventer is None or not eventer.enabled:
            return
        groups = eventer.groups
        # Most workers send events of their own only.
        if (not groups or "task" in groups) and self._task.send_events:
            eventer.send(type, uuid=self.id, **fields)

    def _note_event(self, sketch: events.Sketch, *values: Any) -> None:
        """Do what `send_event` does, for an event that nearly every task has."""
        eventer = self._eventer
        if eventer is None or not eventer.enabled:
            return
        groups = eventer.groups
        if (not groups or "task" in groups) and self._task.send_events:
            note = getattr(eventer, "sketch", None)
            if note is None:
                eventer.send(sketch.type, **sketch.fields(*values))
            else:
                note(sketch, *values)

    def announce(self) -> None:
        """Send the event that the task was received."""
        eta, expires = self._eta, self._expires
        self._note_event(
            events.RECEIVED,
            self.id,
            self.name,
            self._request_dict,
            eta and eta.isoformat(),
            expires and expires.isoformat(),
        )

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what remote inspection shows.

        Args:
            safe: Show arguments as text rather than decoded.
        """
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.args,
            "kwargs": self.kwargsrepr if safe else self.kwargs,
            "type": self.type,
            "hostname": self._hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        """Return name and id as the log shows them."""
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        notes = [self.humaninfo()]
        if self._eta:
            notes.append(f"ETA:[{self._eta}]")
        if self._expires:
            notes.append(f"expires:[{self._expires}]")
        return " ".join(notes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()} {self.argsrepr} {self.kwargsrepr}>"
