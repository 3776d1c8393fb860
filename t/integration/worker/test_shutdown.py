"""How each signal ends a worker program, on real processes with prefork and Redis."""

from __future__ import annotations

from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1

import pytest
from billiard.exceptions import WorkerLostError

from t.harness.worker import eventually

WARM = "worker: Warm shutdown (MainProcess)"
COLD = "worker: Cold shutdown (MainProcess)"


@pytest.fixture
def busy(on_redis):
    """A worker in the midst of an early acknowledged task that waits for a gate."""
    worker = on_redis.worker("-c2")
    on_redis.result = on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")
    on_redis.w = worker
    return on_redis


def test_term_lets_the_running_task_finish(busy):
    """B-WORK-070, B-WORK-076: TERM is warm, exit code 0; what waits stays in the queue."""
    busy.w.signal(SIGTERM)
    busy.w.wait_for(r"worker: Warm shutdown \(MainProcess\)")
    for label in "bcd":
        busy.send("note", str(busy.journal), label)
    busy.gate().touch()

    assert busy.w.wait() == 0
    assert "end a" in busy.journal.lines
    assert busy.result.state == "SUCCESS"
    assert busy.queue_length() == 3


def test_a_second_term_changes_nothing(busy):
    """B-WORK-070: the line is printed again, the task still finishes, exit code 0."""
    busy.w.signal(SIGTERM)
    busy.w.wait_for("Warm shutdown")
    busy.w.signal(SIGTERM)
    busy.w.wait_for("Warm shutdown", times=2)
    busy.gate().touch()

    assert busy.w.wait() == 0
    assert busy.result.state == "SUCCESS"


def test_int_is_warm_with_exit_code_one(busy):
    """B-WORK-070: INT says what a second one would do, and lets the task finish."""
    busy.w.signal(SIGINT)
    busy.w.wait_for("Hitting Ctrl\\+C again will initiate cold shutdown, terminating all running")
    busy.w.wait_for("Warm shutdown")
    busy.gate().touch()

    assert busy.w.wait() == 1
    assert busy.result.state == "SUCCESS"


def test_a_second_int_is_cold(busy):
    """B-WORK-070: exit code 1, and the running task is ended."""
    busy.w.signal(SIGINT)
    busy.w.wait_for("Warm shutdown")
    busy.w.signal(SIGINT)
    busy.w.wait_for("Hitting Ctrl\\+C again will terminate all running tasks!")

    assert busy.w.wait() == 1
    assert "end a" not in busy.journal.lines


def test_an_int_after_a_term_counts_as_the_first_one(busy):
    """B-WORK-070: TERM, INT is still warm, exit code 0."""
    busy.w.signal(SIGTERM)
    busy.w.wait_for("Warm shutdown")
    busy.w.signal(SIGINT)
    busy.w.wait_for("Hitting Ctrl\\+C again will initiate cold")
    busy.gate().touch()

    assert busy.w.wait() == 0
    assert busy.result.state == "SUCCESS"


@pytest.mark.parametrize("signals", [[SIGQUIT], [SIGTERM, SIGQUIT]], ids=["QUIT", "TERM-QUIT"])
def test_quit_is_cold(busy, signals):
    """B-WORK-070, B-WORK-073: QUIT ends the running task at once, exit code 0. The early
    acknowledged task has failed, which its caller is told."""
    for number, signum in enumerate(signals):
        if number:
            busy.w.wait_for("Warm shutdown")
        busy.w.signal(signum)

    assert busy.w.wait() == 0
    assert busy.w.count("Cold shutdown") == 1
    assert "end a" not in busy.journal.lines
    assert busy.result.state == "FAILURE"
    assert busy.queue_length() == 0


def test_quit_gives_back_a_late_acknowledged_task(on_redis):
    """B-WORK-072: its message returns to the queue, its state stays as it was."""
    worker = on_redis.worker("-c1")
    result = on_redis.send("late_gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")

    assert worker.stop(SIGQUIT) == 0
    assert result.state == "PENDING"
    assert on_redis.queue_length() == 1
    on_redis.gate().touch()
    on_redis.worker("-c1")
    on_redis.journal.wait_for("end a")


