"""What every pool promises the worker, run against all of them."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import (
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from kombu.asynchronous import Hub

from celery import Celery
from celery.concurrency import _grip, get_implementation
from celery.concurrency.base import BasePool
from t.contract import pool_targets as targets
from t.contract.pools import POOLS, TABLE, Features, table

#: Both say the same of eventlet, which is here because people still use it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using fork"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:eventlet"),
]

PATIENCE_S = 60.0


@dataclass
class Call:
    """One call and everything that its callbacks said."""

    changed: Callable[[], None]
    events: list[tuple[str, Any]] = field(default_factory=list)
    job: Any = None

    def _heard(self, kind: str, value: Any) -> None:
        self.events.append((kind, value))
        self.changed()

    def on_accept(self, pid: int, when: float) -> None:
        self._heard("accepted", (pid, when))

    def on_success(self, value: Any) -> None:
        self._heard("success", value)

    def on_failure(self, einfo: Any) -> None:
        self._heard("failure", einfo)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        self._heard("soft" if soft else "hard", timeout)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    @property
    def outcomes(self) -> list[tuple[str, Any]]:
        return [event for event in self.events if event[0] in {"success", "failure", "hard"}]

    @property
    def pid(self) -> int:
        return dict(self.events)["accepted"][0]

    @property
    def value(self) -> Any:
        [(kind, value)] = self.outcomes
        assert kind == "success", value
        return value

    @property
    def error(self) -> BaseException:
        [(kind, einfo)] = self.outcomes
        assert kind == "failure", einfo
        wrapped = einfo.exception
        return wrapped.exc if isinstance(wrapped, ExceptionWithTraceback) else wrapped


class Bench:
    """A started pool, and a way to wait for it whatever drives it."""

    def __init__(self, features: Features, limit: int, **options: Any) -> None:
        self.features = features
        self.app = Celery("contract", broker="memory://", set_as_current=False)
        self.app.conf.worker_pool_start_method = features.start_method
        self.app.conf.worker_proc_alive_timeout = options.pop("proc_alive_timeout", 15.0)
        self.hub = Hub() if features.evented else None
        self.changes: queue.SimpleQueue[None] = queue.SimpleQueue()
        options.setdefault("initargs", (self.app, "pool@contract"))
        self.pool: BasePool = get_implementation(features.name)(
            limit, app=self.app, threads=features.threads, putlocks=False, **options
        )
        self.pool.start()
        if self.hub is not None:
            self.pool.register_with_event_loop(self.hub)
        self.is_stopped = False

    def call(self, target: Callable[..., Any], *args: Any, **options: Any) -> Call:
        call = Call(lambda: self.changes.put(None))
        call.job = self.pool.apply_async(
            target,
            args,
            options.pop("kwargs", {}),
            accept_callback=call.on_accept,
            callback=call.on_success,
            error_callback=call.on_failure,
            timeout_callback=call.on_timeout,
            **options,
        )
        return call

    def call_coroutine(self, name: str, *args: Any, **options: Any) -> Call:
        """Run the coroutine function *name* of the targets as this pool runs those of tasks."""
        if self.features.has_loop:
            return self.call(getattr(targets, name), *args, **options)
        return self.call(targets.run_coroutine, name, *args, **options)

    def until(self, condition: Callable[[], Any], patience: float = PATIENCE_S) -> None:
        """Let the pool work until *condition* holds."""
        give_up = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < give_up, "waited in vain"
            self._turn()

    def _turn(self) -> None:
        if self.hub is not None:
            self.hub.call_later(0.02, lambda: None)
            self.hub.run_once()
        elif self.features.green:
            __import__(self.features.green).sleep(0.001)
        else:
            try:
                self.changes.get(timeout=0.02)
            except queue.Empty:
                return

    def ended(self, *calls: Call) -> None:
        self.until(lambda: all(call.outcomes for call in calls))

    def turns(self, seconds: float = 0.2) -> None:
        """Give what must not happen some time to happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._turn()

    def stop(self) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.pool.stop()

    def terminate(self) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.pool.terminate()

    @property
    def pids(self) -> list[int]:
        return self.pool.info["processes"]

    def all_up(self) -> None:
        pool = self.pool._pool
        self.until(
            lambda: (
                len(pool._children) == pool._processes
                and all(child.is_up for child in pool._children.values())
            )
        )


Benches = Callable[..., Bench]


@pytest.fixture(params=[pytest.param(value, id=name) for name, value in POOLS.items()])
def features(request: pytest.FixtureRequest) -> Features:
    return request.param


@pytest.fixture
def open_bench(features: Features) -> Iterator[Benches]:
    opened: list[Bench] = []

    def build(limit: int = 2, **options: Any) -> Bench:
        opened.append(Bench(features, limit, **options))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVENTLET_NOPATCH", "1")
        yield build
    for bench in opened:
        bench.terminate()


@pytest.fixture
def bench(open_bench: Benches) -> Bench:
    return open_bench()


def only(condition: bool, what: str) -> None:
    if not condition:
        pytest.skip(f"not offered: {what}")


# -- Every pool


