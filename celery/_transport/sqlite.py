"""The embedded broker: queues in an SQLite file (``sqlite:///celery.db``), without a server.

Every process that uses the file is as good as any other; there is nothing to start. Messages are
claimed in batches (`celery._transport._sqlite_claims`), those of a dead consumer come back within
seconds (`celery._transport._sqlite_owners`), and messages with an ETA stay in the store until they
are due. Fanout, for remote control and events, is a message in each queue that is bound.

Options of ``broker_transport_options``:

``synchronous``
    ``NORMAL`` unless stated: a commit survives the death of processes. ``FULL``: the loss of
    power too, at the cost of a write to the disk for each.
``busy_timeout``
    Seconds for which a writer waits for others, 10 unless stated.
``claim_lease``
    Seconds of silence after which a consumer in another container counts as dead, 12 unless
    stated. One whose process can be seen to be gone is dead at once.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from kombu.exceptions import BatchPublishError
from kombu.transport.base import to_rabbitmq_queue_arguments

from celery._embedded.bell import Bell
from celery._embedded.location import SCHEME, path_of_url
from celery._embedded.store import BUSY_TIMEOUT_S, Store, StoreError
from celery._transport import _sqlite_queues as queues
from celery._transport._held import QoS
from celery._transport._kombu_virtual import KombuVirtualChannel, KombuVirtualTransport
from celery._transport._sqlite_claims import Claims
from celery._transport._sqlite_outlet import SqliteOutlet
from celery._transport._sqlite_owners import (
    LEASE_S,
    Keeper,
    drop_unused,
    join,
    leave,
    report,
    restore_dead,
)
from celery.utils.log import get_logger

__all__ = ("Channel", "Transport")

logger = get_logger(__name__)

#: Seconds between looks where a bell is heard, in case it was not; and where none can be.
LOOK_S = 1.0
DEAF_LOOK_S = 0.02


class Channel(KombuVirtualChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel of `Transport`."""

    QoS = QoS

    supports_fanout = True
    #: The store takes texts and bytes as they are.
    body_encoding = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.transport: Transport = connection
        self.store: Store = connection.store
        self.ring: Callable[[], None] = connection.bell.ring
        self.claims = Claims(self)

    # -- queues and bindings

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """Return the arguments of a queue in the form that `_new_queue` reads."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        arguments = kwargs.get("arguments") or {}
        wanted = (
            int(auto_delete),
            _seconds(arguments.get("x-expires")),
            _seconds(arguments.get("x-message-ttl")),
        )
        known = self.store.read(
            "SELECT auto_delete, expires_s, message_ttl_s FROM queues WHERE name = ?", (queue,)
        )
        if (
            known
            and wanted[1] is None
            and all(new in (None, old) for new, old in zip(wanted, known[0], strict=True))
        ):
            return
        with self.store as db:
            # Whoever declares a queue without some of its arguments does not take them away.
            db.execute(
                "INSERT INTO queues (name, auto_delete, expires_s, message_ttl_s, used_at)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
                " auto_delete = excluded.auto_delete, used_at = excluded.used_at,"
                " expires_s = ifnull(excluded.expires_s, expires_s),"
                " message_ttl_s = ifnull(excluded.message_ttl_s, message_ttl_s)",
                (queue, *wanted, time.time()),
            )

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return bool(self.store.read("SELECT 1 FROM queues WHERE name = ?", (queue,)))

    def _size(self, queue: str) -> int:
        return self.store.call(queues.size, queue)

    def _purge(self, queue: str) -> int:
        with self.store as db:
            return queues.purge(db, queue)

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """Delete *queue* and what waits in it."""
        with self.store as db:
            used = db.execute("SELECT 1 FROM consumers WHERE queue = ?", (queue,)).fetchone()
            if (if_unused and used) or (if_empty and queues.size(db, queue)):
                return
            queues.delete_queue(db, queue)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """Bind *queue* to *exchange* with *routing_key*."""
        exchange = exchange or "amq.direct"
        key, pattern, _ = self.typeof(exchange).prepare_bind(
            queue, exchange, routing_key, arguments
        )
        row = (exchange, queue, key or "", pattern)
        where = "exchange = ? AND queue = ? AND routing_key = ?"
        if self.store.read(f"SELECT 1 FROM bindings WHERE {where}", row[:3]):
            return
        with self.store as db:
            db.execute("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?)", row)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Any = None,
        **kwargs: Any,
    ) -> None:
        """Undo `queue_bind`."""
        with self.store as db:
            db.execute(
                "DELETE FROM bindings WHERE exchange = ? AND queue = ? AND routing_key = ?",
                (exchange or "amq.direct", queue, routing_key or ""),
            )

    def exchange_declare(
        self, exchange: str | None = None, type: str = "direct", **kwargs: Any
    ) -> None:
        """Declare an exchange, for all users of the store."""
        name, kind = exchange or f"amq.{type or 'direct'}", type or "direct"
        is_new = name not in self.state.exchanges
        super().exchange_declare(name, kind, **kwargs)
        if is_new and not kwargs.get("passive") and self._stored_type(name) != kind:
            with self.store as db:
                db.execute("INSERT OR REPLACE INTO exchanges VALUES (?, ?)", (name, kind))

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """Return how *exchange* routes; it may have been declared by another process."""
        if exchange not in self.state.exchanges:
            kind = self._stored_type(exchange)
            if kind is not None:
                self.exchange_declare(exchange, kind)
        return super().typeof(exchange, default)

    def _stored_type(self, exchange: str) -> str | None:
        rows = self.store.read("SELECT type FROM exchanges WHERE name = ?", (exchange,))
        return rows[0][0] if rows else None

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete *exchange* and its bindings; queues stay."""
        with self.store as db:
            db.execute("DELETE FROM bindings WHERE exchange = ?", (exchange,))
            db.execute("DELETE FROM exchanges WHERE name = ?", (exchange,))
        self.state.exchanges.pop(exchange, None)

    def get_table(self, exchange: str) -> list[tuple[str, str | None, str]]:
        """Return the bindings of *exchange*: routing key, pattern and queue of each."""
        return self.store.read(
            "SELECT routing_key, pattern, queue FROM bindings WHERE exchange = ?", (exchange,)
        )

    def list_bindings(self) -> Iterable[tuple[str, str, str]]:
        """Return all bindings: queue, exchange and routing key of each."""
        return self.store.read("SELECT queue, exchange, routing_key FROM bindings")

    # -- publishing

    def _put(
        self, queue: str, message: Any, _publish_batch: Batch | None = None, **kwargs: Any
    ) -> None:
        self._put_all([queue], message, _publish_batch)

    def _put_fanout(
        self,
        exchange: str,
        message: Any,
        routing_key: str,
        _publish_batch: Batch | None = None,
        **kwargs: Any,
    ) -> None:
        bound = {queue for _, _, queue in self.get_table(exchange)}
        if bound:
            self._put_all(sorted(bound), message, _publish_batch)

    def _put_all(self, names: list[str], message: Any, batch: Batch | None) -> None:
        now = time.time()
        content = _content(message, self.rank_of(message), now)
        if batch is not None:
            batch.contents += [(name, content) for name in names]
            return
        with self.store as db:
            for name in names:
                queues.put(db, name, content, now)
        self.ring()

    def rank_of(self, message: Any) -> int:
        """Return the place of a message in its queue, by its priority."""
        rank: int = -self._get_message_priority(message)
        return rank

    def new_outlet(self) -> SqliteOutlet:
        """Return what stores finished messages."""
        return SqliteOutlet(self)

    def create_publish_batch(self, max_size: int) -> Batch:
        """Return what `kombu.Producer.batch` collects messages in."""
        return Batch(self, max_size)

    # -- consuming

    @property
    def owner(self) -> int:
        """The number under which messages are claimed."""
        return self.transport.owner

    @property
    def is_in_loop(self) -> bool:
        """Whether an event loop takes turns."""
        return self.transport._hub is not None

    def check_owner(self) -> None:
        """Raise if others took this consumer for dead."""
        self.transport.check_owner()

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> None:
        """Have messages of *queue* delivered to *callback*."""
        self.transport.keep()
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        self._consumers.add(consumer_tag)
        with self.store as db:
            db.execute("INSERT OR IGNORE INTO consumers VALUES (?, ?)", (queue, self.owner))
        self.claims.consume(queue, callback, no_ack)
        self.transport.wake()

    def basic_cancel(self, consumer_tag: str) -> None:
        """End what `basic_consume` began."""
        if consumer_tag not in self._consumers:
            return
        self._consumers.remove(consumer_tag)
        queue = self._tag_to_queue.pop(consumer_tag)
        self._active_queues.remove(queue)
        if queue in self._active_queues:
            return
        self.claims.cancel(queue)
        with self.store as db:
            db.execute("DELETE FROM consumers WHERE queue = ? AND owner = ?", (queue, self.owner))
            drop_unused(db, queue)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Return the next message of *queue*, None when it is empty."""
        self.transport.keep()
        message = self.claims.take_one(queue)
        if message is not None and no_ack:
            self.claims.ack(message.delivery_tag)
        return message

    def settle_now(self) -> None:
        """Have the store told of all that is acknowledged, before the turn of the loop ends."""
        self.claims.settle_now()

    def close(self) -> None:
        """Close the channel: what is not settled goes back to its queue."""
        if self.closed:
            return
        claims = self.claims
        try:
            claims.stop()
            for consumer in list(self._consumers):
                self.basic_cancel(consumer)
            if claims.held:
                self.qos.restore_unacked_once()
        except StoreError as exc:
            logger.warning(
                "Cannot give back %s message(s), which will be done once this process has ended:"
                " %s", len(claims.held), exc,
            )  # fmt: skip
            claims.held.clear()
        finally:
            claims.held.restored = True
            claims.close()
            if self._qos is not None:
                self._qos._on_collect.cancel()
            self._consumers.clear()
            super().close()


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1000


def _content(message: dict[str, Any], rank: int, now: float) -> queues.Content:
    """Return what is stored of a message in kombu's form."""
    expires, headers = None, message["headers"]
    # A task that expires is revoked by the worker: nobody hears of one that is forgotten here.
    if headers.get("expires") is None:
        with suppress(KeyError, TypeError, ValueError):
            expires = now + float(message["properties"]["expiration"]) / 1000
    due = queues.timestamp(headers.get("eta"))
    return queues.Content(rank, queues.head_of(message), message["body"], expires, due)


