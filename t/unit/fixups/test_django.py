from __future__ import annotations

import os
import socket
import sys
from datetime import UTC
from types import SimpleNamespace

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.cache import caches
from django.core.management.base import SystemCheckError
from django.db import DatabaseError, InterfaceError, connections, transaction as db_transaction

from celery import Celery, signals
from celery.app.utils import detect_settings
from celery.contrib.django.task import DjangoTask
from celery.exceptions import FixupWarning
from celery.fixups import django as fixups
from celery.utils.collections import force_mapping

if not settings.configured:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        TIME_ZONE="Europe/Oslo",
        USE_TZ=True,
        CELERY_TASK_SERIALIZER="pickle",
    )
django.setup()
connection = connections["default"]


class FakeApp:
    """What the fixup needs of an app."""

    def __init__(self, custom=False, **conf):
        self.loader = SimpleNamespace()
        self.loader_cls = "celery.loaders.app:AppLoader"
        self.task_cls = "celery.app.task:Task"
        self._custom_task_cls_used = custom
        self.conf = detect_settings(conf)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Run in a Django project, and leave no receivers and connections behind."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "g_proj.settings")
    monkeypatch.delenv("CELERY_SKIP_CHECKS", raising=False)
    monkeypatch.delenv("SKIP_CHECKS", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    connections.close_all()


@pytest.fixture
def app():
    return FakeApp()


def task(app, eager=False):
    return SimpleNamespace(app=app, request=SimpleNamespace(is_eager=eager))


# -- when it is active


def test_without_the_variable_nothing_happens(app, monkeypatch):
    """B-DJ-001: active when DJANGO_SETTINGS_MODULE is set."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")

    assert fixups.fixup(app) is None
    assert not hasattr(app.loader, "now")


def test_with_the_variable_the_fixup_is_installed(app):
    """B-DJ-001: active when DJANGO_SETTINGS_MODULE is set and Django is importable."""
    installed = fixups.fixup(app)

    assert isinstance(installed, fixups.DjangoFixup)
    assert installed.app is app


def test_without_django_a_warning_is_given(app, monkeypatch):
    """B-DJ-001: if Django is missing a warning is given."""
    monkeypatch.setattr(fixups, "find_spec", lambda name: None)

    with pytest.warns(FixupWarning, match="Django is not installed"):
        assert fixups.fixup(app) is None


def test_a_loader_made_for_django_does_without(app):
    app.loader_cls = "djcelery.loaders.DjangoLoader"

    assert fixups.fixup(app) is None


# -- what it offers


def test_the_working_directory_is_on_the_path(app, monkeypatch, tmp_path):
    """B-DJ-009: the current working directory is added to sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    installed = fixups.fixup(app)

    assert installed is not None
    assert sys.path[0] == str(tmp_path)


def test_the_loader_gets_the_clock_of_django(app):
    kept = fixups.fixup(app)

    assert app.loader.now == kept.now
    assert app.loader.now().tzinfo is not None
    assert app.loader.now(utc=True).tzinfo is UTC


@pytest.mark.parametrize("custom", [True, False])
def test_tasks_get_the_base_class_for_django_unless_the_app_has_its_own(custom):
    """B-DJ-005: the task base becomes DjangoTask; not used if task_cls is given."""
    app = FakeApp(custom)
    kept = fixups.fixup(app)

    assert kept is not None
    assert (app.task_cls == "celery.contrib.django.task:DjangoTask") is not custom


def test_all_installed_apps_are_searched_for_tasks(app):
    """B-DJ-004: tasks modules of all installed apps."""
    found = fixups.DjangoFixup(app).autodiscover_tasks()

    assert found == [config.name for config in apps.get_app_configs()]
    assert "django.contrib.auth" in found


def test_settings_are_read_from_those_of_django():
    """B-DJ-002, B-DJ-003: CELERY_* settings, and TIME_ZONE."""
    conf = detect_settings(force_mapping(settings), prefix="CELERY")

    assert conf.task_serializer == "pickle"
    assert conf.timezone == "Europe/Oslo"
    assert conf.table() == {"deprecated_settings": None, "task_serializer": "pickle"}


# -- the start of a worker


@pytest.fixture
def failing_check():
    def check(app_configs, **kwargs):
        return [checks.Error("no good", id="g.E001")]

    checks.register(check)
    yield
    checks.registry.registry.registered_checks.discard(check)


def test_system_checks_run_before_task_modules_are_imported(app, failing_check):
    """B-DJ-006: the worker runs Django's system checks at start."""
    kept = fixups.fixup(app)

    (answer,) = [
        answer
        for receiver, answer in signals.import_modules.send(sender=app)
        if receiver == kept.on_import_modules
    ]
    assert isinstance(answer, SystemCheckError)


@pytest.mark.parametrize("variable", ["CELERY_SKIP_CHECKS", "SKIP_CHECKS"])
def test_system_checks_can_be_skipped(app, failing_check, monkeypatch, variable):
    """B-DJ-006: CELERY_SKIP_CHECKS/SKIP_CHECKS skips."""
    monkeypatch.setenv(variable, "true")

    fixups.DjangoFixup(app).on_import_modules(sender=app)


def test_signals_about_other_apps_are_not_for_us(app, failing_check, monkeypatch):
    """B-DJ-010: fixup signal handlers act only for their own app."""
    other = FakeApp()
    fixup = fixups.DjangoFixup(app)
    monkeypatch.setattr(fixups.DjangoWorkerFixup, "install", lambda self: pytest.fail("installed"))

    fixup.on_import_modules(sender=other)
    fixup.on_worker_init(sender=SimpleNamespace(app=other))


def test_the_worker_half_is_installed_when_the_worker_starts(app, monkeypatch):
    installed = []
    monkeypatch.setattr(fixups.DjangoWorkerFixup, "install", lambda self: installed.append(self))
    kept = fixups.fixup(app)

    signals.worker_init.send(sender=SimpleNamespace(app=app))

    assert installed == [kept.worker_fixup]
    assert kept.worker_fixup is kept.worker_fixup


# -- connections


@pytest.fixture
def worker(app):
    return fixups.DjangoWorkerFixup(app).install()


def is_open():
    return connection.connection is not None


def run(app, eager=False):
    """Do what a worker does around a task, with a task that uses the database."""
    sender = task(app, eager)
    signals.task_prerun.send(sender=sender)
    before = is_open()
    connection.ensure_connection()
    signals.task_postrun.send(sender=sender)
    return before


def close_age(monkeypatch, age):
    """Set CONN_MAX_AGE; sqlite in memory never closes by itself otherwise."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", age)
    monkeypatch.setattr(type(connection), "is_in_memory_db", lambda self: False)
    connection.close()


def test_connections_are_closed_after_a_task(worker, app, monkeypatch):
    """B-DJ-007: closed as CONN_MAX_AGE demands."""
    close_age(monkeypatch, 0)
    run(app)

    assert not is_open()


def test_connections_are_closed_before_a_task(worker, app, monkeypatch):
    """B-DJ-007: before each task too."""
    close_age(monkeypatch, 0)
    connection.ensure_connection()

    assert run(app) is False


def test_young_connections_are_kept(worker, app, monkeypatch):
    """B-DJ-007: as CONN_MAX_AGE demands."""
    close_age(monkeypatch, None)
    connection.close()
    run(app)

    assert is_open()


def test_eager_tasks_leave_connections_alone(worker, app, monkeypatch):
    """B-DJ-007: not closed for eager tasks."""
    close_age(monkeypatch, 0)
    connection.ensure_connection()

    assert run(app, eager=True) is True
    assert is_open()


def test_tasks_of_other_apps_leave_connections_alone(worker, monkeypatch):
    """B-DJ-010: handlers act only for their own app."""
    close_age(monkeypatch, 0)
    connection.ensure_connection()
    run(FakeApp())

    assert is_open()


def test_caches_are_given_back_after_a_task(worker, app, monkeypatch):
    """B-DJ-007: caches are closed after each task."""
    closed = []
    cache = caches["default"]
    monkeypatch.setattr(type(cache), "close", lambda self, **kwargs: closed.append(self))
    run(app)

    assert closed == [cache]


def test_reuse_of_a_connection_is_limited(monkeypatch):
    """B-DJ-008: CELERY_DB_REUSE_MAX limits reuse per worker process."""
    app = FakeApp(CELERY_DB_REUSE_MAX=2)
    worker = fixups.DjangoWorkerFixup(app)
    close_age(monkeypatch, 0)
    for name in ("task_prerun", "task_postrun"):
        getattr(signals, name).connect(getattr(worker, f"on_{name}"))

    # Whether the connection of the task before was still there:
    assert [run(app) for _ in range(5)] == [False, True, False, True, False]


def test_nothing_is_left_open_for_children(worker, monkeypatch):
    """B-DJ-007: before forking also connection pools."""
    close_age(monkeypatch, None)
    pools_closed = []
    monkeypatch.setattr(
        type(connection), "close_pool", lambda self: pools_closed.append(1), raising=False
    )
    connection.ensure_connection()

    signals.worker_before_create_process.send(sender=None)

    assert not is_open()
    assert pools_closed == [1]


def test_a_child_gives_up_inherited_connections(worker, monkeypatch):
    close_age(monkeypatch, None)
    connection.ensure_connection()

    signals.worker_process_init.send(sender=None)

    assert not is_open()


def test_an_inherited_socket_is_left_without_a_word():
    """The parent goes on using it, so not even a farewell may be sent."""
    ours, server = socket.socketpair()
    parents = ours.dup()  # what the parent process still holds
    inherited = SimpleNamespace(connection=ours, Database=SimpleNamespace(Error=DatabaseError))
    try:
        fixups._detach(inherited)
        os.write(ours.fileno(), b"farewell")
        parents.send(b"next query")

        assert server.recv(100) == b"next query"
    finally:
        for each in (ours, server, parents):
            each.close()


def test_a_closed_or_foreign_connection_cannot_be_detached():
    def fileno():
        raise InterfaceError("connection already closed")

    closed = SimpleNamespace(
        connection=SimpleNamespace(fileno=fileno), Database=SimpleNamespace(Error=InterfaceError)
    )
    fixups._detach(closed)
    fixups._detach(SimpleNamespace(connection=object()))


@pytest.mark.parametrize(
    "error", [InterfaceError("x"), DatabaseError("already closed"), DatabaseError("not connected")]
)
def test_a_connection_that_is_gone_is_as_good_as_closed(worker, error, monkeypatch):
    def close(self):
        raise error

    connection.ensure_connection()
    monkeypatch.setattr(type(connection), "close_if_unusable_or_obsolete", close)

    worker.close_database()


def test_other_errors_of_the_database_are_shown(worker, monkeypatch):
    def close(self):
        raise DatabaseError("disk full")

    connection.ensure_connection()
    monkeypatch.setattr(type(connection), "close_if_unusable_or_obsolete", close)

    with pytest.raises(DatabaseError, match="disk full"):
        worker.close_database()


# -- a real app


def test_an_app_in_a_django_project_is_configured_and_dressed_for_it():
    """B-DJ-002, B-DJ-003, B-DJ-005: settings, time zone and the base class of tasks."""
    app = Celery("g", set_as_current=False, broker="memory://")
    app.config_from_object("django.conf:settings", namespace="CELERY")

    assert app.conf.task_serializer == "pickle"
    assert app.conf.timezone == "Europe/Oslo"
    assert str(app.timezone) == "Europe/Oslo"
    assert issubclass(app.Task, DjangoTask)


def test_an_app_with_a_task_class_of_its_own_keeps_it():
    """B-DJ-005: not used if a custom task_cls is given."""
    app = Celery("g", set_as_current=False, task_cls="celery.app.task:Task")

    assert not issubclass(app.Task, DjangoTask)


def test_all_installed_apps_are_searched_by_default(monkeypatch):
    """B-DJ-004: autodiscover_tasks() without arguments."""
    app = Celery("g", set_as_current=False)
    searched = []
    monkeypatch.setattr(
        app.loader, "autodiscover_tasks", lambda packages, related_name: searched.extend(packages)
    )

    app.autodiscover_tasks(force=True)

    assert searched == [config.name for config in apps.get_app_configs()]


# -- tasks that wait for a commit


@pytest.fixture
def sent(monkeypatch):
    """What was published."""
    calls = []
    monkeypatch.setattr(
        DjangoTask, "apply_async", lambda self, *args, **kwargs: calls.append((args, kwargs))
    )
    return calls


@pytest.fixture
def committing():
    app = Celery("django-tasks", task_cls=DjangoTask, set_as_current=False)

    @app.task
    def add(x, y):
        return x + y

    return add


def test_the_call_waits_for_the_commit(committing, sent):
    """B-DJ-005: they publish after commit and return None."""
    with db_transaction.atomic():
        assert committing.delay_on_commit(1, y=2) is None
        assert committing.apply_async_on_commit((3,), countdown=5) is None
        assert sent == []

    assert sent == [(((1,), {"y": 2}), {}), (((3,),), {"countdown": 5})]


def test_nothing_is_sent_when_the_transaction_is_rolled_back(committing, sent):
    with db_transaction.atomic():
        committing.delay_on_commit(1, 2)
        db_transaction.set_rollback(True)

    assert sent == []


def test_without_a_transaction_it_is_sent_at_once(committing, sent):
    committing.delay_on_commit(1, 2)

    assert sent == [(((1, 2), {}), {})]
