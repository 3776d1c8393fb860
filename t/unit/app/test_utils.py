from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace

import pytest

from celery.app import utils
from celery.app.defaults import DEFAULTS
from celery.app.utils import (
    AppPickler,
    Settings,
    detect_settings,
    filter_hidden_settings,
    find_app,
    sanitize_url,
)
from celery.exceptions import CDeprecationWarning, ImproperlyConfigured
from celery.utils.collections import DictAttribute

ENVIRONMENT = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


# -- lookup


def test_run_time_changes_win_over_configuration_over_added_defaults_over_built_in_ones():
    """B-APP-007: the lookup order of a setting."""
    conf = detect_settings({"task_serializer": "loaded", "timezone": "loaded"})
    conf.add_defaults({"task_serializer": "added", "enable_utc": "added", "timezone": "added"})
    conf.timezone = "changed"

    assert conf["timezone"] == "changed"
    assert conf.task_serializer == "loaded"
    assert conf.enable_utc == "added"
    assert conf.result_serializer == "json"


def test_added_defaults_bring_new_settings():
    """B-APP-008: new keys become readable as attributes."""
    conf = detect_settings({})
    conf.add_defaults({"my_key": 1})
    conf.add_defaults(lambda: {"my_other": 2})

    assert (conf.my_key, conf.my_other) == (1, 2)


def test_values_set_before_loading_win():
    """B-APP-005: they are applied on top of the loaded source."""
    assert detect_settings({"timezone": "a"}, {"timezone": "b"}).timezone == "b"


def test_unknown_keys_are_kept():
    """B-APP-038: unknown keys are readable; a missing one is AttributeError or KeyError."""
    conf = detect_settings({"my_key": 1})

    assert conf.my_key == conf["my_key"] == 1
    with pytest.raises(AttributeError):
        conf.nope
    with pytest.raises(KeyError):
        conf["nope"]
    assert conf.get("nope", 3) == 3


def test_with_a_namespace_the_key_error_shows_both_spellings():
    """B-APP-038: the KeyError text shows both the asked and the prefixed key."""
    with pytest.raises(KeyError) as caught:
        detect_settings({}, prefix="CELERY")["nope"]

    assert "'nope'" in str(caught.value)
    assert "'CELERY_NOPE'" in str(caught.value)


def test_a_changed_mutable_default_stays_with_its_app():
    one, other = detect_settings({}), detect_settings({})
    one.beat_schedule["x"] = 1
    one.database_engine_options["pool_size"] = 1

    assert other.beat_schedule == DEFAULTS["beat_schedule"] == {}
    assert "pool_size" not in other.database_engine_options


def test_setdefault_keeps_a_value_that_exists_even_none():
    """B-APP-040: stores when missing; keys with a default of None stay None."""
    conf = detect_settings({})

    assert conf.setdefault("timezone", "UTC") is None
    assert conf.setdefault("my_key", 5) == 5
    assert (conf.timezone, conf.my_key) == (None, 5)


def test_first_gives_the_first_value_that_is_not_none():
    conf = detect_settings({"a": 0})

    assert conf.first("timezone", "a") == 0
    assert conf.first("timezone", "nope") is None


def test_settings_iterate_under_their_own_names():
    conf = detect_settings({"CELERY_TASK_SERIALIZER": "x", "__doc__": "y"}, prefix="CELERY_")
    conf.my_key = 1

    assert set(conf) == set(DEFAULTS) | {"my_key"}
    assert len(conf) == len(DEFAULTS) + 1
    assert dict(conf.items())["task_serializer"] == "x"


def test_a_removed_change_uncovers_what_is_below():
    conf = detect_settings({"timezone": "loaded"})
    conf.update(timezone="a", my_key=1)

    assert conf.pop("timezone") == "a"
    del conf["my_key"]

    assert conf.timezone == "loaded"
    assert "my_key" not in conf
    assert conf.pop("my_key", "none") == "none"
    conf.timezone = "b"
    conf.clear()
    assert conf.timezone == "loaded"


def test_a_copy_has_changes_of_its_own():
    conf = detect_settings({"a": 1}, prefix="CELERY")
    conf.b = 1
    for twin in (conf.copy(), copy.copy(conf)):
        twin.b = 2
        assert (twin.a, twin.prefix) == (1, conf.prefix)
    assert conf.b == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda conf: setattr(conf, "task_routes", {}),
        lambda conf: conf.__setitem__("task_routes", {}),
        lambda conf: conf.update(task_routes={}),
        lambda conf: conf.setdefault("my_key", 1),
        lambda conf: conf.pop("present"),
        lambda conf: conf.__delitem__("present"),
        lambda conf: conf.clear(),
        lambda conf: conf.add_defaults({"x": 1}),
        lambda conf: conf.swap_with(detect_settings({})),
    ],
)
def test_every_change_moves_the_version(change):
    conf = detect_settings({}, {"present": 1})
    before = conf.version

    change(conf)

    assert conf.version > before