def test_a_call_is_accepted_before_it_succeeds(bench: Bench) -> None:
    before = time.monotonic()

    call = bench.call(targets.add, 2, 3)
    bench.ended(call)

    assert call.kinds == ["accepted", "success"]
    assert call.value == 5
    pid, when = call.events[0][1]
    assert isinstance(pid, int)
    assert before <= when <= time.monotonic()


def test_keyword_arguments_reach_the_target(bench: Bench) -> None:
    call = bench.call(targets.add, kwargs={"x": 1, "y": 2})
    bench.ended(call)

    assert call.value == 3


def test_an_exception_is_the_outcome_with_type_arguments_and_traceback(bench: Bench) -> None:
    call = bench.call(targets.boom, "gone")
    bench.ended(call)

    assert call.kinds == ["accepted", "failure"]
    assert isinstance(call.error, KeyError)
    assert call.error.args == ("gone",)
    assert "pool_targets" in call.outcomes[0][1].traceback


@pytest.mark.parametrize(
    "name", ["SystemExit", "KeyboardInterrupt", "MemoryError", "GeneratorExit"]
)
def test_whatever_a_body_raises_ends_that_call_alone(bench: Bench, name: str) -> None:
    """B-POOL-002: no pool dies of SystemExit, as solo and the green ones once did."""
    call = bench.call(targets.raise_named, name)
    bench.ended(call)
    following = bench.call(targets.add, 1, 1)
    bench.ended(following)

    assert call.kinds == ["accepted", "failure"]
    if name == "SystemExit":
        assert isinstance(call.error, WorkerLostError)
        assert str(call.error) == "Worker exited prematurely: exitcode 3."
    else:
        assert type(call.error).__name__ == name
    assert following.value == 2


def test_endless_recursion_ends_that_call_alone(bench: Bench) -> None:
    call = bench.call(targets.recurse)
    bench.ended(call)
    following = bench.call(targets.add, 1, 1)
    bench.ended(following)

    assert isinstance(call.error, RecursionError)
    assert following.value == 2


def test_many_calls_each_have_one_outcome_of_their_own(bench: Bench) -> None:
    calls = [bench.call(targets.add, number, 1) for number in range(500)]
    bench.ended(*calls)

    assert [call.value for call in calls] == list(range(1, 501))
    assert all(call.kinds == ["accepted", "success"] for call in calls)


def test_big_arguments_and_results_arrive_unchanged(bench: Bench) -> None:
    big = os.urandom(3_000_000)

    calls = [bench.call(targets.echo, big), bench.call(targets.echo, big[:70_000])]
    bench.ended(*calls)

    assert calls[0].value == big
    assert calls[1].value == big[:70_000]


def test_without_an_error_callback_the_callback_hears_of_the_failure(bench: Bench) -> None:
    only(not bench.features.has_processes, "in-process calls")
    heard: list[Any] = []

    bench.pool.apply_async(targets.raise_named, ("SystemExit",), callback=heard.append)
    bench.until(lambda: heard)

    failed, einfo, runtime = heard[0]
    assert (failed, runtime) == (1, 0.0)
    assert einfo.type is WorkerLostError


def test_stop_lets_running_calls_end(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.is_concurrent and not bench.features.green, "calls in the background")
    go = tmp_path / "go"
    call = bench.call(targets.begin_and_wait, str(tmp_path / "begun"), str(go))
    bench.until(lambda: targets.notes(tmp_path / "begun"))

    stopper = threading.Timer(0.1, go.touch)
    stopper.start()
    bench.stop()

    assert go.exists()
    assert call.kinds == ["accepted", "success"]


def test_stop_drops_calls_that_have_not_begun(open_bench: Benches, tmp_path: Any) -> None:
    """B-WORK-077: queued calls are dropped, running ones finish."""
    bench = open_bench(1)
    only(bench.features.is_concurrent and not bench.features.green, "calls in the background")
    go, ran = tmp_path / "go", tmp_path / "ran"
    running = bench.call(targets.begin_and_wait, str(tmp_path / "begun"), str(go))
    bench.until(lambda: targets.notes(tmp_path / "begun"))
    waiting = [bench.call(targets.note, str(ran), str(number)) for number in range(5)]

    threading.Timer(0.1, go.touch).start()
    bench.stop()

    assert running.value == str(go)
    assert targets.notes(ran) == []
    assert [call.events for call in waiting] == [[]] * 5


def test_stopping_twice_and_terminating_after_is_harmless(bench: Bench) -> None:
    bench.stop()
    bench.pool.stop()
    bench.pool.terminate()

    assert not bench.pool.active


def test_info_names_the_implementation_and_the_limit(bench: Bench) -> None:
    """B-POOL-003: what ``stats`` shows of the pool."""
    info = bench.pool.info
    name = {"threads": "thread"}.get(bench.features.name, bench.features.name)

    assert info["implementation"] == f"celery.concurrency.{name}:TaskPool"
    assert info["max-concurrency"] == (1 if bench.features.name == "solo" else 2)
    if bench.features.name == "threads":
        assert info["threads"] == 0
    if bench.features.name == "eventlet":
        assert (info["free-threads"], info["running-threads"]) == (2, 0)
    if bench.features.has_processes:
        assert len(info["processes"]) == 2
        assert info["timeouts"] == [0, 0]
        assert set(info) >= {"max-tasks-per-child", "put-guarded-by-semaphore"}
        assert set(info["writes"]) == {"total", "avg", "all", "raw", "strategy", "inqueues"}


