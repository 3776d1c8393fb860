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
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add an object."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:
        """Note that *A*, which was added before, depends on *B*."""
        self[A].append(B)

    def connect(self, graph: DependencyGraph) -> None:
        """Add what another graph has."""
        self.adjacent.update(graph.adjacent)

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
        root: The object that everything hangs on.
        type: ``graph`` or ``digraph``.
        id: Name of the graph.
        indent: Depth of the indentation.
        inw: One step of it.
        scheme: Attributes of everything that is drawn.
    """

    _attr = DOT.ATTR.strip()
    _node = DOT.NODE.strip()
    _edge = DOT.EDGE.strip()
    _head = DOT.HEAD.strip()
    _tail = DOT.TAIL.strip()
    _attrsep = DOT.ATTRSEP
    _dirs: ClassVar[dict[str, str]] = dict(DOT.DIRS)

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
        self.id = id or "dependencies"
        self.root = root
        self.type = type or "digraph"
        self.direction = self._dirs[self.type]
        self.IN = inw * (indent or 0)
        self.INp = self.IN + inw
        self.scheme = {**self.scheme, **scheme}
        self.graph_scheme = {**self.graph_scheme, "root": self.label(self.root)}

    def attr(self, name: str, value: Any) -> str:
        """Write one attribute."""
        return self.FMT(self._attr, name=name, value=f'"{value}"')

    def attrs(self, d: Mapping[str, Any] | None, scheme: Mapping[str, Any] | None = None) -> str:
        """Write attributes: those of all, then those of *scheme*, then *d*."""
        merged = {**self.scheme, **(scheme or {}), **(d or {})}
        return self._attrsep.join(self.attr(name, value) for name, value in merged.items())

    def head(self, **attrs: Any) -> str:
        """Begin the file."""
        return self.FMT(
            self._head, id=self.id, type=self.type, attrs=self.attrs(attrs, self.graph_scheme)
        )

    def tail(self) -> str:
        """End the file."""
        return self.FMT(self._tail)

    def label(self, obj: Any) -> Any:
        """Return what to call *obj* in the picture."""
        return obj

    def node(self, obj: Any, **attrs: Any) -> str:
        """Draw an object that depends on others."""
        return self.draw_node(obj, self.node_scheme, attrs)

    def terminal_node(self, obj: Any, **attrs: Any) -> str:
        """Draw an object that depends on nothing."""
        return self.draw_node(obj, self.term_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """Draw an arrow from *a* to *b*."""
        return self.draw_edge(a, b, attrs=attrs)

    def FMT(self, fmt: str, *args: Any, **kwargs: Any) -> str:
        """Format with the indentation at hand."""
        return fmt.format(*args, **kwargs, IN=self.IN, INp=self.INp)

    def draw_edge(
        self,
        a: Any,
        b: Any,
        scheme: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Draw an arrow with attributes."""
        return self.FMT(
            self._edge,
            self.label(a),
            self.label(b),
            dir=self.direction,
            attrs=self.attrs(attrs, scheme or self.edge_scheme),
        )

    def draw_node(
        self,
        obj: Any,
        scheme: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Draw an object with attributes."""
        return self.FMT(self._node, self.label(obj), attrs=self.attrs(attrs, scheme))
