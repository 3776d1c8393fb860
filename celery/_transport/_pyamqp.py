"""The classes of kombu and py-amqp that ours derive from, whose methods carry no types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

__all__ = (
    "KombuChannel",
    "KombuConnection",
    "KombuMessage",
    "KombuTlsTransport",
    "KombuTransport",
    "TcpSocket",
    "TlsSocket",
)

if TYPE_CHECKING:
    KombuChannel: TypeAlias = Any
    KombuConnection: TypeAlias = Any
    KombuMessage: TypeAlias = Any
    KombuTlsTransport: TypeAlias = Any
    KombuTransport: TypeAlias = Any
    TcpSocket: TypeAlias = Any
    TlsSocket: TypeAlias = Any
else:
    from amqp.transport import SSLTransport as TlsSocket, TCPTransport as TcpSocket
    from kombu.transport.pyamqp import (
        Channel as KombuChannel,
        Connection as KombuConnection,
        Message as KombuMessage,
        SSLTransport as KombuTlsTransport,
        Transport as KombuTransport,
    )