def test_the_guide_shows_what_the_pools_declare() -> None:
    """Written by ``python -m t.contract.pools``."""
    assert TABLE.read_text() == table()


def test_limits_that_are_not_enforced_are_named_once_at_the_start(
    open_bench: Benches, features: Features, caplog: pytest.LogCaptureFixture
) -> None:
    """B-POOL-001, B-WORK-065: which limits solo, threads, gevent and eventlet don't enforce."""
    open_bench(1, soft_timeout=10.0, timeout=20.0)

    warnings = [
        record.getMessage() for record in caplog.records if "not enforced" in record.getMessage()
    ]
    expected = [
        name
        for name, is_enforced in (
            ("soft time limit", features.has_soft_limit), ("time limit", features.has_hard_limit)
        )
        if not is_enforced
    ]  # fmt: skip
    assert len(warnings) == bool(expected)
    assert all(" and ".join(expected) + " not enforced" in text for text in warnings)


# -- Pools that can stop a call


def hold(bench: Bench, tmp_path: Any, **options: Any) -> Call:
    """Start a call that runs for long, and return once it has begun."""
    if bench.features.green:
        call = bench.call(targets.green_pause, bench.features.green, 30.0, **options)
        bench.until(lambda: call.kinds)
    else:
        begun = tmp_path / "begun"
        before = len(targets.notes(begun))
        target = targets.coro_begin_and_wait if bench.features.has_loop else targets.begin_and_wait
        call = bench.call(target, str(begun), str(tmp_path / "never"), **options)
        bench.until(lambda: len(targets.notes(begun)) > before and call.kinds)
    return call


def test_a_call_that_passes_the_hard_limit_is_stopped(bench: Bench, tmp_path: Any) -> None:
    """B-POOL-001, B-WORK-065: prefork and gevent enforce the hard limit."""
    only(bench.features.has_hard_limit, "hard time limit")
    call = hold(bench, tmp_path, timeout=0.3)
    bench.ended(call)
    following = bench.call(targets.add, 1, 1)
    bench.ended(following)

    assert call.events[1:] == [("hard", 0.3)]
    assert following.value == 2


def test_without_a_timeout_callback_the_hard_limit_is_a_failure(bench: Bench) -> None:
    only(bench.features.has_hard_limit, "hard time limit")
    call = Call(lambda: bench.changes.put(None))
    target: Callable[..., Any] = targets.pause
    args: tuple[Any, ...] = (30.0,)
    if bench.features.has_loop:
        target = targets.coro_pause
    if bench.features.green:
        target, args = targets.green_pause, (bench.features.green, 30.0)
    bench.pool.apply_async(target, args, error_callback=call.on_failure, timeout=0.2)
    bench.ended(call)

    assert isinstance(call.error, TimeLimitExceeded)
    assert call.error.args == (0.2,)


def test_a_terminated_call_ends_as_terminated(bench: Bench, tmp_path: Any) -> None:
    """B-POOL-001."""
    only(bench.features.can_terminate, "terminating calls")
    call = hold(bench, tmp_path)

    bench.pool.terminate_job(call.pid, signal.SIGTERM)
    bench.ended(call)
    following = bench.call(targets.add, 1, 1)
    bench.ended(following)

    assert isinstance(call.error, Terminated)
    assert call.error.args == (signal.SIGTERM,)
    assert following.value == 2


def test_a_pool_that_cannot_terminate_says_so(bench: Bench) -> None:
    only(not bench.features.can_terminate, "refusing to terminate")

    with pytest.raises(NotImplementedError, match="kill_job"):
        bench.pool.terminate_job(1, signal.SIGTERM)


def test_a_terminated_body_runs_its_cleanup(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.can_terminate, "terminating calls")
    cleaned: list[str] = []
    if bench.features.green:
        call = bench.call(targets.green_cleanup, bench.features.green, cleaned)
    elif bench.features.has_loop:
        call = bench.call(targets.coro_cleanup, str(tmp_path / "begun"), str(tmp_path / "cleaned"))
        # Accepted is said before the first step of a coroutine.
        bench.until(lambda: targets.notes(tmp_path / "begun"))
    else:
        call = bench.call(
            targets.cleanup_on_exit, str(tmp_path / "never"), str(tmp_path / "cleaned")
        )
    bench.until(lambda: call.kinds)
    bench.turns(0.05)

    bench.pool.terminate_job(call.pid, signal.SIGTERM)
    bench.ended(call)

    assert cleaned or targets.notes(tmp_path / "cleaned")


