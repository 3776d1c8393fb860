"""Google Pub/Sub as a broker: kombu's transport, which ends when it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    KombuTransport: TypeAlias = Any
else:
    from kombu.transport.gcpubsub import Transport as KombuTransport

__all__ = ("Transport",)

#: Seconds that one question for messages takes where there are none. Python waits for the threads
#: that ask before it ends.
ASK_S = 1.0


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Asks for messages in threads that soon come back."""

    def _submit_get_bulk_requests(self, timeout: float) -> None:
        super()._submit_get_bulk_requests(min(timeout, ASK_S))

    def close_connection(self, connection: Any) -> None:
        """Close the channels, and ask no more."""
        super().close_connection(connection)
        self._pool.shutdown(wait=False, cancel_futures=True)