def test_term_can_be_made_cold(on_redis):
    """B-WORK-070: with REMAP_SIGTERM=SIGQUIT a TERM acts as QUIT."""
    worker = on_redis.worker("-c1", env={"REMAP_SIGTERM": "SIGQUIT"})
    on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")

    assert worker.stop(SIGTERM) == 0
    assert worker.count("Cold shutdown") == 1
    assert "end a" not in on_redis.journal.lines


def test_a_soft_shutdown_lets_tasks_finish_within_its_time(on_redis):
    """B-WORK-074: a cold shutdown first waits worker_soft_shutdown_timeout; what ends
    meanwhile is stored and acknowledged. It does not outlast the tasks."""
    worker = on_redis.worker("-c1", conf={"worker_soft_shutdown_timeout": 25.0})
    result = on_redis.send("late_gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")

    worker.signal(SIGQUIT)
    worker.wait_for("Initiating Soft Shutdown, terminating in 25.0 seconds")
    on_redis.gate().touch()

    assert worker.wait(20) == 0
    assert result.state == "SUCCESS"
    assert on_redis.queue_length() == 0


def test_a_second_quit_cancels_what_a_soft_shutdown_waits_for(on_redis):
    """B-WORK-070: QUIT, QUIT cancels the running tasks and waits for the rest of the period."""
    worker = on_redis.worker("-c1", conf={"worker_soft_shutdown_timeout": 2.0})
    on_redis.send("late_gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")

    worker.signal(SIGQUIT)
    worker.wait_for("Initiating Soft Shutdown")
    worker.signal(SIGQUIT)

    assert worker.wait() == 0
    assert "end a" not in on_redis.journal.lines
    assert on_redis.queue_length() == 1


def test_an_idle_worker_skips_the_soft_period(on_redis):
    """B-WORK-075: nothing runs, and tasks that wait for their ETA don't count."""
    worker = on_redis.worker("-c1", conf={"worker_soft_shutdown_timeout": 60.0})
    on_redis.send("add", 1, 1, countdown=300)
    worker.wait_for(r"Task add\[.*\] received")

    assert worker.stop(SIGQUIT) == 0
    assert worker.count("Initiating Soft Shutdown") == 0


def test_an_idle_worker_can_be_made_to_wait(on_redis):
    """B-WORK-075: worker_enable_soft_shutdown_on_idle."""
    worker = on_redis.worker(
        "-c1",
        conf={"worker_soft_shutdown_timeout": 0.5, "worker_enable_soft_shutdown_on_idle": True},
    )

    assert worker.stop(SIGQUIT) == 0
    assert worker.count("Initiating Soft Shutdown, terminating in 0.5 seconds") == 1


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_an_idle_worker_of_any_pool_exits_with_one_after_int(on_redis, pool):
    """B-WORK-071: the exit code is 1 for solo and threads, too."""
    worker = on_redis.worker("-c1", "-P", pool)

    assert worker.stop(SIGINT) == 1


def test_waiting_tasks_return_to_the_queue(project):
    """B-WORK-051, B-WORK-076: reserved and ETA messages go back when the worker stops.

    On Redis those with an ETA were never taken from the server.
    """
    worker = project.worker("-c1")
    project.send("gated", str(project.journal), "a", str(project.gate()))
    project.journal.wait_for("begin a")
    project.send("add", 1, 1)
    project.send("add", 1, 1, countdown=300)
    worker.wait_for(r"Task add\[.*\] received", times=2)

    worker.signal(SIGTERM)
    worker.wait_for("Warm shutdown")
    project.gate().touch()

    assert worker.wait() == 0
    left = 1 if project.app.conf.broker_url.startswith("redis") else 2
    assert eventually(lambda: project.queue_length() == left)


