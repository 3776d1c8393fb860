"""When the pool grows and shrinks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery import Celery
from celery.loaders.base import BaseLoader
from celery.worker import WorkController, autoscale, state
from celery.worker.autoscale import Autoscaler


class Pool:
    num_processes = 1

    def grow(self, n):
        self.num_processes += n

    def shrink(self, n):
        self.num_processes -= n


@pytest.fixture
def now(monkeypatch):
    clock = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(autoscale, "monotonic", lambda: clock.time)
    return clock


@pytest.fixture
def scaler(now):
    followed = []
    worker = SimpleNamespace(consumer=SimpleNamespace(update_prefetch_count=followed.append))
    scaler = Autoscaler(Pool(), 4, 1, worker=worker, keepalive=30)
    scaler.followed = followed
    return scaler


def reserve(make_request, n):
    kept = [make_request() for _ in range(n)]
    for request in kept:
        state.task_reserved(request)
    return kept


def test_it_grows_one_by_one_with_the_tasks_up_to_its_maximum(scaler, make_request, caplog):
    """B-WORK-061."""
    caplog.set_level("INFO")
    kept = []
    for _ in range(6):
        kept += reserve(make_request, 1)
        scaler.on_task_received(kept[-1])

    assert scaler.pool.num_processes == 4
    assert scaler.followed == [1, 1, 1]
    assert caplog.messages == ["Scaling up 1 processes."] * 3


def test_it_shrinks_after_a_quiet_time_only(scaler, make_request, now, caplog):
    """B-WORK-062: keepalive after the last task or growth."""
    kept = reserve(make_request, 4)
    scaler.on_task_received(kept[-1])
    for request in kept:
        state.task_ready(request)
    now.time += 30
    scaler.maybe_scale()
    assert scaler.pool.num_processes == 4
    now.time += 1
    scaler.maybe_scale()

    assert scaler.pool.num_processes == 1
    assert scaler.followed == [3, -3]


def test_busy_processes_are_not_shrunk(scaler, now, caplog):
    caplog.set_level("DEBUG")

    def refuse(n):
        raise ValueError("all busy")

    scaler.pool.num_processes = 3
    scaler.pool.shrink = refuse
    scaler._last_busy = 0
    scaler.maybe_scale()

    assert scaler.followed == []
    assert "all processes busy" in caplog.text


def test_slots_follow_the_processes_that_really_leave(scaler, make_request, now):
    """With slots for fewer tasks than there are processes, tasks would wait for ever."""
    kept = reserve(make_request, 4)
    scaler.on_task_received(kept[-1])
    for request in kept:
        state.task_ready(request)
    idle = 1

    def shrink(n):
        scaler.pool.num_processes -= min(n, idle)

    scaler.pool.shrink = shrink
    for _ in range(4):
        now.time += 31
        scaler.maybe_scale()

    assert scaler.pool.num_processes == 1
    assert scaler.followed == [3, -1, -1, -1]


def test_new_bounds_are_followed_at_once(scaler):
    """B-WORK-063: raising the minimum grows the pool, lowering the maximum shrinks it."""
    assert scaler.update(5, 3) == (5, 3)
    assert scaler.pool.num_processes == 3
    assert scaler.update(max=2) == (2, 3)
    assert scaler.pool.num_processes == 2


def test_statistics(scaler, make_request):
    """B-WORK-061."""
    kept = reserve(make_request, 2)

    assert scaler.info() == {"max": 4, "min": 1, "current": 1, "qty": 2}
    assert kept


@pytest.mark.parametrize(
    ("pool", "takes_part"),
    [("prefork", True), ("gevent", True), ("threads", False), ("solo", False)],
)
def test_a_pool_of_fixed_size_is_left_alone(pool, takes_part, caplog):
    """B-POOL-001: with a word about it."""
    from celery.concurrency import get_implementation

    worker = SimpleNamespace(autoscale=(4, 1), pool_cls=get_implementation(pool), pool=None)

    assert autoscale.WorkerComponent(worker).include_if(worker) is takes_part
    assert ("--autoscale has no effect" in caplog.text) is not takes_part


class Own(Autoscaler):
    """One that a project wrote."""


def test_a_project_may_bring_its_own_autoscaler(app):
    """B-EXT-015, B-EXT-016: by the setting `worker_autoscaler`."""
    app.conf.worker_autoscaler = f"{__name__}:Own"
    controller = WorkController(app=app, pool="solo")
    worker = SimpleNamespace(
        autoscaler_cls=controller.autoscaler_cls, autoscale=(3, 1), pool=Pool(),
        max_concurrency=3, min_concurrency=1, use_eventloop=False,
    )  # fmt: skip
    scaler = autoscale.WorkerComponent(worker).create(worker)

    assert type(scaler) is Own
    assert (scaler.max_concurrency, scaler.min_concurrency) == (3, 1)


class ProjectLoader(BaseLoader):
    def read_configuration(self, env="CELERY_CONFIG_MODULE"):
        return {"task_default_queue": "from-own-loader"}


def test_a_project_may_bring_its_own_loader():
    """B-EXT-016."""
    app = Celery("own", loader=f"{__name__}:ProjectLoader", set_as_current=False)

    assert app.conf.task_default_queue == "from-own-loader"
