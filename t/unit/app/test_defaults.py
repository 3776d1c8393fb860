from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from celery.app import defaults
from celery.app.defaults import DEFAULTS, NAMESPACES, Namespace, Option, find, flatten
from celery.exceptions import CDeprecationWarning


def test_the_table_names_every_setting_once():
    names = [row[0] for row in defaults._TABLE]
    old = [row[3] for row in defaults._TABLE]

    assert len(set(names)) == len(names) == len(DEFAULTS)
    assert len(set(old)) == len(old)
    assert all(name == name.lower() for name in names)
    assert all(name == name.upper() for name in old)
    assert not set(names) & set(old)


def test_flattened_namespaces_give_the_names_and_defaults_of_the_table():
    assert {name: option.default for name, option in flatten(NAMESPACES)} == DEFAULTS


def test_every_default_fits_its_type_or_is_none():
    for name, option in flatten(NAMESPACES):
        assert option.type in Option.typemap, name


def test_a_group_of_settings_can_be_flattened_under_a_root():
    tree = {"x": Option(1), "sub": {"y": Option(2)}}

    assert [name for name, _ in flatten(tree)] == ["x", "sub_y"]
    assert [name for name, _ in flatten(tree, "r")] == ["r_x", "r_sub_y"]


def test_flatten_names_by_the_filter_given():
    def upper(namespace, key, option):
        return [((namespace + key).upper(), option)]

    assert [name for name, _ in flatten({"a": {"b": Option()}}, keyfilter=upper)] == ["A_B"]


@pytest.mark.parametrize(
    ("name", "type", "old"),
    [
        ("CELERY_RESULT_DBURI", "string", "database_url"),
        ("CELERYD_CONCURRENCY", "any", "worker_concurrency"),
        ("CELERYBEAT_SCHEDULE", "dict", "beat_schedule"),
        ("BROKER_URL", "string", "broker_url"),
        ("CELERY_TASK_RESULT_EXPIRES", "float", "result_expires"),
    ],
)
def test_old_names_lead_to_new_ones(name, type, old):
    assert defaults.OLD_TO_NEW[name] == old
    assert defaults.NEW_TO_OLD[old] == name
    assert find(old).type.type == type


@pytest.mark.parametrize(
    ("name", "namespace", "found"),
    [
        ("concurrency", "worker", ("worker", "concurrency")),
        ("worker_concurrency", "celery", ("worker", "concurrency")),
        ("extended", "result", ("result", "extended")),
        ("timezone", "celery", ("", "timezone")),
        ("always_eager", "celery", ("task", "always_eager")),
        ("beat", "celery", ("beat", None)),
    ],
)
def test_a_setting_is_found_by_its_name_or_the_last_part_of_it(name, namespace, found):
    assert find(name, namespace)[:2] == found


def test_an_unknown_setting_is_a_key_error():
    with pytest.raises(KeyError, match="nope"):
        find("nope")


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        ("string", 3, "3"),
        ("int", "42", 42),
        ("float", "0.5", 0.5),
        ("bool", "yes", True),
        ("bool", "off", False),
        ("any", "x", "x"),
        ("bytes", "key", b"key"),
        ("list", "ab", ["a", "b"]),
    ],
)
def test_options_convert_text(type, text, value):
    assert Option(None, type=type).to_python(text) == value


def test_an_option_tells_its_type_and_default():
    assert repr(Option(3, type="int")) == "<Option: type=int default=3>"
    assert Option().type == "string"
    assert Option("x", alt="other").alt == "other"


def test_a_namespace_gives_its_options_old_names():
    group = Namespace(defaults.old_ns("celeryd"), pool=Option(), own=Option(old={"mine"}))

    assert group["pool"].old == {"celeryd_pool"}
    assert group["own"].old == {"mine"}


def test_setting_a_deprecated_name_warns_with_the_way_out():
    with pytest.warns(CDeprecationWarning, match="task_acks_on_failure and task_acks_on_timeout"):
        defaults.find_deprecated_settings(SimpleNamespace(task_acks_on_failure_or_timeout=True))


def test_some_defaults_people_rely_on():
    assert DEFAULTS["result_expires"] == timedelta(days=1)
    assert DEFAULTS["task_serializer"] == "json"
    assert DEFAULTS["worker_prefetch_multiplier"] == 4
    assert DEFAULTS["accept_content"] == ("json",)


def test_every_setting_is_documented():
    page = Path(__file__).parents[3] / "docs" / "userguide" / "configuration.rst"
    documented = re.findall(r"^\.\. setting:: (\w+)$", page.read_text(), re.MULTILINE)

    assert sorted(documented) == sorted(DEFAULTS)
