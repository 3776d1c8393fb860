"""Where a task goes: from its name and options to exchange, routing key and queue.

The app asks one :class:`Router` for every task it publishes.  A router never talks to the broker;
it only adds to the options of a call what the setting ``task_routes`` says and the call left open.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kombu.entity import Queue

from celery.exceptions import QueueNotFound
from celery.utils.functional import maybe_evaluate, mlazy
from celery.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")

Destination = dict[str, Any]

_GLOB = re.compile(r"[*?\[]")


class MapRoute:
    """Routes by task name: exact names first, then patterns in the order given.

    Args:
        map: A mapping, or pairs, from a task name, a glob pattern (``"feeds.*"``) or a compiled
            regular expression (matched from the start) to a route: a queue name or a mapping of
            publish options.

    Raises:
        ValueError: *map* holds something other than pairs.
    """

    def __init__(self, map: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        pairs = map.items() if isinstance(map, Mapping) else map
        self.map: dict[str, Any] = {}
        self.patterns: dict[re.Pattern[str], Any] = {}
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(
                    f"task_routes: expected a (pattern, route) pair, got {pair!r}. A list of pairs "
                    "is one router and has to stand inside the list of routers: [(...pairs...)]"
                )
            name, route = pair
            if isinstance(name, re.Pattern):
                self.patterns[name] = route
            elif _GLOB.search(name):
                self.patterns[re.compile(fnmatch.translate(name))] = route
            else:
                self.map[name] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Destination | None:
        """Give a fresh route for the task called *name*, or None."""
        route = self.map.get(name)
        if route is None:
            route = next((to for regex, to in self.patterns.items() if regex.match(name)), None)
            if route is None:
                return None
        return {"queue": route} if isinstance(route, str) else dict(route)


class Router:
    """Complete the destination of a call from the routers of ``task_routes``.

    Args:
        routes: Routers as :func:`prepare` gives them.
        queues: Queues by name; asked with ``queues[name]``, so that it may create missing ones.
        create_missing: Kept for callers; *queues* itself decides about missing ones.
        app: Offers the default queue.
    """

    def __init__(
        self,
        routes: Iterable[Any] | None = None,
        queues: Mapping[str, Queue] | None = None,
        create_missing: bool = False,
        app: Celery | None = None,
    ) -> None:
        self.app = app
        self.queues = {} if queues is None else queues
        self.routes = () if routes is None else routes
        self.create_missing = create_missing

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Any = (),
        kwargs: Any = None,
        task_type: Any = None,
    ) -> Destination:
        """Give the publish options for one call of the task *name*.

        What the call says in *options* always stays; a router only fills in what is missing, and
        the default queue is used when neither names a queue or an exchange.

        Returns:
            A new dictionary in which ``queue`` is a queue object, if there is one.

        Raises:
            QueueNotFound: A named queue does not exist and may not be created.
        """
        wanted = self.expand_destination(options) if options else {}
        if self.routes:
            found = self.lookup_route(name, args, kwargs or {}, wanted, task_type)
            if found:
                # The route may name a queue; the call's own options go on top of it.
                destination = self.expand_destination(found)
                for key, value in wanted.items():
                    if value is not None:
                        destination[key] = value
                wanted = destination
        if wanted.get("queue") is None and wanted.get("exchange") is None:
            wanted["queue"] = self._default_queue()
        return wanted

    def _default_queue(self) -> Queue:
        if self.app is None:
            raise QueueNotFound("This router has no app, so there is no default queue to use")
        queue: Queue = self.expand_destination(self.app.conf.task_default_queue)["queue"]
        return queue

    def expand_destination(self, route: str | Mapping[str, Any]) -> Destination:
        """Copy *route*, with the queue object in place of the name of a queue."""
        destination: Destination = {"queue": route} if isinstance(route, str) else dict(route)
        queue = destination.get("queue")
        if queue is None:
            destination.pop("queue", None)
        elif not isinstance(queue, Queue):
            try:
                destination["queue"] = self.queues[queue]
            except KeyError:
                raise QueueNotFound(f"Queue {queue!r} missing from task_queues") from None
        return destination

    def lookup_route(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        options: Any = None,
        task_type: Any = None,
    ) -> Destination | None:
        """Ask the routers in order; the first answer that is true wins."""
        for router in self.routes:
            answer = self.query_router(router, name, args, kwargs, options, task_type)
            if answer:
                return {"queue": answer} if isinstance(answer, (str, Queue)) else dict(answer)
        return None

    def query_router(
        self, router: Any, task: str, args: Any, kwargs: Any, options: Any, task_type: Any
    ) -> Any:
        """Ask one router, which may be a function or an old object with ``route_for_task``."""
        router = maybe_evaluate(router)
        ask = getattr(router, "route_for_task", None)
        if ask is not None:
            return ask(task, args, kwargs)
        return router(task, args, kwargs, options, task=task_type)


def expand_router_string(router: str) -> Any:
    """Import the router named by a dotted path; a class is instantiated."""
    found = symbol_by_name(router)
    return found() if hasattr(found, "route_for_task") and isinstance(found, type) else found


def prepare(routes: Any) -> tuple[Any, ...]:
    """Turn any value of ``task_routes`` into a tuple of routers.

    Dotted paths are imported when a router is first asked.

    Raises:
        ValueError: A list was given where a list of (pattern, route) pairs has to be an element of
            the list of routers.
    """
    if routes is None:
        return ()
    return tuple(map(_router, routes if isinstance(routes, (list, tuple)) else (routes,)))


def _router(entry: Any) -> Callable[..., Any]:
    if isinstance(entry, (Mapping, list, tuple)):
        return MapRoute(entry)
    if isinstance(entry, str):
        lazily: Callable[..., Any] = mlazy(expand_router_string, entry)  # type: ignore[no-untyped-call]
        return lazily
    router: Callable[..., Any] = entry
    return router
