from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given, strategies as st

from celery.utils.graph import CycleError, DependencyGraph, GraphFormatter


@pytest.fixture
def graph():
    return DependencyGraph([("app", ["broker", "store"]), ("store", ["disk"]), ("disk", None)])


def test_objects_come_after_what_they_depend_on(graph):
    order = graph.topsort()

    assert set(order) == {"app", "broker", "store", "disk"}
    assert order.index("disk") < order.index("store") < order.index("app")
    assert order.index("broker") < order.index("app")


def test_a_circle_is_named():
    with pytest.raises(CycleError, match="a -> b -> a"):
        DependencyGraph([("a", ["b"]), ("b", ["a"])]).topsort()
    with pytest.raises(CycleError):
        DependencyGraph([("a", ["a"])]).topsort()


@given(st.dictionaries(st.integers(0, 12), st.sets(st.integers(0, 12))))
def test_the_order_respects_every_dependency(table):
    acyclic = {obj: [dep for dep in deps if dep < obj] for obj, deps in table.items()}
    graph = DependencyGraph(acyclic.items())
    position = {obj: index for index, obj in enumerate(graph.topsort())}

    assert set(position) == set(graph)
    assert all(position[dep] < position[obj] for obj, deps in graph.items() for dep in deps)


def test_a_long_chain_does_not_exhaust_the_stack():
    graph = DependencyGraph((n, [n - 1]) for n in range(1, 5000))
    assert graph.topsort() == list(range(5000))
    assert graph.valency_of(4999) == 4999


def test_a_graph_is_a_table_of_dependencies(graph):
    other = DependencyGraph()
    other.add_arc("x")
    other.add_edge("x", "app")
    graph.connect(other)

    assert graph["x"] == ["app"]
    assert "x" in graph
    assert len(graph) == 5
    assert sorted(graph.edges()) == ["app", "store", "x"]
    assert graph.valency_of("app") == 3
    assert dict(graph.iteritems()) == dict(graph.items())
    assert "disk(0)" in repr(graph)
    assert graph.format("x") == "x"


def test_a_graph_is_drawn_in_dot(graph):
    out = StringIO()
    graph.to_dot(out, GraphFormatter(root="app", id="G"))
    text = out.getvalue()

    assert text.startswith("digraph G {")
    assert text.rstrip().endswith("}")
    assert '"app" -> "broker"' in text
    assert text.count('\n    "disk" [') == 1
    assert 'bgcolor="mintcream", root="app"]' in text


def test_a_graph_without_a_root_names_none():
    assert "root" not in GraphFormatter().head()


def test_a_plain_graph_has_lines_for_arrows():
    formatter = GraphFormatter(type="graph", shape="circle")
    assert ' -- "b"' in formatter.edge("a", "b")
    assert 'shape="circle"' in formatter.node("a", label="A")
    assert 'label="A"' in formatter.node("a", label="A")