@pytest.mark.parametrize("how", ["terminated", "hard limit"])
def test_a_task_whose_body_has_ended_is_left_alone(bench: Bench, tmp_path: Any, how: str) -> None:
    """It stores how it ended; another end would be a second final state."""
    features = bench.features
    only(features.can_terminate and not features.has_loop, "terminating plain functions")
    only(how == "terminated" or features.has_hard_limit, "hard time limit")
    limit = {"timeout": 0.2} if how == "hard limit" else {}
    begun, go = tmp_path / "begun", tmp_path / "go"
    paths = str(begun), str(go)
    if features.green:
        call = bench.call(targets.green_end_and_wait, features.green, *paths, **limit)
    else:
        call = bench.call(targets.end_and_wait, *paths, **limit)
    bench.until(lambda: targets.notes(begun) and call.kinds)
    if not limit:
        bench.pool.terminate_job(call.pid, signal.SIGKILL)
    bench.turns(0.4)
    assert not call.outcomes
    go.touch()
    bench.ended(call)

    assert call.kinds == ["accepted", "success"]


def test_growing_adds_room_and_shrinking_takes_it(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.can_grow, "growing")
    assert bench.pool.num_processes == 2

    bench.pool.grow(1)
    calls = [hold(bench, tmp_path) for _ in range(3)]
    assert bench.pool.num_processes == 3
    for call in calls:
        bench.pool.terminate_job(call.pid, signal.SIGTERM)
    bench.ended(*calls)
    if bench.features.has_processes:
        bench.all_up()
    bench.pool.shrink(2)

    assert bench.pool.num_processes == 1
    if bench.features.has_processes:
        bench.until(lambda: len(bench.pids) == 1)
    last = bench.call(targets.add, 1, 1)
    bench.ended(last)
    assert last.value == 2


# -- Coroutines


def test_a_coroutine_runs_to_its_value(bench: Bench) -> None:
    call = bench.call_coroutine("coro_pause", 0.001)
    bench.ended(call)

    assert call.kinds == ["accepted", "success"]
    assert call.value == 0.001


def test_an_exception_in_a_coroutine_is_the_outcome(bench: Bench) -> None:
    call = bench.call_coroutine("coro_boom", "gone")
    bench.ended(call)

    assert isinstance(call.error, KeyError)
    assert "pool_targets" in call.outcomes[0][1].traceback


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_whatever_a_coroutine_raises_ends_that_call_alone(bench: Bench, name: str) -> None:
    call = bench.call_coroutine("coro_raise", name)
    bench.ended(call)
    following = bench.call_coroutine("coro_pause", 0.001)
    bench.ended(following)

    wanted = "WorkerLostError" if name == "SystemExit" else name
    assert type(call.error).__name__ == wanted
    assert following.value == 0.001


def test_coroutines_run_on_a_loop_that_is_kept(open_bench: Benches) -> None:
    bench = open_bench(1)
    calls = []
    for _ in range(3):
        calls.append(bench.call_coroutine("coro_keep", "x"))
        bench.ended(calls[-1])

    first = calls[0].value[1]
    assert [call.value for call in calls] == [(calls[0].value[0], first + n) for n in range(3)]


def test_a_coroutine_catches_the_soft_limit(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.interrupts_coroutines, "limits of coroutines")
    begun = tmp_path / "begun"
    call = bench.call_coroutine("coro_catch_soft_limit", str(begun), soft_timeout=0.3)
    bench.ended(call)

    assert [kind for kind in call.kinds if kind != "soft"] == ["accepted", "success"]
    assert call.value == "caught SoftTimeLimitExceeded"


def test_a_coroutine_that_ignores_the_soft_limit_fails_with_it(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.interrupts_coroutines, "limits of coroutines")
    call = bench.call_coroutine("coro_pause", 30.0, soft_timeout=0.2)
    bench.ended(call)
    following = bench.call_coroutine("coro_pause", 0.001)
    bench.ended(following)

    assert type(call.error) is SoftTimeLimitExceeded
    assert following.value == 0.001


def test_a_coroutine_that_passes_the_hard_limit_is_ended(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.interrupts_coroutines, "limits of coroutines")
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    call = bench.call_coroutine("coro_cleanup", str(begun), str(cleaned), timeout=0.3)
    bench.ended(call)
    following = bench.call_coroutine("coro_pause", 0.001)
    bench.ended(following)

    assert call.kinds == ["accepted", "hard"]
    assert following.value == 0.001


def test_limits_of_the_pool_apply_to_coroutines_too(open_bench: Benches, tmp_path: Any) -> None:
    bench = open_bench(2, soft_timeout=0.2, timeout=20.0)
    only(bench.features.interrupts_coroutines, "limits of coroutines")
    call = bench.call_coroutine("coro_catch_soft_limit", str(tmp_path / "begun"))
    bench.ended(call)

    assert call.value == "caught SoftTimeLimitExceeded"


def test_a_terminated_coroutine_runs_its_cleanup(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.terminates_coroutines, "terminating coroutines")
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    call = bench.call_coroutine("coro_cleanup", str(begun), str(cleaned))
    bench.until(lambda: targets.notes(begun))
    bench.turns(0.05)

    bench.pool.terminate_job(call.pid, signal.SIGTERM)
    bench.ended(call)

    assert isinstance(call.error, Terminated)
    assert targets.notes(cleaned) == ["cleaned"]


