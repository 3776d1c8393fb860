"""Workflows as data, what each of them is worth, and how to make signatures of them.

A flow is ``(kind, content)``. Both tasks show in their value what they were given::

    task   n            [n, what came before]
    fixed  n            [n, "fixed"], whatever came before
    chain  [flow, …]    one after the other
    group  [flow, …]    side by side
    chord  [flow, …]    all but the last side by side, then the last

`value_of` is the reference: it says what they mean without running anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import product
from operator import or_
from typing import Any

from hypothesis import strategies as st

from celery.canvas import Signature, chord, group, maybe_signature

Flow = tuple[str, Any]

#: Name of the task that flows are made of; it is called with what came before, and a number.
TASK = "flow.wrap"
MAX_DEPTH = 5


def value_of(flow: Flow, x: Any) -> Any:
    """Return what *flow* gives when it is called with *x*."""
    kind, parts = flow
    if kind == "task":
        return [parts, x]
    if kind == "fixed":
        return [parts, "fixed"]
    if kind == "chain":
        return reduce(lambda value, part: value_of(part, value), parts, x)
    if kind == "chord":
        return value_of(parts[-1], value_of(("group", parts[:-1]), x))
    values = []
    for part in parts:
        value = value_of(part, x)
        # A group within a group is part of it; one at the end of a chain is a list.
        values += value if part[0] == "group" else [value]
    return values


def signature_of(app: Any, flow: Flow, sequence: Callable[[list[Any]], Any]) -> Any:
    """Make the signature of a flow; *sequence* makes the chains."""
    kind, parts = flow
    if kind == "task":
        return app.tasks[TASK].s(parts)
    if kind == "fixed":
        return app.tasks[TASK].si("fixed", parts)
    made = [signature_of(app, part, sequence) for part in parts]
    if kind == "chord":
        return chord(made[:-1], made[-1])
    return group(made) if kind == "group" else sequence(made)


def piped(steps: list[Any]) -> Any:
    """Join steps from left to right."""
    return reduce(or_, steps)


def piped_backwards(steps: list[Any]) -> Any:
    """Join steps from right to left."""
    return reduce(lambda after, before: before | after, reversed(steps))


def depth_of(flow: Flow) -> int:
    """Return how many kinds of composition are around the innermost task."""
    kind, parts = flow
    return 0 if kind in ("task", "fixed") else 1 + max(map(depth_of, parts))


#: The places that a flow can have in another one.
PLACES: list[Callable[[Flow], Flow]] = [
    lambda inner: ("chain", [inner, ("task", 1)]),
    lambda inner: ("chain", [("task", 1), inner]),
    lambda inner: ("group", [("fixed", 2), inner]),
    lambda inner: ("chord", [("task", 3), inner, ("task", 4)]),
    lambda inner: ("chord", [("task", 3), ("fixed", 4), inner]),
]


def nestings(depth: int) -> Iterator[Flow]:
    """Yield a task in every place, of a flow in every place, and so on, *depth* times."""
    for places in product(PLACES, repeat=depth):
        yield reduce(lambda inner, place: place(inner), places, ("task", 0))


def ids_in(sig: Any) -> list[str]:
    """Return the ids that the tasks of a frozen workflow have, those of `TASK` only."""
    sig = maybe_signature(sig)
    found = [sig.id] if sig.task == TASK else []
    for part in sig.kwargs.values():
        parts = [part] if isinstance(part, Signature) else part
        if isinstance(parts, (list, tuple)):
            for each in parts:
                if isinstance(each, Signature):
                    found += ids_in(each)
    return found


TASKS = st.tuples(st.sampled_from(["task", "task", "fixed"]), st.integers(0, 9))
FLOWS = st.recursive(
    TASKS,
    lambda flows: st.tuples(
        st.sampled_from(["chain", "group", "chord"]), st.lists(flows, min_size=2, max_size=3)
    ),
    max_leaves=10,
).filter(lambda flow: depth_of(flow) <= MAX_DEPTH)
