"""From a function or a class to a task in the registry."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import threading
import warnings
from types import ModuleType

import pytest

from celery import Celery, states
from celery.app.task import Context, Task
from celery.exceptions import CDeprecationWarning, DuplicateTaskNameWarning
from celery.local import PromiseProxy
from t.harness.inline import memory_app


def body(x, y=0):
    return x + y


def test_the_name_is_made_of_module_and_function(app):
    """B-APP-045."""
    assert app.task(body, shared=False).name == f"{__name__}.body"


@pytest.mark.parametrize(("main", "expected"), [("proj", "proj.body"), (None, "__main__.body")])
def test_the_main_name_stands_for_the_main_module(main, expected):
    """B-APP-045: without a main name ``__main__`` remains."""
    program = (
        "from celery import Celery\n"
        f"app = Celery({main!r})\n"
        "@app.task\n"
        "def body(): pass\n"
        "print(body.name)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == expected


def test_naming_may_be_overridden():
    """B-APP-046: and a module of None stands for the main name."""

    class App(Celery):
        def gen_task_name(self, name, module):
            return f"mine.{module.rpartition('.')[2]}.{name}"

    app = App("proj", set_as_current=False)

    assert app.task(body, shared=False).name == "mine.test_registration.body"
    assert Celery("proj", set_as_current=False).gen_task_name("f", None) == "proj.f"


def test_another_function_of_a_taken_name_is_not_registered(app):
    """B-APP-047: the first stays, and the warning names both."""
    first = app.task(name="p.t", shared=False, lazy=False)(body)

    def other():
        return 2

    with pytest.warns(DuplicateTaskNameWarning) as caught:
        second = app.task(name="p.t", shared=False, lazy=False)(other)

    assert second is first
    text = str(caught[0].message)
    assert f"{__name__}.body" in text
    assert f"{__name__}.test_another_function" in text
    assert caught[0].filename == __file__


def test_the_same_function_twice_is_one_task(app):
    """B-APP-048: silently."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = app.task(body, shared=False)
        two = app.task(body, shared=False)

        assert one.app is app
        assert two._get_current_object() is one._get_current_object()


