"""What lies below a result: its children, theirs, and so on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from celery.exceptions import IncompleteStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery.utils.graph import DependencyGraph, GraphFormatter


class Node(Protocol):
    """What the graph of results needs to know of a node."""

    @property
    def children(self) -> Sequence[Any] | None: ...

    def ready(self) -> bool: ...


def descend(root: Node, intermediate: bool) -> Iterator[tuple[Any, Any]]:
    """Yield ``(parent, node)`` for *root* and all below it, parents first.

    Raises:
        IncompleteStream: A node is not ready, and *intermediate* is false.
    """
    waiting: deque[tuple[Node | None, Node]] = deque([(None, root)])
    while waiting:
        parent, node = waiting.popleft()
        ready = node.ready()
        if not (ready or intermediate):
            # Before it is handed out: whoever collects values would wait for it.
            raise IncompleteStream
        yield parent, node
        if ready:
            waiting.extend((node, child) for child in node.children or ())


def dependencies(
    root: Any, intermediate: bool, formatter: GraphFormatter | None
) -> DependencyGraph:
    """Return *root* and all below it as a graph of results."""
    from celery.utils.graph import DependencyGraph, GraphFormatter

    graph = DependencyGraph(formatter=formatter or GraphFormatter(root=root.id, shape="oval"))
    for parent, node in root.iterdeps(intermediate=intermediate):
        graph.add_arc(node)
        if parent is not None:
            graph.add_edge(parent, node)
    return graph
