"""Sending calls by name: what `celery.Celery` offers of it, alone and many at once.

What is needed to send, and not to make an app, is loaded with `Celery.amqp`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery import _state, canvas
from celery.exceptions import AlwaysEagerIgnored
from celery.utils import functional
from celery.utils.ids import new_id

if TYPE_CHECKING:
    from datetime import datetime

    from celery import result as results
    from celery.app._context import Context
    from celery.app.amqp import AMQP
    from celery.canvas import Signature


class Sending:
    """What `celery.Celery` offers to send calls; mixed into it."""

    if TYPE_CHECKING:
        conf: Any
        amqp: AMQP
        AsyncResult: Any
        _series: Any

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
            root_id, parent_id = _lineage(request, task_id, root_id, parent_id)
        callbacks = None if link is None else functional.maybe_list(link)
        errbacks = None if link_error is None else functional.maybe_list(link_error)
        has_time = countdown is not None or eta is not None
        call: Any = None
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
                moment = amqp.header_eta(countdown, eta) if has_time else None
                embedded = None
                if callbacks or errbacks or chain is not None or chord is not None:
                    embedded = amqp.embedded(callbacks, errbacks, chain, chord)
                call = amqp.ordinary(
                    form, task_id, root_id or task_id, parent_id, group_id, group_index, moment,
                    reply_to, args, kwargs, embedded,
                )  # fmt: skip
        if call is None:
            fields = {
                "task_id": task_id, "countdown": countdown, "eta": eta, "expires": expires,
                "group_id": group_id, "group_index": group_index, "retries": retries,
                "callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord,
                "reply_to": reply_to, "root_id": root_id, "parent_id": parent_id,
                "time_limit": time_limit, "soft_time_limit": soft_time_limit,
                "shadow": shadow, "replaced_task_nesting": replaced_task_nesting,
            }  # fmt: skip
            call = amqp.unusual(
                name, args, kwargs, fields, options, route_name, router, task_type, request
            )
        producer = producer or publisher
        if producer is not None and connection is None:
            ignored = amqp.send(producer, call)
        else:
            with amqp.sender(connection) as chosen:
                ignored = amqp.send(chosen, call)
        if request is not None and request.id == task_id:
            request._replaced = True
            parent = None
        result: results.AsyncResult[Any] = (result_cls or self.AsyncResult)(task_id)
        # The caller knows whether there will be anything to wait for.
        result.ignored = bool(ignored)
        if add_to_parent and parent is not None:
            parent.add_trail(result)
        return result

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
        with self._series(producer) as series:
            send, as_signature = series.send, canvas.maybe_signature
            return [send(as_signature(sig, app=self), None, None, options) for sig in signatures]

    def signature(self, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature bound to this app; see `celery.signature`."""
        kwargs["app"] = self
        return canvas.signature(*args, **kwargs)  # or a subclass


def _lineage(
    request: Context, task_id: str, root_id: str | None, parent_id: str | None
) -> tuple[str | None, str | None]:
    """Return the root and the parent of a call that the task of *request* makes.

    A retry or a replacement takes the place of the running call, and so has no new parent.
    """
    if parent_id is None and request.id != task_id:
        parent_id = request.id
    if root_id is None:
        root_id = request.root_id or request.id
    return root_id, parent_id


#: What a call by name is; another function in its place goes its own way.
SEND_TASK = Sending.send_task