def test_a_reloaded_module_keeps_its_old_tasks(app, monkeypatch, tmp_path):
    """B-APP-048: reloading makes new functions, so it warns."""
    (tmp_path / "reloaded_tasks.py").write_text(
        "import t.unit.app.test_registration as home\n"
        "@home.RELOADING.task(name='p.r', shared=False)\n"
        "def r(): return home.RELOADING\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "RELOADING", app, raising=False)
    module: ModuleType = importlib.import_module("reloaded_tasks")
    try:
        old = app.tasks["p.r"]
        with pytest.warns(DuplicateTaskNameWarning):
            importlib.reload(module)
        assert app.tasks["p.r"] is old
    finally:
        del sys.modules["reloaded_tasks"]


def test_the_decorator_wants_one_callable(app):
    """B-APP-049."""
    with pytest.raises(TypeError, match=r"argument 1 to @task\(\) must be a callable"):
        app.task("body")
    with pytest.raises(TypeError, match=r"@task\(\) takes exactly 1 argument \(2 given\)"):
        app.task(body, body)


def test_a_lambda_with_a_name_is_a_task(app):
    """B-APP-050 differs on purpose: a lambda is as good as any function."""
    double = app.task(name="p.double", shared=False)(lambda x: 2 * x)

    assert double(4) == 8
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        double.delay()
    assert double.apply((4,)).get() == 8


def test_evaluating_one_task_does_not_finalize_the_app(app):
    """B-APP-020: and registers only that one."""
    one = app.task(name="p.one", shared=False)(body)
    two = app.task(name="p.two", shared=False)(body)

    assert repr(one).startswith("<@task: p.one of p at 0x")

    assert not app.finalized
    assert "p.one" in app._tasks
    assert "p.two" not in app._tasks
    assert not two.__evaluated__()


def test_a_declared_task_is_a_promise_until_it_is_used(app):
    """B-APP-021: after finalization it is made at once."""
    early = app.task(name="p.early", shared=False)(body)
    assert type(early) is PromiseProxy
    assert not early.__evaluated__()

    app.finalize()

    assert early.__evaluated__()
    assert isinstance(app.task(name="p.late", shared=False)(body), Task)
    assert type(app.task(name="p.later", shared=False)(body)) is not PromiseProxy


def test_two_threads_that_use_a_task_first_get_the_same(app):
    """B-APP-021: the declaration is evaluated once."""
    task = app.task(name="p.t", shared=False)(body)
    barrier = threading.Barrier(8)
    seen = []

    def use():
        barrier.wait(10)
        seen.append(task._get_current_object())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(seen) == 8
    assert len({id(one) for one in seen}) == 1


def test_options_of_the_decorator_become_attributes(app):
    """B-APP-054: `base` is the base class, `bind` passes the task."""

    class Base(Task):
        shared_thing = 5

    @app.task(name="p.t", shared=False, bind=True, base=Base, rate_limit="7/m", anything=1)
    def t(self, x):
        return self.name, self.shared_thing, x

    assert t.rate_limit == "7/m"
    assert t.anything == 1
    assert t(3) == ("p.t", 5, 3)


def test_unknown_options_have_no_effect(app):
    """B-LEG-025: ``accept_magic_kwargs`` is just an attribute."""
    t = app.task(name="p.t", shared=False, accept_magic_kwargs=True)(body)

    assert t.accept_magic_kwargs is True
    assert t.apply((1, 2)).get() == 3


def test_the_class_of_a_task_is_named_after_the_function(app):
    """B-APP-055: and its bases are the app's task class, Task, object."""
    task = app.task(name="p.t", shared=False, lazy=False)(body)
    mro = type(task).__mro__

    assert type(task).__name__ == "body"
    assert mro[1:] == (app.Task, Task, object)
    assert repr(task).startswith("<@task: p.t of p at 0x")
    assert task.__doc__ is body.__doc__
    assert task.__module__ == __name__
    assert task.__name__ == "body"


def test_a_task_is_instantiated_once(app):
    """B-APP-056: attributes of the instance persist between calls."""

    class Counting(Task):
        def __init__(self):
            super().__init__()
            self.calls = 0

    @app.task(name="p.t", shared=False, bind=True, base=Counting)
    def t(self):
        self.calls += 1
        return self.calls

    assert [t(), t.apply().get(), t()] == [1, 2, 3]


class Named(Task):
    name = "p.named"

    def run(self, x):
        return x + 1


class Unnamed(Task):
    def run(self, x):
        return x + 2


def test_classes_of_tasks_are_registered_by_hand(app):
    """B-APP-057: an instance or the class; the name is made of module and class."""
    assert "p.named" not in app.tasks

    one, two = app.register_task(Named()), app.register_task(Unnamed)

    assert app.tasks["p.named"] is one
    assert app.tasks[f"{__name__}.Unnamed"] is two
    assert one.apply((1,)).get() == 2
    assert two(1) == 3
    assert one.app is app


def test_a_class_without_a_body_says_so(app):
    """B-APP-058."""
    task = app.register_task(type("Empty", (Task,), {"name": "p.empty"})())

    with pytest.raises(NotImplementedError, match=r"Tasks must define the run method\."):
        task()


def test_attributes_have_the_documented_defaults():
    """B-APP-059: settings fill what the class leaves unset."""
    app = memory_app(task_serializer="yaml")
    task = app.task(name="p.t", shared=False)(body)

    assert {
        name: getattr(task, name)
        for name in (
            "max_retries", "default_retry_delay", "acks_late", "ignore_result", "serializer",
            "track_started", "typing", "throws", "rate_limit", "reject_on_worker_lost",
            "acks_on_failure_or_timeout", "priority", "store_errors_even_if_ignored",
        )
    } == {
        "max_retries": 3, "default_retry_delay": 180, "acks_late": False,
        "ignore_result": False, "serializer": "yaml", "track_started": False, "typing": True,
        "throws": (), "rate_limit": None, "reject_on_worker_lost": None,
        "acks_on_failure_or_timeout": True, "priority": None,
        "store_errors_even_if_ignored": False,
    }  # fmt: skip


def test_outside_of_a_call_the_request_is_a_default_one(app):
    """B-APP-061."""
    from celery import current_task

    task = app.task(name="p.t", shared=False)(body)

    assert not current_task
    assert current_task._get_current_object() is None
    assert isinstance(task.request, Context)
    assert (task.request.id, task.request.called_directly, task.request.retries) == (None, True, 0)
    with pytest.raises(AttributeError):
        task.request.no_such_field


def test_a_state_needs_an_id(app):
    """B-APP-062, B-TASK-057: the running call's, or one that is given."""
    task = app.task(name="p.t", shared=False)(body)

    with pytest.raises(ValueError, match=r"task_id must not be empty\. Got None instead\."):
        task.update_state(state="PROGRESS", meta={"done": 1})
    task.update_state("some-id", "PROGRESS", {"done": 1})

    result = task.AsyncResult("some-id")
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})
    app.backend.store_result("some-id", 9, states.SUCCESS)
    assert (result.state, result.result) == ("SUCCESS", 9)


def test_results_can_be_looked_up_by_task(app):
    """B-LEG-023: ``add.AsyncResult(id)``."""
    task = app.task(name="p.t", shared=False)(body)
    app.backend.store_result("some-id", 9, states.SUCCESS)

    assert task.AsyncResult("some-id").get(timeout=1) == 9


@pytest.mark.parametrize(
    "attribute", ["queue", "exchange", "exchange_type", "routing_key", "delivery_mode", "priority"]
)
def test_routing_attributes_of_tasks_warn(app, attribute):
    """B-LEG-011: each of them."""
    with pytest.warns(CDeprecationWarning, match=attribute):
        app.task(name=f"p.{attribute}", shared=False, lazy=False, **{attribute: 1})(body)


def test_calls_belong_to_instances(app):
    """B-LEG-013: a class can't be sent."""
    app.register_task(Named)

    for method in (Named.delay, Named.apply_async, Named.retry):
        with pytest.raises(TypeError):
            method()


def test_an_app_may_be_called_celery():
    """B-LEG-016: ``@celery.task`` of such an app is ``@app.task``."""
    celery = Celery("tasks", broker="memory://", set_as_current=False)

    @celery.task(shared=False)
    def add(x, y):
        return x + y

    assert add.name == f"{__name__}.add"
    assert add(1, 1) == 2


def test_a_function_with_a_signature_of_its_own_tells_it(app):
    """Tools read the parameters of a call, not those of the body."""
    import inspect

    @app.task(name="p.t", shared=False, bind=True)
    def t(self, x, *, y=1):
        """Add."""

    assert str(inspect.signature(t._get_current_object())) == "(x, *, y=1)"


def test_the_function_behind_a_task_keeps_its_signature(app):
    """Tools that document code look at ``__wrapped__``."""

    @app.task
    def add(x, y=2):
        """Add."""

    @app.task(bind=True)
    def again(self, n):
        """Try again."""

    assert str(inspect.signature(add.__wrapped__)) == "(x, y=2)"
    assert str(inspect.signature(again.__wrapped__)) == "(n)"
    assert add.__doc__ == "Add."