def test_reading_does_not_move_the_version():
    conf = detect_settings({})
    before = conf.version
    conf.get("x"), conf.timezone, list(conf), conf.table(), "x" in conf

    assert conf.version == before


def test_swapped_settings_show_the_other_sources():
    conf, other = detect_settings({"a": 1}), detect_settings({"BROKER_URL": "x"})
    conf.swap_with(other)

    assert conf.broker_url == "x"
    assert conf.deprecated_settings == {"BROKER_URL"}


# -- old names


def test_a_configuration_wholly_in_old_names_is_accepted():
    """B-APP-031, B-APP-032: old names keep working; new names give their values."""
    conf = detect_settings(
        {"CELERY_TASK_SERIALIZER": "pickle", "BROKER_URL": "amqp://x", "CELERYD_CONCURRENCY": 3}
    )

    assert conf.task_serializer == "pickle"
    assert conf.broker_url == "amqp://x"
    assert conf.worker_concurrency == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BROKER_URL", "broker_url"),
        ("CELERY_RESULT_BACKEND", "result_backend"),
        ("CELERY_TASK_SERIALIZER", "task_serializer"),
        ("CELERY_RESULT_SERIALIZER", "result_serializer"),
        ("CELERY_ACCEPT_CONTENT", "accept_content"),
        ("CELERY_TIMEZONE", "timezone"),
        ("CELERY_ROUTES", "task_routes"),
        ("CELERY_ANNOTATIONS", "task_annotations"),
        ("CELERY_IMPORTS", "imports"),
        ("CELERY_QUEUES", "task_queues"),
        ("BROKER_POOL_LIMIT", "broker_pool_limit"),
        ("CELERY_IGNORE_RESULT", "task_ignore_result"),
        ("CELERYBEAT_SCHEDULE", "beat_schedule"),
        ("CELERYD_POOL", "worker_pool"),
        ("CELERY_ALWAYS_EAGER", "task_always_eager"),
        ("CELERY_SEND_EVENTS", "worker_send_task_events"),
        ("CELERY_TASK_RESULT_EXPIRES", "result_expires"),
        ("CELERYD_TASK_TIME_LIMIT", "task_time_limit"),
        ("CELERY_EAGER_PROPAGATES_EXCEPTIONS", "task_eager_propagates"),
    ],
)
@pytest.mark.parametrize("how", ["attribute", "item", "update", "before", "loaded"])
def test_an_old_name_takes_effect_under_the_new_one(old, new, how):
    """B-LEG-001, B-LEG-002, B-APP-035: set one by one they take effect on the new names."""
    value = object()
    conf = detect_settings(
        {old: value} if how == "loaded" else {}, {old: value} if how == "before" else {}
    )
    if how == "attribute":
        setattr(conf, old, value)
    elif how == "item":
        conf[old] = value
    elif how == "update":
        conf.update({old: value})

    assert getattr(conf, new) is value
    assert conf[old] is value
    assert getattr(conf, old) is value


def test_old_and_new_names_of_one_setting_change_the_same_value():
    """B-APP-035: assigning an old name changes the value seen under the new one."""
    conf = detect_settings({"BROKER_URL": "loaded"})
    conf.broker_url = "new"
    assert conf.BROKER_URL == "new"
    conf.BROKER_URL = "old"
    assert conf.broker_url == "old"


def test_an_upper_cased_new_name_is_no_alias():
    """B-APP-036: AttributeError."""
    with pytest.raises(AttributeError):
        detect_settings({}).TASK_SERIALIZER


def test_mixing_in_one_source_asks_for_the_new_format_if_that_prevails():
    """B-APP-033, B-LEG-004: the text lists OLD_NAME -> new_name."""
    with pytest.raises(ImproperlyConfigured) as caught:
        detect_settings({"task_serializer": 1, "timezone": 2, "BROKER_URL": 3})

    text = str(caught.value)
    assert "cannot mix old and new setting keys" in text
    assert [line.split() for line in text.splitlines() if "->" in line] == [
        ["BROKER_URL", "->", "broker_url"]
    ]


