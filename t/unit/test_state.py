"""Which app is current, and which task runs."""

from __future__ import annotations

import threading

import pytest

from celery import Celery, _state
from celery.app import pop_current_task, push_current_task
from t.harness.inline import memory_app


@pytest.fixture(autouse=True)
def untraced():
    yield
    _state.disable_trace()


def test_the_app_given_wins_over_the_current_one():
    one, two = memory_app(), memory_app()
    two.set_current()

    assert _state.app_or_default(one) is one
    assert _state.app_or_default() is two


def test_asking_for_the_current_app_can_be_made_an_error():
    """B-APP-024: `enable_trace` and `disable_trace` do what the environment does."""
    app = memory_app()
    app.set_current()

    _state.enable_trace()
    assert _state.app_or_default(app) is app
    with pytest.raises(RuntimeError, match="CELERY_TRACE_APP"):
        _state.app_or_default()
    with pytest.raises(RuntimeError, match="CELERY_TRACE_APP"):
        _state.get_current_app()

    _state.disable_trace()
    assert _state.get_current_app() is app


def test_a_thread_without_an_app_uses_the_default_one():
    """B-APP-025: which is made once."""
    _state.set_default_app(None)
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.append(_state.get_current_app())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        thread.join(10)

    assert seen[0] is seen[1] is _state.default_app
    assert seen[0].main == "default"


def test_the_running_task_is_that_of_the_thread():
    """B-TASK-017: a stack for each thread."""
    app = memory_app()
    task = app.task(name="p.t", shared=False)(lambda: None)
    push_current_task(task)
    try:
        seen = []
        thread = threading.Thread(target=lambda: seen.append(_state.get_current_task()))
        thread.start()
        thread.join(10)

        assert seen == [None]
        assert app.current_task is task
        assert _state.current_task.name == "p.t"
    finally:
        pop_current_task()
    assert app.current_task is None


def test_tasks_called_directly_are_no_worker_tasks():
    """B-APP-061: `current_worker_task` is what a worker started."""
    app = memory_app()
    seen = []

    @app.task(name="p.inner", shared=False)
    def inner():
        task, worker_task = app.current_task, app.current_worker_task
        seen.append((task.name, worker_task and worker_task.name))

    @app.task(name="p.outer", shared=False)
    def outer():
        inner()

    inner()
    outer.apply()

    assert seen == [("p.inner", None), ("p.inner", "p.outer")]


def test_callbacks_of_finalization_run_in_the_order_of_their_declaration():
    seen = []
    callbacks = [lambda app, n=n: seen.append(n) for n in range(10)]
    before = dict(_state._on_app_finalizers)
    try:
        for callback in callbacks:
            assert _state.connect_on_app_finalize(callback) is callback
        Celery("p", set_as_current=False).finalize()
    finally:
        _state._on_app_finalizers.clear()
        _state._on_app_finalizers.update(before)

    assert seen == list(range(10))
