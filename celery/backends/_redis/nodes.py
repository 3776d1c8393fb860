"""The masters of a Redis Cluster: which of them has a key, and how to talk to each.

The driver knows the nodes and follows keys that move. It is asked where a key is; commands go over
a `Link` to each node, as costs there are those of one server. Whatever a node refuses because the
cluster is changing is left to the driver.
"""

from __future__ import annotations

import os
import select
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from kombu.utils.encoding import ensure_bytes
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError as LostConnection,
    NoScriptError,
    RedisClusterException,
    TimeoutError as NoAnswer,
    TryAgainError,
)

from celery.backends._redis.channels import READ_AT_ONCE, Channels, Question
from celery.backends._redis.consumer import ResultConsumer
from celery.backends._redis.link import Link, Script

#: Seconds between two looks at what is waited for.
LOOK_S = 30.0
#: Refused by this node; the driver finds out which one takes it, and when.
MOVING: tuple[type[Exception], ...] = (AskError, ClusterDownError, TryAgainError)
#: No node can be reached, or nobody has the slot of a key just now.
UNREACHABLE: tuple[type[Exception], ...] = (RedisClusterException, ClusterDownError, TryAgainError)


def connect(hosts: Iterable[dict[str, Any]], **options: Any) -> RedisCluster:
    """Return a client that has asked one of *hosts* for the nodes of its cluster.

    Raises:
        redis.exceptions.RedisClusterException: None of them is there, or has a cluster.
    """
    nodes = [ClusterNode(host["host"], host["port"]) for host in hosts]
    return RedisCluster(startup_nodes=nodes, **options)


def _pool_of(node: ClusterNode) -> Callable[[], Any]:
    pool = node.redis_connection.connection_pool
    return lambda: pool


