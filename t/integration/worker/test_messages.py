"""Messages that are no tasks, or broken ones: none may stop the worker or come back for ever."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest

from t.harness.worker import eventually

OK = [[2, 3], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def headers(**fields: Any) -> dict[str, Any]:
    return {"lang": "py", "task": "add", "id": str(uuid4()), **fields}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in headers().items() if name not in names}


#: Name: (headers, body, content type, what the log says).
BROKEN: dict[str, tuple[dict[str, Any], Any, str, str]] = {
    "not a task": ({}, {"hello": "world"}, "json", "Received and deleted unknown message.  Wrong"),
    "a number": ({}, 7, "json", "Received and deleted unknown message"),
    "a list": ({}, [1, 2], "json", "Received and deleted unknown message"),
    "null": ({}, None, "json", "Received and deleted unknown message"),
    "a text": ({}, "hello", "json", "Received and deleted unknown message"),
    "task is null": ({}, {"task": None}, "json", "Received unregistered task of type None"),
    "broken json, no task": ({}, b"{nope", "raw", "Can't decode message body"),
    "unknown name": (headers(task="no.such"), OK, "json", "Received unregistered task of type"),
    "unknown name, version 1": (
        {}, {"task": "no.such", "id": "x1", "args": [], "kwargs": {}}, "json",
        "Received unregistered task of type 'no.such'",
    ),
    "name is a list": (headers(task=["add"]), OK, "json", "Received unregistered task"),
    "name is a number": (headers(task=7), OK, "json", "Received unregistered task of type 7"),
    "no id": (without("id"), OK, "json", "Received invalid task message"),
    "no id, version 1": (
        {}, {"task": "add", "args": [1, 2], "kwargs": {}}, "json", "Received invalid task message",
    ),
    "body of two": (headers(), [[], {}], "json", "Received invalid|raised unexpected"),
    "empty body": (headers(), [], "json", "Received invalid task message"),
    "body is a mapping": (headers(), {"a": 1}, "json", "Received invalid task message"),
    "broken json": (headers(), b"[[1, 2], {}, ", "raw", "Received invalid task message"),
    "no bytes": (headers(), b"", "raw", "Received invalid task message"),
    "bad eta": (headers(eta="garbage"), OK, "json", "invalid ETA value 'garbage'"),
    "eta is a mapping": (headers(eta={"a": 1}), OK, "json", "invalid ETA value"),
    "bad expires": (headers(expires="garbage"), OK, "json", "invalid expires value 'garbage'"),
    "bad time limit": (headers(timelimit=["a", None]), OK, "json", "invalid timelimit value"),
    "time limit of one": (headers(timelimit=[1]), OK, "json", "invalid timelimit value"),
    "kwargs null": (headers(), [[1, 2], None, {}], "json", "keyword arguments"),
    "args is a number": (headers(), [7, {}, {}], "json", "raised unexpected: TypeError"),
    "args wrong": (headers(), [[1], {}, {}], "json", "raised unexpected: TypeError"),
    "unknown content type": (headers(), b"x", "application/x-a", "Received invalid task message"),
    "untrusted": (
        headers(), OK, "pickle",
        r"Refusing to deserialize untrusted content of type pickle \(application/x-python",
    ),
    "version 1, args a number": (
        {}, {"task": "add", "id": "x2", "args": 7, "kwargs": {}}, "json",
        "Received invalid task message",
    ),
}  # fmt: skip


def publish(project: Any, fields: dict[str, Any], body: Any, kind: str) -> None:
    with project.app.connection_for_write() as connection:
        options: dict[str, Any] = {"routing_key": "celery", "headers": fields}
        if kind in {"json", "pickle"}:
            options["serializer"] = kind
        else:
            options["content_type"] = "application/json" if kind == "raw" else kind
            options["content_encoding"] = "utf-8"
        producer = connection.Producer()
        queue = project.app.amqp.queues["celery"]
        producer.publish(body, exchange=queue.exchange, declare=[queue], **options)


def since(worker, line):
    return "\n".join(worker.lines[line:])


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_broken_messages_are_dropped_and_the_worker_goes_on(project, pool):
    """B-WORK-024, B-WORK-026, B-WORK-027, B-WORK-028, B-WORK-029, B-WORK-031, B-LEG-024: each is
    logged and settled. Those of B-WORK-032, B-WORK-033 and B-WORK-034, which upstream loses, dies
    of, or restarts for, are treated alike."""
    worker = project.worker("-c1", "-P", pool)

    for name, (fields, body, kind, expected) in BROKEN.items():
        before = len(worker.lines)
        publish(project, fields, body, kind)
        note = project.send("note", str(project.journal), name)
        project.journal.wait_for(name)
        eventually(lambda note=note: note.state == "SUCCESS")
        # The reader of the log may be a little behind the journal.
        seen = eventually(
            lambda before=before, expected=expected: (
                re.search(expected, since(worker, before)) and since(worker, before)
            )
        )
        assert "Unrecoverable" not in seen, name
        assert "Connection to broker lost" not in seen, name

    assert worker.stop() == 0
    assert project.queue_length() == 0


def test_what_the_transport_cannot_read_is_dropped(on_redis, redis_url):
    """No entry of a Redis list is a reason to stop."""
    import redis

    worker = on_redis.worker("-c1")
    client = redis.Redis.from_url(redis_url)
    for garbage in (b"not json", b"{}", b"[]", b"7", b'{"body": 1}', b"\xff\xfe"):
        client.lpush("celery", garbage)
    assert on_redis.send("add", 1, 1).get(timeout=20) == 2

    assert worker.stop() == 0
    assert on_redis.queue_length() == 0


def test_an_unknown_task_fails_its_result(project):
    """B-WORK-024, B-WORK-025: FAILURE with NotRegistered is stored."""
    project.worker("-c1")

    result = project.send("no.such.task", 1)

    error = result.get(timeout=20, propagate=False)
    assert type(error).__name__ == "NotRegistered"
    assert "no.such.task" in str(error)
    assert result.state == "FAILURE"


def test_the_least_message_runs(project):
    """B-WORK-030: headers task and id, body of three; the language is not checked."""
    project.worker("-c1")
    for number, embed in enumerate([None, {}]):
        task_id = f"least-{number}"
        publish(
            project, {"task": "add", "id": task_id, "lang": "java"}, [[2, 3], {}, embed], "json"
        )

        assert project.app.AsyncResult(task_id).get(timeout=20) == 5


def test_version_one_messages_run(project):
    """B-WORK-035, B-WORK-036: missing args and kwargs are empty, expires is honoured."""
    worker = project.worker("-c1")
    publish(project, {}, {"task": "add", "id": "v1", "args": [2, 3], "kwargs": {}}, "json")
    publish(project, {}, {"task": "pid", "id": "v1-bare"}, "json")
    publish(
        project,
        {},
        {"task": "pid", "id": "v1-old", "expires": "2001-01-01T00:00:00+00:00"},
        "json",
    )

    assert project.app.AsyncResult("v1").get(timeout=20) == 5
    assert project.app.AsyncResult("v1-bare").get(timeout=20) > 0
    worker.wait_for(r"Discarding revoked task: pid\[v1-old\]")
    eventually(lambda: project.app.AsyncResult("v1-old").state == "REVOKED")


def test_a_task_of_the_old_protocol_keeps_its_eta(on_redis):
    """B-WORK-035: the eta in the body of a version 1 message is honoured."""
    worker = on_redis.worker("-c1")
    publish(
        on_redis,
        {},
        {"task": "pid", "id": "v1-late", "eta": "2101-01-01T00:00:00+00:00"},
        "json",
    )
    worker.wait_for(r"Task pid\[v1-late\] received")

    def scheduled() -> list[str]:
        found = on_redis.app.control.inspect().scheduled()
        return [entry["request"]["id"] for entries in found.values() for entry in entries]

    # On its way from the worker to where it waits it is in neither place.
    assert eventually(lambda: scheduled() == ["v1-late"])


def test_two_messages_with_one_id_both_run(project):
    """B-WORK-021: sending twice with one id does not make them one."""
    project.worker("-c1")
    for _ in range(2):
        project.send("note", str(project.journal), "twice", task_id="same")

    project.journal.wait_for("twice", "twice")


def test_text_of_any_kind_arrives(project):
    """Text beyond ASCII arrives as it was sent."""
    project.worker("-c1")

    assert project.send("add", "ä", "ö").get(timeout=20) == "äö"


def test_a_worker_that_was_busy_with_short_tasks_keeps_no_more_than_its_share_behind_a_long_one(
    on_rabbitmq,
):
    """B-WORK-054: while tasks take no time RabbitMQ sends more ahead; that much is given back."""
    project = on_rabbitmq
    journal = str(project.journal)
    for number in range(300):
        project.send("note", journal, f"before {number}")
    project.send("gated", journal, "long", str(project.gate()))
    for number in range(60):
        project.send("note", journal, f"after {number}")
    # A rate limit, which one task of the project has, would rule it out.
    project.worker("-c1", conf={"worker_disable_rate_limits": True})

    eventually(lambda: "begin long" in project.journal.lines)
    # Four of the sixty are the worker's share.
    eventually(lambda: project.queue_length() >= 56)
    project.gate().touch()

    eventually(lambda: len(project.journal.lines) >= 362)
    assert len(set(project.journal.lines)) == len(project.journal.lines) == 362
