"""Events as an app offers them: its classes of dispatcher, receiver and state (``app.events``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.events.dispatcher import EventDispatcher
    from celery.events.receiver import EventReceiver
    from celery.events.state import State

__all__ = ("Events",)


class Events:
    """Classes of this app for events, and a dispatcher over its pool of producers."""

    receiver_cls = "celery.events.receiver:EventReceiver"
    dispatcher_cls = "celery.events.dispatcher:EventDispatcher"
    state_cls = "celery.events.state:State"

    def __init__(self, app: Celery | None = None) -> None:
        self.app: Any = app

    @cached_property
    def Receiver(self) -> type[EventReceiver]:
        """The class of receivers, bound to the app."""
        bound: type[EventReceiver] = self._bound(self.receiver_cls, "Receiver")
        return bound

    @cached_property
    def Dispatcher(self) -> type[EventDispatcher]:
        """The class of dispatchers, bound to the app."""
        bound: type[EventDispatcher] = self._bound(self.dispatcher_cls, "Dispatcher")
        return bound

    @cached_property
    def State(self) -> type[State]:
        """The class of pictures of the cluster, bound to the app."""
        bound: type[State] = self._bound(self.state_cls, "State")
        return bound

    def _bound(self, path: str, name: str) -> Any:
        return self.app.subclass_with_self(path, reverse=f"events.{name}")

    @cached_property
    def _default_dispatcher(self) -> EventDispatcher:
        return self.Dispatcher(enabled=False)

    def default_dispatcher_for_publish(self) -> EventDispatcher:
        """Return the dispatcher of clients, whose ``publish`` goes through a given producer."""
        return self._default_dispatcher

    @contextmanager
    def default_dispatcher(
        self,
        hostname: str | None = None,
        enabled: bool = True,
        buffer_while_offline: bool = False,
    ) -> Iterator[EventDispatcher]:
        """Lend a dispatcher that uses a connection of the app's pool of producers."""
        with (
            self.app.amqp.producer_pool.acquire(block=True) as producer,
            self.Dispatcher(
                producer.connection, hostname, enabled, producer.channel, buffer_while_offline
            ) as dispatcher,
        ):
            yield dispatcher
