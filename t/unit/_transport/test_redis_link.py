"""Bytes on a connection to Redis."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from hypothesis import given, strategies as st
from redis import exceptions

from celery._transport import _redis_link
from celery._transport._redis_link import NOTHING, Link, PureReader, new_reader, pack


def test_a_command_is_packed_as_the_protocol_says() -> None:
    assert pack("SET", b"\x00", 1, "ä") == (
        b"*4\r\n$3\r\nSET\r\n$1\r\n\x00\r\n$1\r\n1\r\n$2\r\n\xc3\xa4\r\n"
    )


replies = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


def encode(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))


@given(wanted=st.lists(replies, max_size=4), size=st.integers(1, 7))
def test_both_readers_read_replies_that_come_in_pieces(wanted: list[Any], size: int) -> None:
    data = b"".join(map(encode, wanted))
    for reader in (PureReader(), new_reader()):
        got = []
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
            while (reply := reader.gets()) is not NOTHING:
                got.append(reply)
        assert got == wanted


def test_the_pure_reader_makes_errors_and_states() -> None:
    reader = PureReader()
    reader.feed(b"+OK\r\n-NOSCRIPT No matching script.\r\n-ERR no\r\n*-1\r\n")

    assert reader.gets() == b"OK"
    assert isinstance(reader.gets(), exceptions.NoScriptError)
    assert isinstance(reader.gets(), exceptions.ResponseError)
    assert reader.gets() is None
    assert reader.gets() is NOTHING


def test_the_pure_reader_refuses_what_is_no_reply() -> None:
    reader = PureReader()
    reader.feed(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(exceptions.InvalidResponse, match="HTTP"):
        reader.gets()


def test_without_hiredis_the_pure_reader_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_link, "hiredis", None)
    assert isinstance(new_reader(), PureReader)


class Made:
    """Stands for a connection of redis-py, over one end of a pair of sockets."""

    def __init__(self) -> None:
        self._sock, self.far = socket.socketpair()

    def connect(self) -> None:
        """Be connected."""

    def disconnect(self) -> None:
        self._sock.close()


def answering(made: Made, *answers: bytes) -> threading.Thread:
    def answer() -> None:
        for reply in answers:
            made.far.recv(1000)
            made.far.sendall(reply)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


def test_a_call_waits_for_all_its_replies() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    answering(made, b":1\r\n:2\r\n")

    assert link.call(b"x", 2) == [1, 2]


def test_a_long_reply_is_taken_in_one_turn_of_the_loop() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    link.connect()
    made._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    made.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    made.far.setblocking(False)
    reply = encode(b"x" * (_redis_link.READ_SIZE * 2)) + encode(b"y")
    assert made.far.send(reply) == len(reply)

    assert link.receive() == [b"x" * (_redis_link.READ_SIZE * 2), b"y"]


def test_replies_before_the_end_of_a_connection_are_taken() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    link.connect()
    # The first read is full, and the end is behind it.
    reply = encode(b"x" * (_redis_link.READ_SIZE - 4 - len(b"$65530\r\n\r\n"))) + encode(7)
    assert len(reply) == _redis_link.READ_SIZE
    made.far.send(reply)
    made.far.close()

    assert link.receive()[1:] == [7]
    with pytest.raises(exceptions.ConnectionError):
        link.receive()


def test_the_first_error_among_the_replies_is_raised() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    answering(made, b":1\r\n-ERR no\r\n")

    with pytest.raises(exceptions.ResponseError, match="no"):
        link.call(b"x", 2)
    assert link.is_connected


def test_silence_is_an_error_that_names_the_broker_and_ends_the_connection() -> None:
    made = Made()
    link = Link(lambda: made, 0.05, "redis://there/0")

    with pytest.raises(exceptions.TimeoutError, match=r"redis://there/0.*0\.05 s"):
        link.call(b"x")
    assert not link.is_connected


def test_a_closed_connection_is_an_error_and_the_next_call_connects_anew() -> None:
    first, second = Made(), Made()
    made = [second, first]
    link = Link(made.pop, 5.0, "redis://there/0")
    first.far.close()

    with pytest.raises(exceptions.ConnectionError, match="redis://there/0"):
        link.call(b"x")
    answering(second, b":7\r\n")
    assert link.call(b"x") == [7]


def test_a_connection_that_was_closed_while_it_rested_is_replaced_unseen() -> None:
    first, second = Made(), Made()
    made = [second, first]
    link = Link(made.pop, 5.0, "redis://there/0")
    answering(first, b":1\r\n")
    link.call(b"x")
    first.far.close()
    link._used_at -= 10

    answering(second, b":2\r\n")
    assert link.call(b"x") == [2]


def test_what_is_posted_waits_for_nobody_and_its_answers_are_not_taken_for_others() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    for _ in range(4):
        link.post(b"x")

    # Nobody has answered so far.
    answering(made, b":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n")
    assert link.call(b"y") == [5]


def test_no_more_than_a_few_answers_are_owed() -> None:
    made = Made()
    link = Link(lambda: made, 0.05, "redis://there/0")
    for _ in range(4):
        link.post(b"x")

    with pytest.raises(exceptions.TimeoutError, match="redis://there/0"):
        link.post(b"x")
    assert not link.is_connected


def test_an_error_that_answers_what_was_posted_is_told_later() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    link.post(b"x")
    answering(made, b"-ERR no\r\n")

    with pytest.raises(exceptions.ResponseError, match="no"):
        link.settle()
    link.settle()
    assert link.is_connected


def test_a_connection_that_owes_answers_and_was_closed_is_replaced() -> None:
    first, second = Made(), Made()
    made = [second, first]
    link = Link(made.pop, 5.0, "redis://there/0")
    link.post(b"x")
    first.far.close()
    link._used_at -= 10

    answering(second, b":2\r\n")
    assert link.call(b"x") == [2]


def test_a_script_that_the_server_does_not_know_is_sent_in_full() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    answering(made, b"-NOSCRIPT No matching script.\r\n", b":3\r\n")

    assert link.run(_redis_link_script(), ["k"], [1]) == 3


def _redis_link_script() -> Any:
    from celery._transport._redis_scripts import Script

    return Script("return 3")


def test_what_came_while_nobody_looked_is_no_silence() -> None:
    made = Made()
    link = Link(lambda: made, 5.0, "redis://there/0")
    link.connect()
    assert link.is_silent()

    made.far.sendall(b":1\r\n")
    assert not link.is_silent()
