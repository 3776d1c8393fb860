"""Ordered parts of a service, each with a start and a stop.

A `Blueprint` is a set of step classes. Applied to a *parent* (the worker, or its
consumer) it sorts the steps so that each one comes after those it requires, builds
them, and from then on starts them in that order and stops them in reverse. Users
extend both services by adding their own steps to ``app.steps``.

States of a blueprint: initializing, `RUN` (from `Blueprint.start`), then `CLOSE` (a
stop that lets work finish) or `TERMINATE` (one that doesn't). There is no way back,
save that a consumer, which lives through lost connections, resets its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

from celery.utils.graph import DependencyGraph, GraphFormatter
from celery.utils.imports import instantiate, symbol_by_name
from celery.utils.log import get_logger

__all__ = ("Blueprint", "ConsumerStep", "StartStopStep", "Step")

logger = get_logger(__name__)

RUN = 0x1
CLOSE = 0x2
TERMINATE = 0x3

#: Errors of a broker connection that is going away; closing it may raise any of these.
IGNORE_ERRORS = (OSError, KeyError, AttributeError)


class StepFormatter(GraphFormatter):
    """How steps look in a graph made by ``celery graph bootsteps``."""

    blueprint_prefix = "⧉"
    conditional_prefix = "∘"
    blueprint_scheme: ClassVar[dict[str, Any]] = {
        "shape": "parallelogram",
        "color": "slategray4",
        "fillcolor": "slategray3",
    }

    def label(self, step: Any) -> str:
        """Return the text of the node for *step*, marked when it is conditional."""
        if step is None:
            return ""
        mark = ""
        if isinstance(step, Blueprint):
            mark = self.blueprint_prefix
        elif getattr(step, "conditional", False):
            mark = self.conditional_prefix
        name = getattr(step, "label", None) or _short_name(step)
        return f"{mark} {name}".lstrip()

    def node(self, obj: Any, **attrs: Any) -> str:
        """Draw the node of *obj*, a step or a whole blueprint."""
        scheme = self.blueprint_scheme if isinstance(obj, Blueprint) else self.node_scheme
        return str(self.draw_node(obj, scheme, attrs))

    def edge(self, a: Any, b: Any, **attrs: Any) -> str:
        """Draw that *a* needs *b*; the last step's needs, which are all others, are dotted."""
        if getattr(a, "last", False):
            attrs.update(style="none", arrowhead="none")
        return str(self.draw_edge(a, b, self.edge_scheme, attrs))


class StepType(type):
    """Class of step classes: gives each its dotted name, by which others may require it."""

    name: str
    requires: tuple[Any, ...]

    def __new__(
        mcs, name: str, bases: tuple[type, ...], attrs: dict[str, Any], **options: Any
    ) -> StepType:
        attrs.setdefault("name", f"{attrs['__module__']}.{attrs['__qualname__']}")
        return super().__new__(mcs, name, bases, attrs, **options)

    def __str__(cls) -> str:
        return cls.name

    def __repr__(cls) -> str:
        return f"step:{cls.name}{{{cls.requires!r}}}"


class Step(metaclass=StepType):
    """One part of a service that is only created, not started or stopped.

    `__init__` runs when the service object is built, with the service and its options;
    `create` runs after all parts were built.
    """

    #: Dotted name of the class; set by the metaclass unless given.
    name: str

    #: Short name for logs and graphs, instead of the class' own.
    label: str | None = None

    #: Drawn as optional in graphs.
    conditional = False

    #: Step classes, or their dotted paths, that must come first.
    requires: tuple[Any, ...] = ()

    #: Comes after all steps that are not last.
    last = False

    #: What `include_if` answers by default.
    enabled = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        pass

    def include_if(self, parent: Any) -> bool:
        """Say whether this part takes part in *parent* at all."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Build an object of a class that is given itself or as a dotted path."""
        return instantiate(name, *args, **kwargs)

    def _should_include(self, parent: Any) -> tuple[bool, Any]:
        if not self.include_if(parent):
            return False, None
        return True, self.create(parent)

    def include(self, parent: Any) -> bool:
        """Create this part unless it declines; return whether it takes part."""
        return self._should_include(parent)[0]

    def create(self, parent: Any) -> Any:
        """Make what this part is for; what is returned becomes ``obj`` of a `StartStopStep`."""

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"

    @property
    def alias(self) -> str:
        """Short name for logs."""
        return self.label or _short_name(self)

    def info(self, obj: Any) -> dict[str, Any] | None:
        """Return this part's share of the statistics of *obj*, the service."""
        return None


