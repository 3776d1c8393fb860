"""The Redis transport: kombu's, with another way to publish and to get messages.

Names, types and contents of keys are kombu's, so its consumers and producers may share them.
What differs is how messages are taken (`celery._transport._redis_claims`), what becomes of
those of a dead consumer (`celery._transport._redis_lease`), and how commands get to the server
(`celery._transport._redis_link`), broadcasts among them (`celery._transport._redis_broadcasts`).
Consumers that acknowledge nothing are left to kombu's code. Why it is so:
``docs/internals/decisions/0003-redis-transport.rst``.

Options of ``broker_transport_options`` beyond kombu's, and other defaults:

``socket_timeout``
    Seconds within which the server has to answer, 10 unless stated.
``socket_connect_timeout``
    The same for a connection, ``broker_connection_timeout`` unless stated.
``claim_lease``
    Seconds after which a worker that does not say that it lives counts as dead, 12 unless
    stated. Others then give its messages back, within a quarter of that.
``eta_window``
    Seconds before its ETA that a worker takes a task into its memory, 2 unless stated; until
    then it waits on the server. With None it waits in a worker from the moment it is received,
    and what waits on the server already is delivered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any

from kombu.transport.redis import REFRESH_BINDING, SWEEP_BINDINGS
from redis import exceptions

from celery._transport._kombu import (
    KombuChannel,
    KombuSentinelChannel,
    KombuSentinelTransport,
    KombuTransport,
)
from celery._transport._redis_batch import PublishBatch
from celery._transport._redis_broadcasts import Subscriptions
from celery._transport._redis_claims import Claims, QoS
from celery._transport._redis_delayed import ETA_WINDOW_S, peek, purge, recall
from celery._transport._redis_lease import LEASE_S
from celery._transport._redis_link import Link, pack
from celery._transport._redis_message import ClaimedMessage, encode_envelope, next_tag
from celery._transport._redis_outlet import RedisOutlet
from celery._transport._redis_poller import HEALTH_S, Poller, Tick
from celery._transport._redis_scripts import GIVE_BACK, Script
from celery.utils.log import get_logger

__all__ = ("Channel", "SentinelChannel", "SentinelTransport", "Transport")

logger = get_logger(__name__)

#: Seconds within which a server has to answer (option ``socket_timeout``).
SOCKET_TIMEOUT_S = 10.0
#: Messages given back with one command.
GIVE_BACK_AT_ONCE = 100

#: Options that kombu's channels don't know.
OWN_OPTIONS = ("claim_lease", "eta_window")

#: kombu's: adds a binding that expires, and notes when.
_REFRESH = Script(REFRESH_BINDING)
#: kombu's: deletes the bindings whose time has passed.
_SWEEP = Script(SWEEP_BINDINGS)

#: Acknowledgements that a closed channel could not send, by server and key, for the next one.
_left_acks: dict[tuple[str, str], list[str]] = {}
_left_acks_lock = Lock()


class Channel(KombuChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel of `Transport`."""

    QoS = QoS

    socket_timeout: float | None = SOCKET_TIMEOUT_S
    socket_connect_timeout: float | None = None
    claim_lease = LEASE_S
    eta_window: float | None = ETA_WINDOW_S

    from_transport_options = (*KombuChannel.from_transport_options, *OWN_OPTIONS)

    #: Whether broadcasts are sent without waiting for the server, for whom time matters more than
    #: to know at once that one was lost.
    posts_broadcasts = False

    #: Takes what is published, while there is one; see `celery._transport._redis_once`.
    collector: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._claims: Claims | None = None
        self._subscriptions: Subscriptions | None = None
        #: What connections are made of.
        self._parameters: dict[str, Any] | None = None
        self._connection_class: Any = None
        self._key_heads: dict[Any, bytes] = {}
        self.broker = connection.client.as_uri()
        with self._naming_broker():
            super().__init__(connection, **kwargs)

    # -- names of keys

    def full_key(self, key: str) -> str:
        """Return *key* as the server knows it."""
        return f"{self.global_keyprefix}{key}"

    @property
    def unacked_keys(self) -> tuple[str, str]:
        """Keys of the hash and the index of unacknowledged messages."""
        return self.full_key(self.unacked_key), self.full_key(self.unacked_index_key)

    @property
    def owners_key(self) -> str:
        """Key of the set of owners."""
        return self.full_key(f"{self.unacked_key}.owners")

    def owner_key(self, owner: str) -> str:
        """Key of the inboxes of an owner."""
        return self.full_key(f"{self.unacked_key}.owner:{owner}")

    def delayed_keys(self, queue: str) -> tuple[str, str, str]:
        """Keys of what waits for its time: index, texts, and whose turn it is to look."""
        key = self.full_key(f"{self.unacked_key}.delayed:{queue}")
        return key, f"{key}:text", f"{key}:turn"

    @property
    def claim_keys(self) -> tuple[str, str, str]:
        """Keys that every claim needs."""
        return (*self.unacked_keys, self.owners_key)

    def keys_of(self, queue: str) -> list[str]:
        """Return the keys of *queue*, one for each step of priority."""
        return [self.full_key(self._q_for_pri(queue, step)) for step in self.priority_steps]

    # -- connections

    @cached_property
    def desk(self) -> Link:
        """For commands whose answer is waited for."""
        return self.new_link()

    @property
    def client(self) -> Any:
        """The client on which kombu's code pops; until the channel is made, one to ping with."""
        if not self._registered:
            return _Pinger(self.desk)
        if "client" not in self.__dict__:
            self.__dict__["client"] = self._create_client(asynchronous=True)
        return self.__dict__["client"]

    def new_link(self) -> Link:
        """Return a new connection, with the parameters that kombu's pool has."""
        return Link(self._new_connection, self.socket_timeout, self.broker)

    def _new_connection(self) -> Any:
        if self._parameters is None:
            # Kept, because the thread of a lease may outlive the channel. Notes of a server
            # about its maintenance need a newer protocol than ours.
            self._parameters = {
                name: value
                for name, value in self.pool.connection_kwargs.items()
                if not name.startswith("maint")
            }
            self._connection_class = self.pool.connection_class
        # A link looks after its health itself.
        own = {"protocol": 2, "health_check_interval": 0}
        return self._connection_class(**{**self._parameters, **own})

    def _connparams(self, asynchronous: bool = False) -> Any:
        if self.socket_connect_timeout is None:
            self.socket_connect_timeout = self.connection.client.connect_timeout
        parameters = super()._connparams(asynchronous)
        parameters["connection_class"] = _prompt(parameters["connection_class"])
        return parameters

    @contextmanager
    def _naming_broker(self) -> Iterator[None]:
        """Let errors of lost connections say which server they are about."""
        try:
            yield
        except (exceptions.ConnectionError, exceptions.TimeoutError) as exc:
            if self.broker in str(exc):
                raise
            raise type(exc)(f"{self.broker}: {exc}") from exc

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Give a client of the pool, for the commands that kombu's code sends."""
        with (
            self._naming_broker(),
            super().conn_or_acquire(client) as found,
        ):
            yield found

    def _after_fork(self) -> None:
        super()._after_fork()
        self.desk.disconnect()

    # -- publishing

    _next_delivery_tag = staticmethod(next_tag)

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return routing key, pattern and queue of each binding of *exchange*."""
        found = self.desk.ask("SMEMBERS", self.full_key(self.keyprefix_queue % exchange))
        return [tuple(each.decode().split(self.sep)) for each in found]

    def new_outlet(self) -> RedisOutlet:
        """Return the shortest way of messages through this channel."""
        return RedisOutlet(self)

    def _put(self, queue: str, message: Any, _publish_batch: Any = None, **kwargs: Any) -> None:
        text = encode_envelope(message).encode()
        known = queue, message["properties"].get("priority")
        try:
            head = self._key_heads[known]
        except (KeyError, TypeError):
            head = self.key_head(queue, message)
            if isinstance(known[1], int | None):
                self._key_heads[known] = head
        if _publish_batch is None:
            _publish_batch = self.collector
        if _publish_batch is not None:
            _publish_batch.add_message(head, text)
            if self._expires and queue in self._expires:
                _publish_batch.add_command(*self._expiry_commands(queue))
            return
        command = b"*3\r\n$5\r\nLPUSH\r\n%b$%d\r\n%b\r\n" % (head, len(text), text)
        replies = 1
        if self._expires and queue in self._expires:
            expiry, more = self._expiry_commands(queue)
            command, replies = command + expiry, replies + more
        self.desk.call(command, replies)

    def _put_fanout(
        self,
        exchange: str,
        message: Any,
        routing_key: str,
        _publish_batch: Any = None,
        **kwargs: Any,
    ) -> None:
        if _publish_batch is not None:
            super()._put_fanout(exchange, message, routing_key, _publish_batch=_publish_batch)
            return
        topics = self._get_publish_topics(exchange, routing_key)
        text = encode_envelope(message)
        data = b"".join(pack("PUBLISH", self.full_key(topic), text) for topic in topics)
        if self.posts_broadcasts:
            self.desk.post(data, len(topics))
        else:
            self.desk.call(data, len(topics))

    def key_head(self, queue: str, message: Any) -> bytes:
        """Return the packed key of the list that *message* goes to."""
        priority = self._get_message_priority(message, reverse=False)
        key = self.full_key(self._q_for_pri(queue, priority)).encode()
        return b"$%d\r\n%b\r\n" % (len(key), key)

    def _expiry_commands(self, queue: str) -> tuple[bytes, int]:
        keys = self.keys_of(queue)
        expires = self._expires[queue]
        return b"".join(pack("PEXPIRE", key, expires) for key in keys), len(keys)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Return what `kombu.Producer.batch` collects messages in."""
        return PublishBatch(self, max_size)

    # -- consuming

    @property
    def claims(self) -> Claims:
        """What this channel claims of its queues; made when first needed."""
        if self._claims is None:
            self._claims = Claims(self)
            self.connection.cycle.on_new_claims(self._claims)
        return self._claims

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any
    ) -> Any:
        """Have messages of *queue* delivered to *callback*."""
        self.connection.cycle.consumers_changed = True
        result = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue in self.active_fanout_queues:
            self.subscriptions.is_current = False
        elif self.ack_emulation and not no_ack:
            with self._naming_broker():
                self.claims.consume(queue, callback, no_ack)
        return result

    @property
    def subscriptions(self) -> Subscriptions:
        """What this channel hears of broadcasts; made when first needed."""
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self)
        return self._subscriptions

    def _unsubscribe_from(self, queue: str) -> None:
        self.subscriptions.drop()

    def _basic_cancel(self, consumer_tag: str) -> Any:
        self.connection.cycle.consumers_changed = True
        queue = self._tag_to_queue.get(consumer_tag)
        if self._claims is not None and queue is not None:
            self._claims.cancel(queue)
        return super()._basic_cancel(consumer_tag)

    @property
    def active_queues(self) -> list[str]:
        """Queues that kombu's code is to consume from."""
        queues: list[str] = super().active_queues
        claims = self._claims
        return queues if claims is None else [name for name in queues if name not in claims.sinks]

    def queue_order(self, queues: Sequence[str]) -> list[str]:
        """Return *queues* in the order that ``queue_order_strategy`` wants now."""
        ordered: list[str] = self._queue_cycle.consume(len(self._queue_cycle.items))
        return [queue for queue in ordered if queue in queues]

    def rotate(self, queue: str) -> None:
        """Note that *queue* had its turn."""
        self._queue_cycle.rotate(queue)

    def _update_queue_cycle(self) -> None:
        self._queue_cycle.update(
            dict.fromkeys(
                queue for queue in self._active_queues if queue not in self.active_fanout_queues
            )
        )

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Return the next message of *queue*, None when it is empty."""
        if not self.ack_emulation:
            return super().basic_get(queue, no_ack, **kwargs)
        message = self.claims.take_one(queue)
        if self._expires and queue in self._expires:
            self.desk.call(*self._expiry_commands(queue))
        if message is not None and no_ack:
            self.claims.ack(message.delivery_tag)
        return message

    # -- queues

    def _size(self, queue: str) -> int:
        keys = self.keys_of(queue)
        return int(sum(self.desk.call(b"".join(pack("LLEN", key) for key in keys), len(keys))))

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return bool(self.desk.ask("EXISTS", *self.keys_of(queue)))

    def _purge(self, queue: str) -> int:
        keys = self.keys_of(queue)
        data = b"".join(pack("LLEN", key) + pack("DEL", key) for key in keys)
        return int(sum(self.desk.call(data, 2 * len(keys))[::2])) + purge(self, queue)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            self._fanout_queues[queue] = exchange, routing_key.replace("#", "*")
        table, permanent = self._binding_keys(exchange)
        member = self._binding(routing_key, pattern, queue)
        if queue in self._expires:
            deadlines = self._script_binding_deadlines
            ttl = self._binding_ttl(queue)
            self.desk.run(_REFRESH, [table, deadlines], [member, exchange, ttl])
            return
        self.desk.call(pack("SADD", table, member) + pack("SADD", permanent, member), 2)

    def _refresh_bindings(self, queues: Iterable[str]) -> None:
        for queue in queues:
            for exchange, routing_key, arguments in self.state.queue_bindings(queue):
                meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
                self._queue_bind(exchange, *meta)

    def sweep_bindings(self, limit: int = 100) -> int:
        """Delete the bindings of exchanges whose queues have expired; returns of how many."""
        prefixes = self._binding_keys("")
        return int(self.desk.run(_SWEEP, [self._script_binding_deadlines], [*prefixes, limit]))

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any
    ) -> None:
        self.auto_delete_queues.discard(queue)
        member = self._binding(routing_key, pattern, queue)
        data = b"".join(pack("SREM", key, member) for key in self._binding_keys(exchange))
        self.desk.call(data + pack("DEL", *self.keys_of(queue)), 3)
        purge(self, queue)

    def _binding_keys(self, exchange: str) -> tuple[str, str]:
        """Return the keys of all bindings of *exchange*, and of those that do not expire."""
        return (
            self.full_key(self.keyprefix_queue % exchange),
            self.full_key(self.keyprefix_binding_permanent % exchange),
        )

    def _binding(self, routing_key: str, pattern: str, queue: str) -> str:
        return str(self.sep.join((routing_key or "", pattern or "", queue or "")))

    # -- messages that wait for their time

    def delayed_messages(
        self, queues: Iterable[str], most: int, names: Sequence[str] | None = None
    ) -> list[Any]:
        """Return messages that wait on the server, to be read and not to be settled.

        Args:
            most: How many of each queue, soonest first.
            names: Ids of tasks to look for instead.
        """
        return [
            ClaimedMessage(payload, self, "", "", None)
            for payload in peek(self, queues, most, names)
        ]

    def recall(self, queues: Iterable[str], names: Iterable[str]) -> int:
        """Deliver messages before their time, by task id; returns how many there were."""
        return recall(self, queues, names)

    def give_back(
        self,
        messages: Iterable[tuple[str, dict[str, Any], Iterable[str]]],
        last: bool,
        link: Link | None = None,
    ) -> int:
        """Put filed messages back into queues, each once, in the given order.

        Args:
            messages: Tag, decoded envelope, and queues of each.
            last: Put them where they are delivered last, else next.
            link: Connection to use.

        Returns:
            How many were still filed.
        """
        total = 0
        batch: list[Any] = []
        keys: dict[str, int] = {}
        for tag, payload, queues in messages:
            _mark_redelivered(payload)
            priority = self._get_message_priority(payload, reverse=False)
            numbers = [
                keys.setdefault(self.full_key(self._q_for_pri(queue, priority)), len(keys) + 1)
                for queue in queues
            ]
            batch += [tag, encode_envelope(payload), len(numbers), *numbers]
            if len(batch) >= 4 * GIVE_BACK_AT_ONCE:
                total += self._give_back(batch, keys, last, link)
                batch, keys = [], {}
        if batch:
            total += self._give_back(batch, keys, last, link)
        return total

    def _give_back(self, batch: list[Any], keys: Any, last: bool, link: Link | None) -> int:
        push = "LPUSH" if last else "RPUSH"
        reply = (link or self.desk).run(GIVE_BACK, [*self.unacked_keys, *keys], [push, *batch])
        return int(reply)

    def settle_now(self) -> None:
        """Have the server told of all that is acknowledged, before the turn of the loop ends."""
        self.claims.settle_now()

    # -- the end

    def leave_acks(self, tags: Iterable[str]) -> None:
        """Leave acknowledgements to the next channel of this process."""
        with _left_acks_lock:
            _left_acks.setdefault((self.broker, self.unacked_keys[0]), []).extend(tags)

    def take_left_acks(self) -> list[str]:
        """Return what closed channels of this process could not acknowledge."""
        with _left_acks_lock:
            return _left_acks.pop((self.broker, self.unacked_keys[0]), [])

    def keep_claims(self, tags: Iterable[str]) -> bool:
        """Hold messages until they are settled, although the channel is going to be closed.

        For a lost connection: the worker lives, and they must not be delivered to another.

        Args:
            tags: Their delivery tags. All others are given back as soon as that is possible.

        Returns:
            False if that can't be: closing the channel gives all back.
        """
        return self._claims is not None and self._claims.detach(tags)

    def close(self) -> None:
        """Close the channel: what is not settled goes back to its queue."""
        claims = self._claims
        if claims is not None and claims.kept is not None:
            # The thread of the lease goes on, and closes the rest.
            super().close()
            return
        if claims is None or claims.is_closed:
            super().close()
            self._leave_desk()
            return
        try:
            claims.stop()
            self.qos.restore_unacked_once()
            claims.lease.leave()
        except (exceptions.RedisError, OSError) as exc:
            logger.warning(
                "Cannot give back %s message(s) to %s, which will be done once it can be reached"
                " and %s s have passed: %s",
                len(claims.held), self.broker, self.claim_lease, exc,
            )  # fmt: skip
            claims.held.restored = True
        finally:
            claims.close()
            if self._qos is not None:
                self._qos._on_collect.cancel()
            try:
                super().close()
            finally:
                self._leave_desk()

    def _close_clients(self) -> None:
        if self._subscriptions is not None:
            self._subscriptions.close()
        super()._close_clients()
        # kombu's code does so only where it has made a client.
        for queue in [name for name in self.auto_delete_queues if name in self._fanout_queues]:
            self.queue_delete(queue)

    def _leave_desk(self) -> None:
        try:
            self.desk.settle()
        except (exceptions.RedisError, OSError) as exc:
            logger.debug("a broadcast to %s may be lost: %r", self.broker, exc)
        self.desk.disconnect()


class _Pinger:
    """Stands for a client while kombu's code sees whether the server answers."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def ping(self) -> None:
        """Ask the server for a sign of life."""
        self._link.ask("PING")


