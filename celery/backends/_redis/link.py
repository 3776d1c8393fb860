"""Connections to Redis that stay with the back-end.

A client object of the driver takes a connection from its pool, checks it, and gives it back, for
each command; that costs as much as the command. A back-end sends one command per task, so it
keeps the connection.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import (
    ConnectionError as LostConnection,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)


class Script:
    """A Lua script; sent once, then named by its hash."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha: str | None = None


class Link:
    """Sends commands; safe between threads, and in a child after a fork.

    Args:
        pool: Returns the driver's pool of connections.
        keep: Keep connections between commands; otherwise each goes back to the pool.
        most: Connections in use at a time, beyond which callers wait for one; None for any number.
    """

    def __init__(self, pool: Callable[[], Any], keep: bool = True, most: int | None = None) -> None:
        self._pool = pool
        self._keep = keep
        self._most = most
        self._turns = threading.Semaphore(most) if most else None
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def _acquire(self) -> Any:
        if self._pid != os.getpid():
            # These connections belong to the parent, which goes on using them.
            self._idle = deque()
            self._pid = os.getpid()
            self._turns = threading.Semaphore(self._most) if self._most else None
        if self._turns is not None:
            self._turns.acquire()
        try:
            return self._idle.pop()
        except IndexError:
            return self._take()

    def _take(self) -> Any:
        try:
            return take_connection(self._pool())
        except BaseException:
            if self._turns is not None:
                self._turns.release()
            raise

    def _release(self, connection: Any) -> None:
        if self._keep:
            self._idle.append(connection)
        else:
            self._pool().release(connection)
        if self._turns is not None:
            self._turns.release()

    def call(self, *command: Any) -> Any:
        """Send one command and return its answer.

        Raises:
            redis.exceptions.RedisError: The command was refused, or the connection lost.
        """
        connection = self._acquire()
        try:
            # Does nothing while connected; otherwise it asks the sentinels, if there are any,
            # which sending alone would not.
            connection.connect()
            connection.send_command(*command)
            answer = connection.read_response()
        except ReadOnlyError as exc:
            # This server was the master once; another look may find the one that is it now.
            connection.disconnect()
            self._release(connection)
            raise LostConnection(f"not a master any more: {exc}") from exc
        except ResponseError:
            self._release(connection)
            raise
        except BaseException:
            # An answer may be under way; this connection would give it to the next command.
            connection.disconnect()
            self._release(connection)
            raise
        self._release(connection)
        return answer

    def call_all(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Send all *commands* in one round trip.

        Returns:
            In their order, an answer or the error that the server has answered with.

        Raises:
            redis.exceptions.ConnectionError: The connection was lost.
        """
        packed = list(commands)
        answers: list[Any] = []
        connection = self._acquire()
        try:
            connection.connect()
            connection.send_packed_command(connection.pack_commands(packed))
            while len(answers) < len(packed):
                try:
                    answers.append(connection.read_response())
                except ResponseError as exc:
                    answers.append(exc)
        except BaseException:
            connection.disconnect()
            self._release(connection)
            raise
        self._release(connection)
        return answers

    def run(self, script: Script, keys: tuple[Any, ...], *arguments: Any) -> Any:
        """Run a script and return its result."""
        if script.sha is None:
            script.sha = self.load(script)
        try:
            return self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            # The server was restarted, or another one took over.
            script.sha = self.load(script)
            return self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)

    def load(self, script: Script) -> str:
        """Make a script known to the server and return its hash."""
        sha = self.call("SCRIPT", "LOAD", script.text)
        return sha.decode() if isinstance(sha, bytes) else sha

    def close(self) -> None:
        """Disconnect what is idle."""
        while self._idle:
            connection = self._idle.pop()
            connection.disconnect()
            self._pool().release(connection)


def take_connection(pool: Any) -> Any:
    """Take a connection from a pool of the driver, old or new."""
    try:
        return pool.get_connection()
    except TypeError:
        return pool.get_connection("_")
