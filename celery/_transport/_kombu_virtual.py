"""The classes of kombu's virtual transports, whose methods carry no types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = ("KombuMessage", "KombuQoS", "KombuVirtualChannel", "KombuVirtualTransport")

if TYPE_CHECKING:
    KombuMessage: TypeAlias = Any
    KombuQoS: TypeAlias = Any
    KombuVirtualChannel: TypeAlias = Any
    KombuVirtualTransport: TypeAlias = Any
else:
    from kombu.transport.virtual import (
        Channel as KombuVirtualChannel,
        Message as KombuMessage,
        QoS as KombuQoS,
        Transport as KombuVirtualTransport,
    )