def test_mixing_in_one_source_offers_the_old_format_if_that_prevails():
    """B-APP-033: the reverse mapping, and all may be changed to the new format."""
    with pytest.raises(ImproperlyConfigured) as caught:
        detect_settings({"CELERY_TASK_SERIALIZER": 1, "BROKER_URL": 3, "timezone": 2})

    text = str(caught.value)
    assert ["timezone", "->", "CELERY_TIMEZONE"] in map(str.split, text.splitlines())
    assert "new format" in text


def test_a_tie_asks_for_the_new_format():
    """B-APP-033: at a tie (1:1) the new format is demanded."""
    with pytest.raises(ImproperlyConfigured, match=r"BROKER_URL +-> broker_url"):
        detect_settings({"task_serializer": 1, "BROKER_URL": 2})


def test_unknown_keys_beside_old_ones_do_not_count():
    """B-APP-033: unknown keys beside old ones do not count."""
    assert detect_settings({"BROKER_URL": "x", "my_key": 1}).my_key == 1


def test_what_the_app_set_itself_does_not_count_as_mixing():
    conf = detect_settings(
        {"BROKER_URL": "x", "result_backend": "y"}, ignore_keys={"result_backend"}
    )

    assert conf.broker_url == "x"


def test_old_names_in_use_give_a_warning():
    """B-APP-034: returns true and warns when old names are in use."""
    conf = detect_settings({"CELERYD_CONCURRENCY": 3})

    with pytest.warns(CDeprecationWarning, match="CELERYD_CONCURRENCY -> worker_concurrency"):
        assert conf.maybe_warn_deprecated_settings() is True
    assert detect_settings({"worker_concurrency": 3}).maybe_warn_deprecated_settings() is False


def test_removed_settings_are_accepted_and_ignored():
    """B-LEG-020: CELERY_SEND_TASK_ERROR_EMAILS is accepted."""
    conf = detect_settings({"CELERY_SEND_TASK_ERROR_EMAILS": True, "BROKER_URL": "x"})

    assert conf.CELERY_SEND_TASK_ERROR_EMAILS is True
    assert conf.deprecated_settings == {"BROKER_URL"}


# -- namespaces


@pytest.mark.parametrize("prefix", ["CELERY", "CELERY_", "MY_APP"])
def test_a_namespace_is_stripped(prefix):
    """B-APP-037: CELERY_TASK_SERIALIZER -> task_serializer; any namespace works the same."""
    name = prefix.rstrip("_")
    source = {f"{name}_TASK_SERIALIZER": "pickle", f"{name}_BROKER_URL": "x", "SECRET_KEY": "s"}
    conf = detect_settings(source, prefix=prefix)

    assert (conf.task_serializer, conf.broker_url) == ("pickle", "x")
    assert conf.deprecated_settings is None


def test_a_lower_case_namespace_needs_lower_case_keys():
    """B-APP-037: a lower-case namespace requires lower-case keys with that prefix."""
    conf = detect_settings({"my_timezone": "a", "MY_ENABLE_UTC": 3}, prefix="my")

    assert conf.timezone == "a"
    assert conf.enable_utc is True


def test_keys_without_the_prefix_still_count():
    """B-APP-037: with a mapping as source, keys without the prefix were still honoured."""
    conf = detect_settings(
        {"task_track_started": True, "BROKER_URL": "x", "CELERYD_CONCURRENCY": 4}, prefix="CELERY"
    )

    assert (conf.task_track_started, conf.broker_url, conf.worker_concurrency) == (True, "x", 4)


def test_the_table_of_a_namespace_shows_no_settings_of_others():
    conf = detect_settings({"CELERY_MY_KEY": 1, "INSTALLED_APPS": [], "DEBUG": 1}, prefix="CELERY")

    assert set(conf.table()) == {"deprecated_settings", "my_key"}


# -- settings that follow others or the environment


def test_the_environment_wins_over_configuration(monkeypatch):
    """B-APP-026: CELERY_BROKER_URL and CELERY_RESULT_BACKEND win."""
    conf = detect_settings({"broker_url": "a", "result_backend": "b"}, {"broker_url": "c"})
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "rpc://")

    assert (conf.broker_url, conf.result_backend) == ("redis://env", "rpc://")


def test_read_and_write_urls_fall_back_to_the_broker_url(monkeypatch):
    """B-APP-027, B-APP-028: and the environment overrides each of them."""
    conf = detect_settings({"broker_url": "a"})
    assert (conf.broker_read_url, conf.broker_write_url) == ("a", "a")

    conf.update(broker_read_url="r", broker_write_url="w")
    assert (conf.broker_read_url, conf.broker_write_url) == ("r", "w")

    monkeypatch.setenv("CELERY_BROKER_READ_URL", "er")
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "ew")
    assert (conf.broker_read_url, conf.broker_write_url, conf.broker_url) == ("er", "ew", "a")


