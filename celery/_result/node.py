"""What all results share: the results above them, and a plain form that travels.

The plain form is ``((id, parent), children)``, as it stands in stored documents and in
messages; both ways are loops, since the ancestors of a long chain would exhaust the stack.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from celery import _state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import TypeVar

    from celery._result.sets import ResultSet
    from celery._result.single import AsyncResult
    from celery.app.base import Celery

    #: The value of a task; that of each member of a set.
    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

#: Plain form of a result: ``((id, parent), children)``.
ResultTuple = tuple[Any, Any]


class ResultBase:
    """Common ancestor of all results."""

    #: The result this one depends on: the step before in a chain, the header of a chord.
    parent: AsyncResult[Any] | ResultSet | None = None

    def _leaves(self) -> Iterator[Any]:
        """Yield the single results this one stands for."""
        yield self

    def _member_forms(self) -> list[ResultTuple] | None:
        """Return the plain forms of the members; None for a single result."""
        return None


def ancestors(result: ResultBase) -> Iterator[ResultBase]:
    """Yield the parents of *result*, nearest first."""
    node = result.parent
    while node is not None:
        yield node
        node = node.parent


def plain_form(result: ResultBase) -> ResultTuple:
    """Return ``((id, parent), members)``, with parent and members in the same form."""
    form: Any = None
    for node in reversed((result, *ancestors(result))):
        form = (getattr(node, "id", None), form), node._member_forms()
    return cast("ResultTuple", form)


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """Rebuild a result from what `as_tuple` gave; result objects pass through.

    Args:
        r: ``((id, parent), children)`` of tuples or lists; a bare id may stand for the pair.
        app: App of the result; the current one when None.
    """
    app = _state.app_or_default(app)
    line = []
    while r is not None and not isinstance(r, ResultBase):
        head, nodes = r
        task_id, above = head if isinstance(head, (list, tuple)) else (head, None)
        line.append((task_id, nodes))
        r = above
    result = r
    # From the oldest ancestor down, by a loop for the sake of long chains.
    for task_id, nodes in reversed(line):
        if nodes is None:
            result = app.AsyncResult(task_id, parent=result)
        else:
            members = [result_from_tuple(node, app) for node in nodes]
            result = app.GroupResult(task_id, members, parent=result)
    return result


def importable_class(obj: object) -> type[Any]:
    """Return the nearest class of *obj* that a pickle can name: apps make subclasses of results."""
    for cls in type(obj).__mro__:
        module = sys.modules.get(cls.__module__)
        if getattr(module, cls.__qualname__, None) is cls:
            return cast("type[Any]", cls)
    raise TypeError(f"no importable class behind {type(obj)!r}")
