"""Pyro as a broker: kombu's transport, with the name that an empty queue has today."""

from __future__ import annotations

from queue import Empty
from typing import TYPE_CHECKING, Any, TypeAlias

from celery.local import try_import

if TYPE_CHECKING:
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.pyro import Transport as KombuTransport

__all__ = ("Transport",)

Pyro4: Any = try_import("Pyro4")

if Pyro4 is not None:
    # kombu knows "queue.Empty", its name of long ago: a worker that looked into a queue which
    # another had emptied meanwhile took that for a lost connection.
    Pyro4.util.SerializerBase.register_dict_to_class(
        f"{Empty.__module__}.{Empty.__qualname__}", lambda name, data: Empty()
    )


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Messages in the memory of one process, which the others call."""