def test_the_default_exchange_and_routing_key_follow_the_default_queue():
    conf = detect_settings({"task_default_queue": "d"})
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("d", "d")

    conf.update(task_default_exchange="e", task_default_routing_key="k")
    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("e", "k")


def test_the_time_zone_is_none_or_that_of_django():
    """B-APP-016, B-DJ-003: None when unset; TIME_ZONE of a Django configuration."""
    assert detect_settings({}).timezone is None
    assert detect_settings({"TIME_ZONE": "Europe/Oslo"}, prefix="CELERY").timezone == "Europe/Oslo"


# -- questions


def test_a_value_is_set_if_any_source_but_the_built_in_defaults_has_it():
    conf = detect_settings({"CELERY_TIMEZONE": "x"}, prefix="CELERY")
    conf.add_defaults({"enable_utc": True})

    assert conf.value_set_for("timezone")
    assert conf.value_set_for("enable_utc")
    assert not conf.value_set_for("task_serializer")
    assert "task_serializer" not in conf.without_defaults()
    assert conf.without_defaults()["timezone"] == "x"


def test_values_are_found_by_parts_of_names():
    conf = detect_settings({"result_extended": True})

    assert conf.find_value_for_key("extended", "result") is True
    assert conf.find_value_for_key("timezone") is None
    assert conf.get_by_parts("task", "", "serializer") == "json"
    assert conf.find_option("concurrency", "worker").namespace == "worker"


def test_a_view_says_contains_only_for_what_its_sources_have():
    conf = detect_settings({})

    assert "task_serializer" in conf
    assert "CELERY_TASK_SERIALIZER" in conf
    assert "nope" not in conf
    assert None not in conf


# -- showing settings


def test_the_table_shows_changed_settings():
    """B-APP-041: changed values, and the pseudo key deprecated_settings."""
    conf = detect_settings({"task_track_started": True})
    conf.timezone = "UTC"

    assert conf.table() == {
        "deprecated_settings": None,
        "task_track_started": True,
        "timezone": "UTC",
    }
    assert len(conf.table(with_defaults=True)) == len(DEFAULTS) + 1


def test_humanized_settings_stand_one_to_a_line():
    """B-APP-041: one `key: repr` per line."""
    conf = detect_settings({"task_track_started": True, "timezone": "UTC"})

    assert conf.humanize().splitlines() == [
        "deprecated_settings: None",
        "task_track_started: True",
        "timezone: 'UTC'",
    ]


def test_imports_of_a_configuration_module_are_not_shown():
    module = ModuleType("conf")
    module.sys, module._private, module.timezone = sys, 1, "UTC"

    assert set(detect_settings(DictAttribute(module)).table()) == {
        "deprecated_settings",
        "timezone",
    }


@pytest.mark.parametrize(
    "key",
    ["my_api", "TOKEN", "my_KEY", "passphrase", "a_Secret", "signature", "database_url"],
)
def test_secrets_are_masked_by_their_name(key):
    """B-APP-042: masked when the key contains one of these words, in any case."""
    assert filter_hidden_settings({key: "hush"}) == {key: "********"}
    assert filter_hidden_settings({key: 3}) == {key: 3}


def test_bytes_and_nested_values_are_masked_too():
    found = filter_hidden_settings(
        {"security_key_password": b"x", "database_engine_options": {"echo": True, "password": "x"}}
    )

    assert found == {
        "security_key_password": "********",
        "database_engine_options": {"echo": True, "password": "********"},
    }


def test_urls_stay_visible_without_their_password():
    """B-APP-043, B-SEC-012: only the password is replaced."""
    conf = detect_settings(
        {
            "broker_url": "amqp://u:hush@h:5673/v",
            "broker_read_url": ["amqp://u:hush@a//", "amqp://u:hush@b//"],
            "result_backend": "db+postgresql://u:hush@h/d",
        }
    )

    assert conf.table() == {
        "deprecated_settings": None,
        "broker_url": "amqp://u:********@h:5673/v",
        "broker_read_url": ["amqp://u:********@a//", "amqp://u:********@b//"],
        "result_backend": "db+postgresql://u:********@h/d",
    }
    assert "hush" in conf.humanize(censored=False)


def test_shown_broker_urls_have_ports_and_virtual_hosts():
    """B-APP-044: default ports and virtual hosts are added."""
    assert filter_hidden_settings({"broker_url": "redis://h"}) == {"broker_url": "redis://h:6379//"}


