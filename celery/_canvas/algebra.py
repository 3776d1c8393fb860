"""What ``|``, ``chain(…)`` and running a chain make of a sequence of steps.

All three follow one idea: a group that is followed by something is the header of a chord, and
what follows is its body; a chord that is followed by something has it at the end of its body.
They differ in what is done at once. ``|`` leaves groups in place while nothing follows, and
keeps a chord after a chord; `folded` leaves neither.

Functions here return steps or signatures and change none of their operands.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from celery._canvas.chord import _chord
from celery._canvas.group import group
from celery._canvas.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    #: Makes a chain of steps as they are.
    MakeChain = Callable[[list[Any]], Any]


def kind_of(sig: Any) -> str | None:
    """Return the kind of a composite, None for a task."""
    kind: str | None = sig["subtask_type"]
    return kind


def size_of(sig: group) -> int:
    """Return 0, 1 or 2 for a group of none, one, and more, without reading all of a lazy one."""
    tasks = iter(sig.tasks)
    return sum(1 for _, _ in zip(range(2), tasks, strict=False))


def unrolled(sig: Any) -> Any:
    """Return the member of a group of one."""
    if kind_of(sig) == "group" and size_of(sig) == 1 and not sig["options"]:
        return maybe_signature(sig.tasks[0])
    return sig


def one_step(steps: list[Any], make_chain: MakeChain) -> Any:
    """Return several steps as one signature."""
    return steps[0] if len(steps) == 1 else make_chain(steps)


def steps_of(sig: Any) -> list[Any]:
    """Return the steps of a chain, or the signature as the only step."""
    return sig.unchain_tasks() if kind_of(sig) == "chain" else [sig]


def header_and_body(header: Any, body: Any) -> Any:
    """Return the chord that a group makes with what follows it."""
    made = _chord(header, body=body, app=header._app)
    task_id = header["options"].get("task_id")
    if task_id is not None:
        made["options"]["task_id"] = task_id
    return made


def folded(steps: Iterable[Any], make_chain: MakeChain) -> list[Any]:
    """Return steps of which only the last can be a group or a chord."""
    tail: deque[Any] = deque()
    for step in reversed(list(steps)):
        kind = kind_of(step)
        if tail and kind == "group":
            tail = deque([header_and_body(step, one_step(list(tail), make_chain))])
        elif tail and kind == "chord":
            body = [] if step.body is None else steps_of(maybe_signature(step.body))
            after = folded([*body, *tail], make_chain)
            tail = deque([step._with_body(one_step(after, make_chain))])
        else:
            tail.appendleft(step)
    return list(tail)


def in_sequence(tasks: Iterable[Any], app: Any, make_chain: MakeChain) -> Any:
    """Return what ``chain(*tasks)`` is: a chain, or the group or chord that it comes down to."""
    steps: list[Any] = []
    for task in tasks:
        sig = maybe_signature(task, app)
        if not isinstance(sig, Signature):
            raise TypeError(f"a chain is made of signatures, not of {task!r}")
        for step in steps_of(sig):
            step = maybe_signature(step, app)
            if kind_of(step) == "group":
                size = size_of(step)
                if not size:
                    continue
                # After a group, a group of one stays what it is: the chord's body.
                if size == 1 and not (steps and kind_of(steps[-1]) == "group"):
                    step = unrolled(step)
            steps.append(step)
    starts_with_group = bool(steps) and kind_of(steps[0]) == "group"
    steps = folded(steps, make_chain)
    return steps[0] if starts_with_group and len(steps) == 1 else make_chain(steps)


def joined(left: Any, right: Any, make_chain: MakeChain) -> Any:
    """Return what ``left | right`` is, or NotImplemented."""
    if not isinstance(right, Signature):
        if isinstance(right, dict) and "task" in right and kind_of(left) == "group":
            right = maybe_signature(right, left._app)
        else:
            return NotImplemented
    match kind_of(left):
        case "group":
            return _after_group(left, right)
        case "chain":
            return _after_chain(left, right, make_chain)
        case "chord":
            return _after_chord(left, right, make_chain)
    if kind_of(right) == "chain":
        return make_chain([left, *steps_of(right)])
    return make_chain([left, unrolled(right)])


def _is_empty(sig: Any) -> bool:
    kind = kind_of(sig)
    if kind == "group":
        return not size_of(sig)
    return kind == "chain" and not sig.tasks


def _after_group(left: Any, right: Any) -> Any:
    return left if _is_empty(right) else header_and_body(left, right)


def _after_chain(left: Any, right: Any, make_chain: MakeChain) -> Any:
    if _is_empty(right):
        return left
    if _is_empty(left):
        right = unrolled(right)
        if kind_of(right) == "group":
            return right
        return make_chain(steps_of(right))
    *before, last = steps_of(left)
    last = maybe_signature(last)
    last_kind, right_kind = kind_of(last), kind_of(right)
    if last_kind == "group" and (right_kind != "group" or size_of(right) == 1):
        return make_chain([*before, header_and_body(last, unrolled(right))])
    if last_kind == "chord" and right_kind != "chord":
        return make_chain([*before, _with_longer_body(last, unrolled(right), make_chain)])
    if right_kind == "chain":
        return make_chain([*before, last, *steps_of(right)])
    return make_chain([*before, last, unrolled(right)])


def _after_chord(left: Any, right: Any, make_chain: MakeChain) -> Any:
    right_kind = kind_of(right)
    if right_kind == "chain":
        return make_chain([left, *steps_of(right)])
    if right_kind == "group" and size_of(right) != 1:
        return make_chain([left, right])
    return _with_longer_body(left, unrolled(right), make_chain)


def _with_longer_body(left: Any, right: Any, make_chain: MakeChain) -> Any:
    """Return the chord with *right* at the end of its body."""
    if left.body is None:
        return left._with_body(right)
    return left._with_body(joined(maybe_signature(left.body), right, make_chain))
