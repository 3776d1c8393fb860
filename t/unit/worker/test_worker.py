"""Options of the worker, its queues, its parts, and how it stops."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from kombu import Queue

from celery import bootsteps, signals
from celery.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from celery.utils.sysinfo import CpuBudget
from celery.worker import WorkController, state, worker as module


@pytest.fixture
def make_worker(app):
    def make(**options):
        return WorkController(app=app, **{"pool": "solo", "concurrency": 1, **options})

    return make


def test_options_come_before_settings(app, make_worker, tmp_path):
    app.conf.update(
        worker_prefetch_multiplier=7, task_time_limit=90, worker_max_tasks_per_child=5,
        worker_state_db=str(tmp_path / "conf.db"),
    )  # fmt: skip
    worker = make_worker(time_limit=9)

    assert worker.prefetch_multiplier == 7
    assert worker.time_limit == 9
    assert worker.max_tasks_per_child == 5
    option = str(tmp_path / "opt.db")
    assert make_worker(statedb=option).statedb == option


def test_a_multiplier_of_zero_is_no_limit_as_an_option_too(make_worker):
    """B-WORK-054: the option 0 is not ignored."""
    worker = make_worker(prefetch_multiplier=0)

    assert worker.prefetch_multiplier == 0
    assert worker.consumer.initial_prefetch_count == 0


@pytest.mark.parametrize("concurrency", [0, None])
def test_the_default_concurrency_is_the_number_of_processors(app, concurrency):
    """B-WORK-010, B-WORK-011."""
    worker = WorkController(app=app, pool="threads", concurrency=concurrency)

    assert worker.concurrency == os.cpu_count()


@pytest.mark.parametrize(
    ("pool", "quota", "text"),
    [
        ("prefork", None, "no cgroup cpu quota found"),
        ("prefork", 1.5, "cgroup cpu quota=1.5"),
        ("threads", None, "cgroup cpu quota not considered"),
    ],
)
def test_automatic_concurrency_says_how_it_came_about(app, monkeypatch, pool, quota, text):
    """B-WORK-009, B-WORK-011: the quota counts for prefork only."""
    asked = []

    def budget(use_cgroup_quota):
        asked.append(use_cgroup_quota)
        return CpuBudget(3, 8, quota)

    monkeypatch.setattr(module, "cpu_budget", budget)
    worker = WorkController(app=app, pool=pool, concurrency="auto")

    assert worker.concurrency == 3
    assert asked == [pool == "prefork"]
    note = worker._concurrency_note
    assert (note[0] % note[1:]) == (
        f"worker_concurrency='auto' resolved to 3 (pool={pool}, {text}, available cpus=8)."
    )


def test_queues_are_selected_and_excluded(app, make_worker):
    app.conf.task_queues = [Queue("a"), Queue("b"), Queue("c")]
    make_worker(queues="a,b", exclude_queues="b")

    assert list(app.amqp.queues.consume_from) == ["a"]


@pytest.mark.parametrize("option", ["queues", "exclude_queues"])
def test_unknown_queues_are_refused_where_none_may_be_made(app, make_worker, option):
    app.conf.task_create_missing_queues = False
    app.conf.task_queues = [Queue("a")]

    if option == "exclude_queues":
        make_worker(**{option: "nosuch"})
        assert list(app.amqp.queues.consume_from) == ["a"]
    else:
        with pytest.raises(ImproperlyConfigured, match="nosuch"):
            make_worker(**{option: "nosuch"})


def test_a_worker_may_have_a_queue_of_its_own(app, make_worker):
    app.conf.worker_direct = True
    make_worker(hostname="w@test")

    assert any("w@test" in name for name in app.amqp.queues.consume_from)


def test_included_modules_are_imported_and_passed_on(app, make_worker):
    make_worker(include="json.tool,wsgiref.util")

    assert {"json.tool", "wsgiref.util"} <= set(app.conf.include)


def test_steps_are_sorted_and_independent_ones_keep_an_order(make_worker):
    """B-EXT-001."""
    names = [step.alias for step in make_worker().blueprint.order]

    assert set(names) == {
        "Timer", "Hub", "Pool", "Autoscaler", "StateDB", "Beat", "Health", "Consumer",
    }  # fmt: skip
    assert names.index("Timer") < names.index("Hub") < names.index("Pool")
    assert names.index("Pool") < names.index("Autoscaler")
    assert names[-1] == "Consumer"


def test_steps_of_the_app_get_the_options(app):
    """B-EXT-002, B-EXT-005, B-EXT-014."""
    seen = {}

    class Mine(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def __init__(self, worker, color=None, **options):
            seen["color"] = color

        def create(self, worker):
            seen["pool"] = worker.pool

    app.steps["worker"].add(Mine)
    worker = WorkController(app=app, pool="solo", color="blue")

    assert seen == {"color": "blue", "pool": worker.pool}


def test_parts_can_be_replaced_by_path(app):
    """B-EXT-015."""
    app.conf.worker_consumer = f"{__name__}:MyConsumer"
    worker = WorkController(app=app, pool="solo")

    assert isinstance(worker.consumer, MyConsumer)


class MyConsumer:
    def __init__(self, on_task_request, **options):
        self.options = options


def test_an_embedded_worker_runs_a_task_and_stops(app, make_worker):
    """B-EXT-017, B-WORK-080."""
    results, down = [], []

    @app.task(name="probe")
    def probe():
        results.append(1)
        state.should_stop = 5

    def on_shutdown(sender, **kwargs):
        down.append(sender)

    signals.worker_shutdown.connect(on_shutdown)
    probe.delay()
    worker = make_worker(without_heartbeat=True)
    worker.start()

    assert results == [1]
    assert worker.exitcode == 5
    assert down == [worker]
    worker.stop()
    assert down == [worker]


class Blueprint:
    """Raises what a loop would."""

    state = bootsteps.RUN

    def __init__(self, error):
        self.error, self.stopped = error, []

    def start(self, parent):
        raise self.error

    def stop(self, parent, terminate=False):
        self.state = bootsteps.TERMINATE
        self.stopped.append("cold" if terminate else "warm")

    def join(self, timeout=None):
        pass


@pytest.mark.parametrize(
    ("error", "how", "code"),
    [
        (WorkerShutdown(0), "warm", 0),
        (WorkerShutdown(3), "warm", 3),
        (WorkerTerminate(0), "cold", 0),
        (WorkerTerminate(1), "cold", 1),
        (KeyboardInterrupt(), "warm", 1),
        (RuntimeError("x"), "warm", 1),
    ],
)
def test_what_ends_the_loop_decides_how_it_stops(make_worker, error, how, code, caplog):
    """B-EXT-018: with that exit code."""
    worker = make_worker()
    worker.blueprint = Blueprint(error)
    worker.start()

    assert (worker.blueprint.stopped, worker.exitcode) == ([how], code)
    if isinstance(error, RuntimeError):
        assert "Unrecoverable error: RuntimeError('x')" in caplog.messages


def test_a_soft_shutdown_ends_with_its_tasks(app, make_worker, make_request, caplog):
    """B-WORK-074: and not only when its time is over."""
    app.conf.worker_soft_shutdown_timeout = 1000
    worker = make_worker()
    request = make_request()
    state.task_reserved(request)
    state.task_accepted(request)
    turns = []

    def turn(timeout):
        turns.append(timeout)
        if len(turns) == 3:
            state.task_ready(request)

    worker.consumer.turn = turn
    worker.wait_for_soft_shutdown()
    worker.wait_for_soft_shutdown()

    assert len(turns) == 3
    assert "Initiating Soft Shutdown, terminating in 1000 seconds" in caplog.messages


def test_a_soft_shutdown_is_skipped_when_idle(app, make_worker, caplog):
    """B-WORK-075."""
    app.conf.worker_soft_shutdown_timeout = 1000
    make_worker().wait_for_soft_shutdown()

    assert caplog.messages == []


def test_a_request_that_is_revoked_at_its_turn_frees_its_slot(app, make_request):
    """B-WORK-041."""
    worker = WorkController(app=app, pool="threads", concurrency=1)
    request = make_request()
    state.revoked.add(request.id)
    worker._process_task_in_slot(request)

    assert worker.semaphore.taken == 0
    assert request.acknowledged


def test_a_pool_that_refuses_does_not_lose_a_slot(app, caplog):
    worker = WorkController(app=app, pool="threads", concurrency=1)

    def fail(pool):
        raise RuntimeError("closed")

    worker._process_task_in_slot(SimpleNamespace(execute_using_pool=fail, _slot=None))

    assert worker.semaphore.taken == 0
    assert "Cannot hand task" in caplog.text


def test_statistics(make_worker):
    """The reply of the remote command stats."""
    worker = make_worker()
    state.total_count["add"] = 3
    stats = worker.stats()

    assert stats["total"] == {"add": 3}
    assert stats["pid"] == os.getpid()
    assert stats["clock"].isdigit()
    assert stats["uptime"] >= 0
    assert stats["prefetch_count"] == "N/A"
    assert stats["pool"]["implementation"] == "celery.concurrency.solo:TaskPool"
    assert {"utime", "stime", "maxrss"} <= set(stats["rusage"])


def test_the_state_file_is_written_at_the_end(app, tmp_path):
    """B-WORK-049."""
    path = str(tmp_path / "db")
    worker = WorkController(app=app, pool="solo", statedb=path)
    state.revoked.add("kept")
    worker.on_stopped()
    state.revoked.clear()
    WorkController(app=app, pool="solo", statedb=path)

    assert "kept" in state.revoked


def test_a_scheduler_is_not_embedded_with_green_pools(app):
    from celery.worker import components

    step = components.Beat(SimpleNamespace(), beat=True)
    pool = type("TaskPool", (), {"__module__": "celery.concurrency.gevent"})
    with pytest.raises(ImproperlyConfigured, match="-B option"):
        step.create(SimpleNamespace(pool_cls=pool))


def test_autoscaling_bounds_may_be_text(app):
    from celery.worker import components

    worker = SimpleNamespace(concurrency=2)
    components.Pool(worker, autoscale="10,3")

    assert (worker.max_concurrency, worker.min_concurrency) == (10, 3)
