"""Prefetch, pool limits and autoscaling of a real worker."""

from __future__ import annotations

import pytest

from t.harness.worker import eventually


def stats(project):
    return next(iter(project.app.control.inspect(timeout=60, limit=1).stats().values()))


@pytest.mark.parametrize(
    ("options", "conf", "expected"),
    [
        (["-c2"], {}, 8),
        (["-c2"], {"worker_prefetch_multiplier": 1}, 2),
        (["-c2"], {"worker_prefetch_multiplier": 0}, 0),
        (["-c2", "--prefetch-multiplier=0"], {}, 0),
        (["-c3", "--prefetch-multiplier=2"], {}, 6),
    ],
)
def test_the_prefetch_count_is_processes_times_multiplier(on_redis, options, conf, expected):
    """B-WORK-054: the default multiplier is 4; 0 means no limit, as an option too."""
    on_redis.worker(*options, conf=conf)

    assert stats(on_redis)["prefetch_count"] == expected


def test_each_task_with_an_eta_makes_room_for_one_more(on_rabbitmq):
    """B-WORK-055: the count rises while it waits, and falls when it runs."""
    worker = on_rabbitmq.worker("-c1")
    on_rabbitmq.send("add", 1, 1, countdown=600)
    on_rabbitmq.send("note", str(on_rabbitmq.journal), "ran", countdown=1)
    worker.wait_for(r"Task (add|note)\[.*\] received", times=2)
    assert stats(on_rabbitmq)["prefetch_count"] == 6

    on_rabbitmq.journal.wait_for("ran")
    assert eventually(lambda: stats(on_rabbitmq)["prefetch_count"] == 5)


def test_waiting_tasks_can_be_limited(on_rabbitmq):
    """B-WORK-056: worker_eta_task_limit=3 of seven: three held, four left in the broker."""
    worker = on_rabbitmq.worker(
        "-c1", conf={"worker_eta_task_limit": 3, "worker_prefetch_multiplier": 1}
    )
    for _ in range(7):
        on_rabbitmq.send("add", 1, 1, countdown=600)
    worker.wait_for(r"Task add\[.*\] received", times=3)

    assert eventually(lambda: on_rabbitmq.queue_length() == 4)
    assert stats(on_rabbitmq)["prefetch_count"] == 3


def test_a_message_is_taken_only_when_a_process_is_free(on_redis):
    """B-WORK-057: worker_disable_prefetch, on Redis."""
    worker = on_redis.worker("-c1", "--disable-prefetch")
    on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")
    on_redis.send("note", str(on_redis.journal), "b")
    on_redis.app.control.ping(timeout=60, limit=1)
    assert worker.count(r"Task note\[.*\] received") == 0
    assert on_redis.queue_length() == 1

    on_redis.gate().touch()
    on_redis.journal.wait_for("b")


def test_other_transports_warn_that_they_must_prefetch(on_rabbitmq):
    """B-WORK-057."""
    worker = on_rabbitmq.worker("-c1", conf={"worker_disable_prefetch": True})

    worker.wait_for("worker_disable_prefetch has no effect")
    assert on_rabbitmq.send("add", 1, 1).get(timeout=20) == 2


def test_a_child_is_replaced_after_its_tasks(on_redis):
    """B-WORK-059, B-WORK-060: after N tasks, and without a pause for the next."""
    on_redis.worker("-c1", "--max-tasks-per-child=2")

    pids = [on_redis.send("pid").get(timeout=20) for _ in range(6)]

    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_the_soft_limit_is_raised_in_the_body(on_redis):
    """B-WORK-065: WARNING in the log; the body may clean up."""
    worker = on_redis.worker("-c1")

    result = on_redis.send("soft", str(on_redis.journal), soft_time_limit=0.5)

    assert result.get(timeout=20) == "cleaned up"
    worker.wait_for(r"WARNING/MainProcess\] Soft time limit \(0.5s\) exceeded for soft\[")
    assert on_redis.journal.lines == ["soft limit"]


def test_the_hard_limit_replaces_the_child(on_redis):
    """B-WORK-065, B-TASK-052: ERROR in the log, FAILURE with TimeLimitExceeded, a new child."""
    worker = on_redis.worker("-c1")
    child = on_redis.send("pid").get(timeout=20)

    result = on_redis.send("work", str(on_redis.journal), "a", 60, time_limit=0.5)

    assert type(result.get(timeout=20, propagate=False)).__name__ == "TimeLimitExceeded"
    worker.wait_for(r"ERROR/MainProcess\] Hard time limit \(0.5s\) exceeded for work\[")
    assert on_redis.send("pid").get(timeout=20) != child


