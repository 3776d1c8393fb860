"""
Remote control: asking workers to do something, and about their state.

Commands are broadcast to a fanout exchange; workers reply to a queue of the caller. Waiting for
replies is bounded by time, because nobody knows how many workers there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from kombu import pidbox
from kombu.matcher import match

from celery import _state
from celery._transport.capabilities import carries_broadcasts, limits
from celery.app import _upward
from celery.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from celery.utils.log import get_logger
from celery.utils.text import pluralize

if TYPE_CHECKING:
    from kombu.connection import Connection

    from celery.app.base import Celery

__all__ = ("Control", "Inspect", "flatten_reply")

logger = get_logger(__name__)

W_DUPNODE = (
    "Several nodes answered under the same name: {1} {0}. "
    "Give each worker a name of its own with the option -n."
)

Replies = list[dict[str, Any]]
Destination = Sequence[str] | None


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Merge the replies of all nodes into one dictionary by node name.

    Warns:
        DuplicateNodenameWarning: Two nodes have the same name; the last reply is kept.
    """
    merged: dict[str, Any] = {}
    doubled: set[str] = set()
    for each in reply:
        doubled.update(name for name in each if name in merged)
        merged.update(each)
    if doubled:
        warnings.warn(
            DuplicateNodenameWarning(
                W_DUPNODE.format(", ".join(sorted(doubled)), pluralize(len(doubled), "name"))
            ),
            stacklevel=2,
        )
    return merged


#: Attributes of an `Inspect` that are options of a broadcast as well.
_ASKED_WITH = ("callback", "connection", "limit", "timeout", "pattern", "matcher")