class Batch:
    """Messages of one producer that are stored in one transaction.

    Args:
        max_size: Messages after which they are stored.
    """

    def __init__(self, channel: Channel, max_size: int) -> None:
        self.channel = channel
        self.max_size = max_size
        self.contents: list[tuple[str, queues.Content]] = []
        self._unusable = ""

    def publish(self, message: Any, **kwargs: Any) -> Any:
        """Route one message, and keep it until `flush`."""
        self._check_usable()
        result = self.channel.basic_publish(message, _publish_batch=self, **kwargs)
        if len(self.contents) >= self.max_size:
            self.flush()
        return result

    def flush(self) -> None:
        """Store everything, or nothing.

        Raises:
            BatchPublishError: It could not be stored.
        """
        self._check_usable()
        contents, self.contents = self.contents, []
        if not contents:
            return
        now = time.time()
        try:
            with self.channel.store as db:
                for queue, content in contents:
                    queues.put(db, queue, content, now)
        except StoreError as exc:
            self._unusable = "failed"
            raise BatchPublishError(f"none of {len(contents)} messages was stored: {exc}") from exc
        self.channel.ring()

    def discard(self) -> None:
        """Forget what was not stored."""
        self._unusable = self._unusable or "aborted"
        self.contents.clear()

    def close(self) -> None:
        """End the batch."""
        self._unusable = "closed"

    def _check_usable(self) -> None:
        if self._unusable:
            raise RuntimeError(f"the batch of messages is {self._unusable}")


