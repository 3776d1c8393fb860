"""The classes of kombu that ours derive from, whose methods carry no types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = (
    "KombuChannel",
    "KombuMessage",
    "KombuPoller",
    "KombuSentinelChannel",
    "KombuSentinelTransport",
    "KombuTransport",
)

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuMessage: TypeAlias = Any
    KombuPoller: TypeAlias = Any
    KombuSentinelChannel: TypeAlias = Any
    KombuSentinelTransport: TypeAlias = Any
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.redis import (
        Channel as KombuChannel,
        MultiChannelPoller as KombuPoller,
        SentinelChannel as KombuSentinelChannel,
        SentinelTransport as KombuSentinelTransport,
        Transport as KombuTransport,
    )
    from kombu.transport.virtual import Message as KombuMessage
