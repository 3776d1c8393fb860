"""Configuration through a real app: when it is read, and which source wins."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType, SimpleNamespace

import pytest

from celery import Celery, signals
from celery.exceptions import CDeprecationWarning, ImproperlyConfigured

ENVIRONMENT = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_CONFIG_MODULE",
    "DJANGO_SETTINGS_MODULE",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config_module(monkeypatch):
    """Offer a module ``g_config`` with the settings given."""

    def make(**settings):
        module = ModuleType("g_config")
        vars(module).update(settings)
        monkeypatch.setitem(sys.modules, "g_config", module)
        return module

    return make


def nothing():
    """Be the body of a task."""


def make_app(*args, **kwargs):
    return Celery(*(args or ("g",)), set_as_current=False, **kwargs)


def test_configuration_is_loaded_by_the_first_read():
    """B-APP-004: setting values does not load, reading one does."""
    app = make_app()
    app.conf.timezone = "UTC"
    app.conf.update(enable_utc=False)
    assert app.configured is False

    assert app.conf.timezone == "UTC"
    assert app.configured is True
    assert app.conf.enable_utc is False


def test_values_set_before_loading_survive_a_later_source(config_module):
    """B-APP-005: they are re-applied on top of the loaded source."""
    config_module(timezone="loaded", task_serializer="loaded")
    app = make_app()
    app.conf.timezone = "mine"
    app.config_from_object("g_config")

    assert (app.conf.timezone, app.conf.task_serializer) == ("mine", "loaded")


def test_values_set_after_loading_are_dropped_by_a_later_source(config_module):
    """B-APP-005: a later config_from_object() drops them."""
    config_module(task_serializer="loaded")
    app = make_app()
    assert app.conf.timezone is None
    app.conf.timezone = "mine"

    app.config_from_object("g_config")

    assert (app.conf.timezone, app.conf.task_serializer) == (None, "loaded")


def test_values_assigned_after_the_source_win(config_module):
    """B-APP-006: values assigned after config_from_object() win."""
    config_module(timezone="loaded")
    app = make_app()
    app.config_from_object("g_config")
    app.conf.timezone = "mine"

    assert app.conf.timezone == "mine"


@pytest.mark.parametrize("early", [True, False])
def test_the_order_of_sources(config_module, early):
    """B-APP-007, B-APP-008: changes, loaded configuration, added defaults, built-in defaults."""
    config_module(task_serializer="loaded", timezone="loaded")
    app = make_app()
    app.config_from_object("g_config")
    if not early:
        assert app.conf.get("my_key") is None
    app.add_defaults({"task_serializer": "added", "my_key": "added"})
    app.add_defaults(lambda: {"my_other": "added"})
    app.conf.timezone = "changed"

    assert app.conf.timezone == "changed"
    assert app.conf.task_serializer == "loaded"
    assert (app.conf.my_key, app.conf.my_other) == ("added", "added")
    assert app.conf.result_serializer == "json"


def test_arguments_of_the_app_win_over_the_source(config_module):
    """B-APP-009: broker and backend of the constructor win."""
    config_module(broker_url="amqp://loaded", result_backend="rpc://")
    app = make_app(broker="memory://", backend="cache+memory://")
    app.config_from_object("g_config")

    assert (app.conf.broker_url, app.conf.result_backend) == ("memory://", "cache+memory://")


def test_other_arguments_of_the_app_are_settings(config_module):
    """B-APP-010: unknown keywords, changes and config_source."""
    config_module(task_serializer="loaded")
    app = make_app(
        foo=1, timezone="Europe/Oslo", changes={"enable_utc": False}, config_source="g_config"
    )

    assert (app.conf.foo, app.conf.timezone, app.conf.enable_utc) == (1, "Europe/Oslo", False)
    assert app.conf.task_serializer == "loaded"


def test_include_of_the_app_is_a_setting():
    """B-APP-011: include ends up in conf.include."""
    assert list(make_app(include=["a", "b"]).conf.include) == ["a", "b"]


def test_a_missing_source_is_an_error_at_the_first_read():
    """B-APP-012: at the first read, not at the call; with force=True at once."""
    app = make_app()
    app.config_from_object("g_missing")
    with pytest.raises(ModuleNotFoundError):
        app.conf.timezone

    with pytest.raises(ModuleNotFoundError):
        make_app().config_from_object("g_missing", force=True)


@pytest.mark.parametrize("force", [True, False])
def test_a_missing_source_may_be_silent(force):
    """B-APP-012: with silent=True it counts as empty, at once or lazily."""
    app = make_app()
    app.config_from_object("g_missing", silent=True, force=force)

    assert app.conf.task_serializer == "json"


@pytest.mark.parametrize("how", ["module", "mapping", "instance", "class", "name", "path", "colon"])
def test_a_source_is_many_things(config_module, how):
    """B-APP-013: module, class, instance, mapping, or the name of one."""
    holder = SimpleNamespace(timezone="UTC")
    module = config_module(timezone="UTC", holder=holder)
    source = {
        "module": module,
        "mapping": {"timezone": "UTC"},
        "instance": holder,
        "class": type("C", (), {"timezone": "UTC"}),
        "name": "g_config",
        "path": "g_config.holder",
        "colon": "g_config:holder",
    }[how]
    app = make_app()
    app.config_from_object(source)

    assert app.conf.timezone == "UTC"


@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_variable_names_itself(monkeypatch, value):
    """B-APP-014: ImproperlyConfigured names the variable and shows an assignment."""
    if value is not None:
        monkeypatch.setenv("G_CONFIG", value)
    app = make_app()

    with pytest.raises(ImproperlyConfigured, match=r"G_CONFIG[\s\S]*G_CONFIG="):
        app.config_from_envvar("G_CONFIG")
    assert app.config_from_envvar("G_CONFIG", silent=True) is False


def test_a_variable_names_the_source(monkeypatch, config_module):
    """B-APP-014: config_from_envvar."""
    config_module(timezone="UTC")
    monkeypatch.setenv("G_CONFIG", "g_config")
    app = make_app()
    app.config_from_envvar("G_CONFIG")

    assert app.conf.timezone == "UTC"


def test_the_time_zone_reads_none_when_unset():
    """B-APP-016: conf.timezone reads None, and schedules behave as UTC."""
    app = make_app()

    assert app.conf.timezone is None
    assert app.timezone.utcoffset(None).total_seconds() == 0


def test_a_pickled_app_keeps_changes_and_configuration(config_module):
    """B-APP-017: keeps its changes and its loaded configuration."""
    config_module(task_serializer="loaded")
    app = make_app()
    app.config_from_object("g_config")
    app.conf.timezone = "Europe/Oslo"
    assert app.conf.task_serializer == "loaded"

    twin = pickle.loads(pickle.dumps(app))

    assert twin.main == "g"
    assert (twin.conf.timezone, twin.conf.task_serializer) == ("Europe/Oslo", "loaded")


def test_the_environment_wins_over_arguments_and_source(monkeypatch, config_module):
    """B-APP-026: over constructor arguments and over the configuration module."""
    config_module(broker_url="amqp://loaded", result_backend="rpc://")
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://env")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "cache+memory://")
    app = make_app(broker="amqp://argument", backend="rpc://")
    app.config_from_object("g_config")

    assert (app.conf.broker_url, app.conf.result_backend) == ("memory://env", "cache+memory://")
    assert app.connection().hostname == "env"


def test_read_and_write_urls_of_the_environment(monkeypatch):
    """B-APP-027: conf.broker_url still shows the argument, connections use the others."""
    monkeypatch.setenv("CELERY_BROKER_READ_URL", "memory://read")
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "memory://write")
    app = make_app(broker="memory://argument")

    assert app.conf.broker_url == "memory://argument"
    assert app.connection_for_read().hostname == "read"
    assert app.connection_for_write().hostname == "write"
    assert app.connection().hostname == "write"


def test_the_old_connection_settings_still_build_a_url():
    """B-LEG-003: BROKER_HOST and the others still build the connection."""
    app = make_app()
    app.config_from_object(
        {
            "BROKER_HOST": "h",
            "BROKER_PORT": 1,
            "BROKER_USER": "u",
            "BROKER_PASSWORD": "p",
            "BROKER_VHOST": "v",
            "BROKER_TRANSPORT": "redis",
        }
    )

    assert app.connection().as_uri() == "redis://u:**@h:1/v"


def test_an_unknown_backend_is_an_error_when_it_is_used():
    """B-APP-030: raises at first access of app.backend, not when configured."""
    app = make_app(backend="nosuchbackend://")
    assert app.conf.result_backend == "nosuchbackend://"

    with pytest.raises(ImportError, match="nosuchbackend"):
        app.backend


def test_an_old_name_set_before_loading_takes_effect():
    """B-APP-035: assigning an old name, before or after configuration is loaded."""
    app = make_app()
    app.conf.CELERY_TASK_SERIALIZER = "yaml"
    assert app.conf.task_serializer == "yaml"

    app.conf.CELERY_TASK_SERIALIZER = "pickle"
    assert app.conf.task_serializer == app.conf["CELERY_TASK_SERIALIZER"] == "pickle"


def test_a_namespace_is_given_with_the_source():
    """B-APP-037: namespace='CELERY' strips CELERY_."""
    app = make_app()
    app.config_from_object({"CELERY_TASK_SERIALIZER": "yaml"}, namespace="CELERY")

    assert app.conf.task_serializer == "yaml"


def test_a_default_is_not_contained_before_loading():
    """B-APP-039: False for a setting that has only its built-in default."""
    app = make_app()

    assert ("task_serializer" in app.conf) is False


def test_setdefault_stores_what_is_missing():
    """B-APP-040: stores when missing; keys with a default of None stay None."""
    app = make_app()
    app.conf.setdefault("my_key", 1)
    assert app.conf.my_key == 1

    app.conf.setdefault("my_key", 2)
    app.conf.setdefault("timezone", "UTC")

    assert (app.conf.my_key, app.conf.timezone) == (1, None)


def test_annotations_change_tasks_when_they_are_bound():
    """B-APP-065: applied when the task is bound; functions become methods."""
    app = make_app(broker="memory://")
    app.conf.task_annotations = {
        "*": {"rate_limit": "1/s", "priority": 1},
        "g.add": {"priority": 2, "shout": lambda self: self.name.upper()},
    }

    @app.task(name="g.add")
    def add(x, y):
        return x + y

    assert (add.rate_limit, add.priority, add.shout()) == ("1/s", 2, "G.ADD")


def test_autodiscovery_waits_for_its_signal(monkeypatch):
    """B-APP-066: waits for import_modules unless force=True."""
    app = make_app()
    found = []
    monkeypatch.setattr(
        app.loader,
        "autodiscover_tasks",
        lambda packages, related_name: found.append(list(packages)),
    )
    app.autodiscover_tasks(["later"])
    app.autodiscover_tasks(["now"], force=True)
    assert app.tasks
    assert found == [["now"]]

    signals.import_modules.send(sender=app)
    assert found == [["now"], ["later"]]


def test_packages_to_search_may_be_a_function(monkeypatch):
    """B-APP-068: packages may be a callable evaluated lazily."""
    app = make_app()
    found = []
    monkeypatch.setattr(
        app.loader,
        "autodiscover_tasks",
        lambda packages, related_name: found.append(list(packages)),
    )
    packages = []
    app.autodiscover_tasks(lambda: packages)
    packages.append("late")
    app.loader.import_default_modules()

    assert found == [["late"]]


@pytest.mark.parametrize("how", ["attribute", "item", "update"])
def test_routes_may_change_at_run_time(how):
    """B-ROUT-010: takes effect for later calls, by any form of assignment."""
    app = make_app(broker="memory://", task_routes={"t": "before"})
    assert app.amqp.router.route({}, "t")["queue"].name == "before"

    if how == "attribute":
        app.conf.task_routes = {"t": "after"}
    elif how == "item":
        app.conf["task_routes"] = {"t": "after"}
    else:
        app.conf.update(task_routes={"t": "after"})

    assert app.amqp.router.route({}, "t")["queue"].name == "after"


def test_setting_routing_options_on_a_task_warns():
    """B-ROUT-011, B-LEG-011: setting routing options as task attributes gives a warning."""
    app = make_app(broker="memory://")
    routed = app.task(nothing, name="g.routed", queue="own")
    with pytest.warns(CDeprecationWarning):
        routed.name

    assert routed.queue == "own"


def test_a_report_names_versions_platform_and_changed_settings():
    """B-CLI-027: software, platform, loader, settings, and the changed settings."""
    app = make_app(broker="amqp://u:hush@h//", backend="redis://:hush@h/1")
    report = app.bugreport().strip().splitlines()

    assert report[0].startswith("software -> celery:")
    assert [line.split()[0] for line in report if "->" in line] == [
        "software",
        "platform",
        "loader",
        "settings",
    ]
    assert "settings -> transport:amqp results:redis://:********@h/1" in report
    blank = report.index("")
    assert "broker_url: 'amqp://u:********@h:5672//'" in report[blank:]
    assert not any("hush" in line for line in report)


def test_a_report_is_made_of_a_broken_set_up_too():
    app = make_app(broker="nosuchtransport://h")

    assert "transport:unusable results:disabled" in app.bugreport()


def test_settings_from_the_command_line_take_effect():
    app = make_app()
    app.config_from_cmdline(["worker.concurrency=(int)4", "task_time_limit=60"])

    assert (app.conf.worker_concurrency, app.conf.task_time_limit) == (4, 60)


def test_a_reference_from_before_loading_still_changes_settings():
    app = make_app()
    conf = app.conf
    assert conf.timezone is None

    conf.timezone = "UTC"
    conf.update(enable_utc=False)

    assert (app.conf.timezone, conf.timezone, app.conf.enable_utc) == ("UTC", "UTC", False)
