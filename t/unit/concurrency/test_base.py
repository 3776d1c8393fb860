"""The port of pools, and calls made in process."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError

from celery import signals
from celery.concurrency.base import BasePool, apply_target, describe, report_failure
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import WorkerShutdown, WorkerTerminate


def test_a_call_is_accepted_with_process_and_time_before_it_runs() -> None:
    log: list[Any] = []

    apply_target(
        lambda x: log.append(("run", x)) or "done",
        args=(1,),
        callback=lambda value: log.append(("success", value)),
        accept_callback=lambda pid, when: log.append(("accepted", pid, when)),
        monotonic=lambda: 12.5,
    )

    assert log == [("accepted", os.getpid(), 12.5), ("run", 1), ("success", "done")]


def test_the_caller_may_name_the_process() -> None:
    pids: list[int] = []

    apply_target(int, accept_callback=lambda pid, when: pids.append(pid), pid=7)
    apply_target(int, accept_callback=lambda pid, when: pids.append(pid), getpid=lambda: 8)

    assert pids == [7, 8]


@pytest.mark.parametrize("error", [ValueError("no"), GeneratorExit(), KeyboardInterrupt()])
def test_what_the_body_raises_is_reported(error: BaseException) -> None:
    failures: list[Any] = []

    def body() -> None:
        raise error

    apply_target(body, error_callback=failures.append)

    [einfo] = failures
    assert einfo.type is type(error)
    assert einfo.exception.exc is error


@pytest.mark.parametrize(
    ("code", "text"),
    [(None, "exitcode 0"), (0, "exitcode 0"), (3, "exitcode 3"), ("bye", "exitcode 1")],
)
def test_an_exit_is_the_loss_of_a_worker_with_the_status_of_the_interpreter(
    code: Any, text: str
) -> None:
    """B-TASK-054: WorkerLostError('Worker exited prematurely: exitcode N.')."""
    failures: list[Any] = []

    apply_target(sys.exit, (code,), error_callback=failures.append)

    error = failures[0].exception.exc
    assert isinstance(error, WorkerLostError)
    assert str(error) == f"Worker exited prematurely: {text}."


@pytest.mark.parametrize("kind", [WorkerShutdown, WorkerTerminate])
def test_orders_of_signal_handlers_pass_through(kind: type[BaseException]) -> None:
    failures: list[Any] = []

    def body() -> None:
        raise kind(0)

    with pytest.raises(kind):
        apply_target(body, error_callback=failures.append)
    assert failures == []


def test_exceptions_that_the_caller_wants_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        apply_target(lambda: 1 / 0, propagate=(ZeroDivisionError,))


def test_a_failure_finds_some_callback() -> None:
    einfo = describe(ValueError("x"))
    errors: list[Any] = []
    values: list[Any] = []

    report_failure(einfo, values.append, errors.append)
    report_failure(einfo, values.append, None)
    report_failure(einfo, None, None)

    assert errors == [einfo]
    assert values == [(1, einfo, 0.0)]


class Recorder(BasePool):
    """A pool that notes what it was asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log: list[Any] = []

    def on_start(self) -> None:
        self.log.append("start")

    def on_stop(self) -> None:
        self.log.append("stop")

    def on_close(self) -> None:
        self.log.append("close")

    def on_terminate(self) -> None:
        self.log.append("terminate")

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        self.log.append((args, kwargs))
        return "job"


def test_a_pool_is_active_from_start_to_close() -> None:
    pool = Recorder(3)
    states = [pool.active]
    for step in (pool.start, pool.close, pool.terminate, pool.stop):
        step()
        states.append(pool.active)

    assert states == [False, True, False, False, False]
    assert pool.log == ["start", "close", "terminate", "stop"]


def test_a_call_carries_the_options_of_the_pool() -> None:
    pool = Recorder(1, putlocks=False, callbacks_propagate=(KeyError,))

    assert pool.apply_async(len, ("abc",), correlation_id="1") == "job"

    assert pool.log == [
        (
            (len, ("abc",), None),
            {"waitforslot": False, "callbacks_propagate": (KeyError,), "correlation_id": "1"},
        )
    ]


def test_what_a_pool_cannot_do_it_refuses_by_name() -> None:
    pool = BasePool(1)

    with pytest.raises(NotImplementedError, match="kill_job"):
        pool.terminate_job(1)
    with pytest.raises(NotImplementedError, match="restart"):
        pool.restart()
    with pytest.raises(NotImplementedError, match="on_apply"):
        pool.apply_async(len)


def test_solo_announces_its_one_process_under_the_node_name() -> None:
    """B-POOL-007: sent once for solo, the sender is the node name."""
    senders: list[Any] = []

    def on_init(sender: Any, **kwargs: Any) -> None:
        senders.append(sender)

    signals.worker_process_init.connect(on_init)
    try:
        SoloPool(5, initargs=(None, "node@host")).start()
        ThreadPool(1, initargs=(None, "node@host")).start()
    finally:
        signals.worker_process_init.disconnect(on_init)

    assert senders == ["node@host"]


def test_solo_shows_its_own_process() -> None:
    """B-POOL-003: implementation and max-concurrency, here always one."""
    info = SoloPool(5).info

    assert info["max-concurrency"] == 1
    assert info["processes"] == [os.getpid()]


def test_a_threads_pool_offers_what_its_job_returned() -> None:
    pool = ThreadPool(1)
    pool.start()
    values: list[int] = []

    job = pool.apply_async(len, ("abc",), callback=values.append)
    job.wait(5)

    assert values == [3]
    assert job.f.done()
    assert job.get() is None
    pool.stop()


def test_a_pool_without_processes_says_that_it_recycles_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = ThreadPool(1, maxtasksperchild=2, max_memory_per_child=None)
    pool.start()
    pool.stop()

    assert caplog.messages == [
        "--max-tasks-per-child has no effect: the thread pool has no processes"
    ]