def test_a_soft_limit_beyond_the_hard_one_does_not_extend_it(on_redis):
    """B-WORK-064."""
    on_redis.worker("-c1")

    result = on_redis.send(
        "work", str(on_redis.journal), "a", 60, time_limit=0.5, soft_time_limit=50
    )

    assert type(result.get(timeout=20, propagate=False)).__name__ == "TimeLimitExceeded"


def test_limits_of_the_call_come_before_those_of_the_worker(on_redis):
    """B-WORK-066: call options, then task attributes, then settings or command line."""
    worker = on_redis.worker("-c1", "--soft-time-limit=0.5")

    assert on_redis.send("soft", str(on_redis.journal)).get(timeout=20) == "cleaned up"
    worker.wait_for(r"Soft time limit \(0.5s\)")
    on_redis.send("soft", str(on_redis.journal), soft_time_limit=0.7).get(timeout=20)
    worker.wait_for(r"Soft time limit \(0.7s\)")


def test_a_lost_child_is_reported_and_replaced(on_redis):
    """B-TASK-054, B-WORK-068: FAILURE with WorkerLostError, promptly."""
    worker = on_redis.worker("-c1")

    result = on_redis.send("ack.early.killed", str(on_redis.journal), "x")

    error = result.get(timeout=20, propagate=False)
    assert type(error).__name__ == "WorkerLostError"
    assert "signal 9 (SIGKILL)" in str(error)
    worker.wait_for(r"Process 'ForkPoolWorker-1' pid:\d+ exited with 'signal 9 \(SIGKILL\)'")
    assert on_redis.send("add", 1, 1).get(timeout=20) == 2


def test_a_lost_child_can_be_tried_again(on_redis):
    """B-WORK-017: the task is sent again as by retry(), state RETRY with WorkerLostError."""
    worker = on_redis.worker(
        "-c1", conf={"task_retry_on_worker_lost": True, "task_reject_on_worker_lost": True}
    )

    result = on_redis.send("ack.late_lost.killed", str(on_redis.journal), "x")

    worker.wait_for(r"retry: Retry in 180s: WorkerLostError\(")
    eventually(lambda: result.state == "RETRY")
    assert type(result.result).__name__ == "WorkerLostError"
    worker.wait_for(r"Task ack.late_lost.killed\[.*\] received", times=2)
    assert on_redis.journal.lines == ["run x"]


def test_an_early_acknowledged_task_does_not_vanish_with_its_child(on_redis):
    """B-WORK-016: reject_on_worker_lost has nothing to reject there; the task has failed."""
    on_redis.worker("-c1", conf={"task_reject_on_worker_lost": True})

    result = on_redis.send("ack.early.killed", str(on_redis.journal), "x")

    assert type(result.get(timeout=20, propagate=False)).__name__ == "WorkerLostError"


def test_the_pool_grows_and_shrinks_between_its_bounds(on_redis):
    """B-WORK-061, B-WORK-062, B-WORK-063: with waiting tasks up to 4, then back to 1; the
    prefetch count follows where the broker allows."""
    worker = on_redis.worker("--autoscale=4,1", env={"AUTOSCALE_KEEPALIVE": "2"})
    for number in range(6):
        on_redis.send("gated", str(on_redis.journal), str(number), str(on_redis.gate()))
    on_redis.journal.wait_for("begin 0", "begin 1", "begin 2", "begin 3")
    worker.wait_for("Scaling up 1 processes.")
    shown = stats(on_redis)["autoscaler"]
    assert (shown["max"], shown["min"], shown["current"]) == (4, 1, 4)

    on_redis.gate().touch()
    worker.wait_for("Scaling down 3 processes.")
    assert eventually(lambda: stats(on_redis)["autoscaler"]["current"] == 1)

    on_redis.app.control.autoscale(5, 2, reply=True)
    assert eventually(lambda: stats(on_redis)["autoscaler"]["current"] == 2)
    assert on_redis.send("add", 1, 1).get(timeout=20) == 2


def test_the_prefetch_count_follows_the_size_of_the_pool(on_rabbitmq):
    """B-WORK-061."""
    on_rabbitmq.worker("--autoscale=4,1")
    assert stats(on_rabbitmq)["prefetch_count"] == 4
    for number in range(6):
        on_rabbitmq.send("gated", str(on_rabbitmq.journal), str(number), str(on_rabbitmq.gate()))
    on_rabbitmq.journal.wait_for("begin 0", "begin 1", "begin 2", "begin 3")

    assert eventually(lambda: stats(on_rabbitmq)["prefetch_count"] == 16)
    on_rabbitmq.gate().touch()