class Transport(KombuVirtualTransport):  # type: ignore[misc]  # kombu's, untyped
    """Queues in an SQLite file."""

    Channel = Channel

    driver_type = "sqlite"
    driver_name = "sqlite3"
    can_parse_url = True
    default_port = None

    connection_errors = (*KombuVirtualTransport.connection_errors, StoreError, sqlite3.Error)
    recoverable_connection_errors = connection_errors

    implements = KombuVirtualTransport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        options = client.transport_options
        self.path: Path = path_of_url(client.hostname or f"{SCHEME}://")
        self.lease_s = float(options.get("claim_lease", LEASE_S))
        self._store_options = {
            "synchronous": options.get("synchronous", "NORMAL"),
            "timeout_s": float(options.get("busy_timeout", BUSY_TIMEOUT_S)),
        }
        self.store = Store(self.path, **self._store_options)
        self.bell = Bell(self.path.with_name(f"{self.path.name}-bell"))
        self.owner = 0
        self._owner_pid = 0
        self._keeper: Keeper | None = None
        self._lock = Lock()
        self._hub: Any = None
        self._ear = -1
        self._timer: Any = None
        self._timer_due = 0.0
        self._looked_at = 0.0

    def driver_version(self) -> str:
        """Return the version of SQLite."""
        return sqlite3.sqlite_version

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL of the store."""
        return f"{SCHEME}:///{self.path}"

    def establish_connection(self) -> Any:
        """Open the store, so that errors come now.

        Raises:
            StoreError: It cannot be opened.
        """
        self.store.call(lambda db: db.execute("SELECT 1").fetchone())
        return super().establish_connection()

    def verify_connection(self, connection: Any) -> bool:
        """Say whether the connection may be used on."""
        return True

    # -- the owner of what is claimed

    def keep(self) -> None:
        """Become an owner of messages, unless this process is one already."""
        with self._lock:
            if self.owner and self._owner_pid == os.getpid():
                return
            with self.store as db:
                dead = restore_dead(db)
                self.owner = join(db, self.lease_s)
            self._owner_pid = os.getpid()
            report(dead)
            if any(count for _, count in dead):
                self.bell.ring()
            store = Store(self.path, **self._store_options)
            self._keeper = Keeper(store, self.owner, self.lease_s, self)

    def check_owner(self) -> None:
        """Raise if others took this process for dead.

        Raises:
            StoreError: They did; what was claimed is theirs.
        """
        keeper = self._keeper
        if keeper is not None and keeper.has_ended:
            raise StoreError(
                f"{self.path}: this consumer was silent for longer than {self.lease_s:g} s, and"
                " others have got its messages"
            )

    def close_connection(self, connection: Any) -> None:
        """Close all channels, and give up what they hold."""
        self.unregister_from_event_loop(connection, self._hub)
        super().close_connection(connection)
        keeper, self._keeper = self._keeper, None
        if keeper is not None and self._owner_pid == os.getpid():
            keeper.end()
            try:
                with self.store as db:
                    leave(db, self.owner)
            except StoreError as exc:
                logger.warning("Cannot sign off from the embedded store: %s", exc)
        self.owner = 0
        self.bell.close()
        self.store.close()

    # -- waiting, without an event loop

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Wait for one message and deliver it.

        Raises:
            TimeoutError: There was none within *timeout* seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        ear = self.bell.listen()
        while True:
            pause = self._turn()
            if any(channel.claims.deliver_one() for channel in tuple(self.channels)):
                self._turn()
                return
            now = time.monotonic()
            if end is not None and now >= end:
                self.settle()
                raise TimeoutError("timed out")
            look = LOOK_S if ear >= 0 else DEAF_LOOK_S
            pause = min(pause for pause in (pause, look, end and end - now) if pause is not None)
            if ear < 0:
                time.sleep(max(pause, 0.0))
                self._on_ring()
            elif self.bell.wait(pause) or now - self._looked_at > LOOK_S:
                self._on_ring()

    def _turn(self) -> float | None:
        """Let each channel do what is due; return when there is more to do."""
        pauses = [channel.claims.pump() for channel in tuple(self.channels)]
        return min((pause for pause in pauses if pause is not None), default=None)

    def settle(self) -> None:
        """Tell the store what is acknowledged; any thread may call this."""
        for channel in tuple(self.channels):
            channel.claims.settle_now()

    def _on_ring(self) -> None:
        self._looked_at = time.monotonic()
        for channel in self.channels:
            channel.claims.is_hungry = True

    def wake(self) -> None:
        """See to it that an event loop takes a turn soon."""
        if self._hub is not None and self._timer is None:
            self._call_later(0.0)

    # -- waiting, with an event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let *loop* deliver messages from now on."""
        self._hub = loop
        self._ear = self.bell.listen()
        if self._ear >= 0:
            loop.add_reader(self._ear, self.on_readable, self._ear)
        loop.on_tick.add(self.on_tick)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """Undo `register_with_event_loop`."""
        hub, self._hub = self._hub, None
        if hub is None:
            return
        hub.on_tick.discard(self.on_tick)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ear >= 0:
            with suppress(KeyError, ValueError, OSError):
                hub.remove_reader(self._ear)

    def on_readable(self, fd: int) -> None:
        """Note that the bell rang."""
        self.bell.hush()
        self._on_ring()

    def on_tick(self) -> None:
        """Deliver what there is, and see to it that this is called again in time."""
        pause = self._turn()
        delivered = False
        for channel in tuple(self.channels):
            while channel.claims.deliver_one():
                delivered = True
        if delivered:
            # Acknowledgements may have come in, and made room.
            pause = self._turn()
            if any(channel.claims.ready for channel in self.channels):
                pause = 0.0
        look = LOOK_S if self._ear >= 0 else DEAF_LOOK_S
        self._call_later(look if pause is None else min(pause, look))

    def _call_later(self, pause: float) -> None:
        hub = self._hub
        if hub is None:
            return
        due = time.monotonic() + pause
        timer = self._timer
        if timer is not None and not timer.canceled and self._timer_due <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timer_due = due
        self._timer = hub.call_later(pause, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if time.monotonic() - self._looked_at >= LOOK_S or self._ear < 0:
            self._on_ring()

    # -- what kombu's transports have, and this one does without

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Return the parameters of a connection to nowhere in particular."""
        return {"port": None, "hostname": None}
