"""Queues, task messages and their publishing: the app's side of the broker.

`AMQP` is what ``app.amqp`` offers. Sending a task is three steps: `AMQP.as_task_v2`
turns the call into a message (pure), `AMQP.router` says where it goes (pure), and
`AMQP.send_task_message` publishes it (I/O; see `celery.app._dispatch`). What these need
of the settings is read once into a `PublishPlan`, and again only after a setting changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer, Producer
from kombu.pools import ProducerPool
from kombu.serialization import prepare_accept_content

from celery._canvas import signature as signatures
from celery._protocol import legacy, message as wire, options
from celery._transport.connection import BrokerConnectionPool
from celery.app import routes as task_routes
from celery.app._dispatch import Dispatch
from celery.app._express import Express
from celery.app._lanes import Lanes
from celery.app._publishing import PublishPlan
from celery.app._queues import QUEUE_FORMAT as QUEUE_FORMAT, Queues
from celery.utils.nodenames import anon_nodename
from celery.utils.saferepr import saferepr

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("AMQP", "Queues", "task_message")

INT_MIN = options.INT_MIN

task_message = wire.Outgoing


def utf8dict(d: Mapping[Any, Any], encoding: str = "utf-8") -> dict[Any, Any]:
    """Return *d* with byte keys decoded."""
    return {k.decode(encoding) if isinstance(k, bytes) else k: v for k, v in d.items()}


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


def _checked_arguments(args: Any, kwargs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    args = () if args is None else args
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(args, (list, tuple)):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs
