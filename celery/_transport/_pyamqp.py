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
    from amqp.transport import SSLTransport as TlsSocket
    from amqp.transport import TCPTransport as TcpSocket
    from kombu.transport.pyamqp import Channel as KombuChannel
    from kombu.transport.pyamqp import Connection as KombuConnection
    from kombu.transport.pyamqp import Message as KombuMessage
    from kombu.transport.pyamqp import SSLTransport as KombuTlsTransport
    from kombu.transport.pyamqp import Transport as KombuTransport