@pytest.mark.parametrize("url", ["nosuchtransport://u:p@h", "amqp://u:p@h:port/"])
def test_a_url_nobody_understands_is_still_shown_without_its_password(url):
    assert filter_hidden_settings({"broker_url": url}) == {
        "broker_url": url.replace(":p@", ":********@")
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/0", "redis://h/0"),
        ("redis://:p@h/0", "redis://:**@h/0"),
        ("redis://u@h/0", "redis://u@h/0"),
        ("amqp://u:p@ss/w@h//", "amqp://u:**@h//"),
        ("amqp://u:p@a//;amqp://u:p@b//", "amqp://u:**@a//;amqp://u:**@b//"),
        ("redis://h/0?password=p&db=1", "redis://h/0?password=**&db=1"),
        ("rpc://", "rpc://"),
        ("no url", "no url"),
        (None, None),
        (("redis://:p@h",), ("redis://:**@h",)),
    ],
)
def test_passwords_in_urls_are_masked(url, shown):
    """B-SEC-012: passwords in URLs are masked."""
    assert sanitize_url(url, mask="**") == shown


def test_the_mask_has_eight_stars():
    assert sanitize_url("redis://:p@h") == "redis://:********@h"


# -- apps


def test_an_app_is_named_by_main_and_address():
    app = SimpleNamespace(main="proj")
    assert utils.appstr(app) == f"proj:{id(app):#x}"
    assert utils.appstr(SimpleNamespace(main=None)).startswith("__main__:0x")


def test_the_pickler_makes_the_app_and_applies_its_changes():
    made = {}

    class FakeApp:
        def __init__(self, **kwargs):
            made.update(kwargs)
            self.conf = detect_settings({})

    app = AppPickler()(FakeApp, "main", {"timezone": "UTC"}, *[None] * 7, "proj.conf")

    assert app.conf.timezone == "UTC"
    assert (made["main"], made["config_source"], made["set_as_current"]) == (
        "main",
        "proj.conf",
        False,
    )


class Celery:
    """Looks like an app to `find_app`."""


Celery.__module__ = "celery.app.base"


@pytest.fixture
def modules(monkeypatch):
    """Make modules that can be imported; a dict of names marks a package."""

    def make(name, package=False, **names):
        module = ModuleType(name)
        vars(module).update(names)
        if package:
            module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make


def test_an_app_is_named_by_its_attribute(modules):
    """B-CLI-005: module:attr and module.attr."""
    mine = Celery()
    modules("g_proj", mine=mine, app=Celery())

    assert find_app("g_proj:mine") is mine
    assert find_app("g_proj.mine") is mine


def test_a_plain_module_offers_app_before_celery(modules):
    """B-CLI-005: attribute app, then celery."""
    app, celery = Celery(), Celery()
    modules("g_proj", app=app, celery=celery)
    modules("g_other", celery=celery)

    assert find_app("g_proj") is app
    assert find_app("g_other") is celery


def test_an_attribute_app_of_another_kind_is_passed_over(modules):
    celery = Celery()
    modules("g_proj", app=object(), celery=celery)

    assert find_app("g_proj") is celery


def test_a_package_offers_its_celery_module(modules):
    """B-CLI-005: then for a package its celery submodule."""
    app = Celery()
    modules("g_proj", package=True)
    modules("g_proj.celery", app=app)

    assert find_app("g_proj") is app


def test_a_module_within_a_package_is_found_by_its_dotted_name(modules):
    app = Celery()
    modules("g_proj", package=True)
    modules("g_proj.tasks", app=app)

    assert find_app("g_proj.tasks") is app
    assert find_app("g_proj.tasks:app") is app


def test_any_app_in_a_module_will_do(modules):
    """B-CLI-005: then any Celery instance in the module."""
    queue = Celery()
    modules("g_proj", queue=queue, other=object())

    assert find_app("g_proj") is queue


def test_a_module_without_app_says_so(modules):
    """B-CLI-005: Module 'x' has no attribute 'celery'."""
    modules("g_proj", package=True)

    with pytest.raises(AttributeError, match="Module 'g_proj' has no attribute 'celery'"):
        find_app("g_proj")


@pytest.mark.parametrize("name", ["g_nomod", "g_nomod:app", "g_nomod.app", "g_proj:nope"])
def test_what_does_not_exist_is_not_found(modules, name):
    """B-CLI-006: a missing module, a missing attribute."""
    modules("g_proj")

    with pytest.raises(ModuleNotFoundError):
        find_app(name)


def test_settings_are_made_of_plain_sources():
    conf = Settings({"a": 1}, [{"b": 2}])

    assert (conf.a, conf.b, conf.deprecated_settings) == (1, 2, None)
