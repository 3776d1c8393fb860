"""The file system as a broker: kombu's transport, without queues that nobody reads any more.

Folders are brokers of their own: what is known to be bound in one is not taken for bound in others.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

from kombu.transport.virtual import BrokerState

from celery._transport._temporary import TemporaryQueues

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.filesystem import Channel as KombuChannel, Transport as KombuTransport

__all__ = ("Channel", "Transport")


#: What this process knows of the exchanges and bindings of each broker, by its control folder.
_states: defaultdict[str, BrokerState] = defaultdict(BrokerState)


class Channel(TemporaryQueues, KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel that deletes its temporary queues."""


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Messages as files, with such channels."""

    Channel = Channel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        folder = client.transport_options.get("control_folder", "control")
        self.state = _states[os.path.abspath(folder)]
