"""The shortest way of a finished task message to the broker.

An `Outlet` belongs to one channel. It turns one message of a kind into a template, fills in what
differs, and writes the bytes to the connection. kombu's producers do the same in many more steps,
and for every transport; who finds no outlet for a channel uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kombu.messaging import Producer

from celery._protocol.template import Unfit

__all__ = ("Outlet", "Template", "outlet_of")

#: Options of `basic_publish` that nearly nobody uses.
_UNUSUAL = ("mandatory", "immediate", "timeout")


class Template(Protocol):
    """How an outlet writes messages of one kind."""

    def fill(self, values: Any, body: str) -> Any:
        """Return what `Outlet.send` takes for a message: bytes, where there is a server.

        Args:
            values: `celery._protocol.template.Blanks`.
            body: Serialized, ASCII.

        Raises:
            celery._protocol.template.Unfit: It does not fit.
        """
        ...


class Outlet(Protocol):
    """Sends finished messages through one channel."""

    #: The channel that it belongs to.
    channel: Any
    #: Templates of outlets whose keys are equal are interchangeable.
    key: Any

    @property
    def is_open(self) -> bool:
        """Whether messages may go this way now."""
        ...

    def template(self, message: Any, exchange: str, routing_key: str) -> Template:
        """Return how to write messages like *message*.

        Args:
            message: As the channel prepares it for `basic_publish`, with marks.

        Raises:
            celery._protocol.template.Unfit: That can't be done here.
        """
        ...

    def send(self, messages: Sequence[Any], confirm_timeout: float | None = None) -> None:
        """Send messages with one write.

        Args:
            confirm_timeout: Seconds to wait for the broker to confirm that it has them, where
                sending alone does not say so; None for not at all.

        Raises:
            Exception: As the channel raises when it can't publish.
        """
        ...


class Sample:
    """Stands in for a channel, to see what a producer would publish through it."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def basic_publish(self, message: Any, **options: Any) -> None:
        """Note the message instead of publishing it."""
        if any(options.get(name) for name in _UNUSUAL):
            raise Unfit("an option of publishing that templates don't know")
        self.message = message
        self.exchange = options["exchange"]
        self.routing_key = options["routing_key"]

    def template(self, outlet: Outlet, body: str, options: dict[str, Any]) -> Template:
        """Return how *outlet* writes what a producer would send."""
        producer: Any = Producer(self, auto_declare=False)
        producer.publish(body, **options)
        return outlet.template(self.message, self.exchange, self.routing_key)


def outlet_of(channel: Any) -> Outlet | None:
    """Return the outlet of *channel*, made at the first call; None where there is none."""
    try:
        known: Outlet | None = channel._outlet
    except AttributeError:
        known = channel._outlet = _new_outlet(channel)
    return known


def _new_outlet(channel: Any) -> Outlet | None:
    make = getattr(channel, "new_outlet", None)
    made: Outlet | None = None if make is None else make()
    return made
