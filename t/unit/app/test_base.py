"""The app object: its construction, its signals, its parts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from kombu.exceptions import LimitExceeded

import celery
from celery import Celery, _state, signals
from celery.app import _upward
from celery.app.task import Task
from celery.exceptions import ImproperlyConfigured
from t.harness.inline import memory_app


def test_the_repr_shows_the_main_name():
    """B-APP-001."""
    assert repr(Celery("proj", set_as_current=False)).startswith("<Celery proj at 0x")
    assert Celery(set_as_current=False).main is None


def test_construction_reads_no_configuration_and_connects_nowhere():
    """B-APP-002: clock and registry exist, `on_init` is called, nothing else happens."""
    called = []

    class App(Celery):
        def on_init(self):
            called.append(self.configured)

    app = App("proj", broker="nosuchtransport://", config_source="no_such_module")

    assert called == [False]
    assert app.clock.value == 0
    assert _state.get_current_app() is app
    assert not app.configured
    assert not app.finalized
    assert app._pool is None
    assert "amqp" not in vars(app)


def test_each_app_becomes_the_current_one_unless_told_otherwise():
    """B-APP-003."""
    first = Celery("first")
    second = Celery("second")
    Celery("third", set_as_current=False)

    assert first is not second
    assert celery.current_app._get_current_object() is second


def test_the_current_app_is_that_of_the_thread():
    """B-APP-003: another thread falls back to the default app."""
    app = Celery("mine")
    default = Celery("default one", set_as_current=False)
    default.set_default()
    seen = []

    thread = threading.Thread(target=lambda: seen.append(_state.get_current_app()))
    thread.start()
    thread.join(10)

    assert seen == [default]
    assert _state.get_current_app() is app


def test_reading_tasks_finalizes_and_sends_each_signal_once(app):
    """B-APP-023: on_configure, on_after_configure, on_after_finalize, in this order."""
    seen = []

    def note(name):
        def receiver(sender, **kwargs):
            seen.append((name, sender))

        return receiver

    for name in ("on_configure", "on_after_configure", "on_after_finalize"):
        getattr(app, name).connect(note(name), weak=False)

    app.tasks
    app.tasks
    app.conf.timezone

    assert seen == [
        ("on_configure", app),
        ("on_after_configure", app),
        ("on_after_finalize", app),
    ]


def test_a_handler_of_on_after_finalize_sees_tasks_of_other_modules(app):
    """B-APP-023."""
    seen = []

    @app.on_after_finalize.connect
    def handler(sender, **kwargs):
        seen.append("p.late" in sender.tasks)

    app.task(name="p.late", shared=False)(lambda: None)
    app.finalize()

    assert seen == [True]


def test_on_after_fork_is_a_signal_of_the_app(app):
    """B-APP-023: connections of the parent are dropped before it is sent."""
    seen = []

    @app.on_after_fork.connect
    def handler(sender, **kwargs):
        seen.append(sender._pool)

    app.pool
    app._after_fork()

    assert seen == [None]


def test_no_thread_has_the_reply_queue_of_one_before_it(app):
    """The system gives a new thread the number of one that has ended; a fork keeps it."""
    names = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: names.append((app.thread_oid, app.thread_oid)))
        thread.start()
        thread.join()
    names.append((app.thread_oid, app.thread_oid))
    app._after_fork()
    names.append((app.thread_oid, app.thread_oid))

    assert all(first == second for first, second in names)
    assert len(set(names)) == 5


def test_a_subclass_may_define_on_configure_as_a_method():
    class App(Celery):
        def on_configure(self, **kwargs):
            self.was_asked = True

    app = App("proj", set_as_current=False)
    app.conf.timezone

    assert app.was_asked is True


def test_without_auto_finalization_reading_tasks_is_an_error():
    """B-APP-018."""
    app = Celery("proj", autofinalize=False, set_as_current=False)

    with pytest.raises(RuntimeError, match="app not finalized"):
        app.tasks

    @app.task(name="p.explicit", shared=False)
    def explicit():
        return 1

    with pytest.raises(RuntimeError, match="app not finalized"):
        explicit()
    app.finalize()
    assert "p.explicit" in app.tasks


def test_reading_tasks_evaluates_and_binds_what_is_declared(app):
    """B-APP-019."""

    @app.task(name="p.declared", shared=False)
    def declared():
        return 1

    assert not app.finalized
    task = app.tasks["p.declared"]

    assert app.finalized
    assert declared.__evaluated__()
    assert task.app is app
    assert task.serializer == app.conf.task_serializer


def test_another_thread_waits_for_the_end_of_finalization(app):
    """B-APP-019: nobody sees a registry that is still being filled."""
    half_way, go_on = threading.Event(), threading.Event()
    seen = []

    class Slow(Task):
        @classmethod
        def on_bound(cls, app):
            half_way.set()
            assert go_on.wait(10)

    app.task(name="p.slow", base=Slow, shared=False)(lambda: None)
    app.task(name="p.after", shared=False)(lambda: None)
    first = threading.Thread(target=app.finalize)
    first.start()
    assert half_way.wait(10)
    second = threading.Thread(target=lambda: seen.append("p.after" in app.tasks))
    second.start()
    go_on.set()
    first.join(10)
    second.join(10)

    assert seen == [True]


@pytest.mark.filterwarnings("ignore::celery.exceptions.DuplicateTaskNameWarning")
def test_a_declaration_that_fails_does_so_at_every_try(app):
    @app.task(name="p.bad", shared=False, pydantic=True)
    def bad(x: no_such_type):  # noqa: F821
        return x

    for _ in range(2):
        with pytest.raises(NameError):
            app.tasks
        assert not app.finalized


def test_the_default_app_is_made_on_demand():
    """B-APP-025."""
    program = (
        "from celery import current_app\n"
        "print(current_app.main, current_app.loader_cls)\n"
        "from celery import _state\n"
        "assert _state.default_app is current_app._get_current_object()\n"
    )
    assert _python(program).split() == ["default", "default"]


def test_falling_back_to_the_current_app_can_be_made_an_error():
    """B-APP-024: CELERY_TRACE_APP in the environment."""
    program = (
        "from celery import Celery, current_app\n"
        "from celery.app import app_or_default\n"
        "app = Celery('x')\n"
        "assert app_or_default(app) is app\n"
        "for ask in (app_or_default, current_app._get_current_object):\n"
        "    try: ask()\n"
        "    except RuntimeError as exc: print('CELERY_TRACE_APP' in str(exc))\n"
    )
    assert _python(program, CELERY_TRACE_APP="1").split() == ["True", "True"]


def _python(program: str, **env: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CELERY_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_worker_main_wants_the_word_worker(app):
    """B-APP-063."""
    with pytest.raises(ValueError, match="worker sub-command must be specified in argv"):
        app.worker_main(["--help"])


def test_start_runs_any_command(app, capsys):
    """B-APP-063: and the app of the command line is this one."""
    app.task(name="p.listed", shared=False)(lambda: None)

    app.start(["--version"])

    assert celery.__version__ in capsys.readouterr().out
    assert _upward.load(_upward.COMMAND_LINE).params[0].default is None


def test_the_registry_stays_usable_after_close(app):
    """B-APP-070: pools are released."""
    add = app.task(name="p.add", shared=False)(lambda x, y: x + y)
    app.finalize()
    add.delay(1, 2)
    assert app._pool is not None

    app.close()

    assert app._pool is None
    assert app.amqp._producer_pool is None
    assert app not in _state._get_active_apps()
    assert app.tasks["p.add"](1, 2) == 3
    add.delay(1, 2)


def test_an_app_is_a_context_manager():
    with memory_app() as app:
        assert app in _state._get_active_apps()
    assert app not in _state._get_active_apps()


def test_without_a_backend_results_cannot_be_read():
    """B-APP-029: and the text says so; the state is refused in the same words."""
    for backend in (None, "disabled"):
        app = Celery("p", broker="memory://", backend=backend, set_as_current=False)
        result = app.AsyncResult("some-id")
        with pytest.raises(NotImplementedError, match="No result backend is configured"):
            result.get(timeout=0.01)
        with pytest.raises(NotImplementedError, match="No result backend is configured"):
            result.state


def test_the_backend_is_one_per_thread_unless_it_says_otherwise(app):
    def other_thread(app):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(app.backend))
        thread.start()
        thread.join(10)
        return seen[0]

    assert app.backend is app.backend
    assert other_thread(app) is not app.backend

    shared = memory_app(result_backend_thread_safe=True)
    assert other_thread(shared) is shared.backend


def test_many_calls_share_the_pool_of_connections(app):
    """B-CALL-034: `pool`, `producer_or_acquire`, `connection=` and `producer=`."""
    app.task(name="p.add", shared=False)(lambda x, y: x + y)
    task = app.tasks["p.add"]

    with app.producer_or_acquire() as producer:
        with app.producer_or_acquire(producer) as same:
            assert same is producer
        task.apply_async((1, 1), producer=producer)
    with app.pool.acquire() as connection:
        task.apply_async((1, 1), connection=connection)
        with app.connection_or_acquire(connection) as same:
            assert same is connection

    with app.connection_for_read() as connection:
        queue = app.amqp.default_queue(connection.default_channel)
        assert queue.queue_declare(passive=True).message_count == 2


def test_the_pool_of_producers_refuses_when_none_becomes_free():
    """B-CALL-034: within `broker_pool_acquire_timeout`."""
    app = memory_app(broker_pool_limit=1, broker_pool_acquire_timeout=0.01)
    # A pool of its own, which other apps of this process don't share.
    app.conf.broker_transport_options = {"own": id(app)}

    with (
        app.producer_or_acquire(),
        pytest.raises(LimitExceeded),
        app.producer_or_acquire(),
    ):
        pass


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_limit_there_is_a_connection_for_everybody(limit):
    """B-WORK-089: `broker_pool_limit` None or 0."""
    app = memory_app(broker_pool_limit=limit, broker_pool_acquire_timeout=0.01)
    app.conf.broker_transport_options = {"own": id(app)}

    with ExitStack() as stack:
        taken = [stack.enter_context(app.connection_or_acquire()) for _ in range(20)]
        assert len({id(connection) for connection in taken}) == 20


def test_tasks_may_have_another_base_class_by_task_cls():
    """B-APP-064: a class, or its dotted path."""
    by_class = Celery("p", task_cls=Counting, set_as_current=False)
    by_path = Celery("p", task_cls=f"{__name__}:Counting", set_as_current=False)

    for app in (by_class, by_path):
        task = app.task(name="p.t", shared=False, lazy=False)(lambda: None)
        assert isinstance(task, Counting)


def test_the_base_class_of_tasks_may_be_replaced():
    """B-APP-064: by assignment to `app.Task`."""
    app = Celery("p", set_as_current=False)
    app.Task = type("Mine", (app.Task,), {"counter": 7})

    assert app.task(name="p.t", shared=False, lazy=False)(lambda: None).counter == 7


class Counting(Task):
    counter = 0


def test_annotations_may_turn_functions_into_methods(app):
    """B-APP-065: `@name` wraps a method, other functions become methods."""
    seen = []

    def failed(self, exc, *args):
        seen.append((self.name, exc))

    app.conf.task_annotations = {"p.t": {"on_failure": failed, "rate_limit": "5/s"}}

    @app.task(name="p.t", shared=False)
    def t():
        raise KeyError("x")

    t.apply()

    assert t.rate_limit == "5/s"
    assert [(name, type(exc)) for name, exc in seen] == [("p.t", KeyError)]


def test_a_late_configuration_source_replaces_what_was_derived(app):
    """B-APP-005: also the zone, the routes and the publishing options."""
    add = app.task(name="p.add", shared=False)(lambda x, y: x + y)
    assert app.timezone.utcoffset(None) is not None or str(app.timezone) == "UTC"
    add.delay(1, 1)

    app.config_from_object({"timezone": "Asia/Tokyo", "task_serializer": "yaml"})

    assert app.conf.timezone == "Asia/Tokyo"
    assert str(app.timezone) == "Asia/Tokyo"
    assert app.amqp.plan.serializer == "yaml"


def test_security_needs_its_files(app):
    with pytest.raises(ImproperlyConfigured):
        app.setup_security(allowed_serializers=["json"], key="/nowhere", cert="/nowhere")


def test_the_import_signal_is_the_apps_own(app):
    """B-SIG-014: `import_modules`, sender the app, before `imports` and `include` are loaded."""
    seen = []

    @signals.import_modules.connect(sender=app, weak=False)
    def receiver(sender, **kwargs):
        seen.append(sender)

    try:
        app.loader.import_default_modules()
        memory_app().loader.import_default_modules()
    finally:
        signals.import_modules.disconnect(receiver, sender=app)

    assert seen == [app]


def test_periodic_tasks_wait_for_the_configuration(app):
    app.task(name="p.add", shared=False)(lambda x, y: x + y)
    add = app.tasks["p.add"]
    fresh = memory_app()

    fresh.add_periodic_task(10.0, add.s(1, 2), name="early", expires=5)
    assert not fresh.configured
    fresh.conf.timezone
    key = fresh.add_periodic_task(20.0, add.s(3, 4))

    assert set(fresh.conf.beat_schedule) == {"early", key}
    assert fresh.conf.beat_schedule["early"] == {
        "schedule": 10.0,
        "task": "p.add",
        "args": (1, 2),
        "kwargs": {},
        "options": {"expires": 5},
    }