def test_coroutines_share_a_loop_up_to_the_limit(open_bench: Benches, tmp_path: Any) -> None:
    bench = open_bench(50)
    only(bench.features.has_loop, "coroutines beside each other")
    go = tmp_path / "go"
    begun = tmp_path / "begun"
    calls = [bench.call(targets.coro_begin_and_wait, str(begun), str(go)) for _ in range(50)]
    bench.until(lambda: len(targets.notes(begun)) == 50)
    assert bench.pool.info["coroutines"] == 50
    go.touch()
    bench.ended(*calls)

    assert len({call.pid for call in calls}) == 50
    assert all(call.kinds == ["accepted", "success"] for call in calls)


def test_the_garbage_collector_is_spared_while_coroutines_run(open_bench: Benches) -> None:
    usual = gc.get_threshold()
    bench = open_bench()
    only(bench.features.has_loop, "coroutines beside each other")

    assert gc.get_threshold() == (50_000, *usual[1:])
    bench.stop()
    assert gc.get_threshold() == usual


def test_coroutines_of_several_calls_run_at_the_same_time(
    open_bench: Benches, tmp_path: Any
) -> None:
    bench = open_bench(5)
    only(bench.features.is_concurrent, "calls in the background")
    go, begun = tmp_path / "go", tmp_path / "begun"
    calls = [bench.call_coroutine("coro_begin_and_wait", str(begun), str(go)) for _ in range(5)]
    bench.until(lambda: len(targets.notes(begun)) == 5)
    go.touch()
    bench.ended(*calls)

    assert all(call.value == str(go) for call in calls)


def test_plain_functions_run_beside_coroutines(bench: Bench, tmp_path: Any) -> None:
    only(bench.features.has_loop, "coroutines beside each other")
    held = hold(bench, tmp_path)
    call = bench.call(targets.add, 1, 1)
    bench.ended(call)

    assert call.value == 2
    assert not held.outcomes
    with pytest.raises(NotImplementedError):
        bench.pool.terminate_job(os.getpid())


# -- Pools of processes


@pytest.fixture(
    params=[pytest.param(POOLS[name], id=name) for name in POOLS if POOLS[name].has_processes]
)
def process_features(request: pytest.FixtureRequest) -> Features:
    return request.param


@pytest.fixture
def open_prefork(process_features: Features) -> Iterator[Benches]:
    opened: list[Bench] = []

    def build(limit: int = 2, **options: Any) -> Bench:
        opened.append(Bench(process_features, limit, **options))
        return opened[-1]

    yield build
    for bench in opened:
        bench.terminate()


@pytest.fixture
def prefork(open_prefork: Benches) -> Bench:
    return open_prefork()


def test_a_short_job_does_not_wait_behind_a_long_one(prefork: Bench, tmp_path: Any) -> None:
    """B-POOL-004: jobs go to free children only."""
    held = hold(prefork, tmp_path)
    calls = [prefork.call(targets.add, number, 0) for number in range(50)]

    prefork.ended(*calls)

    assert not held.outcomes
    assert {call.pid for call in calls}.isdisjoint({held.pid})