class StartStopStep(Step):
    """One part of a service with a life of its own: by default that of its ``obj``."""

    name: str

    #: What `create` returned.
    obj: Any = None

    def start(self, parent: Any) -> Any:
        """Begin; the last step of a service runs in here until the service stops."""
        if self.obj is not None:
            return self.obj.start()
        return None

    def stop(self, parent: Any) -> Any:
        """End, after letting work finish. May run inside a signal handler."""
        if self.obj is not None:
            return self.obj.stop()
        return None

    def close(self, parent: Any) -> Any:
        """Take no new work; called before `stop`."""

    def terminate(self, parent: Any) -> Any:
        """End at once."""
        if self.obj is not None:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return None

    def include(self, parent: Any) -> bool:
        """Create this part unless it declines, and add it to the steps that are started."""
        included, made = self._should_include(parent)
        if included:
            self.obj = made
            parent.steps.append(self)
        return included


class ConsumerStep(StartStopStep):
    """A part of the consumer that reads messages of its own from the worker's connection."""

    name: str

    requires = ("celery.worker.consumer:Connection",)

    #: kombu consumers while started.
    consumers: Any = None

    def get_consumers(self, channel: Any) -> Iterable[Any]:
        """Return the kombu consumers to run on *channel*."""
        raise NotImplementedError("missing get_consumers")

    def start(self, c: Any) -> None:
        """Open a channel of the worker's connection and consume from it."""
        self.consumers = self.get_consumers(c.connection.channel())
        for consumer in self.consumers or ():
            if getattr(consumer, "on_decode_error", consumer) is None:
                # An error in the loop would name neither the message nor this step, and leave the
                # message unsettled.
                consumer.on_decode_error = partial(self._drop_undecodable, consumer)
            consumer.consume()

    def _drop_undecodable(self, consumer: Any, message: Any, exc: BaseException) -> None:
        logger.error(
            "%s drops a message that it cannot decode: %r (type %s, headers %r)",
            self.alias,
            exc,
            message.content_type,
            message.headers,
        )
        if not consumer.no_ack and not message.acknowledged:
            message.reject()

    def stop(self, c: Any) -> None:
        """Stop consuming and close the channels."""
        self._end(cancel=True)

    def shutdown(self, c: Any) -> None:
        """Close the channels; the broker forgets the consumers with them."""
        self._end(cancel=False)

    def _end(self, *, cancel: bool) -> None:
        consumers, self.consumers = self.consumers, None
        channels: dict[int, Any] = {}
        for consumer in consumers or ():
            if cancel:
                _quietly(consumer.cancel)
            if consumer.channel:
                channels[id(consumer.channel)] = consumer.channel
        for channel in channels.values():
            _quietly(channel.close)


