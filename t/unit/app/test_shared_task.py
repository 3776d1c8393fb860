"""Tasks that exist in every app."""

from __future__ import annotations

import pytest

from celery import Celery, _state, shared_task
from celery.exceptions import DuplicateTaskNameWarning
from t.harness.inline import memory_app


def test_a_shared_task_is_in_every_app():
    """B-APP-051: in apps that exist, that are finalized later, and that are made later."""
    finalized, pending = memory_app(), memory_app()
    finalized.finalize()

    @shared_task(name="lib.shared")
    def shared(x):
        return x

    later = memory_app()

    for app in (finalized, pending, later):
        assert app.tasks["lib.shared"].app is app


def test_its_proxy_is_the_task_of_the_current_app():
    """B-APP-051: at each access."""
    one, two = memory_app(), memory_app()

    @shared_task
    def shared(x):
        return x

    for app in (one, two, one):
        app.set_current()
        assert shared.app is app
        assert shared.name == f"{__name__}.shared"
        assert shared(3) == 3


def test_it_cannot_be_applied_twice():
    """B-APP-052: to the function, or to the task."""

    def body():
        return 1

    task = shared_task(body)

    with pytest.raises(TypeError, match="applied more than once"):
        shared_task(body)
    with pytest.raises(TypeError, match="applied more than once"):
        shared_task(task)


def test_tasks_of_one_app_are_in_the_others_too(app):
    """B-APP-053: the proxy stays with its own app."""
    other = memory_app()

    @app.task(name="p.both")
    def both():
        return 1

    other.set_current()

    assert other.tasks["p.both"].app is other
    assert both.app is app
    assert app.tasks["p.both"] is both._get_current_object()


def test_a_task_may_be_kept_out_of_other_apps(app):
    """B-APP-053: ``shared=False``."""
    app.task(name="p.own", shared=False)(lambda: None)

    assert "p.own" in app.tasks
    assert "p.own" not in memory_app().tasks


@pytest.mark.filterwarnings("ignore::celery.exceptions.DuplicateTaskNameWarning")
def test_the_first_of_two_shared_tasks_has_the_name():
    """B-APP-047: the same one in every app."""
    functions = [lambda n=n: n for n in range(20)]
    for fun in functions:
        shared_task(name="lib.contended")(fun)

    for _ in range(3):
        app = Celery("p", set_as_current=False)
        with pytest.warns(DuplicateTaskNameWarning):
            app.finalize()
        assert app.tasks["lib.contended"]() == 0


def test_options_of_a_shared_task(app):
    """B-APP-051, B-APP-054: they become attributes in each app."""

    @shared_task(name="lib.opts", bind=True, rate_limit="3/s")
    def opts(self):
        return self.app

    app.set_current()

    assert opts.rate_limit == "3/s"
    assert opts() is app


def test_registers_of_apps_are_weak():
    import gc
    import weakref

    app = Celery("passing", set_as_current=False)
    ref = weakref.ref(app)
    assert app in _state._apps
    del app
    gc.collect()

    assert ref() is None