def test_a_killed_child_fails_its_job_and_is_replaced(
    prefork: Bench, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """B-TASK-054, B-POOL-005, B-POOL-008, B-POOL-009: text, log line and prompt replacement."""
    prefork.all_up()
    before = set(prefork.pids)
    call = hold(prefork, tmp_path)

    killed_at = time.monotonic()
    os.kill(call.pid, signal.SIGKILL)
    prefork.ended(call)
    noticed_after = time.monotonic() - killed_at
    prefork.all_up()

    assert isinstance(call.error, WorkerLostError)
    number = call.job._job
    assert str(call.error) == f"Worker exited prematurely: signal 9 (SIGKILL) Job: {number}."
    assert noticed_after < 10
    assert call.pid not in prefork.pids
    assert len(before & set(prefork.pids)) == 1
    kind = "Spawn" if prefork.features.start_method == "spawn" else "Fork"
    assert any(
        record.getMessage().startswith(f"Process '{kind}PoolWorker-")
        and record.getMessage().endswith(f"pid:{call.pid} exited with 'signal 9 (SIGKILL)'")
        for record in caplog.records
    )


def test_a_body_that_calls_exit_fails_with_the_status_and_costs_the_child(prefork: Bench) -> None:
    """B-TASK-054: WorkerLostError('Worker exited prematurely: exitcode N.')."""
    call = prefork.call(targets.raise_named, "SystemExit")
    prefork.ended(call)
    prefork.until(lambda: call.pid not in prefork.pids)
    prefork.all_up()

    assert isinstance(call.error, WorkerLostError)
    assert str(call.error) == "Worker exited prematurely: exitcode 3."


def test_a_body_that_leaves_without_a_word_fails_with_the_status(prefork: Bench) -> None:
    call = prefork.call(targets.exit_hard, 7)
    prefork.ended(call)

    assert str(call.error) == f"Worker exited prematurely: exitcode 7 Job: {call.job._job}."


def test_a_child_that_dies_between_jobs_costs_no_job(prefork: Bench, tmp_path: Any) -> None:
    ran = str(tmp_path / "ran")
    prefork.all_up()
    calls = []
    for number in range(200):
        calls.append(prefork.call(targets.note, ran, str(number)))
        if number in {50, 120}:
            os.kill(prefork.pids[0], signal.SIGTERM)
            prefork.turns(0.01)
    prefork.ended(*calls)

    succeeded = [call for call in calls if call.outcomes[0][0] == "success"]
    assert len(succeeded) >= 198  # a child may have been inside a job when it was told to go
    lines = targets.notes(ran)
    assert len(lines) == len(set(lines))


def test_jobs_run_once_each_while_children_are_killed(prefork: Bench, tmp_path: Any) -> None:
    ran = str(tmp_path / "ran")
    prefork.all_up()
    calls: list[Call] = []
    for number in range(300):
        calls.append(prefork.call(targets.note, ran, str(number)))
        if number % 60 == 59:
            os.kill(prefork.pids[number % 2], signal.SIGKILL)
            prefork.turns(0.02)
            prefork.all_up()
    prefork.ended(*calls)

    lines = targets.notes(ran)
    assert len(lines) == len(set(lines))
    lost = [call for call in calls if call.outcomes[0][0] == "failure"]
    assert len(lost) <= 5
    assert all(isinstance(call.error, WorkerLostError) for call in lost)
    assert all(len(call.outcomes) == 1 for call in calls)


def test_a_result_that_does_not_pickle_fails_that_job_alone(prefork: Bench) -> None:
    calls = [
        prefork.call(targets.unpicklable),
        prefork.call(targets.unreadable),
        prefork.call(targets.raise_stubborn),
        prefork.call(targets.add, 1, 1),
    ]
    prefork.ended(*calls)

    for call in calls[:3]:
        assert type(call.error).__name__ == "MaybeEncodingError"
    assert "Stubborn" in str(calls[2].error)
    assert calls[3].value == 2


def test_arguments_that_do_not_pickle_fail_that_job_alone(prefork: Bench) -> None:
    call = prefork.call(targets.echo, threading.Lock())
    following = prefork.call(targets.add, 1, 1)
    prefork.ended(call, following)

    assert isinstance(call.error, TypeError)
    assert call.kinds == ["failure"]
    assert following.value == 2


def test_a_bound_method_carries_its_state_with_every_call(prefork: Bench) -> None:
    holder = targets.Holder(1)
    calls = [prefork.call(holder.bump)]
    holder.value = 10
    calls += [prefork.call(holder.bump), prefork.call(holder.bump)]
    prefork.ended(*calls)

    assert [call.value for call in calls] == [2, 11, 11]


def test_the_soft_limit_is_raised_in_the_body(prefork: Bench, tmp_path: Any) -> None:
    """B-WORK-065: the soft limit raises SoftTimeLimitExceeded in the body; the child lives on."""
    call = hold(prefork, tmp_path, soft_timeout=0.2, timeout=10)
    prefork.ended(call)

    assert call.kinds == ["accepted", "soft", "failure"]
    assert isinstance(call.error, SoftTimeLimitExceeded)
    prefork.turns(0.05)
    assert call.pid in prefork.pids


def test_limits_of_the_pool_apply_where_a_job_sets_none(
    open_prefork: Benches, tmp_path: Any
) -> None:
    bench = open_prefork(soft_timeout=0.2, timeout=20.0)
    call = hold(bench, tmp_path)
    bench.ended(call)

    assert call.events[1] == ("soft", 0.2)
    assert bench.pool.info["timeouts"] == [0.2, 20.0]


def test_a_soft_limit_above_the_hard_one_changes_nothing(prefork: Bench, tmp_path: Any) -> None:
    call = hold(prefork, tmp_path, soft_timeout=5.0, timeout=0.2)
    prefork.ended(call)

    assert call.kinds == ["accepted", "hard"]


def test_a_limit_hits_the_job_it_is_meant_for_and_no_other(open_prefork: Benches) -> None:
    """Bodies end as their limits pass; the innocent next jobs have none and must succeed."""
    bench = open_prefork(2)
    bench.all_up()
    pairs = []
    for number in range(60):
        soft = {"soft_timeout": 0.02} if number % 3 else {"timeout": 0.02}
        pairs.append(
            (bench.call(targets.spin, 0.0185 + number * 0.00005, **soft),
             bench.call(targets.spin, 0.004))
        )  # fmt: skip
    bench.ended(*[call for pair in pairs for call in pair])

    for limited, innocent in pairs:
        assert innocent.value == "spun"
        assert len(limited.outcomes) == 1
    bench.turns(0.1)
    assert all(len(call.outcomes) == 1 for pair in pairs for call in pair)


def test_a_child_leaves_after_its_share_of_jobs(open_prefork: Benches) -> None:
    """B-WORK-059; B-WORK-060 as it should be: the next child starts without a pause."""
    bench = open_prefork(1, maxtasksperchild=2)
    bench.all_up()
    calls = [bench.call(targets.who_am_i) for _ in range(6)]
    bench.ended(*calls)

    pids = [call.value[0] for call in calls]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]
    assert bench.pool.info["max-tasks-per-child"] == 2


