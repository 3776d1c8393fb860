"""Subscriptions: one connection on which Redis announces new documents."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from kombu.utils.encoding import ensure_bytes
from redis.exceptions import ConnectionError as LostConnection, ResponseError

from celery.backends._redis.link import take_connection
from celery.local import try_import

hiredis: Any = try_import("hiredis")

#: Announcements read before the waiting side is asked whether it has enough.
READ_AT_ONCE = 200
#: Bytes asked for with one read.
READ_SIZE = 1 << 16


class Question:
    """Documents that are to be read once nothing that follows is missed."""

    __slots__ = ("is_answered", "is_over")

    def __init__(self) -> None:
        #: The documents were read.
        self.is_answered = False
        #: Nothing that follows is missed, or the connection is lost.
        self.is_over = False

    @property
    def ready(self) -> bool:
        """Whether there is no more to wait for."""
        return self.is_over


class Channels:
    """Channels of one connection; reading and writing may happen in different threads.

    Args:
        pool: Returns the driver's pool of connections.
    """

    def __init__(self, pool: Callable[[], Any]) -> None:
        self._pool = pool
        self._connection: Any = None
        #: What was asked for.
        self.wanted: set[bytes] = set()
        #: What the server has confirmed: from then on nothing is missed.
        self.confirmed: set[bytes] = set()
        self._questions: deque[tuple[Question, set[bytes]]] = deque()

    def connect(self) -> None:
        """Connect, anew if need be, and ask for all channels."""
        self.close()
        self._connection = take_connection(self._pool())
        if self.wanted:
            self._send(("SUBSCRIBE", *self.wanted))

    def close(self) -> None:
        """Disconnect; `wanted` stays, for another `connect`."""
        connection, self._connection = self._connection, None
        self.confirmed = set()
        questions, self._questions = self._questions, deque()
        for question, _ in questions:
            question.is_over = True
        if connection is not None:
            connection.disconnect()
            self._pool().release(connection)

    def fileno(self) -> int:
        """Return the number of the socket, to wait for it among others; connect if need be.

        Raises:
            redis.exceptions.ConnectionError: The driver has disconnected, as it does with nodes
                that have left a cluster.
        """
        if self._connection is None:
            self.connect()
        sock = self._connection._sock
        if sock is None:
            raise LostConnection("the driver has disconnected")
        number: int = sock.fileno()
        return number

    def forget(self) -> None:
        """Drop the connection without touching it: it belongs to the parent of this process."""
        self._connection = None
        self.wanted = set()
        self.confirmed = set()
        self._questions = deque()

    def _send(self, *commands: tuple[Any, ...]) -> None:
        connection = self._connection
        packed = connection.pack_commands(commands)
        # No health check: its answer would have to be told from announcements.
        connection.send_packed_command(packed, check_health=False)

    def ask(self, keys: Iterable[Any], given_up: Iterable[Any] = ()) -> Question:
        """Subscribe to the channels of *keys*, and read the documents then where that is possible.

        Args:
            given_up: Keys whose channels are not needed any more.

        Returns:
            Is over when that has happened.
        """
        names = {ensure_bytes(key) for key in keys}
        old = self._without(given_up) - names
        new = names - self.wanted
        self.wanted |= new
        if self._connection is None:
            self.connect()
            old = new = set()
        question = Question()
        changes = [("UNSUBSCRIBE", *old)] if old else []
        if new:
            changes.append(("SUBSCRIBE", *new))
        self._ask(question, names, changes)
        return question

    def _ask(self, question: Question, names: set[bytes], changes: list[tuple[Any, ...]]) -> None:
        missing = names - self.confirmed
        if missing:
            self._questions.append((question, missing))
        else:
            question.is_over = True
        if changes:
            self._send(*changes)

    def unsubscribe(self, channels: Iterable[Any]) -> None:
        """Give channels up."""
        old = self._without(channels)
        if old and self._connection is not None:
            self._send(("UNSUBSCRIBE", *old))

    def _without(self, channels: Iterable[Any]) -> set[bytes]:
        """Want these no more; return those that were wanted."""
        old = {ensure_bytes(channel) for channel in channels} & self.wanted
        self.wanted -= old
        self.confirmed -= old
        return old

    def read(self, timeout: float | None) -> list[Any]:
        """Wait for documents.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Those that came; none when something else came, or nothing.
        """
        if self._connection is None:
            self.connect()
        connection = self._connection
        documents: list[Any] = []
        while len(documents) < READ_AT_ONCE and connection.can_read(timeout=timeout):
            timeout = 0
            answer = connection.read_response(disconnect_on_error=False)
            if isinstance(answer, list):
                self._take(ensure_bytes(answer[0]), answer, documents)
        return documents

    def _take(self, kind: bytes, answer: list[Any], documents: list[Any]) -> None:
        if kind == b"message":
            documents.append(answer[2])
        elif kind == b"subscribe":
            name = ensure_bytes(answer[1])
            if name in self.wanted:
                self.confirmed.add(name)
            # Also one that was given up meanwhile, as its document has come.
            self._note_confirmed(name)

    def _note_confirmed(self, name: bytes) -> None:
        for question, missing in list(self._questions):
            missing.discard(name)
            if not missing:
                question.is_over = True
        while self._questions and self._questions[0][0].is_over:
            self._questions.popleft()


class AnsweringChannels(Channels):
    """The same on a connection that answers commands in between: documents come with one request.

    This is the third version of the protocol, that servers from 6.0 on speak. What the driver
    does for each answer costs more than the rest of waiting for a result, so bytes are read here.
    """

    def __init__(self, pool: Callable[[], Any]) -> None:
        super().__init__(pool)
        self._sock: Any = None
        self._reader: Any = None
        self._has_data: Callable[[float | None], Any] = lambda timeout: True

    @classmethod
    def can_be(cls) -> bool:
        """Say whether this process can read that version."""
        return getattr(hiredis, "PushNotification", None) is not None

    def connect(self) -> None:
        """Connect, anew if need be, and ask for all channels.

        Raises:
            redis.exceptions.ResponseError: The server does not know this version.
        """
        self.close()
        connection = take_connection(self._pool())
        try:
            connection.send_command("HELLO", "3", check_health=False)
            connection.read_response()
        except BaseException:
            connection.disconnect()
            self._pool().release(connection)
            raise
        self._connection = connection
        self._sock = connection._sock
        self._reader = hiredis.Reader(replyError=ResponseError)
        self._has_data = _waiting_for(self._sock)
        if self.wanted:
            self._send(("SUBSCRIBE", *self.wanted))

    def _ask(self, question: Question, names: set[bytes], changes: list[tuple[Any, ...]]) -> None:
        # Before it is sent: another thread may read the answer.
        self._questions.append((question, names))
        self._send(*changes, ("MGET", *names))

    def read(self, timeout: float | None) -> list[Any]:
        """Wait for documents; see `Channels.read`."""
        if self._connection is None:
            self.connect()
        if not self._has_data(timeout):
            return []
        data = self._sock.recv(READ_SIZE)
        if not data:
            raise LostConnection("the server has closed the connection")
        reader = self._reader
        reader.feed(data)
        documents: list[Any] = []
        while (answer := reader.gets()) is not False:
            if isinstance(answer, hiredis.PushNotification):
                self._take(answer[0], answer, documents)
            else:
                self._take_answer(answer, documents)
        return documents

    def _take(self, kind: bytes, answer: list[Any], documents: list[Any]) -> None:
        if kind == b"message":
            documents.append(answer[2])
        elif kind == b"subscribe":
            self.confirmed.add(answer[1])

    def _take_answer(self, answer: Any, documents: list[Any]) -> None:
        question, _ = self._questions.popleft()
        if isinstance(answer, list):
            documents += [document for document in answer if document]
            question.is_answered = True
        question.is_over = True


def _waiting_for(sock: Any) -> Callable[[float | None], Any]:
    """Return what waits until there is something to read: seconds, None for ever."""
    pending = getattr(sock, "pending", None)
    if not hasattr(select, "poll"):
        # Under eventlet, or on Windows.
        return lambda timeout: (
            (pending is not None and pending()) or (select.select([sock], [], [], timeout)[0])
        )
    poll = select.poll()
    poll.register(sock, select.POLLIN)

    def wait(timeout: float | None) -> Any:
        if pending is not None and pending():
            return True
        return poll.poll(None if timeout is None else timeout * 1000)

    return wait
