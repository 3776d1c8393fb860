from __future__ import annotations

import os
import sys
from datetime import UTC
from types import SimpleNamespace

import pytest

from celery import signals
from celery.app.utils import detect_settings
from celery.exceptions import ImproperlyConfigured, NotConfigured
from celery.loaders import default, get_loader_cls
from celery.loaders.app import AppLoader
from celery.loaders.base import BaseLoader, autodiscover_tasks, find_related_module
from celery.loaders.default import Loader
from celery.utils.imports import NotAPackage


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("CELERY_CONFIG_MODULE", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("g_") or name == "celeryconfig":
            del sys.modules[name]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write modules to import, and make their folder the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**sources):
        for name, source in sources.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for parent in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / parent / "__init__.py").touch()
            path.write_text(source)
        return tmp_path

    return write


def make_app(**settings):
    return SimpleNamespace(conf=detect_settings(settings))


def loader(cls=AppLoader, **settings):
    return cls(make_app(**settings))


# -- choosing a loader


def test_loaders_are_found_by_alias_path_or_class():
    assert get_loader_cls("app") is AppLoader
    assert get_loader_cls("default") is Loader
    assert get_loader_cls("celery.loaders.app:AppLoader") is AppLoader
    assert get_loader_cls(Loader) is Loader


# -- configuration from an object


@pytest.mark.parametrize("path", ["g_conf", "g_pkg.conf"])
def test_a_module_is_read_by_name(files, path):
    """B-APP-013: "pkg.module"."""
    files(g_conf="timezone = 'UTC'", g_pkg__conf="timezone = 'UTC'")
    found = loader()

    assert found.config_from_object(path) is True
    assert found.conf["timezone"] == "UTC"


@pytest.mark.parametrize("path", ["g_pkg.conf:Production", "g_pkg.conf.Production"])
def test_an_attribute_of_a_module_is_read_by_name(files, path):
    """B-APP-013: "pkg.module.attr" or "pkg.module:attr"."""
    files(g_pkg__conf="class Production:\n    timezone = 'UTC'")
    found = loader()
    found.config_from_object(path)

    assert found.conf["timezone"] == "UTC"


@pytest.mark.parametrize(
    "source",
    [{"timezone": "UTC"}, SimpleNamespace(timezone="UTC"), type("C", (), {"timezone": "UTC"})],
)
def test_mappings_instances_and_classes_are_configuration(source):
    """B-APP-013: a class or instance with attributes, or a mapping."""
    found = loader()
    found.config_from_object(source)

    assert found.conf["timezone"] == "UTC"


@pytest.mark.parametrize("path", ["g_nomod", "g_nomod.x", "g_nomod:x", "os:nope"])
def test_a_missing_configuration_is_an_error_or_silence(path):
    """B-APP-012: with silent=True a missing module counts as empty."""
    found = loader()

    assert found.config_from_object(path, silent=True) is False
    assert found.conf == {}
    with pytest.raises((ImportError, AttributeError)):
        found.config_from_object(path)


def test_a_broken_configuration_is_never_silent(files):
    files(g_conf="import g_not_installed")

    with pytest.raises(ModuleNotFoundError, match="g_not_installed"):
        loader().config_from_object("g_conf", silent=True)


def test_a_configuration_may_override_backends():
    """B-BACK-001: override_backends maps alias to class path."""
    found = loader()
    found.config_from_object({"override_backends": {"db": "x:Y"}})

    assert found.override_backends == {"db": "x:Y"}
    assert BaseLoader.override_backends == {}


# -- configuration from the environment


def test_the_app_loader_reads_the_module_the_environment_names(files, monkeypatch):
    files(g_conf="timezone = 'UTC'")
    assert loader().conf == {}

    monkeypatch.setenv("CELERY_CONFIG_MODULE", "g_conf")
    assert loader().conf["timezone"] == "UTC"


def test_the_default_loader_reads_celeryconfig(files):
    """B-APP-015: with no configuration at all it tries a module called celeryconfig."""
    files(celeryconfig="timezone = 'UTC'")
    found = loader(Loader)

    assert found.conf["timezone"] == "UTC"
    assert found.configured is True


def test_without_celeryconfig_defaults_apply(files, recwarn):
    """B-APP-015: when it is absent, defaults apply silently."""
    files()
    found = loader(Loader)

    assert found.conf == {}
    assert found.configured is False
    assert not recwarn.list


def test_the_default_loader_warns_on_request(files, monkeypatch):
    files()
    monkeypatch.setattr(default, "C_WNOCONF", True)

    with pytest.warns(NotConfigured, match="celeryconfig"):
        loader(Loader).read_configuration()


def test_the_environment_selects_another_module(files, monkeypatch):
    """B-APP-015: CELERY_CONFIG_MODULE selects another module for that loader."""
    files(celeryconfig="timezone = 'UTC'", g_conf="timezone = 'CET'")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "g_conf")

    assert loader(Loader).conf["timezone"] == "CET"


def test_a_module_asked_for_by_name_has_to_exist(files, monkeypatch):
    files()
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "g_typo")

    with pytest.raises(ModuleNotFoundError, match="g_typo"):
        loader(Loader).read_configuration()


def test_a_broken_celeryconfig_is_an_error(files):
    files(celeryconfig="import g_not_installed")

    with pytest.raises(ModuleNotFoundError, match="g_not_installed"):
        loader(Loader).read_configuration()