class Blueprint:
    """A set of step classes, and once applied, the running order of their instances.

    Args:
        steps: Step classes, or dotted paths of some, beside the default ones.
        name: For logs; the class' own by default.
        on_start, on_close, on_stopped: Called without arguments when that happens.
    """

    GraphFormatter = StepFormatter

    name: str | None = None
    state: int | None = None
    #: How many steps were started.
    started = 0
    default_steps: ClassVar[Iterable[Any]] = set()
    state_to_name: ClassVar[dict[int, str]] = {
        0: "initializing",
        RUN: "running",
        CLOSE: "closing",
        TERMINATE: "terminating",
    }

    def __init__(
        self,
        steps: Iterable[Any] | None = None,
        name: str | None = None,
        on_start: Callable[[], Any] | None = None,
        on_close: Callable[[], Any] | None = None,
        on_stopped: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name or self.name or type(self).__qualname__
        self.types = {*(steps or ()), *self.default_steps}
        self.on_start = on_start
        self.on_close = on_close
        self.on_stopped = on_stopped
        self.shutdown_complete = threading.Event()
        self.steps: dict[str, Any] = {}
        self.order: list[Any] = []
        self.graph: Any = None

    def start(self, parent: Any) -> None:
        """Start every step in order; returns when the last one's start does."""
        self.state = RUN
        if self.on_start:
            self.on_start()
        for number, step in enumerate([s for s in parent.steps if s is not None], 1):
            logger.debug("| %s: Starting %s", self.alias, step.alias)
            self.started = number
            step.start(parent)
            logger.debug("^-- substep ok")

    def human_state(self) -> str:
        """Return the state as a word."""
        return self.state_to_name[self.state or 0]

    def info(self, parent: Any) -> dict[str, Any]:
        """Return the statistics of all steps, merged."""
        merged: dict[str, Any] = {}
        for step in parent.steps:
            merged.update(step.info(parent) or {})
        return merged

    def close(self, parent: Any) -> None:
        """Tell every step to take no new work."""
        if self.on_close:
            self.on_close()
        self.send_all(parent, "close", "closing", reverse=False)

    def restart(
        self,
        parent: Any,
        method: str = "stop",
        description: str = "restarting",
        propagate: bool = False,
    ) -> None:
        """Stop every step so that all may be started again; the state stays."""
        self.send_all(parent, method, description, propagate=propagate)

    def send_all(
        self,
        parent: Any,
        method: str,
        description: str | None = None,
        reverse: bool = True,
        propagate: bool = True,
        args: tuple[Any, ...] = (),
    ) -> None:
        """Call *method* of each step that has it.

        Args:
            description: Word for the log; the method's name by default.
            reverse: From the last step to the first.
            propagate: Let an error pass at once; otherwise it is logged and the rest go on.
            args: Further arguments after the parent.
        """
        words = (description or method.replace("_", " ")).capitalize()
        for step in list(reversed(parent.steps)) if reverse else list(parent.steps):
            call = getattr(step, method, None)
            if call is None:
                continue
            logger.debug("| %s: %s %s...", self.alias, words, step.alias)
            try:
                call(parent, *args)
            except Exception:
                if propagate:
                    raise
                logger.exception("Error on %s %s", description or method, step.alias)

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:
        """Stop every step, last one first; harmless when it was done, or nothing runs.

        Args:
            close: First tell the steps to take no new work.
            terminate: Don't let work finish.
        """
        if self.state in (CLOSE, TERMINATE):
            return
        # Steps that were never started have nothing to end; those that were hold
        # processes and connections, which must not outlive us.
        del parent.steps[self.started :]
        if close:
            self.close(parent)
        self.state = TERMINATE if terminate else CLOSE
        self.restart(
            parent,
            method="terminate" if terminate else "stop",
            description="terminating" if terminate else "stopping",
        )
        if self.on_stopped:
            self.on_stopped()
        self.state = TERMINATE
        self.shutdown_complete.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until `stop` is through, at most *timeout* seconds; at once if never started."""
        if self.state:
            self.shutdown_complete.wait(timeout)

    def apply(self, parent: Any, **kwargs: Any) -> Blueprint:
        """Sort the steps, build them with *parent* and the options, and create their parts."""
        logger.debug("| %s: Preparing bootsteps.", self.alias)
        self.steps = self.claim_steps()
        logger.debug("| %s: Building graph...", self.alias)
        ordered = self._sorted_classes(self.steps.values())
        logger.debug(
            "| %s: New boot order: {%s}",
            self.alias,
            ", ".join(cls.label or _short_name(cls) for cls in ordered),
        )
        self.order = [cls(parent, **kwargs) for cls in ordered]
        for step in self.order:
            step.include(parent)
        return self

    def connect_with(self, other: Blueprint) -> None:
        """Draw *other* as a part that comes after the last step of this one."""
        self.graph.adjacent.update(other.graph.adjacent)
        self.graph.add_edge(type(other.order[0]), type(self.order[-1]))

    def __getitem__(self, name: str) -> Any:
        return self.steps[name]

    def claim_steps(self) -> dict[str, Any]:
        """Return the step classes by name, with those that they require."""
        claimed: dict[str, Any] = {}
        waiting = [*self.types]
        while waiting:
            name, step = self.load_step(waiting.pop())
            if name not in claimed:
                claimed[name] = step
                waiting.extend(step.requires)
        return claimed

    def load_step(self, step: Any) -> tuple[str, Any]:
        """Return name and class of *step*, which may be a dotted path."""
        cls = symbol_by_name(step)
        return cls.name, cls

    @property
    def alias(self) -> str:
        """Name for the logs."""
        return _short_name(self)

    def _sorted_classes(self, classes: Iterable[Any]) -> list[Any]:
        """Return *classes*, each after those it requires; also sets ``graph``.

        Among steps that don't depend on each other names decide, so that a worker boots
        in the same order each time.
        """
        ordered = sorted(classes, key=lambda cls: (cls.last, cls.name))
        needs = {cls: [symbol_by_name(other) for other in cls.requires] for cls in ordered}
        for cls in ordered:
            if cls.last:
                needs[cls] += [other for other in ordered if not other.last]
        self.graph = DependencyGraph(formatter=self.GraphFormatter(root=self))
        for cls in ordered:
            self.graph.add_arc(cls)
        for cls in ordered:
            for other in needs[cls]:
                self.graph.add_edge(cls, other)
        return list(_depth_first(ordered, needs))


def _depth_first(nodes: list[Any], needs: dict[Any, list[Any]]) -> Iterator[Any]:
    done: set[Any] = set()
    entered: list[Any] = []

    def visit(node: Any) -> Iterator[Any]:
        if node in done:
            return
        if node in entered:
            circle = " -> ".join(str(step) for step in [*entered, node])
            raise ValueError(f"steps require each other in a circle: {circle}")
        entered.append(node)
        for other in needs[node]:
            yield from visit(other)
        entered.pop()
        done.add(node)
        yield node

    for node in nodes:
        yield from visit(node)


def _short_name(step: Any) -> str:
    """Return the last word of the step's or blueprint's name."""
    name: str = step.name
    return name.rpartition(".")[2]


def _quietly(call: Callable[[], Any]) -> None:
    try:
        call()
    except IGNORE_ERRORS as exc:
        # The connection is gone, and the broker has let go of this with it.
        logger.debug("while closing: %r", exc)
    except Exception as exc:  # drivers raise their own classes here
        logger.debug("while closing: %r", exc, exc_info=True)
