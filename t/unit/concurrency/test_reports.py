"""What children report, and how it is read."""

from __future__ import annotations

import os
from typing import Any

import pytest

from celery.concurrency import _reports
from celery.concurrency._packets import INLINE_LIMIT, Spill
from celery.concurrency._reports import IN_FILE, PLAIN, SUCCEEDED, Outbox, Report, Reports


@pytest.fixture
def ends():
    reader, writer = _reports.pipe()
    yield reader, writer
    reader.close()
    writer.close()


def read_all(reports: Reports) -> list[Report]:
    found = []
    while reports.read():
        while (report := reports.next()) is not None:
            found.append(report)
    return found


def test_reports_are_read_in_order_and_many_at_once(ends: Any) -> None:
    reader, writer = ends
    first, second = Outbox(writer, 1), Outbox(writer, 2)
    reports = Reports(reader)
    assert not reports.read()

    for job in range(1, 100):
        first.send(SUCCEEDED, job - 1, job, 0.5, b"a")
        second.send(0, 0, job, 1.5)

    assert reports.read()
    found = [reports.next() for _ in range(198)]
    assert reports.next() is None
    assert found[:4] == [
        Report(1, SUCCEEDED, 0, 1, 0.5, b"a"),
        Report(2, 0, 0, 1, 1.5, b""),
        Report(1, SUCCEEDED, 1, 2, 0.5, b"a"),
        Report(2, 0, 0, 2, 1.5, b""),
    ]
    assert not reports.read()


@pytest.mark.parametrize("beyond", [-1, 0, 1, _reports._ROOM])
def test_a_long_payload_arrives_whole_among_reports_of_others(ends: Any, beyond: int) -> None:
    reader, writer = ends
    payload = os.urandom(3 * _reports._ROOM + beyond)
    reports = Reports(reader)

    Outbox(writer, 1).send(0, 7, 8, 2.0, payload[:1])
    Outbox(writer, 2).send(0, 1, 0, 1.0, payload)
    Outbox(writer, 1).send(0, 8, 9, 2.0)

    assert read_all(reports) == [
        Report(1, 0, 7, 8, 2.0, payload[:1]),
        Report(2, 0, 1, 0, 1.0, payload),
        Report(1, 0, 8, 9, 2.0, b""),
    ]


def test_what_a_dead_child_could_not_finish_is_forgotten(ends: Any) -> None:
    reader, writer = ends
    payload = os.urandom(2 * _reports._ROOM)

    class Dying:
        """Takes the first part and no more."""

        def __init__(self) -> None:
            self.left = 1

        def write(self, data: bytes) -> int:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return int(writer.write(data))

    reports = Reports(reader)
    with pytest.raises(KeyboardInterrupt):
        Outbox(Dying(), 3).send(0, 1, 0, 0.0, payload)  # type: ignore[arg-type]
    assert read_all(reports) == []
    reports.forget(3)
    Outbox(writer, 3).send(0, 2, 0, 0.0, b"later")

    assert [report.payload for report in read_all(reports)] == [b"later"]


def test_a_report_cut_by_the_size_of_a_read_is_put_together(ends: Any, monkeypatch: Any) -> None:
    reader, writer = ends
    monkeypatch.setattr(_reports, "_READ_SIZE", 50)
    reports = Reports(reader)
    sent = [Report(1, 0, job, job + 1, 0.0, b"x" * job) for job in range(40)]

    for report in sent:
        Outbox(writer, 1).send(0, report.ended, report.accepted, 0.0, report.payload)

    assert read_all(reports) == sent


@pytest.mark.parametrize(
    ("value", "is_plain"),
    [
        ((0, "'done'", 0.25), True),
        ((0, "a lone \udc80 surrogate", 1e300), True),
        ((0, "", 0.0), True),
        ((1, "failed", 0.25), False),
        ((False, "a flag that is no number", 0.25), False),
        ((0, None, 0.25), False),
        ((0, "whole seconds", 1), False),
        (None, False),
        ({"a": [1]}, False),
    ],
)
def test_an_outcome_is_read_as_it_was(value: Any, is_plain: bool, tmp_path: Any) -> None:
    flags, payload = _reports.encode(value, Spill(str(tmp_path)))

    assert flags & SUCCEEDED
    assert bool(flags & PLAIN) is is_plain
    read = _reports.decode(flags, payload)
    assert read == value
    assert type(read) is type(value)


def test_a_document_that_is_handed_over_comes_along(tmp_path: Any) -> None:
    document = "id-\u00e9", b'{"status": "SUCCESS"}'
    flags, payload = _reports.encode((0, "'done'", 0.25), Spill(str(tmp_path)), document)

    assert _reports.decode(flags, payload) == (0, "'done'", 0.25, document)


def test_a_document_of_a_failure_is_dropped(tmp_path: Any) -> None:
    flags, payload = _reports.encode((1, "failed", 0.25), Spill(str(tmp_path)), ("id", b"{}"))

    assert _reports.decode(flags, payload) == (1, "failed", 0.25)


def test_a_huge_outcome_goes_through_a_file_once(tmp_path: Any) -> None:
    spill = Spill(str(tmp_path / "spill"))
    value = (0, "x" * (INLINE_LIMIT + 1), 1.0)

    flags, payload = _reports.encode(value, spill)

    assert flags & IN_FILE
    assert len(payload) < 200
    assert _reports.decode(flags, payload) == value
    assert os.listdir(spill.folder) == []
