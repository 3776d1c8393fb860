"""From a call to the broker: by the straight way, or by the general one.

The general way is: make the message, route it (`Dispatch.send_generally`), complete its
destination (`Dispatch.ready`), publish it (`Dispatch.publish_task`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property, partial
from math import ceil
from typing import TYPE_CHECKING, Any

from kombu.common import Broadcast
from kombu.entity import Exchange, Queue
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name

from celery import signals
from celery._protocol import body as wire_body, message as wire
from celery.app._batch import Batch, Finished, Waiting
from celery.app._express import Call, Express, Unusual
from celery.app._publishing import (
    CONFIRM_S,
    Patience,
    PublishPlan,
    Ready,
    declared_by,
    give_up_on_silence,
    is_replicated,
    worth_a_retry,
)
from celery.utils.quorum_queues import detect_quorum_queues
from celery.utils.time import maybe_make_aware

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Dispatch",)

#: Retries of publishing a callback whose policy sets no limit.
FOLLOW_UP_RETRIES = 3


class Dispatch:
    """What `celery.app.amqp.AMQP` does with a call; mixed into it."""

    ordinary = Call
    unusual = Unusual

    if TYPE_CHECKING:
        app: Celery
        router: Any
        create_task_message: Any
        queues: Any
        default_queue: Any
        default_exchange: Any

        @property
        def plan(self) -> PublishPlan: ...

        @property
        def express(self) -> Express: ...

    #: Whether the broker can hold messages back; None before the first that wants it.
    _delays: bool | None = None

    def send(self, producer: Any, call: Call | Unusual) -> bool | None:
        """Send a call; return its ``ignore_result``."""
        if isinstance(call, Call):
            if self._send_straight(producer, call):
                return call.form.ignore_result
            call = call.as_unusual()
        return self.send_generally(producer, call)

    def _send_straight(self, producer: Any, call: Call) -> bool:
        """Send an ordinary call; false where it could not be sent this way."""
        express = self.express
        form = call.form
        batch = producer if type(producer) is Batch else None
        way = express.way(producer, form) if batch is None else batch.way(express, form)
        if way is None:
            return False
        outlet, template = way
        data = express.fill(template, call)
        if data is None:
            return False
        if not form.ignore_result:
            self.app.backend.on_task_call(producer, call.task_id)
        if batch is not None:
            batch.add_finished(Finished(call, data), outlet)
            return True
        try:
            outlet.send((data,), form.ready.confirm_timeout)
        except Exception as exc:
            policy = form.ready.policy
            if policy is None or not isinstance(exc, worth_a_retry(producer, policy)):
                raise
            give_up_on_silence(producer, exc)
            return False
        return True

    def send_generally(self, producer: Any, call: Unusual) -> bool | None:
        """Make the message of any call and publish it; return its ``ignore_result``."""
        name, args, kwargs, fields, options, route_name, router, task_type, request = call
        options = dict(options)
        stamped_headers = options.pop("stamped_headers", None)
        stamps = (
            {key: options.pop(key) for key in stamped_headers if key in options}
            if stamped_headers
            else {}
        )
        options = (router or self.router).route(
            options, route_name or name, args, kwargs, task_type
        )
        if request is not None:
            if (
                options.get("priority") is None
                and self.plan.inherit_priority
                and request.delivery_info
            ):
                options["priority"] = request.delivery_info.get("priority")
            if request.stamps:
                # Stamps pass on to whatever a stamped task calls.
                stamps = {**request.stamps, **stamps}
                stamped_headers = list(
                    dict.fromkeys([*(stamped_headers or ()), *(request.stamped_headers or ())])
                )
        if options.get("priority") is None:
            options.pop("priority", None)
        ignore_result: bool | None = options.pop("ignore_result", None)
        message_options = {
            key: options.pop(key) for key in ("argsrepr", "kwargsrepr", "origin") if key in options
        }
        task_id, countdown, eta = fields["task_id"], fields["countdown"], fields["eta"]
        message = self.create_task_message(
            name=name,
            args=args,
            kwargs=kwargs,
            **fields,
            create_sent_event=self.plan.send_sent_event,
            ignore_result=ignore_result,
            stamped_headers=stamped_headers,
            **message_options,
            **stamps,
        )
        if countdown is not None or eta is not None:
            delayed = self.delay_in_broker(
                producer.connection,
                options.get("queue"),
                countdown,
                eta,
                options.get("routing_key"),
            )
            if delayed is not None:
                options["exchange"], options["routing_key"] = delayed
                options["declare"] = []
        if not ignore_result:
            self.app.backend.on_task_call(producer, task_id)
        self.send_task_message(producer, name, message, **options)
        return ignore_result

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
        **options: Any,
    ) -> Any:
        """Publish *message* of the task *name*.

        Args:
            exchange, routing_key, queue, retry, options: See `ready`.
            event_dispatcher: Sends the ``task-sent`` event; None for one of the app's.

        Raises:
            kombu.exceptions.OperationalError: The broker can't be reached; retries are used up.
            kombu.exceptions.EncodeError: The arguments can't be serialized.
        """
        ready = self.ready(message, exchange, routing_key, queue, retry, **options)
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
        """Complete *message* and its destination.

        Args:
            exchange, routing_key, queue: Destination; what is missing comes from the queue,
                by default the app's default queue.
            retry, retry_policy: Override ``task_publish_retry`` and ``…_policy``.
            confirm_timeout: Seconds to wait for the broker's confirmation.
            kwargs: Further message properties and options of `kombu.Producer.publish`.
        """
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
                except worth_a_retry(producer, policy) as exc:
                    options["headers"] = headers
                    give_up_on_silence(producer, exc)

        connection = producer.__connection__ or producer.connection
        was_connected = connection.connected

        def attempt() -> Any:
            if policy is not None:
                # One attempt to connect, of which the policy makes more. kombu would go on for
                # as long as one connection may take, whatever the policy says.
                connection._ensure_connection(max_retries=0, reraise_as_library_errors=False)
            # By itself kombu would go on with the channel that a failed declaration has closed.
            headers = dict(options["headers"])
            return producer.publish(
                body, declare=list(declare), retry=False, **{**options, "headers": headers}
            )

        if not was_connected:
            producer.revive(connection)
        if policy is None:
            published = attempt()
        else:
            patience = Patience(len(connection.alt) or 1, policy.get("errback"), was_connected)
            published = connection.ensure(producer, attempt, **{**policy, "errback": patience})()
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