def test_a_thread_pool_finishes_only_what_runs(on_redis):
    """B-WORK-077: queued tasks of a thread pool go back to the broker."""
    worker = on_redis.worker("-c1", "-P", "threads")
    result = on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")
    on_redis.send("note", str(on_redis.journal), "b")
    worker.wait_for(r"Task note\[.*\] received")

    worker.signal(SIGTERM)
    worker.wait_for("Waiting for the tasks that run to end")
    on_redis.gate().touch()

    assert worker.wait() == 0
    assert result.state == "SUCCESS"
    assert "b" not in on_redis.journal.lines
    assert on_redis.queue_length() == 1


def test_the_solo_pool_completes_its_task_first(on_redis):
    """B-WORK-078: the signal is acted on when the task has ended."""
    worker = on_redis.worker("-P", "solo")
    result = on_redis.send("work", str(on_redis.journal), "a", 0.5)
    on_redis.journal.wait_for("begin a")

    assert worker.stop(SIGTERM) == 0
    assert result.state == "SUCCESS"


def test_the_broker_hears_of_us_while_a_warm_shutdown_waits(on_rabbitmq):
    """B-WORK-079: heartbeats go on, so that a task longer than two of them is acknowledged."""
    on_rabbitmq.conf["broker_heartbeat"] = 1
    worker = on_rabbitmq.worker("-c1")
    result = on_rabbitmq.send("late_work", str(on_rabbitmq.journal), "a", 5)
    on_rabbitmq.journal.wait_for("begin a")

    assert worker.stop(SIGTERM) == 0
    assert result.state == "SUCCESS"
    assert on_rabbitmq.queue_length() == 0


def test_a_remote_shutdown_is_warm(busy):
    """B-WORK-081: the command of that name lets running tasks finish."""
    busy.app.control.shutdown()
    busy.w.wait_for("Got shutdown from remote")
    busy.gate().touch()

    assert busy.w.wait() == 0
    assert busy.result.state == "SUCCESS"


def test_hup_runs_the_same_command_line_anew(on_redis):
    """B-WORK-070: HUP restarts the process, with the same process id."""
    worker = on_redis.worker("-c1")

    worker.signal(SIGHUP)
    worker.wait_for(r"Restarting celery worker \(.*-c1\)")
    worker.wait_for(r" ready\.$", times=2)

    on_redis.send("note", str(on_redis.journal), "after")
    on_redis.journal.wait_for("after")
    assert worker.stop() == 0


def test_usr1_shows_what_every_thread_does(on_redis):
    """B-WORK-070: USR1 dumps the stacks, and the worker goes on."""
    worker = on_redis.worker("-c1")

    worker.signal(SIGUSR1)
    worker.wait_for("MainThread")

    assert worker.stop() == 0


def test_int_int_int_waits_for_the_cold_shutdown(on_redis):
    """B-WORK-070: a third INT asks for patience; exit code 1."""
    worker = on_redis.worker("-c1", conf={"worker_soft_shutdown_timeout": 2.0})
    on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")
    worker.signal(SIGINT)
    worker.wait_for("Warm shutdown")
    worker.signal(SIGINT)
    worker.wait_for("Initiating Soft Shutdown")
    worker.signal(SIGINT)
    worker.wait_for("Waiting gracefully for cold shutdown to complete")

    assert worker.wait() == 1
    assert worker.count("Cold shutdown") >= 1


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_cold_shutdown_does_not_wait_for_threads(on_redis, pool):
    """B-WORK-073: a thread can't be ended, but its process can. The early acknowledged task has
    failed, which its caller is told."""
    worker = on_redis.worker("-c1", "-P", pool)
    result = on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")

    assert worker.stop(SIGQUIT) == 0
    assert "end a" not in on_redis.journal.lines
    assert result.state == "FAILURE"
    assert isinstance(result.result, WorkerLostError)
    assert on_redis.queue_length() == 0