def test_a_child_with_too_much_memory_leaves_after_the_job(open_prefork: Benches) -> None:
    """B-WORK-059: the task that crosses the limit completes."""
    bench = open_prefork(1, max_memory_per_child=400 * 1024)
    small = bench.call(targets.allocate, 1)
    bench.ended(small)
    big = bench.call(targets.allocate, 500)
    after = bench.call(targets.who_am_i)
    bench.ended(big, after)

    assert small.value == big.value != after.value[0]


def test_children_have_names_and_reuse_indexes(prefork: Bench, tmp_path: Any) -> None:
    """B-POOL-005, B-POOL-008, B-CLI-052: numbers go up, indexes stay within the pool size."""
    prefork.all_up()
    kind = "Spawn" if prefork.features.start_method == "spawn" else "Fork"
    names, indexes = set(), set()
    for _ in range(3):
        call = prefork.call(targets.who_am_i)
        prefork.ended(call)
        pid, name, index = call.value
        names.add(name)
        indexes.add(index)
        os.kill(pid, signal.SIGKILL)
        prefork.until(lambda pid=pid: pid not in prefork.pids)
        prefork.all_up()

    assert len(names) == 3
    assert all(name.startswith(f"{kind}PoolWorker-") for name in names)
    assert indexes <= {0, 1}
    assert sorted(child.process.index for child in prefork.pool._pool._children.values()) == [0, 1]


def test_no_job_runs_in_the_main_process(prefork: Bench) -> None:
    """B-POOL-015: the main process never runs task code."""
    calls = [prefork.call(targets.who_am_i) for _ in range(20)]
    prefork.ended(*calls)

    assert os.getpid() not in {call.value[0] for call in calls}
    assert all(call.value[0] == call.pid for call in calls)


def test_the_process_title_shows_node_and_process(prefork: Bench) -> None:
    """B-POOL-011: ``[celeryd: NODE:ForkPoolWorker-1]``."""
    call = prefork.call(targets.title)
    prefork.ended(call)

    kind = "Spawn" if prefork.features.start_method == "spawn" else "Fork"
    assert call.value.startswith(f"[celeryd: pool@contract:{kind}PoolWorker-")


def test_the_app_is_current_in_the_children(prefork: Bench) -> None:
    call = prefork.call(targets.current_app_name)
    prefork.ended(call)

    assert call.value == "contract"


def test_children_ignore_interrupts_and_block_nothing(prefork: Bench) -> None:
    call = prefork.call(targets.signal_dispositions)
    prefork.ended(call)
    os.kill(prefork.pids[0], signal.SIGINT)
    prefork.turns(0.1)

    assert "SIG_IGN" in call.value["SIGINT"]
    assert "_on_terminate" in call.value["SIGTERM"]
    assert "_on_soft_time_limit" in call.value["SIGUSR1"]
    assert call.value["blocked"] == []
    assert call.pid in prefork.pids


def test_a_body_may_survive_the_terminating_signal(prefork: Bench, tmp_path: Any) -> None:
    call = prefork.call(targets.swallow_exit, str(tmp_path / "never"))
    prefork.until(lambda: call.kinds)
    prefork.turns(0.1)

    prefork.pool.terminate_job(call.pid, "SIGTERM")
    prefork.ended(call)
    prefork.until(lambda: call.pid not in prefork.pids)

    assert call.value == "survived"


def test_a_child_told_to_go_from_outside_loses_its_job(prefork: Bench, tmp_path: Any) -> None:
    call = hold(prefork, tmp_path)

    os.kill(call.pid, signal.SIGTERM)
    prefork.ended(call)

    assert isinstance(call.error, WorkerLostError)
    assert "signal 15 (SIGTERM)" in str(call.error)


def test_terminating_a_job_that_has_ended_hits_nobody(prefork: Bench) -> None:
    call = prefork.call(targets.add, 1, 1)
    prefork.ended(call)

    prefork.pool.terminate_job(call.pid, signal.SIGKILL)
    call.job.terminate(signal.SIGKILL)
    following = prefork.call(targets.add, 2, 2)
    prefork.ended(following)
    prefork.turns(0.1)

    assert call.pid in prefork.pids
    assert following.value == 4


def test_a_signal_by_name_may_leave_the_child_alive(prefork: Bench, tmp_path: Any) -> None:
    call = hold(prefork, tmp_path)

    prefork.pool.terminate_job(call.pid, "USR1")
    prefork.ended(call)

    assert isinstance(call.error, SoftTimeLimitExceeded)
    assert call.pid in prefork.pids


