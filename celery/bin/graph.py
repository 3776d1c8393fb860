"""``celery graph``: draw the parts of a worker, or a cluster, in the language of Graphviz."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from celery.bin.base import CeleryCommand, consume_preload_options, handle_preload_options
from celery.bin.control import no_reply
from celery.utils.graph import DependencyGraph, GraphFormatter


@click.group("graph", invoke_without_command=False, context_settings={"allow_extra_args": True})
def graph() -> None:
    """Draw parts and clusters; pipe the output into 'dot -Tpng'."""


@graph.command("bootsteps", cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.pass_context
@handle_preload_options
@consume_preload_options
def bootsteps(ctx: click.Context) -> None:
    """
    Draw the parts of workers.

    Words after it choose between worker and consumer; arrows show what a part needs.
    """
    wanted = set(ctx.args) or {"worker", "consumer"}
    unknown = wanted - {"worker", "consumer"}
    if unknown:
        raise click.UsageError(
            f"There are parts of 'worker' and 'consumer', not of {', '.join(sorted(unknown))}.", ctx
        )
    worker = ctx.obj.app.WorkController()
    blueprints = [worker.blueprint] if "worker" in wanted else []
    if "consumer" in wanted:
        blueprints.append(worker.consumer.blueprint)
    if len(blueprints) > 1:
        blueprints[0].connect_with(blueprints[1])
    blueprints[0].graph.to_dot(sys.stdout)


@dataclass(frozen=True, slots=True)
class _Box:
    """One box of a drawing; boxes with the same text are the same."""

    text: str
    look: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)


_WORKER = {"shape": "box", "fillcolor": "skyblue", "color": "blue"}
_THREAD = {"shape": "oval", "fillcolor": "khaki", "color": "goldenrod"}
_STORE = {"shape": "cylinder", "fillcolor": "palegreen3", "color": "palegreen4"}


class _ClusterFormatter(GraphFormatter):
    """Draws boxes as they say themselves."""

    def label(self, obj: Any) -> Any:
        return obj.text if isinstance(obj, _Box) else obj

    def node(self, obj: Any, **attrs: Any) -> Any:
        return self.draw_node(obj, dict(self.node_scheme), {**attrs, **obj.look})

    def terminal_node(self, obj: Any, **attrs: Any) -> Any:
        return self.draw_node(obj, dict(self.term_scheme), {**attrs, **obj.look})


def _shortened(names: Sequence[str], limit: int | None) -> list[str]:
    """Keep *limit* names, and say how many more there are."""
    if not limit or len(names) <= limit:
        return list(names)
    return [*names[:limit], f"... and {len(names) - limit} more"]


def _words(ctx: click.Context) -> dict[str, str]:
    """Read words like ``nodes:a,b``."""
    known = ("nodes", "threads", "nmax", "tmax", "broker", "backend")
    words = {}
    for word in ctx.args:
        key, colon, value = word.partition(":")
        if not colon or key not in known:
            raise click.UsageError(
                f"{word!r} is not understood; words are like {' '.join(f'{k}:…' for k in known)}.",
                ctx,
            )
        words[key] = value
    return words


def _asked_nodes(app: Any) -> dict[str, list[str]]:
    """Ask the workers who they are; returns their pool processes by node name."""
    inspect = app.control.inspect()
    replies = inspect.stats()
    if not replies:
        raise no_reply(inspect.app, inspect.timeout, None)
    return {node: [str(p) for p in reply["pool"]["processes"]] for node, reply in replies.items()}


def _threads(text: str, nodes: Iterable[str]) -> dict[str, list[str]]:
    """Read ``2`` (each node has two) or ``2,3`` (the first two, the second three)."""
    counts = [int(part) for part in text.split(",")] if text else [0]
    sizes = {node: counts[min(i, len(counts) - 1)] for i, node in enumerate(nodes)}
    return {node: [str(n) for n in range(1, size + 1)] for node, size in sizes.items()}


@graph.command("workers", cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.pass_context
@handle_preload_options
@consume_preload_options
def workers(ctx: click.Context) -> None:
    """
    Draw workers and what they use.

    Their processes, broker and result store: of those online, or as told by nodes:a,b threads:2.
    """
    app, words = ctx.obj.app, _words(ctx)
    try:
        if "nodes" in words:
            nodes = _threads(words.get("threads", ""), words["nodes"].split(","))
        else:
            nodes = _asked_nodes(app)
        most_nodes, most_threads = int(words.get("nmax", 0)), int(words.get("tmax", 0))
    except ValueError as exc:
        raise click.UsageError(f"threads, nmax and tmax take numbers: {exc}", ctx) from exc
    broker = _Box(words.get("broker") or app.connection_for_read().as_uri(), _STORE)
    backend_url = words.get("backend") or app.backend.as_uri()
    drawing = DependencyGraph(formatter=_ClusterFormatter(root=broker))
    drawing.add_arc(broker)
    for name in _shortened(list(nodes), most_nodes):
        node = _Box(name, _WORKER)
        drawing.add_arc(node)
        drawing.add_edge(node, broker)
        if backend_url and not backend_url.startswith("disabled"):
            store = _Box(backend_url, _STORE)
            drawing.add_arc(store)
            drawing.add_edge(node, store)
        for thread in _shortened(nodes.get(name, []), most_threads):
            child = _Box(f"{name}: {thread}", _THREAD)
            drawing.add_arc(child)
            drawing.add_edge(child, node)
    drawing.to_dot(sys.stdout)
