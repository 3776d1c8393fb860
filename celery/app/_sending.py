"""Sending calls by name: what `celery.Celery` offers of it, alone and many at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kombu.messaging import Producer

from celery import _state, canvas
from celery.app._batch import Batch, Finished
from celery.app._express import Call, Unusual
from celery.app._publishing import worth_a_retry
from celery.exceptions import AlwaysEagerIgnored
from celery.utils.functional import maybe_list
from celery.utils.ids import new_id

if TYPE_CHECKING:
    from datetime import datetime

    from celery import result as results
    from celery.app.amqp import AMQP
    from celery.canvas import Signature


class Sending:
    """What `celery.Celery` offers to send calls; mixed into it."""

    if TYPE_CHECKING:
        conf: Any
        amqp: AMQP
        AsyncResult: Any
        producer_or_acquire: Any

        @property
        def backend(self) -> Any: ...

        @property
        def thread_oid(self) -> str: ...

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        expires: Any = None,
        publisher: Any = None,
        link: Any = None,
        link_error: Any = None,
        add_to_parent: bool = True,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        chord: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        route_name: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        task_type: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> results.AsyncResult[Any]:
        """Send a call of the task called *name*, which need not be registered here.

        Takes the arguments of `Task.apply_async`, and checks none of them against a
        signature. *route_name* is routed instead of *name*.

        Returns:
            The result of the call; nothing has been waited for.
        """
        amqp = self.amqp
        if task_type is None and self.conf.task_always_eager:
            warnings.warn(
                AlwaysEagerIgnored("task_always_eager has no effect on send_task"),
                stacklevel=2,
            )
        task_id = task_id or new_id()
        reply_to = reply_to or self.thread_oid
        parent = _state.get_current_worker_task()
        request = None
        if parent is not None:
            request = parent.request
            if request.id == task_id:
                # A retry or a replacement: it takes the place of the running call.
                parent = None
            elif parent_id is None:
                parent_id = request.id
            if root_id is None:
                root_id = request.root_id or request.id
        callbacks, errbacks = maybe_list(link), maybe_list(link_error)
        has_time = countdown is not None or eta is not None
        call: Call | Unusual | None = None
        if (
            not (retries or replaced_task_nesting)
            and router is None
            and connection is None
            and expires is None
            and (request is None or not (request.stamps or amqp.plan.inherit_priority))
        ):
            named = (route_name, shadow, time_limit, soft_time_limit)
            form = amqp.express.form(name, named, options)
            if form is not None and not (has_time and form.may_be_held_back):
                call = Call(
                    form,
                    task_id,
                    root_id or task_id,
                    parent_id,
                    group_id,
                    group_index,
                    amqp.header_eta(countdown, eta) if has_time else None,
                    reply_to,
                    args,
                    kwargs,
                    None
                    if chord is None and chain is None and not callbacks and not errbacks
                    else amqp.embedded(callbacks, errbacks, chain, chord),
                )
        if call is None:
            call = Unusual(
                name,
                args,
                kwargs,
                {
                    "task_id": task_id,
                    "countdown": countdown,
                    "eta": eta,
                    "group_id": group_id,
                    "group_index": group_index,
                    "expires": expires,
                    "retries": retries,
                    "chord": chord,
                    "callbacks": callbacks,
                    "errbacks": errbacks,
                    "reply_to": reply_to,
                    "time_limit": time_limit,
                    "soft_time_limit": soft_time_limit,
                    "root_id": root_id,
                    "parent_id": parent_id,
                    "shadow": shadow,
                    "chain": chain,
                    "replaced_task_nesting": replaced_task_nesting,
                },
                options,
                route_name,
                router,
                task_type,
                request,
            )
        producer = producer or publisher
        if producer is not None and connection is None:
            ignored = self._send(producer, call)
        else:
            with amqp.sender(connection) as chosen:
                ignored = self._send(chosen, call)
        if request is not None and request.id == task_id:
            request._replaced = True
        result: results.AsyncResult[Any] = (result_cls or self.AsyncResult)(task_id)
        # The caller knows whether there will be anything to wait for.
        result.ignored = bool(ignored)
        if add_to_parent and parent is not None:
            parent.add_trail(result)
        return result

    def _send(self, producer: Any, call: Call | Unusual) -> bool | None:
        """Send a call; return its ``ignore_result``."""
        if isinstance(call, Call):
            if self._send_straight(producer, call):
                return call.form.ignore_result
            call = call.as_unusual()
        return self._send_generally(producer, call)

    def _send_straight(self, producer: Any, call: Call) -> bool:
        """Send an ordinary call; false where it could not be sent this way."""
        express = self.amqp.express
        batch = producer if type(producer) is Batch else None
        real = producer if batch is None else batch.producer
        written = express.write(real, call) if type(real) is Producer else None
        if written is None:
            return False
        outlet, data = written
        form = call.form
        if not form.ignore_result:
            self.backend.on_task_call(producer, call.task_id)
        if batch is not None:
            batch.add_finished(Finished(call, data), outlet)
            return True
        try:
            outlet.send((data,), form.ready.confirm_timeout)
        except Exception as exc:
            policy = form.ready.policy
            if policy is None or not isinstance(exc, worth_a_retry(real, policy)):
                raise
            return False
        return True

    def _send_generally(self, producer: Any, call: Unusual) -> bool | None:
        """Make the message of any call and publish it; return its ``ignore_result``."""
        name, args, kwargs, fields, options, route_name, router, task_type, request = call
        options = dict(options)
        amqp = self.amqp
        stamped_headers = options.pop("stamped_headers", None)
        stamps = (
            {key: options.pop(key) for key in stamped_headers if key in options}
            if stamped_headers
            else {}
        )
        options = (router or amqp.router).route(
            options, route_name or name, args, kwargs, task_type
        )
        if request is not None:
            if (
                options.get("priority") is None
                and amqp.plan.inherit_priority
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
        message = amqp.create_task_message(
            name=name,
            args=args,
            kwargs=kwargs,
            **fields,
            create_sent_event=amqp.plan.send_sent_event,
            ignore_result=ignore_result,
            stamped_headers=stamped_headers,
            **message_options,
            **stamps,
        )
        if countdown is not None or eta is not None:
            delayed = amqp.delay_in_broker(
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
            self.backend.on_task_call(producer, task_id)
        amqp.send_task_message(producer, name, message, **options)
        return ignore_result

    def send_tasks(
        self, signatures: Iterable[Signature], producer: Any = None, **options: Any
    ) -> list[Any]:
        """Send many calls at once, with few round trips where the broker can.

        This is for calls that have nothing to do with each other; a `group` has a result of its
        own beside.

        Args:
            signatures: Calls or workflows, read as they are sent.
            producer: kombu producer; by default one from the app's pool.
            options: Options for all of them, as of `Task.apply_async`.

        Returns:
            Their results, in order.

        Raises:
            celery.exceptions.TasksNotSent: Some did not reach the broker, or not for sure.
        """
        with self.producer_or_acquire(producer) as chosen, self.amqp.batch(chosen) as batch:
            return [
                canvas.maybe_signature(sig, app=self).apply_async(producer=batch, **options)
                for sig in signatures
            ]

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature bound to this app; see `celery.signature`."""
        kwargs["app"] = self
        return canvas.signature(*args, **kwargs)  # type: ignore[no-any-return]  # or a subclass