class ClusterLink:
    """Sends commands to the node that has their key; safe between threads and after a fork.

    Args:
        client: Returns the driver's client of the cluster, in this process.
        keep: Keep connections between commands; see `Link`.
        most: Connections to a node in use at a time; see `Link`.
    """

    def __init__(
        self, client: Callable[[], Any], keep: bool = True, most: int | None = None
    ) -> None:
        self._client = client
        self._keep = keep
        self._most = most
        self._links: dict[str, Link] = {}
        self._pid = os.getpid()

    def _link_of(self, key: Any) -> Link:
        if self._pid != os.getpid():
            self._links = {}
            self._pid = os.getpid()
        node = self._client().get_node_from_key(key)
        link = self._links.get(node.name)
        if link is None:
            link = self._links[node.name] = Link(_pool_of(node), self._keep, self._most)
        return link

    def _note_lost_node(self) -> None:
        """Ask the others who has its keys now; the failed command is for the caller to repeat."""
        with suppress(RedisClusterException, LostConnection, NoAnswer, OSError):
            self._client().nodes_manager.initialize()

    def call(self, *command: Any) -> Any:
        """Send one command, whose first argument is a key, and return its answer.

        Raises:
            redis.exceptions.RedisError: The command was refused, or the connection lost.
            redis.exceptions.RedisClusterException: No node can be reached.
        """
        try:
            return self._link_of(command[1]).call(*command)
        except MOVING:
            return self._client().execute_command(*command)
        except (LostConnection, NoAnswer, OSError):
            self._note_lost_node()
            raise

    def run(self, script: Script, keys: tuple[Any, ...], *arguments: Any) -> Any:
        """Run a script, whose keys are all in one slot, and return its result."""
        try:
            return self._link_of(keys[0]).run(script, keys, *arguments)
        except MOVING:
            # Its text, as a node that it moved to may not know it.
            return self._client().execute_command("EVAL", script.text, len(keys), *keys, *arguments)
        except (LostConnection, NoAnswer, OSError):
            self._note_lost_node()
            raise

    def read(self, keys: Sequence[Any]) -> list[Any]:
        """Read the values of *keys*, in order, with one round trip for each node."""
        answers = self._call_each(keys, [("GET", key) for key in keys])
        for place, answer in enumerate(answers):
            if isinstance(answer, MOVING):
                answers[place] = self.call("GET", keys[place])
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def run_each(
        self, script: Script, keys: Sequence[Any], arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Run a script once for each of *keys*, with one round trip for each node.

        Returns:
            In the order of *keys*, a result or the error that the node has answered with.
        """
        if script.sha is None:
            # Makes it known to the node that has this key; the others say that it is not.
            script.sha = self._link_of(keys[0]).load(script)
        sha = script.sha
        commands = [
            ("EVALSHA", sha, 1, key, *more) for key, more in zip(keys, arguments, strict=True)
        ]
        answers = self._call_each(keys, commands)
        for place, answer in enumerate(answers):
            if isinstance(answer, (NoScriptError, *MOVING)):
                answers[place] = self.run(script, (keys[place],), *arguments[place])
        return answers

    def _call_each(self, keys: Sequence[Any], commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        places: dict[Link, list[int]] = defaultdict(list)
        for place, key in enumerate(keys):
            places[self._link_of(key)].append(place)
        answers: list[Any] = [None] * len(commands)
        try:
            for link, own in places.items():
                found = link.call_all([commands[place] for place in own])
                for place, answer in zip(own, found, strict=True):
                    answers[place] = answer
        except (LostConnection, NoAnswer, OSError):
            self._note_lost_node()
            raise
        return answers


class Questions(Question):
    """One question to several nodes; the documents are still to be read."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[Question]) -> None:
        super().__init__()
        self._parts = parts

    @property
    def ready(self) -> bool:
        """Whether there is no more to wait for."""
        return all(part.is_over for part in self._parts)


class ClusterChannels(Channels):
    """Channels of all masters, each open at the node that has the document.

    That node announces it before anybody is told that it is stored. What has moved to another
    node is announced to all of them by that one.

    Args:
        client: Returns the driver's client of the cluster, in this process.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        super().__init__(client)
        self._client = client
        self._nodes: dict[str, Channels] = {}

    def connect(self) -> None:
        """Connect, anew if need be, to the nodes that have the documents now."""
        self.close()
        client = self._client()
        client.nodes_manager.initialize()
        # All of them: whoever waits in another thread for something to read sees no later ones.
        nodes = {node.name: Channels(_pool_of(node)) for node in client.get_primaries()}
        for name in self.wanted:
            self._at(nodes, name).wanted.add(name)
        self._nodes = nodes
        for channels in nodes.values():
            channels.connect()

    def _at(self, nodes: dict[str, Channels], key: Any) -> Channels:
        node = self._client().get_node_from_key(key)
        channels = nodes.get(node.name)
        if channels is None:
            channels = nodes[node.name] = Channels(_pool_of(node))
        return channels

    def close(self) -> None:
        """Disconnect; `wanted` stays, for another `connect`."""
        for channels in self._nodes.values():
            channels.close()

    def forget(self) -> None:
        """Drop the connections without touching them: they belong to the parent of this process."""
        super().forget()
        self._nodes = {}

    def ask(self, keys: Iterable[Any], given_up: Iterable[Any] = ()) -> Questions:
        """Subscribe to the channels of *keys*; see `Channels.ask`."""
        names = {ensure_bytes(key) for key in keys}
        old = self._without(given_up) - names
        # Before anything can fail: `connect` asks for all that is wanted.
        self.wanted |= names
        if not self._nodes:
            self.connect()
        wanted: dict[Channels, list[bytes]] = defaultdict(list)
        nodes = dict(self._nodes)
        for name in names:
            wanted[self._at(nodes, name)].append(name)
        # In place of the other one, through which another thread may be going.
        self._nodes = nodes
        questions = [channels.ask(own, old) for channels, own in wanted.items()]
        for channels in nodes.values():
            if channels not in wanted:
                channels.unsubscribe(old)
        return Questions(questions)

    def unsubscribe(self, channels: Iterable[Any]) -> None:
        """Give channels up."""
        old = self._without(channels)
        for node in self._nodes.values():
            node.unsubscribe(old)

    def read(self, timeout: float | None) -> list[Any]:
        """Wait for documents from any node; see `Channels.read`."""
        documents: list[Any] = []
        for channels in self._with_data(timeout):
            more = channels.read(0)
            documents += more
            while len(more) >= READ_AT_ONCE:
                # The rest may be in the memory of this process, where nobody waits for it.
                more = channels.read(0)
                documents += more
        return documents

    def _with_data(self, timeout: float | None) -> list[Channels]:
        """Wait until nodes have sent something; return them."""
        by_file = {channels.fileno(): channels for channels in self._nodes.values()}
        if not hasattr(select, "poll"):
            # Under eventlet, or on Windows.
            return [by_file[ready] for ready in select.select(list(by_file), [], [], timeout)[0]]
        poll = select.poll()
        for file in by_file:
            poll.register(file, select.POLLIN)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        return [by_file[file] for file, _ in ready]


class ClusterResultConsumer(ResultConsumer):
    """Receives documents from the nodes that have them.

    A node that hangs announces nothing and is not missed, though another one may have taken over.
    So what is waited for is also read now and then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._next_look = monotonic() + LOOK_S

    def drain_events(self, timeout: float | None = None) -> Any:
        """Receive for at most *timeout* seconds; see `ResultConsumer.drain_events`."""
        if monotonic() >= self._next_look:
            self._next_look = monotonic() + LOOK_S
            with self.reconnect_on_error():
                self._read_documents(self.watched_ids())
        return super().drain_events(timeout)

    def _open_channels(self) -> Channels:
        if self._channels is None:
            self._channels = ClusterChannels(lambda: self.backend.client)
        return self._channels
