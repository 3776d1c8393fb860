"""Queues, task messages and their publishing: the app's side of the broker.

`AMQP` is what ``app.amqp`` offers. Sending a task is three steps: `AMQP.as_task_v2`
turns the call into a message (pure), `AMQP.router` says where it goes (pure), and
`AMQP.send_task_message` publishes it (I/O). What these need of the settings is read
once into a `PublishPlan` and read again only after a setting changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property, partial
from math import ceil
from typing import TYPE_CHECKING, Any

from kombu.common import Broadcast
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer
from kombu.pools import ProducerPool
from kombu.serialization import prepare_accept_content
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name

from celery import signals
from celery._canvas import signature as signatures
from celery._protocol import body as wire_body, legacy, message as wire, options
from celery._transport.connection import BrokerConnectionPool
from celery.app import routes as task_routes
from celery.app._batch import Batch, Waiting
from celery.app._dispatch import Dispatch
from celery.app._express import Express
from celery.app._lanes import Lanes
from celery.app._publishing import CONFIRM_S, Ready, declared_by, is_replicated, worth_a_retry
from celery.utils.functional import maybe_list
from celery.utils.nodenames import anon_nodename
from celery.utils.quorum_queues import detect_quorum_queues
from celery.utils.saferepr import saferepr
from celery.utils.text import indent as textindent
from celery.utils.time import maybe_make_aware

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("AMQP", "Queues", "task_message")

INT_MIN = options.INT_MIN

task_message = wire.Outgoing

#: One line of the queue table in the worker's banner.
QUEUE_FORMAT = """
.> {0.name:<16} exchange={0.exchange.name}({0.exchange.type}) key={0.routing_key}
"""

#: Retries of publishing a callback whose policy sets no limit.
FOLLOW_UP_RETRIES = 3


def utf8dict(d: Mapping[Any, Any], encoding: str = "utf-8") -> dict[Any, Any]:
    """Return *d* with byte keys decoded."""
    return {k.decode(encoding) if isinstance(k, bytes) else k: v for k, v in d.items()}


class Queues(dict[str, Queue]):
    """Queue name, or alias, to queue; unknown names are made on demand when that is allowed.

    Args:
        queues: Queues, or mapping from name to queue options.
        default_exchange, default_routing_key: For queues that state none.
        create_missing: Make unknown queues on lookup (``task_create_missing_queues``).
        create_missing_queue_type: ``"classic"`` or ``"quorum"``, for made ones.
        create_missing_queue_exchange_type: Exchange type of made ones; None for direct.
        autoexchange: Makes the exchange of a made queue from its name.
        max_priority: ``x-max-priority`` of queues that state none; None for no priorities.
    """

    #: Names to consume from, when `select` has narrowed them; None for all queues.
    _consume_from: dict[str, Queue] | None = None

    def __init__(
        self,
        queues: Mapping[str, Any] | Iterable[Queue] | None = None,
        default_exchange: Exchange | None = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Callable[[str], Exchange] | None = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        #: Moves with every queue that is added.
        self.revision: object = None
        self.aliases: dict[str, Queue] = {}
        self.max_priority = max_priority
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing = create_missing
        self.autoexchange = autoexchange or Exchange
        self.default_routing_key = default_routing_key
        self.default_exchange = default_exchange
        if isinstance(queues, Mapping):
            for name, declared in queues.items():
                if isinstance(declared, Queue):
                    self.add(declared)
                else:
                    self.add_compat(name, **declared)
        else:
            for queue in queues or ():
                if not isinstance(queue, Queue):
                    raise TypeError(
                        f"task_queues lists {queue!r}, which is no kombu.Queue; write "
                        f"Queue({queue!r}), or use a mapping of name to options"
                    )
                self.add(queue)

    def __getitem__(self, name: str) -> Queue:
        try:
            return self.aliases[name]
        except KeyError:
            return super().__getitem__(name)

    def __setitem__(self, name: str, queue: Queue) -> None:
        entity: Any = queue  # kombu's entities set their attributes from a table
        if self.default_exchange is not None and not entity.exchange:
            entity.exchange = self.default_exchange
        super().__setitem__(name, queue)
        self.revision = object()
        if entity.alias:
            self.aliases[entity.alias] = queue

    def __missing__(self, name: str) -> Queue:
        if self.create_missing:
            return self.add(self.new_missing(name))
        raise KeyError(name)

    def add(self, queue: Queue | str, **kwargs: Any) -> Queue:
        """Add a queue, given as such or by name and `kombu.Queue` options."""
        if not isinstance(queue, Queue):
            return self.add_compat(queue, **kwargs)
        return self._add(queue)

    def add_compat(self, name: str, **options: Any) -> Queue:
        """Add a queue from its name and options, also of the older ``binding_key`` form."""
        options.setdefault("routing_key", options.get("binding_key"))
        if options["routing_key"] is None:
            options["routing_key"] = name
        return self._add(Queue.from_dict(name, **options))

    def _add(self, queue: Any) -> Queue:
        if self.default_exchange is not None and not (queue.exchange and queue.exchange.name):
            queue.exchange = self.default_exchange
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key
        if self.max_priority is not None:
            arguments = queue.queue_arguments or {}
            queue.queue_arguments = {"x-max-priority": self.max_priority, **arguments}
        self[queue.name] = queue
        return queue  # type: ignore[no-any-return]  # a Queue, see __setitem__

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """Return the table of consumed queues as the banner shows it."""
        active = self.consume_from
        if not active:
            return ""
        lines = [QUEUE_FORMAT.strip().format(queue) for _, queue in sorted(active.items())]
        if indent_first:
            return textindent("\n".join(lines), indent)
        return lines[0] + "\n" + textindent("\n".join(lines[1:]), indent)

    def select_add(self, queue: Queue | str, **kwargs: Any) -> Queue:
        """Add a queue, and consume from it even where `select` narrowed the choice."""
        added = self.add(queue, **kwargs)
        if self._consume_from is not None:
            self._consume_from[added.name] = added
        return added

    def select(self, include: str | Iterable[str] | None) -> None:
        """Consume only from the queues named (names or aliases); unknown ones are made.

        Raises:
            KeyError: One is unknown and may not be made.
        """
        if include:
            chosen = [self[name] for name in maybe_list(include) or ()]
            self._consume_from = {queue.name: queue for queue in chosen}

    def deselect(self, exclude: str | Iterable[str] | None) -> None:
        """Stop consuming from the queues named (names or aliases)."""
        if not exclude:
            return
        names = [
            self.aliases[name].name if name in self.aliases else name
            for name in maybe_list(exclude) or ()
        ]
        if self._consume_from is None:
            self._consume_from = {name: queue for name, queue in self.items() if name not in names}
            return
        for name in names:
            self._consume_from.pop(name, None)

    def new_missing(self, name: str) -> Queue:
        """Return the queue that is made for an unknown *name*."""
        arguments = None
        if self.create_missing_queue_type and self.create_missing_queue_type != "classic":
            if self.create_missing_queue_type != "quorum":
                raise ValueError(
                    "task_create_missing_queue_type must be 'classic' or 'quorum', not "
                    f"{self.create_missing_queue_type!r}"
                )
            arguments = {"x-queue-type": "quorum"}
        kind = self.create_missing_queue_exchange_type
        return Queue(
            name,
            exchange=Exchange(name, kind) if kind else self.autoexchange(name),
            routing_key=name,
            queue_arguments=arguments,
        )

    @property
    def consume_from(self) -> dict[str, Queue]:
        """The queues that a worker consumes from, by name."""
        return self if self._consume_from is None else self._consume_from


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """What publishing needs of the settings, read once for all messages."""

    version: int
    serializer: str
    compression: str | None
    retry: bool
    retry_policy: dict[str, Any]
    delivery_mode: Any
    send_sent_event: bool
    repr_levels: int
    utc: bool
    inherit_priority: bool
    #: Whether nothing here keeps a call from the straight way, see `celery.app._express`.
    is_plain: bool


class AMQP(Dispatch):
    """Queues, messages and producers of one app (``app.amqp``)."""

    Connection = Connection
    Consumer = Consumer
    Producer = Producer
    #: Older name of `Connection`.
    BrokerConnection = Connection
    queues_cls = Queues

    #: Makes the exchange of queues created on demand; None for direct ones.
    autoexchange: Callable[[str], Exchange] | None = None

    #: Longest ``argsrepr`` and ``kwargsrepr`` in messages and logs, in characters.
    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_protocols: dict[int, Callable[..., wire.Outgoing]] = {
            1: self.as_task_v1,
            2: self.as_task_v2,
        }
        self._queues: Queues | None = None
        self._router: task_routes.Router | None = None
        self._routes: tuple[Any, ...] | None = None
        self._routed_for: Any = None
        self._producer_pool: Any = None
        self._lanes: Lanes | None = None
        self._default_exchange: Exchange | None = None
        self._accept_content: Any = None
        self._plan: PublishPlan | None = None
        self._delays: bool | None = None
        self._create_task_message: Callable[..., wire.Outgoing] | None = None

    # -- settings

    def _read_settings(self) -> PublishPlan:
        conf = self.app.conf
        plan = self._plan = PublishPlan(
            version=conf.version,
            serializer=conf.task_serializer,
            compression=conf.task_compression,
            retry=conf.task_publish_retry,
            retry_policy=dict(conf.task_publish_retry_policy),
            delivery_mode=conf.task_default_delivery_mode,
            send_sent_event=conf.task_send_sent_event,
            repr_levels=conf.task_repr_maxlevels,
            utc=conf.enable_utc,
            inherit_priority=conf.task_inherit_parent_priority,
            is_plain=not conf.task_send_sent_event and conf.task_protocol == 2,
        )
        self._create_task_message = self.task_protocols[conf.task_protocol]
        self._accept_content = None
        if self._routes is not None and self._routed_for is not conf.task_routes:
            self.flush_routes()
        return plan

    @property
    def makes_standard_messages(self) -> bool:
        """Whether nobody has replaced a part of how task messages are made and published."""
        return type(self) is AMQP and self.create_task_message == self.as_task_v2

    @property
    def plan(self) -> PublishPlan:
        """The current settings of publishing."""
        plan = self._plan
        if plan is None or plan.version != self.app.conf.version:
            plan = self._read_settings()
        return plan

    @property
    def utc(self) -> bool:
        """Whether moments in messages are in UTC (``enable_utc``)."""
        return self.plan.utc

    @property
    def accept_content(self) -> Any:
        """The content types that messages may have (``accept_content``)."""
        accept = self._accept_content
        if accept is None:
            accept = self._accept_content = prepare_accept_content(self.app.conf.accept_content)
        return accept

    # -- queues and routes

    @property
    def queues(self) -> Queues:
        """The queues of the app, by name."""
        queues = self._queues
        if queues is None:
            queues = self._queues = self.Queues(self.app.conf.task_queues)
        return queues

    @queues.setter
    def queues(self, queues: Any) -> None:
        self._queues = queues if isinstance(queues, Queues) else self.Queues(queues)
        self._router = None

    def Queues(
        self,
        queues: Any,
        create_missing: bool | None = None,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Callable[[str], Exchange] | None = None,
        max_priority: int | None = None,
    ) -> Queues:
        """Return a queue table for *queues* and the settings; no queues means the default one."""
        conf = self.app.conf
        default_routing_key = conf.task_default_routing_key

        def chosen(value: Any, setting: str) -> Any:
            return conf[setting] if value is None else value

        if not queues and conf.task_default_queue:
            arguments = None
            if conf.task_default_queue_type == "quorum":
                arguments = {"x-queue-type": "quorum"}
            queues = (
                Queue(
                    conf.task_default_queue,
                    exchange=self.default_exchange,
                    routing_key=default_routing_key,
                    queue_arguments=arguments,
                ),
            )
        return self.queues_cls(
            queues,
            self.default_exchange,
            create_missing=chosen(create_missing, "task_create_missing_queues"),
            create_missing_queue_type=chosen(
                create_missing_queue_type, "task_create_missing_queue_type"
            ),
            create_missing_queue_exchange_type=chosen(
                create_missing_queue_exchange_type, "task_create_missing_queue_exchange_type"
            ),
            autoexchange=autoexchange or self.autoexchange,
            max_priority=chosen(max_priority, "task_queue_max_priority"),
            default_routing_key=default_routing_key,
        )

    def Router(
        self, queues: Mapping[str, Queue] | None = None, create_missing: bool | None = None
    ) -> task_routes.Router:
        """Return a router over the current routes."""
        if create_missing is None:
            create_missing = self.app.conf.task_create_missing_queues
        return task_routes.Router(
            self.routes, self.queues if queues is None else queues, create_missing, app=self.app
        )

    def flush_routes(self) -> None:
        """Read ``task_routes`` again for the next call."""
        self._routed_for = self.app.conf.task_routes
        self._routes = task_routes.prepare(self._routed_for)
        self._router = None

    @property
    def routes(self) -> tuple[Any, ...]:
        """The prepared routers of ``task_routes``."""
        if self._routes is None:
            self.flush_routes()
        return self._routes or ()

    @property
    def router(self) -> task_routes.Router:
        """The router of this app; it follows later changes of ``task_routes``."""
        plan = self._plan
        if plan is None or plan.version != self.app.conf.version:
            self._read_settings()
        router = self._router
        if router is None:
            router = self._router = self.Router()
        return router

    @router.setter
    def router(self, router: task_routes.Router) -> None:
        self._router = router

    @property
    def default_queue(self) -> Queue:
        """The queue of tasks that are routed nowhere else."""
        return self.queues[self.app.conf.task_default_queue]

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of queues that state none."""
        exchange = self._default_exchange
        if exchange is None:
            conf = self.app.conf
            exchange = self._default_exchange = Exchange(
                conf.task_default_exchange, conf.task_default_exchange_type
            )
        return exchange

    # -- producers and consumers

    @property
    def producer_pool(self) -> Any:
        """The pool of producers that tasks are published with."""
        pool = self._producer_pool
        if pool is None:
            # As many producers as there are connections.
            connections = self.app.pool
            pool = self._producer_pool = ProducerPool(connections, limit=connections.limit)
        return pool

    publisher_pool = producer_pool

    @cached_property
    def express(self) -> Express:
        """Sends ordinary calls."""
        return Express(self)

    @property
    def lanes(self) -> Lanes | None:
        """Producers for sending tasks, None for an app without a pool of its own kind."""
        lanes = self._lanes
        if lanes is None or lanes.pool is not self.app._pool:
            pool = self.app.pool
            if type(pool) is not BrokerConnectionPool or not pool.limit:
                return None
            lanes = self._lanes = Lanes(self.app, pool)
        return lanes

    def sender(self, connection: Any = None) -> AbstractContextManager[Any]:
        """Context manager: a producer to send a call with.

        Args:
            connection: Where to; by default one of the pool.

        Raises:
            kombu.exceptions.LimitExceeded: None of the pool became free within
                ``broker_pool_acquire_timeout`` seconds.
        """
        if connection is not None:
            make_producer: Any = self.Producer
            return nullcontext(make_producer(connection, auto_declare=False))
        lanes = self.lanes
        chosen: AbstractContextManager[Any] = (
            self.producer_pool.acquire(
                block=True, timeout=self.app.conf.broker_pool_acquire_timeout
            )
            if lanes is None
            else lanes.take()
        )
        return chosen

    def forget_connections(self) -> None:
        """Let go of producers, without closing anything."""
        self._producer_pool = self._lanes = None

    def TaskConsumer(self, channel: Any, queues: Any = None, accept: Any = None, **kw: Any) -> Any:
        """Return a consumer of task messages, by default from all selected queues."""
        if accept is None:
            accept = self.app.conf.accept_content
        consumer: Any = self.Consumer
        return consumer(
            channel,
            accept=accept,
            queues=queues or list(self.queues.consume_from.values()),
            **kw,
        )

    # -- messages

    @property
    def create_task_message(self) -> Callable[..., wire.Outgoing]:
        """The encoder for the configured ``task_protocol``."""
        plan = self._plan
        if plan is None or plan.version != self.app.conf.version:
            self._read_settings()
        assert self._create_task_message is not None
        return self._create_task_message

    def as_task_v2(
        self,
        task_id: str,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: float | datetime | str | None = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Sequence[Any] | None = None,
        errbacks: Sequence[Any] | None = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,
        parent_id: str | None = None,
        shadow: str | None = None,
        chain: Sequence[Any] | None = None,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
        origin: str | None = None,
        ignore_result: bool | None = False,
        argsrepr: str | None = None,
        kwargsrepr: str | None = None,
        stamped_headers: Sequence[str] | None = None,
        replaced_task_nesting: int = 0,
        **options_: Any,
    ) -> wire.Outgoing:
        """Encode a call as a version 2 message.

        Raises:
            TypeError: *args* is no list or tuple, or *kwargs* no mapping.
        """
        args, kwargs = _checked_arguments(args, kwargs)
        levels = self.plan.repr_levels
        ttl = None
        eta_text = expires_text = None
        if countdown is not None or eta is not None:
            eta_text = self.header_eta(countdown, eta, now, timezone)
        if expires is not None:
            expires_text, ttl = options.header_expires(
                expires, lambda: now or self._now(timezone), timezone or self.app.timezone
            )
            if chord or chain:
                # A broker drops what has expired without a word; then a chord would wait for ever.
                ttl = None
        if root_id is None:
            root_id = task_id
        embedded = wire.NOTHING_EMBEDDED
        if callbacks or errbacks or chain is not None or chord:
            embedded = self.embedded(callbacks, errbacks, chain, chord)
        return wire.encode(
            task_id,
            name,
            args,
            kwargs,
            eta=eta_text,
            expires=expires_text,
            ttl=ttl,
            group_id=group_id,
            group_index=group_index,
            retries=retries,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            root_id=root_id,
            parent_id=parent_id,
            shadow=shadow,
            argsrepr=saferepr(args, self.argsrepr_maxsize, levels)
            if argsrepr is None
            else argsrepr,
            kwargsrepr=saferepr(kwargs, self.kwargsrepr_maxsize, levels)
            if kwargsrepr is None
            else kwargsrepr,
            origin=origin or anon_nodename(),
            ignore_result=ignore_result,
            replaced_task_nesting=replaced_task_nesting,
            stamped_headers=stamped_headers,
            stamps=wire.stamps_of(options_, stamped_headers),
            reply_to=reply_to,
            embedded=embedded,
            create_sent_event=create_sent_event,
        )

    def as_task_v1(
        self,
        task_id: str,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: float | datetime | str | None = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Sequence[Any] | None = None,
        errbacks: Sequence[Any] | None = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,
        parent_id: str | None = None,
        shadow: str | None = None,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
        **compat_kwargs: Any,
    ) -> wire.Outgoing:
        """Encode a call as a version 1 message; what that can't carry is left out."""
        args, kwargs = _checked_arguments(args, kwargs)
        utc = self.utc
        expires_text, ttl = options.header_expires(
            expires, lambda: now or self._now(timezone), timezone or self.app.timezone
        )
        return legacy.encode(
            task_id,
            name,
            args,
            kwargs,
            eta=self.header_eta(countdown, eta, now, timezone),
            expires=expires_text,
            ttl=ttl,
            utc=utc,
            group_id=group_id,
            group_index=group_index,
            retries=retries,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            callbacks=signatures.plain(callbacks),
            errbacks=signatures.plain(errbacks),
            chord=signatures.plain(chord),
            reply_to=reply_to,
            argsrepr=saferepr(args, self.argsrepr_maxsize),
            kwargsrepr=saferepr(kwargs, self.kwargsrepr_maxsize),
            create_sent_event=create_sent_event,
        )

    def header_eta(
        self,
        countdown: float | None,
        eta: datetime | str | None,
        now: datetime | None = None,
        timezone: tzinfo | None = None,
    ) -> str | None:
        """Return the moment before which a task must not start, as its header has it."""
        return options.header_eta(countdown, eta, lambda: now or self._now(timezone))

    @staticmethod
    def embedded(callbacks: Any, errbacks: Any, chain: Any, chord: Any) -> wire.Embedded:
        """Return what a body carries beside the arguments, as plain data."""
        return wire.Embedded(*map(signatures.plain, (callbacks, errbacks, chain, chord)))

    def _now(self, timezone: tzinfo | None) -> datetime:
        if timezone is not None:
            return datetime.now(timezone)
        if self.plan.utc:
            return datetime.now(UTC)
        return datetime.now(self.app.timezone)

    # -- publishing

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        """Publishes a message; see `publish_task` for its arguments."""
        return self.publish_task

    def publish_task(
        self,
        producer: Any,
        name: str,
        message: wire.Outgoing,
        exchange: Any = None,
        routing_key: str | None = None,
        queue: Any = None,
        event_dispatcher: Any = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        delivery_mode: Any = None,
        compression: str | None = None,
        declare: list[Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        exchange_type: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish *message* of the task *name*.

        Args:
            exchange, routing_key, queue: Destination; what is missing comes from the queue,
                by default the app's default queue.
            retry, retry_policy: Override ``task_publish_retry`` and ``…_policy``.
            kwargs: Further message properties and options of `kombu.Producer.publish`.

        Raises:
            kombu.exceptions.OperationalError: The broker can't be reached; retries are used up.
            kombu.exceptions.EncodeError: The arguments can't be serialized.
        """
        ready = self.ready(
            message,
            exchange,
            routing_key,
            queue,
            retry,
            retry_policy,
            serializer,
            delivery_mode,
            compression,
            declare,
            headers,
            exchange_type,
            **kwargs,
        )
        before, after = signals.before_task_publish, signals.after_task_publish
        if before.receivers:
            before.send(
                sender=name,
                body=message.body,
                exchange=ready.exchange,
                routing_key=ready.routing_key,
                declare=ready.declare,
                headers=message.headers,
                properties=message.properties,
                retry_policy=ready.retry_policy,
            )
        content_type, content_encoding, payload = wire_body.dumps(message.body, ready.serializer)
        publish_options = ready.publish_options(content_type, content_encoding)
        announce = None
        if after.receivers or message.sent_event or signals.task_sent.receivers:
            announce = partial(self._announce, event_dispatcher, producer, name, ready)
        needed: Sequence[Any] = ready.declare or ()
        if type(producer) is Batch:
            task_id = message.properties["correlation_id"]
            producer.add(Waiting(task_id, payload, publish_options, needed, ready.policy, announce))
            return None
        published = self._publish(producer, payload, publish_options, needed, ready.policy)
        if announce is not None:
            announce()
        return published

    def ready(
        self,
        message: wire.Outgoing,
        exchange: Any = None,
        routing_key: str | None = None,
        queue: Any = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        delivery_mode: Any = None,
        compression: str | None = None,
        declare: list[Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        exchange_type: str | None = None,
        confirm_timeout: float | None = None,
        **kwargs: Any,
    ) -> Ready:
        """Complete *message* and its destination; see `publish_task` for the arguments."""
        plan = self.plan
        if headers:
            message.headers.update(headers)
        if kwargs:
            message.properties.update(kwargs)
        if queue is None and exchange is None:
            queue = self.default_queue
        elif isinstance(queue, str):
            queue = self.queues[queue]
        if queue is not None:
            exchange, routing_key, delivery_mode = self._complete_destination(
                queue, exchange, routing_key, delivery_mode, exchange_type, plan
            )
            if declare is None and not isinstance(queue, Broadcast):
                declare = [queue]
        elif routing_key is None:
            routing_key = self.app.conf.task_default_routing_key
        return Ready(
            message,
            queue,
            exchange,
            routing_key,
            plan.delivery_mode if delivery_mode is None else delivery_mode,
            serializer or plan.serializer,
            compression or plan.compression,
            declare,
            plan.retry if retry is None else retry,
            {**plan.retry_policy, **retry_policy} if retry_policy else plan.retry_policy,
            CONFIRM_S if confirm_timeout is None and is_replicated(queue) else confirm_timeout,
        )

    def _announce(self, event_dispatcher: Any, producer: Any, name: str, ready: Ready) -> None:
        """Tell everybody that the message was published."""
        headers, _, body, sent_event = ready.message
        after = signals.after_task_publish
        if after.receivers:
            after.send(
                sender=name,
                body=body,
                headers=headers,
                exchange=ready.exchange,
                routing_key=ready.routing_key,
            )
        if signals.task_sent.receivers:
            self._send_old_signal(name, ready.message)
        if sent_event:
            self._publish_sent_event(event_dispatcher, producer, sent_event, ready)

    @contextmanager
    def batch(self, producer: Any) -> Iterator[Any]:
        """Context manager: a stand-in for *producer* that sends task messages together.

        They are sent when they are some hundreds, and at the end, but not when the block fails.
        Where the transport can do no better, they are sent at once.
        """
        if type(producer) is Batch:
            # In a batch within a batch, the outer one sends.
            yield producer
            return
        batch = Batch(producer, self._publish, self.send_generally)
        yield batch
        batch.flush()

    def _publish(
        self,
        producer: Any,
        body: Any,
        options: dict[str, Any],
        declare: Sequence[Any],
        policy: Mapping[str, Any] | None,
    ) -> Any:
        """Publish, at first without what a healthy connection does not need.

        kombu's retries and declarations cost more than the message itself. So a connected
        producer tries without either, where its connection has declared the queues before;
        only when that fails is the policy applied, from its beginning.
        """
        declared = declared_by(producer)
        if declared is not None:
            needed = [entity for entity in declare if entity.name not in declared]
            if policy is None:
                published = producer.publish(body, declare=needed, retry=False, **options)
                declared.update(entity.name for entity in needed if entity.can_cache_declaration)
                return published
            if not needed:
                # The headers tell the compression, which is applied once to each body.
                headers = dict(options["headers"])
                try:
                    return producer.publish(body, retry=False, **options)
                except worth_a_retry(producer, policy):
                    options["headers"] = headers
        published = producer.publish(
            body, declare=list(declare), retry=policy is not None, retry_policy=policy, **options
        )
        declared = declared_by(producer)
        if declared is not None:
            declared.update(entity.name for entity in declare if entity.can_cache_declaration)
        return published

    def follow_up_policy(self, own: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return how the publishing of a callback is retried, given its *own* policy.

        A worker that may not give up would block; so it does, and the parent fails. A queue
        with a length limit may refuse a message for a moment (``basic.nack``).
        """
        from amqp.exceptions import MessageNacked

        policy = {**self.plan.retry_policy, **(own or {})}
        if policy.get("max_retries") is None:
            policy["max_retries"] = FOLLOW_UP_RETRIES
        policy["retry_errors"] = (*(policy.get("retry_errors") or ()), MessageNacked)
        return policy

    def _complete_destination(
        self,
        queue: Queue,
        exchange: Any,
        routing_key: str | None,
        delivery_mode: Any,
        exchange_type: str | None,
        plan: PublishPlan,
    ) -> tuple[Any, str | None, Any]:
        """Fill in from *queue* what the call leaves open of its destination."""
        bound_to: Any = queue.exchange
        if delivery_mode is None:
            delivery_mode = (bound_to.delivery_mode if bound_to else None) or plan.delivery_mode
        if exchange_type is None:
            exchange_type = bound_to.type if bound_to else "direct"
        if not exchange and not routing_key and exchange_type == "direct":
            # The default exchange leads straight to the queue, whatever it is bound to.
            return "", queue.name, delivery_mode
        return (
            exchange or (bound_to.name if bound_to else self.default_exchange.name),
            routing_key or queue.routing_key or self.app.conf.task_default_routing_key,
            delivery_mode,
        )

    def _send_old_signal(self, name: str, message: wire.Outgoing) -> None:
        headers, _, body, _ = message
        called = body if isinstance(body, dict) else {**headers, "args": body[0], "kwargs": body[1]}
        signals.task_sent.send(
            sender=name,
            task_id=called.get("id"),
            task=name,
            args=called.get("args"),
            kwargs=called.get("kwargs"),
            eta=called.get("eta"),
            taskset=called.get("group"),
        )

    def _publish_sent_event(
        self, dispatcher: Any, producer: Any, fields: dict[str, Any], ready: Ready
    ) -> None:
        dispatcher = dispatcher or self.app.events.default_dispatcher_for_publish()
        exchange = ready.exchange
        fields.update(
            queue=None if ready.queue is None else ready.queue.name,
            exchange=exchange.name if isinstance(exchange, Exchange) else exchange,
            routing_key=ready.routing_key,
        )
        dispatcher.publish(
            "task-sent", fields, producer, retry=ready.retry, retry_policy=ready.retry_policy
        )

    # -- messages that the broker itself holds back until they are due

    def delay_in_broker(
        self,
        connection: Any,
        queue: Any,
        countdown: float | None,
        eta: Any,
        routing_key: str | None,
    ) -> tuple[str, str] | None:
        """Say where a message goes that RabbitMQ shall hold back, or None where it can't.

        Native delayed delivery needs quorum queues and an exchange that is not direct; its
        exchanges are named ``celery_delayed_…``. The delay is rounded up to seconds.

        Returns:
            Exchange name and routing key.
        """
        if self._delays is None:
            driver = connection.transport.driver_type
            self._delays = bool(detect_quorum_queues(self.app, driver)[0])
        if not self._delays:
            return None
        if isinstance(queue, str):
            queue = self.queues[queue]
        bound_to = None if queue is None else queue.exchange
        if bound_to is None or bound_to.type == "direct":
            return None
        if countdown is None:
            moment = eta if isinstance(eta, datetime) else datetime.fromisoformat(eta)
            aware = maybe_make_aware(moment, self.app.timezone)
            countdown = (aware - datetime.now(UTC)).total_seconds()
        seconds = ceil(countdown)
        if seconds < 1:
            return None
        prefix = self.app.conf.get("broker_native_delayed_delivery_prefix") or None
        key = routing_key or queue.routing_key
        return level_name(MAX_LEVEL, prefix), calculate_routing_key(seconds, key)


def _checked_arguments(args: Any, kwargs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    args = () if args is None else args
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(args, (list, tuple)):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs
