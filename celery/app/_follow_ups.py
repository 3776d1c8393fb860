"""Publish what a successful task leads to: its callbacks and the next link of its chain.

The tracer calls this before it stores the result, which names what was published as children
of the task. A pool whose processes may vanish is told before each what has not been published for
sure. If the process is lost then, the worker publishes that, under the same ids
(`celery.worker._unreported`): a follow-up may come twice, but none is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import canvas, signals
from celery._protocol.rest import Rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.app._context import Context
    from celery.app.base import Celery

before_publish, after_publish = signals.before_task_publish, signals.after_task_publish


#: A signature to start with the value of the task, and the steps of the chain that it takes along.
FollowUp = tuple[Any, Any]

#: Noted for the next step of a chain that is just as the message of the task has it.
NEXT_STEP: FollowUp = (None, None)


def publish(
    app: Celery,
    ctx: Context,
    retval: Any,
    *,
    inherit_priority: bool,
    note: Callable[[list[FollowUp]], object] | None = None,
) -> None:
    """Start all that waits for the value *retval* of the task of *ctx*.

    Args:
        inherit_priority: What is published has the priority of the task
            (``task_inherit_parent_priority``).
        note: Called before each start with what has not been started, that one first.
    """
    follow_ups = [*_callbacks(app, ctx), *_next_step(app, ctx)]
    options = _options(ctx, inherit_priority)
    if note is None:
        for follow_up in follow_ups:
            _start(ctx, follow_up, retval, options)
        return
    for sig, _rest in follow_ups:
        # Its ids, so that they stay the same if somebody else has to start it.
        sig.freeze()
    noted = [NEXT_STEP if type(rest) is Rest else (dict(sig), rest) for sig, rest in follow_ups]
    for index, follow_up in enumerate(follow_ups):
        note(noted[index:])
        _start(ctx, follow_up, retval, options)


def publish_noted(
    app: Celery, ctx: Context, retval: Any, noted: list[FollowUp], *, inherit_priority: bool
) -> None:
    """Start what another process has *noted*, but perhaps not started."""
    options = _options(ctx, inherit_priority)
    for sig, rest in noted:
        if sig is None:
            sig, rest = _next_step(app, ctx)[0]
        _start(ctx, (canvas.maybe_signature(sig, app=app), rest), retval, options)


def _options(ctx: Context, inherit_priority: bool) -> dict[str, Any]:
    return {
        "parent_id": ctx.id,
        "root_id": ctx.root_id or ctx.id,
        "priority": (ctx.delivery_info or {}).get("priority") if inherit_priority else None,
    }


def _callbacks(app: Celery, ctx: Context) -> list[FollowUp]:
    """Return the callbacks; several are one group."""
    sigs = [_persistent(app, callback) for callback in ctx.callbacks or ()]
    if len(sigs) > 1:
        # A group inside a group would be taken apart; it stays one of its own.
        groups = [sig for sig in sigs if isinstance(sig, canvas.group)]
        single = [sig for sig in sigs if not isinstance(sig, canvas.group)]
        sigs = [*groups, canvas.group(single, app=app)] if len(single) > 1 else groups + single
    return [(sig, None) for sig in sigs]


def _next_step(app: Celery, ctx: Context) -> list[FollowUp]:
    """Return the next task of the chain, if there is one."""
    # Not as an attribute, which would decode it.
    chain: Any = vars(ctx).get("chain")
    if not chain:
        return []
    if type(chain) is Rest and not (before_publish.receivers or after_publish.receivers):
        step, rest = chain.next()
    else:
        # Receivers of these signals are shown the body, as plain data.
        *rest, step = list(ctx.chain or ())
    return [(_persistent(app, step), rest)]


def _start(ctx: Context, follow_up: FollowUp, retval: Any, options: dict[str, Any]) -> None:
    """Start one signature; here and now when the task ran eagerly."""
    sig, rest = follow_up
    if rest is not None:
        options = {**options, "chain": rest}
    if ctx.is_eager:
        sig.apply((retval,), **options)
        return
    sig.apply_async((retval,), **options)


def _persistent(app: Celery, carried: Any) -> Any:
    """Return the signature with a retry policy that ends and covers refusals of the broker."""
    sig: Any = canvas.maybe_signature(carried, app=app)
    if sig.subtask_type is not None:
        # Composites publish several messages, each with the policy of its own task.
        return sig
    return sig.clone(retry_policy=app.amqp.follow_up_policy(sig.options.get("retry_policy")))
