"""What the pool of processes promises beyond the port: start, death, signals, channels."""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard import pool as billiard_pool
from kombu.asynchronous import Hub

from celery import Celery, signals
from celery.concurrency import _packets, prefork
from celery.concurrency._shelf import SLOTS
from celery.concurrency.asynpool import AsynPool, Worker
from t.contract import pool_targets as targets
from t.harness.calls import python_calls

PATIENCE_S = 60.0


def until(condition: Callable[[], Any], patience: float = PATIENCE_S) -> None:
    """Return when *condition* holds, which something else brings about."""
    give_up = time.monotonic() + patience
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        pause.wait(0.005)


def turn(hub: Hub, condition: Callable[[], Any]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        hub.call_later(0.02, lambda: None)
        hub.run_once()


def all_up(pool: AsynPool) -> bool:
    children = list(pool._children.values())
    return len(children) == pool._processes and all(child.is_up for child in children)


def pids(pool: AsynPool) -> list[int]:
    return [process.pid for process in pool._pool]


@pytest.fixture
def open_pool() -> Iterator[Callable[..., AsynPool]]:
    opened: list[AsynPool] = []

    def build(processes: int = 2, kind: type[AsynPool] = AsynPool, **options: Any) -> AsynPool:
        # On a busy machine a child may take longer to start than one gets in a worker.
        options.setdefault("proc_alive_timeout", PATIENCE_S)
        opened.append(kind(processes, **options))
        return opened[-1]

    yield build
    for pool in opened:
        pool.terminate()


OpenPool = Callable[..., AsynPool]


# -- Start


def fail_to_start() -> None:
    raise RuntimeError("no database")


def hang_at_start() -> None:
    threading.Event().wait()


def hang_once(path: str) -> None:
    if not targets.notes(path):
        targets.note(path, "hung")
        threading.Event().wait()


def test_a_child_that_fails_to_start_is_replaced_ever_slower(open_pool: OpenPool) -> None:
    pool = open_pool(1, initializer=fail_to_start)
    started = time.monotonic()

    until(lambda: pool._starts.early_deaths >= 3)

    assert time.monotonic() - started > 0.25  # 0.1 s, then 0.2 s
    assert not pool.did_start_ok()


def test_a_pool_started_well_if_its_children_came_up(open_pool: OpenPool) -> None:
    pool = open_pool(2)
    until(lambda: all_up(pool))

    assert pool.did_start_ok()


def test_a_dead_child_shows_before_any_event_is_served(open_pool: OpenPool) -> None:
    pool = open_pool(1, initializer=fail_to_start, threads=False)

    until(lambda: not pool.did_start_ok())


def test_a_child_that_hangs_at_start_is_killed_and_replaced(
    open_pool: OpenPool, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """B-WORK-069, B-POOL-007: a child not up in time is killed and replaced."""
    pool = open_pool(
        1, initializer=hang_once, initargs=(str(tmp_path / "hung"),), proc_alive_timeout=0.3
    )
    [hung] = pids(pool)

    assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2
    assert hung not in pids(pool)
    assert "did not start within 0.3 seconds" in caplog.text


def test_slow_children_are_given_longer(open_pool: OpenPool) -> None:
    """Nobody is killed for ever because the machine is slower than the timeout."""
    pool = open_pool(1, initializer=threading.Event().wait, initargs=(0.5,), proc_alive_timeout=0.1)

    assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2


def test_jobs_wait_for_the_first_child_to_start(open_pool: OpenPool) -> None:
    pool = open_pool(2, threads=False)
    jobs = [pool.apply_async(targets.add, (number, 1)) for number in range(20)]

    assert [job.get(PATIENCE_S) for job in jobs] == list(range(1, 21))


# -- Death


def test_children_end_with_a_main_process_that_was_killed() -> None:
    """B-POOL-010: SIGKILL of the main process also ends busy children."""
    program = textwrap.dedent("""
        import sys, threading
        from celery.concurrency.asynpool import AsynPool
        from t.contract import pool_targets as targets

        pool = AsynPool(2)
        begun = threading.Event()
        pool.apply_async(targets.pause, (60,), accept_callback=lambda pid, when: begun.set())
        begun.wait(60)
        print(*[process.pid for process in pool._pool], flush=True)
        threading.Event().wait()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        children = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
        for child in children:
            assert select.select([child], [], [], 60.0)[0], "a child outlived its parent"
            os.close(child)
    assert len(children) == 2


class DiesWithTheFirstJobInHand(Worker):  # type: ignore[misc]
    """The first child takes a job and is killed before it can accept it."""

    def _wait(self, buffer: bytearray) -> int:
        size = super()._wait(buffer)
        if self.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return size


class PoolOfUnlucky(AsynPool):
    Worker = DiesWithTheFirstJobInHand


def test_a_job_that_vanishes_before_it_was_accepted_is_sent_again(
    open_pool: OpenPool, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ran = str(tmp_path / "ran")
    pool = open_pool(1, PoolOfUnlucky)
    jobs = [pool.apply_async(targets.note, (ran, str(number))) for number in range(5)]

    assert [job.get(PATIENCE_S) for job in jobs] == ["0", "1", "2", "3", "4"]
    assert sorted(targets.notes(ran)) == ["0", "1", "2", "3", "4"]
    assert "sent again" in caplog.text


class ToldToGoWithTheFirstJobInHand(Worker):  # type: ignore[misc]
    """The first child gets its terminating signal together with a job."""

    def _wait(self, buffer: bytearray) -> int:
        if self.number > 1:
            return super()._wait(buffer)
        plain = self.inbox
        self.inbox = SignalsItself(plain)  # type: ignore[assignment]
        return super()._wait(buffer)


class SignalsItself:
    """A channel that ends a successful wait with a signal."""

    type = socket.SOCK_SEQPACKET

    def __init__(self, inbox: socket.socket) -> None:
        self.inbox = inbox

    def recv_into(self, buffer: bytearray) -> int:
        size = self.inbox.recv_into(buffer)
        signal.raise_signal(signal.SIGTERM)
        return size


class PoolOfTheTimid(AsynPool):
    Worker = ToldToGoWithTheFirstJobInHand


def assert_each_job_ran_once_while_the_first_child_goes(pool: AsynPool, ran: str) -> None:
    first = pids(pool)[0]
    jobs: list[Any] = []
    while first in pids(pool):
        # Either child may take it; the one that is born to die does so with its first job.
        jobs.append(pool.apply_async(targets.note, (ran, str(len(jobs)))))
        until(lambda: jobs[-1].ready() or first not in pids(pool))
    for job in jobs:
        job.get(PATIENCE_S)
    assert sorted(targets.notes(ran), key=int) == [str(number) for number in range(len(jobs))]


def test_a_job_that_comes_with_the_terminating_signal_is_given_back(
    open_pool: OpenPool, tmp_path: Any
) -> None:
    ran = str(tmp_path / "ran")
    pool = open_pool(2, PoolOfTheTimid, lost_worker_timeout=1000)
    until(lambda: all_up(pool))
    assert_each_job_ran_once_while_the_first_child_goes(pool, ran)


def test_other_children_are_heard_before_a_vanished_job_is_sent_again(
    open_pool: OpenPool, tmp_path: Any
) -> None:
    """B-WORK-068: an idle child that keeps silent is given worker_lost_wait to speak up."""
    ran = str(tmp_path / "ran")
    pool = open_pool(2, PoolOfUnlucky, lost_worker_timeout=0.5)
    until(lambda: all_up(pool))
    assert_each_job_ran_once_while_the_first_child_goes(pool, ran)


def test_a_stopped_child_does_not_hold_up_the_others(open_pool: OpenPool) -> None:
    pool = open_pool(2)
    until(lambda: all_up(pool))
    os.kill(pids(pool)[0], signal.SIGSTOP)

    jobs = [pool.apply_async(targets.add, (number, 0)) for number in range(50)]

    # It may have taken one before it stopped; nobody can know when it will go on.
    until(lambda: sum(job.ready() for job in jobs) >= 49)


# -- The main process


def test_a_job_can_be_awaited_without_any_loop(open_pool: OpenPool) -> None:
    pool = open_pool(1, threads=False)
    job = pool.apply_async(targets.add, (1, 2))

    job.wait(PATIENCE_S)

    assert job.ready()
    assert job.successful()
    assert job.accepted()
    assert job.worker_pids() == pids(pool)
    assert job.get() == 3


def test_getting_a_failed_job_raises_its_error(open_pool: OpenPool) -> None:
    pool = open_pool(1)

    with pytest.raises(KeyError, match="gone"):
        pool.apply_async(targets.boom, ("gone",)).get(PATIENCE_S)


def test_waiting_for_a_job_may_time_out(open_pool: OpenPool, tmp_path: Any) -> None:
    pool = open_pool(1)
    job = pool.apply_async(targets.wait_for_file, (str(tmp_path / "go"),))

    with pytest.raises(billiard_pool.TimeoutError):
        job.get(0.1)
    (tmp_path / "go").touch()
    assert job.get(PATIENCE_S)


def test_the_pool_goes_on_after_its_hub_was_reset(open_pool: OpenPool) -> None:
    pool, hub = open_pool(2, threads=False), Hub()
    pool.register_with_event_loop(hub)
    results: list[int] = []
    pool.apply_async(targets.add, (1, 1), callback=results.append)
    turn(hub, lambda: results)

    pool.apply_async(targets.add, (2, 2), callback=results.append)
    hub.reset()
    hub.timer.clear()
    pool.register_with_event_loop(hub)
    turn(hub, lambda: len(results) == 2)
    limited: list[bool] = []
    pool.apply_async(
        targets.pause,
        (30,),
        timeout=0.2,
        timeout_callback=lambda soft, timeout: limited.append(soft),
    )
    turn(hub, lambda: limited)

    assert results == [2, 4]
    assert limited == [False]


def test_a_pool_with_a_thread_can_move_to_a_hub(open_pool: OpenPool) -> None:
    pool, hub = open_pool(2), Hub()
    assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2
    killed = pids(pool)[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in pids(pool) and all_up(pool))
    before = set(pids(pool))

    pool.register_with_event_loop(hub)
    results: list[int] = []
    pool.apply_async(targets.add, (2, 2), callback=results.append)
    turn(hub, lambda: results)

    assert results == [4]
    assert set(pids(pool)) == before


def test_a_failing_callback_is_logged_and_nothing_else(
    open_pool: OpenPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = open_pool(1)

    def fail(*args: Any) -> None:
        raise RuntimeError("callback broke")

    job = pool.apply_async(targets.add, (1, 1), callback=fail, accept_callback=fail)

    assert job.get(PATIENCE_S) == 2
    assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2
    assert [record.msg for record in caplog.records] == ["Callback of %r failed"] * 2
    assert all(record.exc_info for record in caplog.records)


def test_jobs_may_be_sent_from_many_threads(open_pool: OpenPool) -> None:
    pool = open_pool(2)
    results: list[int] = []

    def send(first: int) -> None:
        jobs = [pool.apply_async(targets.add, (first, number)) for number in range(100)]
        results.extend(job.get(PATIENCE_S) for job in jobs)

    threads = [threading.Thread(target=send, args=(number * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(results) == [i * 1000 + j for i in range(4) for j in range(100)]


def test_with_putlocks_a_caller_waits_for_a_free_child(open_pool: OpenPool, tmp_path: Any) -> None:
    pool = open_pool(1, putlocks=True)
    go = tmp_path / "go"
    pool.apply_async(targets.wait_for_file, (str(go),))
    second = threading.Thread(target=pool.apply_async, args=(targets.add, (1, 1)))
    second.start()
    second.join(0.2)
    blocked = second.is_alive()

    go.touch()
    second.join(PATIENCE_S)

    assert blocked
    assert not second.is_alive()


def test_payloads_of_some_hundred_kilobytes_need_no_files(
    open_pool: OpenPool, tmp_path: Any
) -> None:
    """They are read from shared memory, whose slots are used again."""
    pool = open_pool(1)
    gate = str(tmp_path / "gate")
    held = pool.apply_async(targets.wait_for_file, (gate,))
    sizes = [70_000 + number for number in range(SLOTS + 5)]
    jobs = [pool.apply_async(targets.size_of, (b"x" * size,)) for size in sizes]

    # More than there is room for wait in files.
    assert len(os.listdir(pool._spill.folder)) == 5
    open(gate, "w").close()
    assert [job.get(PATIENCE_S) for job in jobs] == sizes
    assert held.successful()
    again = [pool.apply_async(targets.size_of, (b"x" * size,)) for size in sizes[:SLOTS]]
    assert [job.get(PATIENCE_S) for job in again] == sizes[:SLOTS]
    assert {job.spilled for job in again} == {None}


def test_nothing_is_left_behind_by_big_payloads(open_pool: OpenPool) -> None:
    pool = open_pool(1)
    assert len(pool.apply_async(targets.echo, (b"x" * 300_000,)).get(PATIENCE_S)) == 300_000
    folder = pool._spill.folder
    assert os.listdir(folder) == []
    assert os.stat(folder).st_mode & 0o777 == 0o700

    pool.apply_async(targets.pause, (30,))
    pool.terminate()

    assert not os.path.exists(folder)


def test_a_pool_on_datagram_sockets_works_the_same(
    open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where packets in sequence are missing, as on macOS, datagrams stand in."""
    monkeypatch.setattr(
        AsynPool,
        "create_process_queues",
        _with_channel_of(AsynPool.create_process_queues, socket.SOCK_DGRAM),
    )
    pool = open_pool(2)
    jobs = [pool.apply_async(targets.add, (number, 1)) for number in range(500)]

    assert [job.get(PATIENCE_S) for job in jobs] == list(range(1, 501))
    killed = pids(pool)[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in pids(pool) and all_up(pool))
    assert pool.apply_async(targets.echo, (b"x" * 100_000,)).get(PATIENCE_S)
    pool.close()
    pool.join()


def _with_channel_of(create: Callable[[Any], None], kind: int) -> Callable[[Any], None]:
    plain = _packets.channel

    def wrapped(pool: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_packets, "channel", lambda: plain(kind))
            create(pool)

    return wrapped


def test_a_call_takes_few_steps_of_the_main_process(open_pool: OpenPool) -> None:
    """Calls of Python functions for one job, from handing it over to its outcome."""
    pool, hub = open_pool(1, threads=False), Hub()
    pool.register_with_event_loop(hub)
    turn(hub, lambda: all_up(pool))
    outcomes: list[Any] = []
    accepted: list[Any] = []

    def run(jobs: int) -> None:
        outcomes.clear()
        for _ in range(jobs):
            pool.apply_async(
                targets.add, (1, 2),
                accept_callback=lambda *args: accepted.append(args), callback=outcomes.append,
            )  # fmt: skip
        turn(hub, lambda: len(outcomes) == jobs)

    run(10)
    calls = python_calls(lambda: run(200), within="/celery/concurrency/")

    # 15, and what a turn of the loop costs, in which many reports come as a rule.
    assert len(calls) / 200 < 20, sorted({(calls.count(name), name) for name in calls})


# -- Children


def test_a_child_collects_no_garbage_of_the_main_process(
    open_pool: OpenPool, tmp_path: Path
) -> None:
    """The end of a connection may wait for threads that a child does not have."""
    ended = tmp_path / "ended"

    class Connection:
        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            with ended.open("a") as file:
                file.write(f"{os.getpid()}\n")

    gc.disable()
    try:
        Connection()
        pool = open_pool(1, initializer=gc.collect)
        until(lambda: all_up(pool))
    finally:
        gc.enable()
    assert not ended.exists()
    gc.collect()
    assert ended.read_text() == f"{os.getpid()}\n"


def test_a_replacement_holds_no_connection_of_the_main_process(open_pool: OpenPool) -> None:
    """A broker must see the worker's connection close when the main process closes it."""
    pool, hub = open_pool(1, threads=False), Hub()
    pool.register_with_event_loop(hub)
    turn(hub, lambda: all_up(pool))
    ours, theirs = socket.socketpair()
    hub.add_reader(ours, lambda: None)
    name = os.readlink(f"/proc/self/fd/{ours.fileno()}")

    killed = pids(pool)[0]
    os.kill(killed, signal.SIGKILL)
    results: list[list[str]] = []
    turn(hub, lambda: killed not in pids(pool) and all_up(pool))
    pool.apply_async(targets.open_sockets, callback=results.append)
    turn(hub, lambda: results)

    assert name not in results[0]
    hub.remove(ours)
    ours.close()
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    theirs.close()


def test_tools_that_wrap_the_work_loop_of_billiard_are_called(
    open_pool: OpenPool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Monitoring packages wrap ``Worker.workloop`` and ``Worker._do_exit`` of billiard's pool."""
    seen = str(tmp_path / "seen")
    loop, leave = billiard_pool.Worker.workloop, billiard_pool.Worker._do_exit
    test, sleep = os.getpid(), time.sleep

    def workloop(*args: Any, **kwargs: Any) -> Any:
        targets.note(seen, "loop")
        try:
            return loop(*args, **kwargs)
        finally:
            targets.note(seen, "end of loop")

    def do_exit(*args: Any, **kwargs: Any) -> Any:
        targets.note(seen, "exit")
        return leave(*args, **kwargs)

    def rest(seconds: float) -> None:
        if os.getpid() != test:
            targets.note(seen, f"rest for {seconds} s")
        sleep(seconds)

    monkeypatch.setattr(billiard_pool.Worker, "workloop", workloop)
    monkeypatch.setattr(billiard_pool.Worker, "_do_exit", do_exit)
    monkeypatch.setattr(time, "sleep", rest)
    pool = open_pool(1)
    assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2
    pool.close()
    pool.join()

    # Without the second of rest that ends billiard's own farewell.
    assert targets.notes(seen) == ["loop", "end of loop", "exit"]


def make_app() -> Celery:
    return Celery("prefork", broker="memory://", set_as_current=False)


def test_signals_announce_the_life_of_a_child(tmp_path: Any) -> None:
    """B-POOL-007, B-WORK-080: init with the node name, shutdown with pid and exit code."""
    seen = str(tmp_path / "seen")
    created: list[str] = []

    def on_create(sender: Any, **kwargs: Any) -> None:
        created.append(sender.name)

    def on_init(sender: Any, **kwargs: Any) -> None:
        targets.note(seen, f"init {sender} {os.getpid()}")

    def on_shutdown(sender: Any, pid: int, exitcode: int, **kwargs: Any) -> None:
        targets.note(seen, f"shutdown {pid} {exitcode}")

    signals.worker_before_create_process.connect(on_create)
    signals.worker_process_init.connect(on_init)
    signals.worker_process_shutdown.connect(on_shutdown)
    try:
        app = make_app()
        pool = prefork.TaskPool(1, app=app, initargs=(app, "node@host"))
        pool.start()
        [pid] = pool.info["processes"]
        assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2
        pool.stop()
    finally:
        signals.worker_before_create_process.disconnect(on_create)
        signals.worker_process_init.disconnect(on_init)
        signals.worker_process_shutdown.disconnect(on_shutdown)

    assert targets.notes(seen) == [f"init node@host {pid}", f"shutdown {pid} 0"]
    assert len(created) == 1
    assert created[0].startswith("ForkPoolWorker-")


def test_a_replaced_initializer_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    seen = str(tmp_path / "seen")
    plain = prefork.process_initializer

    def initializer(app: Any, hostname: str) -> None:
        plain(app, hostname)
        targets.note(seen, "ours")

    monkeypatch.setattr(prefork, "process_initializer", initializer)
    app = make_app()
    pool = prefork.TaskPool(1, app=app, initargs=(app, "node@host"))
    pool.start()
    assert pool.apply_async(targets.add, (1, 1)).get(PATIENCE_S) == 2
    pool.stop()

    assert targets.notes(seen) == ["ours"]


def test_a_spawned_child_gets_app_and_arguments_by_pickle() -> None:
    """B-POOL-006: worker_pool_start_method='spawn' starts fresh interpreters."""
    app = make_app()
    app.conf.worker_pool_start_method = "spawn"
    pool = prefork.TaskPool(1, app=app, initargs=(app, "node@host"))
    pool.start()
    job = pool.apply_async(targets.who_am_i)
    pid, name, index = job.get(PATIENCE_S)
    pool.stop()

    assert name.startswith("SpawnPoolWorker-")
    assert index == 0
    assert pid != os.getpid()


def test_with_sigterm_remapped_children_ignore_sigterm(tmp_path: Any) -> None:
    """REMAP_SIGTERM=SIGQUIT: a stop sent to the whole group must not end running tasks."""
    program = textwrap.dedent(f"""
        import os, signal, threading
        from celery.concurrency.asynpool import AsynPool
        from t.contract import pool_targets as targets

        pool = AsynPool(1)
        begun = threading.Event()
        job = pool.apply_async(
            targets.wait_for_file, ({str(tmp_path / "go")!r},),
            accept_callback=lambda pid, when: begun.set(),
        )
        begun.wait(60)
        os.kill(job.worker_pid, signal.SIGTERM)
        open({str(tmp_path / "go")!r}, "w").close()
        print(job.get(20), flush=True)
        second = pool.apply_async(targets.pause, (60,))
        while not second.accepted():
            threading.Event().wait(0.01)
        pool.terminate_job(second.worker_pid, signal.SIGTERM)
        try:
            second.get(20)
        except BaseException as exc:
            print(type(exc).__name__, flush=True)
        pool.terminate()
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "REMAP_SIGTERM": "SIGQUIT"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout.split() == [str(tmp_path / "go"), "Terminated"], done.stderr


def test_an_orderly_end_logs_no_errors(
    open_pool: OpenPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = open_pool(2, maxtasksperchild=1)
    for number in range(4):
        pool.apply_async(targets.add, (number, 1)).get(PATIENCE_S)
    until(lambda: all_up(pool))
    pool.shrink(1)
    until(lambda: len(pids(pool)) == 1)
    pool.close()
    pool.join()

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
