"""Publish what a successful task leads to: its callbacks and the next link of its chain.

The tracer calls this before it stores the result, which names what was published as children
of the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import canvas, signals
from celery._protocol.rest import Rest

if TYPE_CHECKING:
    from celery.app._context import Context
    from celery.app.base import Celery

before_publish, after_publish = signals.before_task_publish, signals.after_task_publish


def publish(app: Celery, ctx: Context, retval: Any, *, inherit_priority: bool) -> None:
    """Start all that waits for the value *retval* of the task of *ctx*.

    Args:
        inherit_priority: What is published has the priority of the task
            (``task_inherit_parent_priority``).
    """
    options = {
        "parent_id": ctx.id,
        "root_id": ctx.root_id or ctx.id,
        "priority": (ctx.delivery_info or {}).get("priority") if inherit_priority else None,
    }
    if ctx.callbacks:
        _publish_callbacks(app, ctx, retval, options)
    # Not as an attribute, which would decode it.
    chain: Any = vars(ctx).get("chain")
    if chain:
        _publish_chain(app, ctx, chain, retval, options)


def _publish_callbacks(app: Celery, ctx: Context, retval: Any, options: dict[str, Any]) -> None:
    """Send the callbacks; several go out as one group."""
    sigs = [_persistent(app, callback) for callback in ctx.callbacks or ()]
    if len(sigs) > 1:
        # A group inside a group would be taken apart; it stays one of its own.
        groups = [sig for sig in sigs if isinstance(sig, canvas.group)]
        single = [sig for sig in sigs if not isinstance(sig, canvas.group)]
        sigs = [*groups, canvas.group(single, app=app)] if len(single) > 1 else groups + single
    for sig in sigs:
        _start(ctx, sig, retval, options)


def _publish_chain(
    app: Celery, ctx: Context, chain: Any, retval: Any, options: dict[str, Any]
) -> None:
    """Send the next task of the chain, which takes the rest of it along."""
    if type(chain) is Rest and not (before_publish.receivers or after_publish.receivers):
        step, rest = chain.next()
    else:
        # Receivers of these signals are shown the body, as plain data.
        *rest, step = list(ctx.chain or ())
    _start(ctx, _persistent(app, step), retval, {**options, "chain": rest})


def _start(ctx: Context, sig: Any, retval: Any, options: dict[str, Any]) -> None:
    """Start one signature; here and now when the task ran eagerly."""
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
