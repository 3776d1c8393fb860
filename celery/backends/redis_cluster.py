"""Results in a Redis Cluster: each document on the node that has its key, announced there.

Keys are those of `celery.backends.redis`, but for groups: the id stands in braces, so that all
that belongs to one chord is on one node, where a script can count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from celery import states
from celery.backends._redis import params
from celery.backends._versioned import once_per_process
from celery.backends.redis import LOOK, RedisBackend
from celery.exceptions import ImproperlyConfigured

try:
    from celery.backends._redis import nodes
except ImportError:  # the driver is optional, and its absence is told by the base
    nodes: Any = None  # type: ignore[no-redef]

__all__ = ("RedisClusterBackend",)


class RedisClusterBackend(RedisBackend):
    """Keeps results in a Redis Cluster.

    The URL is ``redis+cluster://user:password@host:port``, or ``rediss+cluster://`` for TLS; more
    nodes to ask for the others may follow, each after a semicolon.

    Raises:
        ImproperlyConfigured: The URL names a database; a cluster has one only.
    """

    if nodes is not None:
        ResultConsumer = nodes.ClusterResultConsumer
        unreachable_errors = nodes.UNREACHABLE

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URLs of the nodes."""
        return params.uri_of_hosts(self.url, include_password)

    # -- Connecting

    def _connection_parameters(self, url: str | None, **given: Any) -> dict[str, Any]:
        first, *others = (url or "redis+cluster://").split(";")
        found = super()._connection_parameters(first.replace("+cluster", "", 1), **given)
        if found.pop("db"):
            raise ImproperlyConfigured(f"A Redis Cluster has database 0 only: {self.as_uri()}")
        if found.pop("connection_class", None) is not None:
            found["ssl"] = True
        # The driver warns where it is given at all, and does so anyway.
        found.pop("retry_on_timeout", None)
        hosts, _ = params.hosts_of(";".join(others), found["port"])
        own = {"host": found.pop("host"), "port": found.pop("port")}
        return {**found, "hosts": [own, *hosts]}

    def _make_link(self, keep: bool, most: int | None) -> Any:
        return nodes.ClusterLink(lambda: self.client, keep, most)

    @once_per_process
    def client(self) -> Any:
        """The driver's client of the cluster; connects when it is made."""
        return nodes.connect(**self.connparams)

    # -- Keys and values

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in order, with one request to each node."""
        values: list[Any] = self.ensure(self._link.read, (list(keys),))
        return values

    def _set(self, key: Any, value: Any, life: int | None) -> None:
        self._link.call("SET", key, value, *(("EX", life) if life else ()))
        self._link.call("PUBLISH", key, value)

    def get_key_for_group(self, group_id: str, key: Any = "") -> Any:
        """Return a key of a group; all of them are on one node."""
        return super().get_key_for_group(group_id and f"{{{group_id}}}", key)

    def _store_together(self, documents: Sequence[tuple[str, bytes]]) -> Sequence[int]:
        keys = [self.get_key_for_task(task_id) for task_id, _ in documents]
        arguments = [(self.expires or 0, states.SUCCESS, payload) for _, payload in documents]
        answers = self._persistently(self._link.run_each, self._store_many_script, keys, arguments)
        return [LOOK if isinstance(answer, Exception) else answer[0] for answer in answers]
