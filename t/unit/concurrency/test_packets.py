"""Packets, spilled payloads and the line of waiting jobs."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from celery.concurrency import _packets
from celery.concurrency._inbox import Inbox
from celery.concurrency._job import RUNNING, SENT, WAITING, Job
from celery.concurrency._packets import DONT_WAIT, INLINE, JOB, LEAVE, PACKET_SIZE, Spill


@pytest.mark.parametrize("kind", [None, socket.SOCK_DGRAM])
def test_a_packet_arrives_whole_and_in_order(kind: int | None) -> None:
    reader, writer = _packets.channel(kind)
    for packet in (b"one", b"x" * _packets.INLINE_LIMIT, b"three"):
        writer.send(packet)

    packets = _packets.read_all(reader.recv_into, bytearray(PACKET_SIZE))

    assert packets == [b"one", b"x" * _packets.INLINE_LIMIT, b"three"]
    reader.close()
    writer.close()


def test_datagrams_stand_in_where_packets_in_sequence_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """macOS names SOCK_SEQPACKET, and knows it not between local sockets."""
    plain = socket.socketpair

    def as_on_macos(family: int, kind: int) -> tuple[socket.socket, socket.socket]:
        if kind == socket.SOCK_SEQPACKET:
            raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")
        return plain(family, kind)

    monkeypatch.setattr(socket, "socketpair", as_on_macos)

    reader, writer = _packets.channel()

    assert reader.type == writer.type == socket.SOCK_DGRAM
    reader.close()
    writer.close()


def test_a_channel_without_writer_reads_as_ended() -> None:
    reader, writer = _packets.channel()
    writer.close()

    assert reader.recv_into(bytearray(8), 0, DONT_WAIT) == 0
    assert _packets.read_all(reader.recv_into, bytearray(8)) == []
    reader.close()


def test_a_spilled_payload_can_be_taken_once(tmp_path: Any) -> None:
    spill = Spill(str(tmp_path / "spill"))

    path = spill.write(b"payload")
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert spill.take(path) == b"payload"

    with pytest.raises(FileNotFoundError):
        spill.take(path)
    spill.discard(path)
    spill.remove()
    assert not (tmp_path / "spill").exists()


def test_a_folder_for_payloads_only_exists_when_needed() -> None:
    first, second = Spill(), Spill()

    assert first.folder != second.folder
    assert not os.path.exists(first.folder)


def make_line(count: int) -> tuple[Inbox, list[Job]]:
    """Return an inbox with *count* jobs in its channel."""
    books: dict[int, Job] = {}
    inbox = Inbox(books)
    jobs = []
    for number in range(1, count + 1):
        job = Job(SimpleNamespace(), number, None, None, None, None, None, None, (), None)
        job.packet = JOB.pack(INLINE, number, 0)
        books[number] = job
        jobs.append(job)
        inbox.put(job, job.packet)
    return inbox, jobs


def take(inbox: Inbox) -> int | None:
    """Do what a free child does; return the number of the job it got."""
    buffer = bytearray(64)
    try:
        inbox.reader.recv_into(buffer, 0, DONT_WAIT)
    except BlockingIOError:
        return None
    kind, number, _ = JOB.unpack_from(buffer)
    return 0 if kind == LEAVE else number


def drain(inbox: Inbox) -> list[int]:
    numbers = []
    while (number := take(inbox)) is not None:
        numbers.append(number)
    return numbers


def test_jobs_are_taken_in_the_order_of_their_calls() -> None:
    inbox, jobs = make_line(4)

    assert [job.state for job in jobs] == [SENT] * 4
    assert drain(inbox) == [1, 2, 3, 4]


def test_a_job_can_be_taken_back_until_a_child_has_it() -> None:
    inbox, jobs = make_line(4)
    assert take(inbox) == 1

    assert not inbox.take_back(jobs[0])
    assert inbox.take_back(jobs[2])

    assert drain(inbox) == [2, 4]


def test_taking_all_back_leaves_orders_to_leave() -> None:
    inbox, jobs = make_line(3)
    inbox.send_away(1)

    assert inbox.take_all() == jobs
    assert drain(inbox) == [0]


def test_jobs_taken_and_not_accepted_are_missing() -> None:
    inbox, jobs = make_line(4)
    assert (take(inbox), take(inbox)) == (1, 2)
    jobs[0].state = RUNNING

    assert inbox.missing() == [jobs[1]]
    assert drain(inbox) == [3, 4]


def test_a_job_given_back_is_the_next_one() -> None:
    inbox, jobs = make_line(2)
    take(inbox)
    inbox.put_first([jobs[0]])

    # What is in the channel is ahead of it.
    assert drain(inbox) == [2, 1]


class Loop:
    """An event loop that only notes what is watched."""

    def __init__(self) -> None:
        self.writers: dict[Any, Any] = {}

    def add_writer(self, fd: Any, callback: Any) -> None:
        self.writers[fd] = callback

    def remove(self, fd: Any) -> None:
        del self.writers[fd]


def test_what_the_channel_does_not_hold_waits_until_there_is_room() -> None:
    inbox, jobs = make_line(0)
    loop = Loop()
    inbox.attach(loop)
    big = b"x" * 60_000
    books: Any = inbox._jobs
    for number in range(1, 400):
        job = Job(SimpleNamespace(), number, None, None, None, None, None, None, (), None)
        books[number] = job
        jobs.append(job)
        inbox.put(job, JOB.pack(INLINE, number, 0) + big)

    assert jobs[-1].state == WAITING
    assert list(loop.writers) == [inbox.writer]
    taken = []
    while len(taken) < 399:
        buffer = bytearray(PACKET_SIZE)
        taken += [
            JOB.unpack_from(packet)[1]
            for packet in _packets.read_all(inbox.reader.recv_into, buffer)
        ]
        for write in list(loop.writers.values()):
            write()

    assert taken == list(range(1, 400))
    assert loop.writers == {}