def test_a_file_name_in_place_of_a_module_name_gets_a_hint(files, monkeypatch):
    files(g_conf="timezone = 'UTC'")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "g_conf.py")

    with pytest.raises(NotAPackage, match="Did you mean 'g_conf'"):
        loader().read_configuration()


# -- task modules


def test_imports_come_before_include_and_each_once():
    """B-APP-069: imports are imported before include."""
    found = loader(imports=("a", "b"), include=["c", "a"])
    found.builtin_modules = frozenset({"z"})

    assert found.default_modules == ("z", "a", "b", "c")
    assert loader(imports="a").default_modules == ("a",)


def test_modules_are_imported_after_the_signal(files):
    """B-APP-069: after the import_modules signal."""
    files(g_tasks="", g_more="")
    found = loader(imports=["g_tasks"], include=["g_more"])
    seen = []

    def receiver(sender, **kwargs):
        seen.append((sender, "g_tasks" in sys.modules))

    signals.import_modules.connect(receiver)
    try:
        modules = found.import_default_modules()
    finally:
        signals.import_modules.disconnect(receiver)

    assert seen == [(found.app, False)]
    assert [module.__name__ for module in modules] == ["g_tasks", "g_more"]
    assert found.task_modules == {"g_tasks", "g_more"}


def test_an_error_of_a_receiver_stops_the_start():
    def receiver(**kwargs):
        raise ModuleNotFoundError("No module named 'g_pkg'")

    signals.import_modules.connect(receiver)
    try:
        with pytest.raises(ModuleNotFoundError, match="g_pkg"):
            loader().import_default_modules()
    finally:
        signals.import_modules.disconnect(receiver)


def test_a_worker_is_initialized_once(files):
    files(g_tasks="")
    calls = []

    class Counting(AppLoader):
        def on_worker_init(self):
            calls.append("init")

        def on_worker_shutdown(self):
            calls.append("shutdown")

        def on_worker_process_init(self):
            calls.append("process")

    found = loader(Counting, imports=["g_tasks"])
    found.init_worker()
    found.init_worker()
    found.init_worker_process()
    found.shutdown_worker()

    assert calls == ["init", "process", "shutdown"]
    assert "g_tasks" in sys.modules


def test_related_modules_are_imported_where_they_exist(files):
    """B-APP-067: imports PACKAGE.related_name; a missing submodule is ignored."""
    files(g_one__tasks="", g_two__other="")
    found = loader()

    found.autodiscover_tasks(["g_one", "g_two"])

    assert found.task_modules == {"g_one.tasks"}
    assert find_related_module("g_two", "other").__name__ == "g_two.other"
    assert autodiscover_tasks(None) == []


@pytest.mark.parametrize("package", ["g_nopkg", "g_one.nopkg"])
def test_a_missing_package_is_an_error(files, package):
    """B-APP-067: a missing package raises ModuleNotFoundError."""
    files(g_one__tasks="")

    with pytest.raises(ModuleNotFoundError):
        autodiscover_tasks([package])


def test_an_import_error_inside_a_related_module_is_an_error(files):
    """B-APP-067: an import error inside the submodule raises ModuleNotFoundError."""
    files(g_one__tasks="import g_not_installed")

    with pytest.raises(ModuleNotFoundError, match="g_not_installed"):
        autodiscover_tasks(["g_one"])


def test_without_a_related_name_the_modules_themselves_are_imported(files):
    """B-APP-068: with related_name=None the named modules themselves are imported."""
    files(g_one__jobs="")

    assert [module.__name__ for module in autodiscover_tasks(["g_one.jobs"], None)] == [
        "g_one.jobs"
    ]


def test_the_path_of_a_class_means_its_package(files):
    files(g_one__apps="class OneConfig: pass", g_one__tasks="")

    assert find_related_module("g_one.apps.OneConfig", "tasks").__name__ == "g_one.tasks"


def test_modules_are_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "g_here.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])

    assert loader().import_task_module("g_here").__name__ == "g_here"


def test_the_clock_of_a_loader_is_aware_in_utc_and_naive_otherwise():
    assert loader().now().tzinfo is UTC
    assert loader().now(utc=False).tzinfo is None


# -- settings from the command line


@pytest.mark.parametrize(
    ("arg", "parsed"),
    [
        ("worker.concurrency=4", {"worker_concurrency": "4"}),
        ("worker_prefetch_multiplier=4", {"worker_prefetch_multiplier": 4}),
        ("task.always_eager=yes", {"task_always_eager": True}),
        ("task_protocol=(int)1", {"task_protocol": 1}),
        ("worker.concurrency=(int)3", {"worker_concurrency": 3}),
        ("enable_utc=off", {"enable_utc": False}),
        (".prefetch_multiplier=2", {"worker_prefetch_multiplier": 2}),
        ("beat.max_loop_interval=0.5", {"beat_max_loop_interval": 0.5}),
        ('task_queues={"q": {}}', {"task_queues": {"q": {}}}),
        ('imports=["a", "b"]', {"imports": ["a", "b"]}),
        ("task_serializer=a=b", {"task_serializer": "a=b"}),
    ],
)
def test_settings_are_read_from_arguments(arg, parsed):
    assert loader().cmdline_config_parser([arg], namespace="worker") == parsed


@pytest.mark.parametrize(
    "arg",
    ["nonsense", "=3", "nosuch.setting=1", "worker_prefetch_multiplier=many", "timezone=(blob)x"],
)
def test_arguments_that_make_no_sense_are_named(arg):
    with pytest.raises(ImproperlyConfigured) as caught:
        loader().cmdline_config_parser([arg])

    assert repr(arg) in str(caught.value)
