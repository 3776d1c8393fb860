"""Which way a call goes to the broker: the straight one, or the general one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.app._batch import Batch, Finished
from celery.app._express import Call, Express, Unusual
from celery.app._publishing import give_up_on_silence, worth_a_retry

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Dispatch",)


class Dispatch:
    """What `celery.app.amqp.AMQP` does with a call; mixed into it."""

    ordinary = Call
    unusual = Unusual

    if TYPE_CHECKING:
        app: Celery
        router: Any
        create_task_message: Any
        delay_in_broker: Any
        send_task_message: Any

        @property
        def plan(self) -> Any: ...

        @property
        def express(self) -> Express: ...

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
