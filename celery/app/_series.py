"""Many calls, one after another, where each is not asked anew for what they have in common.

A `Series` does with a signature what its ``apply_async`` does with a batch as ``producer``. Calls
that go the straight way (`celery.app._express`) and whose task does nothing of its own when called
share a `Model`: what their options stand for is found out once. All other signatures are applied.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from celery import _state
from celery._canvas.signature import Signature
from celery._protocol.jsontext import encode
from celery.app._batch import Batch, Finished
from celery.app._express import Call, Form
from celery.app._sending import SEND_TASK
from celery.app.task import APPLY_ASYNC, Task
from celery.utils.ids import new_id

if TYPE_CHECKING:
    from celery._protocol.message import Embedded
    from celery.app.base import Celery

__all__ = ("Series",)

#: Options that calls with a model may have, beside those that differ between them.
_MODELLED = frozenset(
    {
        "queue", "exchange", "routing_key", "priority", "serializer", "delivery_mode", "retry",
        "ignore_result", "shadow", "time_limit", "soft_time_limit",
    }
)  # fmt: skip


class Model(NamedTuple):
    """What calls of one task with the same options have in common."""

    form: Form
    #: Raises TypeError for arguments that don't fit; None for no such check.
    check: Callable[..., Any] | None
    #: Class and back-end of results.
    result_cls: Any
    backend: Any


_Models = dict[Hashable, Model | Literal[False] | None]


class Series:
    """Sends the signatures of one thread through one batch.

    Args:
        app: The app whose tasks may have models.
        batch: Takes the messages.
    """

    def __init__(self, app: Celery, batch: Batch) -> None:
        self.batch = batch
        self._app = app
        self._express = app.amqp.express
        #: By task and options; None for calls that were seen once, False for ones without.
        self._models: _Models = {}
        #: What the express knew when these models were made.
        self._forms: Any = None
        self._reply_to = app.thread_oid
        self._parent = parent = _state.get_current_worker_task()
        self._root_id: str | None = None
        self._parent_id: str | None = None
        self._is_replaced_by: str | None = None
        if parent is not None:
            request = parent.request
            self._parent_id = self._is_replaced_by = request.id
            self._root_id = request.root_id or request.id
        #: The chord that the last call belonged to, and how bodies say so.
        self._chord: Any = None
        self._embedded: Embedded | None = None
        self._embedded_text: str | None = None

    @classmethod
    @contextmanager
    def through(cls, app: Celery, producer: Any) -> Iterator[Series]:
        """Context manager: a series that sends through *producer*; None for one of the pool.

        Raises:
            celery.exceptions.TasksNotSent: At the end: some did not reach the broker.
        """
        with app.producer_or_acquire(producer) as chosen, app.amqp.batch(chosen) as batch:
            yield cls(app, batch)

    def send(
        self, sig: Any, args: Any = None, kwargs: Any = None, options: Mapping[str, Any] = {}
    ) -> Any:
        """Send a call or a workflow as its `Signature.apply_async` does; return the result."""
        if type(sig) is Signature:
            task = sig._type
            if task is not None and (models := self._known_models()) is not None:
                result = self._send_by_model(models, task, *sig._merge(args, kwargs, options))
                if result is not None:
                    return result
        return sig.apply_async(args, kwargs, producer=self.batch, **options)

    def _known_models(self) -> _Models | None:
        """Return the models that still hold, None where no call has one."""
        forms = self._express.forms
        if forms is not self._forms:
            self._models, self._forms = {}, forms
        return None if forms is None else self._models

    def _send_by_model(
        self,
        models: _Models,
        task: Task,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: dict[str, Any],
    ) -> Any:
        """Send a call; None where that takes `Signature.apply_async`."""
        take = options.pop
        task_id = take("task_id", None) or new_id()
        group_id, group_index = take("group_id", None), take("group_index", None)
        reply_to = take("reply_to", None) or self._reply_to
        root_id = take("root_id", None) or self._root_id or task_id
        parent_id = take("parent_id", None) or self._parent_id
        chord = take("chord", None)
        add_to_parent = take("add_to_parent", True)
        key = (task, *options.items()) if options else task
        try:
            model = models[key]
        except TypeError:
            # An option that is no plain value.
            return None
        except KeyError:
            model = models[key] = self._new_model(task, options)
        else:
            if model is None:
                # The first call of its kind went the general way, which makes forms.
                model = models[key] = self._new_model(task, options) or False
        if not model or task_id == self._is_replaced_by:
            return None
        form, check, result_cls, backend = model
        way = self.batch.way(self._express, form)
        if way is None:
            return None
        if check is not None:
            check(*args, **kwargs)
        outlet, template = way
        if chord is not None and chord is not self._chord:
            embedded = self._app.amqp.embedded(None, None, None, chord)
            self._chord, self._embedded = chord, embedded
            self._embedded_text = encode(embedded._asdict())
        call = Call(
            form, task_id, root_id, parent_id, group_id, group_index, None, reply_to, args, kwargs,
            None if chord is None else self._embedded,
        )  # fmt: skip
        data = self._express.fill(template, call, None if chord is None else self._embedded_text)
        if data is None:
            return None
        if not form.ignore_result:
            self._app.backend.on_task_call(self.batch, task_id)
        self.batch.add_finished(Finished(call, data), outlet)
        result = result_cls(task_id, backend, form.name)
        result._ignored = bool(form.ignore_result)
        if add_to_parent and self._parent is not None:
            self._parent.add_trail(result)
        return result

    def _new_model(self, task: Task, options: Mapping[str, Any]) -> Model | Literal[False] | None:
        """Return the model of calls; False for none, None where it is too early to say."""
        app = self._app
        if not (_MODELLED.issuperset(options) and _is_usual(task, app)):
            return False
        if self._parent is not None and (
            self._parent.request.stamps or app.amqp.plan.inherit_priority
        ):
            return False
        options = {**task._get_exec_options(), **options}
        if options.get("ignore_result") is None:
            options["ignore_result"] = bool(task.ignore_result)
        if not _MODELLED.issuperset(options):
            return False
        if options.get("priority") is None:
            options.pop("priority", None)
        named = (
            None, options.pop("shadow", None), options.pop("time_limit", None),
            options.pop("soft_time_limit", None),
        )  # fmt: skip
        form = self._express.form(task.name, named, options)
        if form is None:
            return None
        check = task.__header__ if task.typing else None
        return Model(form, check, app.AsyncResult, task.backend)


def _is_usual(task: Any, app: Celery) -> bool:
    """Say whether nothing of its own happens when *task* is called."""
    return (
        getattr(task.apply_async, "__func__", None) is APPLY_ASYNC
        and getattr(app.send_task, "__func__", None) is SEND_TASK
        and getattr(task.shadow_name, "__func__", None) is Task.shadow_name
        and getattr(task.AsyncResult, "__func__", None) is Task.AsyncResult
        and task.__models__ is None
        and task.app is app
    )