def test_a_job_that_has_not_begun_can_be_withdrawn(open_prefork: Benches, tmp_path: Any) -> None:
    bench = open_prefork(1)
    held = hold(bench, tmp_path)
    ran = str(tmp_path / "ran")
    calls = [bench.call(targets.note, ran, str(number)) for number in range(5)]

    assert calls[1].job.withdraw() is True
    assert calls[1].job.withdraw() is False
    assert held.job.withdraw() is False
    calls[3].job.terminate(signal.SIGTERM)
    bench.until(lambda: calls[3].outcomes)
    (tmp_path / "never").touch()
    bench.ended(held, calls[0], calls[2], calls[4])

    assert targets.notes(ran) == ["0", "2", "4"]
    assert calls[1].events == []
    assert isinstance(calls[3].error, Terminated)


def test_flush_forgets_what_has_not_begun(open_prefork: Benches, tmp_path: Any) -> None:
    bench = open_prefork(1)
    held = hold(bench, tmp_path)
    ran = str(tmp_path / "ran")
    calls = [bench.call(targets.note, ran, str(number)) for number in range(2000)]

    bench.pool.flush()
    (tmp_path / "never").touch()
    later = bench.call(targets.note, ran, "later")
    bench.ended(held, later)

    assert targets.notes(ran) == ["later"]
    assert not any(call.events for call in calls)


def test_more_jobs_than_the_kernel_holds_wait_in_order(open_prefork: Benches) -> None:
    bench = open_prefork(1)
    calls = [bench.call(targets.echo, (number, b"x" * 20_000)) for number in range(1500)]
    bench.ended(*calls)

    assert [call.value[0] for call in calls] == list(range(1500))


@pytest.mark.parametrize("how", ["terminated", "hard limit"])
def test_a_task_that_hangs_after_its_body_is_ended_in_the_end(
    prefork: Bench, tmp_path: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_grip, "SEALED_GRACE_S", 0.3)
    limit = {"timeout": 0.1} if how == "hard limit" else {}
    begun = tmp_path / "begun"
    call = prefork.call(targets.end_and_wait, str(begun), str(tmp_path / "never"), **limit)
    # The body may say so before the thread of the pool has read that it was accepted.
    prefork.until(lambda: targets.notes(begun) and call.events)
    if not limit:
        prefork.pool.terminate_job(call.pid, signal.SIGKILL)
    prefork.ended(call)
    following = prefork.call(targets.add, 1, 1)
    prefork.ended(following)

    assert call.kinds == ["accepted", "hard" if limit else "failure"]
    assert following.value == 2


def test_restart_replaces_every_child_between_jobs(prefork: Bench, tmp_path: Any) -> None:
    prefork.all_up()
    before = set(prefork.pids)
    held = hold(prefork, tmp_path)

    prefork.pool.restart()
    prefork.until(lambda: len(before & set(prefork.pids)) == 1)
    (tmp_path / "never").touch()
    prefork.ended(held)
    prefork.until(lambda: not before & set(prefork.pids))
    prefork.all_up()

    assert held.kinds == ["accepted", "success"]


def test_shrinking_a_busy_pool_is_refused(open_prefork: Benches, tmp_path: Any) -> None:
    bench = open_prefork(1)
    hold(bench, tmp_path)

    with pytest.raises(ValueError, match="busy"):
        bench.pool.shrink(1)
    assert bench.pool.num_processes == 1


def test_terminate_ends_running_bodies_soon_and_tells_nobody(prefork: Bench, tmp_path: Any) -> None:
    call = hold(prefork, tmp_path)
    pids = prefork.pids

    started = time.monotonic()
    prefork.terminate()

    assert time.monotonic() - started < PATIENCE_S
    assert call.kinds == ["accepted"]
    assert not any(is_alive(pid) for pid in pids)


def test_a_pool_can_be_terminated_while_it_is_being_stopped(
    process_features: Features, tmp_path: Any
) -> None:
    """A second signal turns a warm shutdown into a cold one."""
    bench = Bench(process_features, 1)
    hold(bench, tmp_path)
    pids = bench.pids

    class ColdShutdown(BaseException):
        """What a signal handler raises."""

    def on_alarm(*args: Any) -> None:
        raise ColdShutdown

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(ColdShutdown):
            bench.pool.stop()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    bench.terminate()

    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_terminate_kills_what_does_not_listen(open_prefork: Benches) -> None:
    bench = open_prefork(1)
    bench.all_up()
    [pid] = bench.pids
    os.kill(pid, signal.SIGSTOP)

    bench.terminate()

    assert not is_alive(pid)


def test_a_closed_pool_takes_no_jobs(prefork: Bench) -> None:
    prefork.pool.close()
    call = prefork.call(targets.add, 1, 1)
    prefork.turns(0.1)

    assert call.events == []
    assert call.job.ready()


def test_a_semaphore_is_released_once_for_every_job(open_prefork: Benches) -> None:
    released: list[int] = []

    class Semaphore:
        def release(self) -> None:
            released.append(1)

    bench = open_prefork(2, semaphore=Semaphore())
    calls = [
        bench.call(targets.add, 1, 1),
        bench.call(targets.boom, "x"),
        bench.call(targets.exit_hard, 1),
        bench.call(targets.echo, threading.Lock()),
    ]
    bench.ended(*calls)

    assert len(released) == 4
