"""The queues that an app knows: where it sends to, and what its workers consume from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kombu.entity import Exchange, Queue

from celery.utils.functional import maybe_list
from celery.utils.text import indent as textindent

__all__ = ("QUEUE_FORMAT", "Queues")

#: One line of the queue table in the worker's banner.
QUEUE_FORMAT = """
.> {0.name:<16} exchange={0.exchange.name}({0.exchange.type}) key={0.routing_key}
"""


class Queues(dict[str, Queue]):
    """Queue name, or alias, to queue; unknown names are made on demand when that is allowed.

    Args:
        queues: Queues, or mapping from name to queue options.
        default_exchange, default_routing_key: For queues that state none.
        create_missing: Make unknown queues on lookup (``task_create_missing_queues``).
        create_missing_queue_type: ``"classic"`` or ``"quorum"``, for made ones.
        create_missing_queue_exchange_type: Exchange type of made ones; None for direct.
        autoexchange: Makes the exchange of a made queue from its name.
        max_priority: ``x-max-priority`` of queues that state none; None for no priorities.
    """

    #: Names to consume from, when `select` has narrowed them; None for all queues.
    _consume_from: dict[str, Queue] | None = None

    def __init__(
        self,
        queues: Mapping[str, Any] | Iterable[Queue] | None = None,
        default_exchange: Exchange | None = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Callable[[str], Exchange] | None = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        #: Moves with every queue that is added.
        self.revision: object = None
        self.aliases: dict[str, Queue] = {}
        self.max_priority = max_priority
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing = create_missing
        self.autoexchange = autoexchange or Exchange
        self.default_routing_key = default_routing_key
        self.default_exchange = default_exchange
        if isinstance(queues, Mapping):
            for name, declared in queues.items():
                if isinstance(declared, Queue):
                    self.add(declared)
                else:
                    self.add_compat(name, **declared)
        else:
            for queue in queues or ():
                if not isinstance(queue, Queue):
                    raise TypeError(
                        f"task_queues lists {queue!r}, which is no kombu.Queue; write "
                        f"Queue({queue!r}), or use a mapping of name to options"
                    )
                self.add(queue)

    def __getitem__(self, name: str) -> Queue:
        try:
            return self.aliases[name]
        except KeyError:
            return super().__getitem__(name)

    def __setitem__(self, name: str, queue: Queue) -> None:
        entity: Any = queue  # kombu's entities set their attributes from a table
        if self.default_exchange is not None and not entity.exchange:
            entity.exchange = self.default_exchange
        super().__setitem__(name, queue)
        self.revision = object()
        if entity.alias:
            self.aliases[entity.alias] = queue

    def __missing__(self, name: str) -> Queue:
        if self.create_missing:
            return self.add(self.new_missing(name))
        raise KeyError(name)

    def add(self, queue: Queue | str, **kwargs: Any) -> Queue:
        """Add a queue, given as such or by name and `kombu.Queue` options."""
        if not isinstance(queue, Queue):
            return self.add_compat(queue, **kwargs)
        return self._add(queue)

    def add_compat(self, name: str, **options: Any) -> Queue:
        """Add a queue from its name and options, also of the older ``binding_key`` form."""
        options.setdefault("routing_key", options.get("binding_key"))
        if options["routing_key"] is None:
            options["routing_key"] = name
        return self._add(Queue.from_dict(name, **options))

    def _add(self, queue: Any) -> Queue:
        if self.default_exchange is not None and not (queue.exchange and queue.exchange.name):
            queue.exchange = self.default_exchange
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key
        if self.max_priority is not None:
            arguments = queue.queue_arguments or {}
            queue.queue_arguments = {"x-max-priority": self.max_priority, **arguments}
        self[queue.name] = queue
        return queue  # type: ignore[no-any-return]  # a Queue, see __setitem__

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """Return the table of consumed queues as the banner shows it."""
        active = self.consume_from
        if not active:
            return ""
        lines = [QUEUE_FORMAT.strip().format(queue) for _, queue in sorted(active.items())]
        if indent_first:
            return textindent("\n".join(lines), indent)
        return lines[0] + "\n" + textindent("\n".join(lines[1:]), indent)

    def select_add(self, queue: Queue | str, **kwargs: Any) -> Queue:
        """Add a queue, and consume from it even where `select` narrowed the choice."""
        added = self.add(queue, **kwargs)
        if self._consume_from is not None:
            self._consume_from[added.name] = added
        return added

    def select(self, include: str | Iterable[str] | None) -> None:
        """Consume only from the queues named (names or aliases); unknown ones are made.

        Raises:
            KeyError: One is unknown and may not be made.
        """
        if include:
            chosen = [self[name] for name in maybe_list(include) or ()]
            self._consume_from = {queue.name: queue for queue in chosen}

    def deselect(self, exclude: str | Iterable[str] | None) -> None:
        """Stop consuming from the queues named (names or aliases)."""
        if not exclude:
            return
        names = [
            self.aliases[name].name if name in self.aliases else name
            for name in maybe_list(exclude) or ()
        ]
        if self._consume_from is None:
            self._consume_from = {name: queue for name, queue in self.items() if name not in names}
            return
        for name in names:
            self._consume_from.pop(name, None)

    def new_missing(self, name: str) -> Queue:
        """Return the queue that is made for an unknown *name*."""
        arguments = None
        if self.create_missing_queue_type and self.create_missing_queue_type != "classic":
            if self.create_missing_queue_type != "quorum":
                raise ValueError(
                    "task_create_missing_queue_type must be 'classic' or 'quorum', not "
                    f"{self.create_missing_queue_type!r}"
                )
            arguments = {"x-queue-type": "quorum"}
        kind = self.create_missing_queue_exchange_type
        return Queue(
            name,
            exchange=Exchange(name, kind) if kind else self.autoexchange(name),
            routing_key=name,
            queue_arguments=arguments,
        )

    @property
    def consume_from(self) -> dict[str, Queue]:
        """The queues that a worker consumes from, by name."""
        return self if self._consume_from is None else self._consume_from


Queues.__module__ = "celery.app.amqp"
