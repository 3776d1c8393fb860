"""What the broker is told for each way in which a task can end, on a real RabbitMQ."""

from __future__ import annotations

import pytest
from kombu import Exchange, Queue

from t.harness.worker import eventually

#: Column: options of the task (see proj.COLUMNS). A: acknowledged, R-: rejected for good,
#: R+: delivered again. In brackets the state that is stored.
MATRIX = """
outcome     early          late           late_lost      late_nofail    late_notimeout late_neither
success     A:SUCCESS      A:SUCCESS      A:SUCCESS      A:SUCCESS      A:SUCCESS      A:SUCCESS
exception   A:FAILURE      A:FAILURE      A:FAILURE      R-:FAILURE     A:FAILURE      R-:FAILURE
retry       A:FAILURE      A:FAILURE      A:FAILURE      R-:FAILURE     A:FAILURE      R-:FAILURE
ignore      A:PENDING      A:PENDING      A:PENDING      A:PENDING      A:PENDING      A:PENDING
reject      A:FAILURE      R-:FAILURE     R-:FAILURE     R-:FAILURE     R-:FAILURE     R-:FAILURE
requeue     A:PENDING      R+:SUCCESS     R+:SUCCESS     R+:SUCCESS     R+:SUCCESS     R+:SUCCESS
soft_limit  A:FAILURE      A:FAILURE      A:FAILURE      R-:FAILURE     A:FAILURE      R-:FAILURE
hard_limit  A:FAILURE      A:FAILURE      A:FAILURE      A:FAILURE      R+:SUCCESS     R+:SUCCESS
killed      A:FAILURE      A:FAILURE      R+:SUCCESS     R-:FAILURE     A:FAILURE      R-:FAILURE
exit        A:FAILURE      A:FAILURE      R+:SUCCESS     R-:FAILURE     A:FAILURE      R-:FAILURE
terminated  A:REVOKED      A:REVOKED      A:REVOKED      A:REVOKED      A:REVOKED      A:REVOKED
"""


def cells():
    header, *rows = [line.split() for line in MATRIX.strip().splitlines()]
    for outcome, *answers in rows:
        for column, answer in zip(header[1:], answers, strict=True):
            told, state = answer.split(":")
            yield outcome, column, told, state


@pytest.fixture
def matrix(on_rabbitmq):
    """A worker whose queue dead-letters what is rejected for good."""
    project = on_rabbitmq
    with project.app.connection_for_write() as connection:
        channel = connection.default_channel
        Queue("dead", Exchange("dead", type="fanout"))(channel).declare()
        Queue(
            "celery",
            Exchange("celery"),
            routing_key="celery",
            queue_arguments={"x-dead-letter-exchange": "dead"},
        )(channel).declare()
    # The queue exists with an argument that the worker must not redeclare without.
    project.app.conf.task_queues = [
        Queue(
            "celery",
            Exchange("celery"),
            routing_key="celery",
            queue_arguments={"x-dead-letter-exchange": "dead"},
        )
    ]
    return project


def test_every_outcome_settles_its_message_as_its_options_say(matrix):
    """B-WORK-012, B-WORK-013, B-WORK-014, B-WORK-015, B-WORK-023:
    every cell of the acknowledgement matrix, with one process and prefetch multiplier 1."""
    worker = matrix.worker("-c1", "--prefetch-multiplier=1", env={"T_WORKER_DLX": "1"})
    seen = {}

    for outcome, column, _, _ in cells():
        label = f"{column}.{outcome}"
        result = matrix.send(f"ack.{label}", str(matrix.journal), label)
        if outcome == "terminated":
            matrix.journal.wait_for(f"running {result.id}")
            result.revoke(terminate=True)
        final = {"ignore": None, "requeue": None}.get(outcome, result.id)
        runs = lambda label=label: matrix.journal.lines.count(f"run {label}")  # noqa: E731
        told = await_settlement(matrix, worker, result, runs, outcome)
        state = result.state if final else eventually_state(result, told)
        seen[outcome, column] = f"{told}:{state}"

    assert seen == {(o, c): f"{told}:{state}" for o, c, told, state in cells()}


def await_settlement(project, worker, result, runs, outcome):
    """Wait until the message is out of the broker, and say how it went."""
    first_runs = {"retry": 2}.get(outcome, 1)
    eventually(lambda: runs() >= first_runs)
    # The worker takes one message at a time: once a later one ran, this one is settled.
    project.send("note", str(project.journal), f"after {result.id}")
    project.journal.wait_for(f"after {result.id}")
    eventually(lambda: project.queue_length() == 0)
    if project.queue_length("dead"):
        with project.app.connection_for_write() as connection:
            connection.default_channel.queue_purge("dead")
        return "R-"
    return "R+" if runs() > first_runs else "A"


def eventually_state(result, told):
    return (
        eventually(lambda: result.state == "SUCCESS" and "SUCCESS")
        if told == "R+"
        else (result.state)
    )
