"""Graphs of what depends on what: their order, and their picture in the DOT language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TextIO

from kombu.utils.encoding import bytes_to_str, safe_str

__all__ = ("DOT", "CycleError", "DependencyGraph", "GraphFormatter")


class DOT:
    """Pieces of a DOT file; ``IN`` and ``INp`` are the indentation outside and inside."""

    HEAD = """
{IN}{type} {id} {{
{INp}graph [{attrs}]
"""
    ATTR = "{name}={value}"
    NODE = '{INp}"{0}" [{attrs}]'
    EDGE = '{INp}"{0}" {dir} "{1}" [{attrs}]'
    ATTRSEP = ", "
    DIRS: ClassVar[dict[str, str]] = {"graph": "--", "digraph": "->"}
    TAIL = "{IN}}}"


class CycleError(Exception):
    """Things depend on each other in a circle."""


class DependencyGraph:
    """
    Objects, and which others each of them depends on.

    Args:
        it: Pairs of an object and its dependencies.
        formatter: Draws it.
    """

    def __init__(
        self,
        it: Iterable[tuple[Any, Iterable[Any] | None]] | None = None,
        formatter: GraphFormatter | None = None,
    ) -> None:
        self.adjacent: dict[Any, list[Any]] = {}
        self.update(it or ())
        self.formatter = GraphFormatter() if formatter is None else formatter

    def connect(self, graph: DependencyGraph) -> None:
        """Add what another graph has."""
        self.adjacent |= graph.adjacent

    def add_edge(self, A: Any, B: Any) -> None:
        """Note that *A*, which was added before, depends on *B*."""
        self.adjacent[A].append(B)

    def add_arc(self, obj: Any) -> None:
        """Add an object."""
        if obj not in self.adjacent:
            self.adjacent[obj] = []

    def update(self, it: Iterable[tuple[Any, Iterable[Any] | None]]) -> None:
        """Add pairs of an object and its dependencies."""
        pairs = [(obj, list(dependencies or ())) for obj, dependencies in it]
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, dependencies in pairs:
            for dependency in dependencies:
                self.add_arc(dependency)
                self.add_edge(obj, dependency)

    def topsort(self) -> list[Any]:
        """
        Return the objects, each after those it depends on.

        Raises:
            CycleError: That can't be done.
        """
        order: dict[Any, None] = {}
        for start in self.adjacent:
            # Depth first, without recursion; `path` holds what waits for its dependencies.
            path: dict[Any, Iterator[Any]] = {}
            if start not in order:
                path[start] = iter(self.adjacent[start])
            while path:
                current, dependencies = next(reversed(path.items()))
                for dependency in dependencies:
                    if dependency in path:
                        circle = [*list(path)[list(path).index(dependency) :], dependency]
                        names = " -> ".join(safe_str(each) for each in circle)
                        raise CycleError(f"circular dependency: {names}")
                    if dependency not in order:
                        path[dependency] = iter(self.adjacent.get(dependency, ()))
                        break
                else:
                    del path[current]
                    order[current] = None
        return list(order)

    def valency_of(self, obj: Any) -> int:
        """Return the number of dependencies of *obj*, those of its dependencies included."""
        total = 0
        waiting = [obj]
        while waiting:
            dependencies = self.adjacent.get(waiting.pop(), ())
            total += len(dependencies)
            waiting.extend(dependencies)
        return total

    def edges(self) -> Iterator[Any]:
        """Yield the objects that depend on others."""
        return (obj for obj, dependencies in self.adjacent.items() if dependencies)

    def to_dot(self, fh: TextIO, formatter: GraphFormatter | None = None) -> None:
        """Write the picture into the file *fh*."""
        draw = formatter or self.formatter
        seen: set[str] = set()

        def line(text: str) -> None:
            fh.write(bytes_to_str(text) + "\n")

        def node_once(drawn: Any, obj: Any) -> None:
            label = draw.label(obj)
            if label not in seen:
                seen.add(label)
                line(drawn(obj))

        line(draw.head())
        for obj, dependencies in self.items():
            if not dependencies:
                node_once(draw.terminal_node, obj)
            for dependency in dependencies:
                node_once(draw.node, obj)
                line(draw.edge(obj, dependency))
        line(draw.tail())

    def format(self, obj: Any) -> Any:
        """Return how *obj* is labelled."""
        return self.formatter.label(obj)

    def items(self) -> Iterable[tuple[Any, list[Any]]]:
        """Return pairs of an object and its dependencies."""
        return self.adjacent.items()

    iteritems = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        return "\n".join(self.repr_node(node) for node in self)

    def repr_node(self, obj: Any, level: int = 1, fmt: str = "{0}({1})") -> str:
        """Write *obj* and, indented below it, what it depends on."""
        lines = [fmt.format(obj, self.valency_of(obj))]
        for dependency in self.adjacent.get(obj, ()):
            text = fmt.format(dependency, self.valency_of(dependency))
            lines.append("     " * level + text)
            if dependency in self.adjacent:
                lines.extend(self.repr_node(dependency, level + 1, fmt).splitlines()[1:])
        return "\n".join(lines)


class GraphFormatter:
    """
    Writes the parts of a picture in the DOT language.

    Args:
        root: The object that everything hangs on, None where there is no such thing.
        type: ``graph`` or ``digraph``.
        id: Name of the graph.
        indent: Depth of the indentation.
        inw: One step of it.
        scheme: Attributes of everything that is drawn.
    """

    _attr, _node, _edge, _head, _tail = (
        piece.strip() for piece in (DOT.ATTR, DOT.NODE, DOT.EDGE, DOT.HEAD, DOT.TAIL)
    )
    _dirs: ClassVar[dict[str, str]] = dict(DOT.DIRS)
    _attrsep = DOT.ATTRSEP

    scheme: Mapping[str, Any] = {
        "shape": "box",
        "arrowhead": "vee",
        "style": "filled",
        "fontname": "HelveticaNeue",
    }
    edge_scheme: Mapping[str, Any] = {
        "color": "darkseagreen4",
        "arrowcolor": "black",
        "arrowsize": 0.7,
    }
    node_scheme: Mapping[str, Any] = {"fillcolor": "palegreen3", "color": "palegreen4"}
    term_scheme: Mapping[str, Any] = {"fillcolor": "palegreen1", "color": "palegreen2"}
    graph_scheme: Mapping[str, Any] = {"bgcolor": "mintcream"}

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,
        id: str | None = None,
        indent: int = 0,
        inw: str = " " * 4,
        **scheme: Any,
    ) -> None:
        self.type, self.id = type or "digraph", id or "dependencies"
        self.direction = self._dirs[self.type]
        outside = inw * (indent or 0)
        self.IN, self.INp = outside, outside + inw
        self.root = root
        # The class holds what all have in common.
        self.scheme = {**self.scheme, **scheme}
        if root is not None:
            self.graph_scheme = {**self.graph_scheme, "root": self.label(root)}

    # -- words

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> str:
        """Format with the indentation at hand."""
        return fmt.format(*args, IN=self.IN, INp=self.INp, **kwargs)

    def label(self, obj: Any) -> Any:
        """Return what to call *obj* in the picture."""
        return obj

    def attr(self, name: str, value: Any) -> str:
        """Write one attribute."""
        return self.FMT(self._attr, name=name, value=f'"{value}"')

    def attrs(self, d: Mapping[str, Any] | None, scheme: Mapping[str, Any] | None = None) -> str:
        """Write attributes: those of all, then those of *scheme*, then *d*."""
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return self._attrsep.join(self.attr(name, value) for name, value in merged.items())

    # -- lines

    def draw_node(
        self,
        obj: Any,
        scheme: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Draw an object with attributes."""
        return self._draw(self._node, (obj,), self.attrs(attrs, scheme))

    def draw_edge(
        self,
        a: Any,
        b: Any,
        scheme: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Draw an arrow with attributes."""
        look = self.attrs(attrs, scheme or self.edge_scheme)
        return self._draw(self._edge, (a, b), look, dir=self.direction)

    def _draw(self, fmt: str, objects: Iterable[Any], attrs: str, **more: str) -> str:
        return self.FMT(fmt, *map(self.label, objects), attrs=attrs, **more)

    def head(self, **attrs: Any) -> str:
        """Begin the file."""
        look = self.attrs(attrs, self.graph_scheme)
        return self.FMT(self._head, attrs=look, type=self.type, id=self.id)

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """Draw an arrow from *a* to *b*."""
        return self.draw_edge(a, b, None, attrs)

    def node(self, obj: Any, **attrs: Any) -> str:
        """Draw an object that depends on others."""
        return self.draw_node(obj, scheme=self.node_scheme, attrs=attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        """Draw an object that depends on nothing."""
        return self.draw_node(obj, scheme=self.term_scheme, attrs=attrs)

    def tail(self) -> str:
        """End the file."""
        return self.FMT(self._tail)