class Inspect:
    """
    Asks workers about their state (``app.control.inspect()``).

    Every method returns replies by node name, or None when nobody replied in time.

    Args:
        destination: Names of the nodes to ask; all by default.
        timeout: Seconds to wait for replies.
        callback: Called with each reply as it comes.
        limit: Number of replies after which waiting ends.
        pattern: Ask only nodes with such names.
        matcher: Kind of *pattern*: ``glob`` or ``pcre``.
    """

    app: Celery | None = None

    def __init__(
        self,
        destination: Destination | str = None,
        timeout: float = 1.0,
        callback: Callable[[Any], Any] | None = None,
        connection: Connection | None = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = _state.app_or_default(app or self.app)
        # -- who is asked, and how long we listen
        self.destination, self.pattern, self.matcher = destination, pattern, matcher
        self.limit, self.timeout = limit, timeout
        self.connection, self.callback = connection, callback

    def _request(self, command: str, **arguments: Any) -> Any:
        assert self.app is not None
        options = {name: getattr(self, name) for name in _ASKED_WITH}
        asked = self.destination
        replies = self.app.control.broadcast(
            command,
            arguments=arguments,
            destination=[asked] if isinstance(asked, str) else asked,
            reply=True,
            **options,
        )
        return self._prepare(replies) if replies else None

    def _prepare(self, replies: Replies) -> Any:
        by_node = flatten_reply(replies)
        if isinstance(self.destination, str):
            return by_node.get(self.destination)
        if self.pattern:
            # The annotations of kombu say bytes, the code takes text.
            fits: Callable[..., bool] = match
            return {n: r for n, r in by_node.items() if fits(n, self.pattern, self.matcher)}
        return by_node

    def report(self) -> Any:
        """Return what a bug report should contain."""
        return self._request("report")

    def clock(self) -> Any:
        """Return the logical clock."""
        return self._request("clock")

    def active(self, safe: bool | None = None) -> Any:
        """
        Return the tasks that run now.

        Args:
            safe: Give arguments as text, for values that cannot be sent.
        """
        return self._request("active", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Any:
        """Return the tasks that wait for their time (ETA or countdown)."""
        return self._request("scheduled")

    def reserved(self, safe: bool | None = None) -> Any:
        """Return the tasks that were received and wait for a free process."""
        return self._request("reserved")

    def stats(self) -> Any:
        """Return counts and facts about each worker."""
        return self._request("stats")

    def revoked(self) -> Any:
        """Return the ids of revoked tasks."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """
        Return the names of the tasks that workers know.

        Args:
            taskinfoitems: Attributes of tasks to show behind the names.
        """
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Destination | str = None) -> Any:
        """Return ``{'ok': 'pong'}`` for each node that lives."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Any:
        """Return the queues that workers consume from."""
        return self._request("active_queues")

    def query_task(self, *ids: str | Sequence[str]) -> Any:
        """Return what workers know about tasks with these ids."""
        wanted: Any = ids[0] if len(ids) == 1 and isinstance(ids[0], (list, tuple)) else ids
        return self._request("query_task", ids=wanted)

    def conf(self, with_defaults: bool = False) -> Any:
        """Return the settings that differ from the defaults, or all of them."""
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """Introduce a node; returns revoked tasks and clocks of the others."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """Return the resident memory now."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """Return a report of recent memory samples."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """Have workers draw who refers to objects of a type; needs the package objgraph."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)


class Control:
    """
    Changes workers (``app.control``).

    Methods take ``reply=True`` (and ``timeout``, ``limit``, …, see :meth:`broadcast`) to wait for
    what the workers say; without it they return None at once.
    """

    Mailbox: ClassVar[type[pidbox.Mailbox]] = pidbox.Mailbox

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app = _state.app_or_default(app)
        conf = app.conf
        if conf.control_queue_exclusive and conf.control_queue_durable:
            raise ImproperlyConfigured(
                "Control queue cannot be both exclusive and durable: turn one of the settings "
                "control_queue_exclusive and control_queue_durable off."
            )
        self.mailbox = self.Mailbox(
            conf.control_exchange,
            type="fanout",
            clock=app.clock,
            accept=conf.accept_content,
            serializer=conf.task_serializer,
            producer_pool=_Producers(app),
            queue_ttl=conf.control_queue_ttl,
            queue_expires=conf.control_queue_expires,
            queue_exclusive=conf.control_queue_exclusive,
            queue_durable=conf.control_queue_durable,
            reply_queue_ttl=conf.control_queue_ttl,
            reply_queue_expires=conf.control_queue_expires,
        )

    @cached_property
    def inspect(self) -> type[Inspect]:
        """The class :class:`Inspect`, bound to the app."""
        bound: type[Inspect] = self.app.subclass_with_self(Inspect, reverse="control.inspect")
        return bound

    @cached_property
    def schedule(self) -> Any:
        """The entries of beat: show and change them, also while it runs."""
        return _upward.load(_upward.SCHEDULE)(self.app)

    def purge(self, connection: Connection | None = None) -> int:
        """Delete all messages that wait in the configured queues; return their number."""
        with self.app.connection_or_acquire(connection) as conn:
            removed: int = self.app.amqp.TaskConsumer(conn).purge()
            return removed

    discard_all = purge

    def election(
        self,
        id: str,
        topic: str,
        action: Any = None,
        connection: Connection | None = None,
    ) -> None:
        """Let the workers choose one of them to act on *topic*."""
        self.broadcast(
            "election",
            connection=connection,
            destination=None,
            arguments={"id": id, "topic": topic, "action": action},
        )

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Destination = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **kwargs: Any,
    ) -> Replies | None:
        """
        Tell workers to skip tasks.

        Args:
            task_id: One id or several.
            terminate: Kill the process that runs a task, too.
            signal: Name of the signal to kill it with.
        """
        return self.broadcast(
            "revoke",
            destination=destination,
            arguments={"task_id": task_id, "terminate": terminate, "signal": signal},
            **kwargs,
        )

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Destination = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **kwargs: Any,
    ) -> Replies | None:
        """
        Tell workers to skip tasks that carry certain stamps.

        Args:
            headers: Values of stamps, by name.
            terminate: Kill the processes that run such tasks, too.
            signal: Name of the signal to kill them with.
        """
        return self.broadcast(
            "revoke_by_stamped_headers",
            destination=destination,
            arguments={"headers": headers, "terminate": terminate, "signal": signal},
            **kwargs,
        )

    def terminate(
        self,
        task_id: str | Sequence[str],
        destination: Destination = None,
        signal: str = "SIGTERM",
        **kwargs: Any,
    ) -> Replies | None:
        """Skip tasks, and kill the processes that run them."""
        return self.revoke(
            task_id, destination=destination, terminate=True, signal=signal, **kwargs
        )

    def ping(
        self, destination: Destination = None, timeout: float = 1.0, **kwargs: Any
    ) -> Replies | None:
        """Return ``{node: {'ok': 'pong'}}`` for each node that lives."""
        return self.broadcast(
            "ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs
        )

    def rate_limit(
        self,
        task_name: str,
        rate_limit: str | float,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Set how often a worker may start tasks of a type, as in ``10/m``; 0 for no limit."""
        return self.broadcast(
            "rate_limit",
            destination=destination,
            arguments={"task_name": task_name, "rate_limit": rate_limit},
            **kwargs,
        )

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies | None:
        """
        Let workers consume from one more queue.

        Args:
            exchange: Its exchange; named like the queue by default.
            options: More arguments of the queue.
        """
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast(
            "add_consumer", destination=destination, arguments=arguments, **kwargs
        )

    def cancel_consumer(
        self, queue: str, destination: Destination = None, **kwargs: Any
    ) -> Replies | None:
        """Let workers stop consuming from a queue."""
        return self.broadcast(
            "cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs
        )

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Set the time limits of a type of task, in seconds; None for no limit."""
        return self.broadcast(
            "time_limit",
            destination=destination,
            arguments={"task_name": task_name, "hard": hard, "soft": soft},
            **kwargs,
        )

    def enable_events(self, destination: Destination = None, **kwargs: Any) -> Replies | None:
        """Let workers send events about tasks."""
        return self.broadcast("enable_events", arguments={}, destination=destination, **kwargs)

    def disable_events(self, destination: Destination = None, **kwargs: Any) -> Replies | None:
        """Let workers send no events about tasks."""
        return self.broadcast("disable_events", arguments={}, destination=destination, **kwargs)

    def pool_grow(
        self, n: int = 1, destination: Destination = None, **kwargs: Any
    ) -> Replies | None:
        """Add *n* processes or threads to the pools."""
        return self.broadcast("pool_grow", arguments={"n": n}, destination=destination, **kwargs)

    def pool_shrink(
        self, n: int = 1, destination: Destination = None, **kwargs: Any
    ) -> Replies | None:
        """Remove *n* processes or threads from the pools."""
        return self.broadcast("pool_shrink", arguments={"n": n}, destination=destination, **kwargs)

    def autoscale(
        self, max: int, min: int, destination: Destination = None, **kwargs: Any
    ) -> Replies | None:
        """Set the bounds between which pools grow and shrink by themselves."""
        return self.broadcast(
            "autoscale", arguments={"max": max, "min": min}, destination=destination, **kwargs
        )

    def shutdown(self, destination: Destination = None, **kwargs: Any) -> Replies | None:
        """Let workers finish what they run, and end. There is no reply."""
        return self.broadcast("shutdown", arguments={}, destination=destination, **kwargs)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Callable[[Any], Any] | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Replies | None:
        """
        Replace the processes of the pools; needs the setting ``worker_pool_restarts``.

        Args:
            modules: Modules to import first; the app's own by default.
            reload: Load modules anew that are loaded already.
            reloader: Function that does so.
        """
        return self.broadcast(
            "pool_restart",
            arguments={"modules": modules, "reload": reload, "reloader": reloader},
            destination=destination,
            **kwargs,
        )

    def heartbeat(self, destination: Destination = None, **kwargs: Any) -> Replies | None:
        """Let workers send a heartbeat event now."""
        return self.broadcast("heartbeat", arguments={}, destination=destination, **kwargs)

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Destination = None,
        connection: Connection | None = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Replies | None:
        """
        Send a command to workers.

        Args:
            command: Its name.
            arguments: Arguments of the command; *extra_kwargs* are added.
            destination: List of node names; all nodes by default.
            reply: Wait for replies.
            timeout: Seconds to wait.
            limit: Number of replies after which waiting ends; with *destination* their number.
            callback: Called with each reply as it comes.
            pattern: Send only to nodes with such names.
            matcher: Kind of *pattern*: ``glob`` or ``pcre``.

        Returns:
            ``{node: reply}`` for each reply in the order they came, or None without *reply*.
            No reply comes, and at once, where the broker carries no broadcasts.

        Raises:
            ValueError: *destination* is no list.
        """
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(
                f"destination must be a list of node names, not {destination!r}: "
                f"did you mean [{destination!r}]?"
            )
        with self.app.connection_or_acquire(connection) as conn:
            if not carries_broadcasts(conn):
                logger.warning("Nobody hears of the command %s. %s", command, limits(conn))
                return [] if reply else None
            send = self.mailbox(conn)._broadcast
            replies: Replies | None = send(
                command,
                {**(arguments or {}), **extra_kwargs},
                destination,
                reply,
                timeout,
                limit,
                callback,
                channel=channel,
                pattern=pattern,
                matcher=matcher,
            )
            return replies


class _Producers:
    """
    The pool of producers of an app, for commands.

    kombu tries to send these until the broker is back, however long that takes; here they fail
    after as many attempts as tasks, which ``task_publish_retry_policy`` sets.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app

    @contextmanager
    def acquire(self) -> Iterator[Any]:
        """Lend what publishes."""
        policy = self.app.conf.task_publish_retry_policy
        with self.app.amqp.producer_pool.acquire() as producer:
            yield SimpleNamespace(publish=partial(producer.publish, retry_policy=policy))
