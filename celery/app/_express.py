"""The straight way of an ordinary call to the broker.

A call is ordinary when nobody listens for it here (signals, ``task-sent`` events), its body is JSON
as kombu writes it, its options are plain values, and its destination follows from these. Then it
belongs to a `Form`, and all calls of a form make the same message but for a few blanks. The first
one goes the general way, `AMQP.publish_task`; at the second one a template is made, by which it and
all others are written, and sent with one system call.

What is out of the ordinary, and what could not be sent, goes the general way, so that there is one
place for routing, declaring and trying again. Both ways make the same message: the template is what
the general way makes of a call whose blanks are marked.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kombu.messaging import Producer
from kombu.utils.functional import ChannelPromise

from celery import signals
from celery._protocol import body as wire_body
from celery._protocol.message import NOTHING_EMBEDDED, Embedded
from celery._protocol.template import MARKS, Unfit
from celery._transport.outlet import Outlet, Sample, Template, outlet_of
from celery.app.routes import MapRoute, Router
from celery.utils.functional import maybe_evaluate
from celery.utils.saferepr import saferepr

if TYPE_CHECKING:
    from celery.app._publishing import PublishPlan, Ready
    from celery.app.amqp import AMQP

__all__ = ("Call", "Express", "Form", "Unusual")

#: Forms that are known at most; an app that makes up options for each call has no use for them.
MOST_FORMS = 500

#: Types of options that forms are told apart by.
_PLAIN = frozenset({str, int, float, bool, type(None)})
#: Types of positional arguments.
_ARGUMENTS = (tuple, list)
#: Options that change the message in ways of their own.
_UNUSUAL = frozenset({"argsrepr", "kwargsrepr", "origin", "compression", "stamped_headers"})


class Unusual(NamedTuple):
    """A call that goes the general way: all that `Celery.send_task` was given, and more."""

    name: str
    args: Any
    kwargs: Any
    #: Arguments of `AMQP.create_task_message`.
    fields: dict[str, Any]
    options: Mapping[str, Any]
    route_name: str | None
    router: Any
    task_type: Any
    #: Of the task that makes the call.
    request: Any


class Call(NamedTuple):
    """An ordinary call: its form, and what differs between calls of a form."""

    form: Form
    task_id: str
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    group_index: int | None
    eta: str | None
    reply_to: str
    args: Any
    kwargs: Any
    #: None for nothing.
    embedded: Embedded | None

    @property
    def policy(self) -> Mapping[str, Any] | None:
        """How a failed attempt is repeated; None for not at all."""
        return self.form.ready.policy

    def as_unusual(self) -> Unusual:
        """Return the same call for the general way."""
        form = self.form
        route_name, shadow, time_limit, soft_time_limit = form.named
        embedded = self.embedded or NOTHING_EMBEDDED
        fields = {
            "task_id": self.task_id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group_id,
            "group_index": self.group_index,
            "countdown": None,
            "eta": self.eta,
            "reply_to": self.reply_to,
            "shadow": shadow,
            "time_limit": time_limit,
            "soft_time_limit": soft_time_limit,
            **embedded._asdict(),
        }
        return Unusual(
            form.name, self.args, self.kwargs, fields, form.options, route_name, None, None, None
        )


class Form:
    """What the messages of ordinary calls with the same options have in common.

    Args:
        name: Name of the task.
        named: Name to route by, shadow, hard and soft time limit.
        options: Further options, as they were given to `Celery.send_task`.
        ready: A message with marks, and where it goes.
        repr_levels: ``task_repr_maxlevels``.
    """

    __slots__ = (
        "ignore_result", "may_be_held_back", "name", "named", "options", "ready", "repr_levels",
        "templates",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        named: tuple[Any, ...],
        options: Mapping[str, Any],
        ready: Ready,
        repr_levels: int,
    ) -> None:
        self.repr_levels = repr_levels
        self.name = name
        self.named = named
        self.options = options
        self.ready = ready
        self.ignore_result: bool | None = ready.message.headers["ignore_result"]
        bound_to: Any = None if ready.queue is None else ready.queue.exchange
        #: Whether there are brokers that hold such a message back until it is due.
        self.may_be_held_back = bound_to is not None and bound_to.type != "direct"
        #: By key of an outlet; None where it can't write such messages.
        self.templates: dict[Hashable, Template | None] = {}

    def template(self, outlet: Outlet) -> Template | None:
        """Return how *outlet* writes messages of this form."""
        try:
            return self.templates[outlet.key]
        except KeyError:
            pass
        options = self.ready.publish_options(wire_body.JSON_TYPE, wire_body.JSON_ENCODING)
        made: Template | None
        try:
            made = Sample(outlet.channel).template(outlet, MARKS.id, options)
        except Unfit:
            # The general way does it.
            made = None
        self.templates[outlet.key] = made
        return made


class Express:
    """Sends the ordinary calls of an app.

    Args:
        amqp: Goes the general way.
    """

    def __init__(self, amqp: AMQP) -> None:
        self._amqp = amqp
        self._general_way = amqp.send_task_message
        #: By what tells forms apart; None for one that was seen once, False for none of ours.
        self._forms: dict[Hashable, Form | Literal[False] | None] = {}
        self._valid_for: tuple[Any, ...] = ()

    def _is_open(self, plan: PublishPlan) -> bool:
        """Say whether calls may be sent without telling anybody."""
        amqp = self._amqp
        return not (
            signals.before_task_publish.receivers
            or signals.after_task_publish.receivers
            or signals.task_sent.receivers
            or not plan.is_plain
            or not wire_body.is_standard("json")
            # Monitoring packages put functions of theirs in these places.
            or amqp.Producer is not Producer
            or Producer.publish is not _PUBLISH
            or amqp.__dict__.get("send_task_message") is not self._general_way
        )

    @property
    def forms(self) -> dict[Hashable, Form | Literal[False] | None] | None:
        """What is known of forms, another object when they changed; None while nobody has one."""
        amqp = self._amqp
        plan = amqp.plan
        if not self._is_open(plan):
            return None
        valid_for = (plan, amqp._router or amqp.router, amqp.queues.revision)
        if valid_for != self._valid_for:
            self._forms, self._valid_for = {}, valid_for
        return self._forms

    def form(self, name: str, named: tuple[Any, ...], options: Mapping[str, Any]) -> Form | None:
        """Return the form of a call, None when it has none, or not yet.

        Args:
            name: Name of the task.
            named: Name to route by, shadow, hard and soft time limit.
            options: Further options, as they were given to `Celery.send_task`.
        """
        for value in options.values():
            if type(value) not in _PLAIN:
                return None
        forms = self.forms
        if forms is None:
            return None
        key = (name, named, *options.items())
        try:
            known = forms[key]
        except KeyError:
            if len(forms) >= MOST_FORMS:
                forms.clear()
            forms[key] = None
            return None
        if known is None:
            known = forms[key] = self._new_form(name, named, dict(options)) or False
        return known or None

    def _new_form(self, name: str, named: tuple[Any, ...], options: dict[str, Any]) -> Form | None:
        """Do what the general way does, with marks in the place of what differs."""
        amqp = self._amqp
        router = amqp.router
        if not (_asks_for_names_only(router) and amqp.makes_standard_messages):
            return None
        if not _UNUSUAL.isdisjoint(options):
            return None
        route_name, shadow, time_limit, soft_time_limit = named
        given, options = options, router.route(options, route_name or name)
        if options.get("priority") is None:
            options.pop("priority", None)
        message = amqp.as_task_v2(
            MARKS.id,
            name,
            eta=MARKS.eta,
            group_id=MARKS.group_id,
            group_index=MARKS.group_index,
            reply_to=MARKS.reply_to,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
            root_id=MARKS.root_id,
            parent_id=MARKS.parent_id,
            shadow=shadow,
            ignore_result=options.pop("ignore_result", None),
            argsrepr=MARKS.argsrepr,
            kwargsrepr=MARKS.kwargsrepr,
        )
        ready = amqp.ready(message, **options)
        if not wire_body.is_standard(ready.serializer) or ready.compression:
            return None
        return Form(name, named, given, ready, amqp.plan.repr_levels)

    def way(self, sender: Any, form: Form) -> tuple[Outlet, Template] | None:
        """Return what sends calls of *form*, and writes them; None where the general way does."""
        if type(sender) is not Producer:
            return None
        producer: Any = sender
        connection = producer.__connection__ or producer.connection
        channel = producer._channel
        if isinstance(channel, ChannelPromise):
            # Where one exists already, asking for it does not connect.
            if connection._default_channel is None or not connection.connected:
                return None
            channel = producer.channel
        outlet = outlet_of(channel)
        if outlet is None or not outlet.is_open:
            return None
        declared = connection.declared_entities
        for queue in form.ready.declare or ():
            if queue.name not in declared:
                return None
        template = form.templates.get(outlet.key) or form.template(outlet)
        return None if template is None else (outlet, template)

    def fill(self, template: Template, call: Call, embedded: str | None = None) -> Any | None:
        """Return the message of a call; None where the general way is needed.

        Args:
            embedded: What its body carries beside the arguments, as JSON; None where nobody has
                made that yet.
        """
        args, kwargs = call.args, call.kwargs
        if args is None:
            args = ()
        if kwargs is None:
            kwargs = {}
        if type(args) not in _ARGUMENTS or type(kwargs) is not dict:
            return None
        amqp = self._amqp
        levels = call.form.repr_levels
        try:
            if embedded is None and call.embedded is not None:
                body = wire_body.dumps((args, kwargs, call.embedded._asdict()), "json")[2]
            else:
                body = wire_body.dumps_call(args, kwargs, embedded)
            return template.fill(
                (
                    *call[1:7],
                    saferepr(args, amqp.argsrepr_maxsize, levels),
                    saferepr(kwargs, amqp.kwargsrepr_maxsize, levels) if kwargs else "{}",
                    call.reply_to,
                ),
                body,
            )
        except Exception:  # noqa: BLE001 - the general way says what is wrong
            return None


def _asks_for_names_only(router: Any) -> bool:
    """Say whether the destination of a call depends on its name and options alone."""
    return type(router) is Router and all(
        type(maybe_evaluate(route)) is MapRoute for route in router.routes
    )


def _unpatched(function: Any) -> Any:
    """Return *function* of kombu's producer, None where another has taken its place."""
    origin: Any = Producer.revive
    # Wrappers of some packages have the code of what they wrap, but not its type.
    is_plain = type(function) is FunctionType
    ours = is_plain and function.__code__.co_filename == origin.__code__.co_filename
    return function if ours else None


_PUBLISH = _unpatched(Producer.publish)