class SentinelChannel(Channel, KombuSentinelChannel):  # type: ignore[misc]  # kombu's, untyped
    """A channel of `SentinelTransport`."""

    from_transport_options = (
        *KombuSentinelChannel.from_transport_options,
        *OWN_OPTIONS,
    )


def _prompt(base: Any) -> Any:
    """Return *base*, a class of redis-py, with the handshake in the time for connecting.

    A server that accepts connections and says nothing is as good as none at all.
    """

    class PromptConnection(base):  # type: ignore[misc]  # whatever redis-py offers
        def _connect(self) -> Any:
            sock = super()._connect()
            sock.settimeout(self.socket_connect_timeout)
            return sock

        def connect(self) -> None:
            super().connect()
            self._sock.settimeout(self.socket_timeout)

        def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
            super().connect_check_health(*args, **kwargs)
            self._sock.settimeout(self.socket_timeout)

    return PromptConnection


def _mark_redelivered(payload: dict[str, Any]) -> None:
    headers = payload.get("headers")
    if isinstance(headers, dict):
        headers["redelivered"] = True
    info = payload["properties"].get("delivery_info")
    if isinstance(info, dict):
        info["redelivered"] = True


class Transport(KombuTransport):  # type: ignore[misc]  # kombu's, untyped
    """Redis, with messages claimed in batches and none of them ever lost."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let *loop* deliver messages from now on."""
        cycle = self.cycle
        super().register_with_event_loop(connection, loop)
        cycle.hub = loop
        for claims in cycle.claims:
            cycle.use_loop(claims, loop)
        # kombu's function adds all its descriptors to the poller again in every turn.
        for call in [call for call in loop.on_tick if _is_of(call, KombuTransport)]:
            loop.on_tick.discard(call)
        if cycle.tick is not None:
            cycle.tick.close()
        cycle.tick = Tick(cycle, loop, self.on_readable)
        loop.on_tick.add(cycle.tick)
        health = getattr(cycle, "_claims_health_tref", None)
        if health is not None:
            health.cancel()
        cycle._claims_health_tref = loop.call_repeatedly(HEALTH_S, cycle.check_health)


def _is_of(call: Any, kind: Any) -> bool:
    return bool(getattr(call, "__module__", None) == kind.__module__)


class SentinelTransport(Transport, KombuSentinelTransport):  # type: ignore[misc]  # kombu's, untyped
    """`Transport` with sentinels that know which server is the master."""

    default_port = 26379
    Channel = SentinelChannel
