from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from celery.utils import imports
from celery.utils.functional import chunks
from celery.utils.imports import (
    NotAPackage,
    cwd_in_path,
    find_module,
    gen_task_name,
    import_from_cwd,
    instantiate,
    load_extension_class_names,
    load_extension_classes,
    module_file,
    qualname,
    reload_from_cwd,
    symbol_by_name,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("found_here", None)


def test_components_are_named_by_text_or_given():
    """B-UTIL-008: ``pkg.module:attr``, ``pkg.module.attr``, or the object itself."""
    assert symbol_by_name("celery.utils.functional:chunks") is chunks
    assert symbol_by_name("celery.utils.functional.chunks") is chunks
    assert symbol_by_name(chunks) is chunks
    assert instantiate("celery.utils.objects:Bunch", a=1).a == 1
    assert instantiate(dict, a=1) == {"a": 1}


def test_things_have_full_names():
    assert qualname(chunks) == "celery.utils.functional.chunks"
    assert qualname(imports.NotAPackage) == "celery.utils.imports.NotAPackage"
    assert qualname(NotAPackage("x")) == "celery.utils.imports.NotAPackage"


def test_the_working_directory_is_searched_for_a_while(here):
    (here / "found_here.py").write_text("value = 1\n")
    assert str(here) not in sys.path

    with cwd_in_path():
        assert sys.path[0] == os.getcwd()
        with cwd_in_path():
            assert sys.path.count(os.getcwd()) == 1
    assert os.getcwd() not in sys.path

    module = import_from_cwd("found_here")
    assert module.value == 1
    assert find_module("found_here") is module
    (here / "found_here.py").write_text("value = 22\n")
    assert reload_from_cwd(module).value == 22
    assert module_file(module) == str(here / "found_here.py")


def test_a_deleted_working_directory_is_no_problem(here):
    here.rmdir()
    with cwd_in_path():
        assert import_from_cwd("json")


def test_what_is_inside_a_plain_module_is_not_found(here):
    (here / "found_here.py").write_text("")
    with pytest.raises(NotAPackage, match="found_here is a module"):
        find_module("found_here.inside")
    with pytest.raises(ModuleNotFoundError):
        find_module("nowhere.inside")


def test_tasks_are_named_after_module_and_function():
    """B-APP-045: module name + function name; the app's name for ``__main__``."""
    named = SimpleNamespace(main="proj")
    nameless = SimpleNamespace(main=None)

    assert gen_task_name(named, "add", "celery.utils") == "celery.utils.add"
    assert gen_task_name(named, "add", "__main__") == "proj.add"
    assert gen_task_name(nameless, "add", "__main__") == "__main__.add"
    assert gen_task_name(named, "add", "not.imported") == "not.imported.add"


def test_without_a_module_the_name_of_the_app_is_used():
    """B-APP-046: for module None the main name is used."""
    assert gen_task_name(SimpleNamespace(main="proj"), "add", None) == "proj.add"


def test_the_script_that_started_us_counts_as_main(monkeypatch):
    module = sys.modules[__name__]
    monkeypatch.setattr(imports, "MP_MAIN_FILE", module.__file__)
    assert gen_task_name(SimpleNamespace(main="proj"), "add", __name__) == "proj.add"


def test_installed_packages_may_register_classes(monkeypatch):
    from importlib import metadata

    entries = [
        metadata.EntryPoint("good", "celery.utils.objects:Bunch", "x"),
        metadata.EntryPoint("bad", "no.such.module:Thing", "x"),
        metadata.EntryPoint("good", "celery.utils.objects:Bunch", "x"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)

    assert dict(load_extension_class_names("x")) == {
        "good": "celery.utils.objects:Bunch",
        "bad": "no.such.module:Thing",
    }
    with pytest.warns(UserWarning, match="'bad'"):
        found = dict(load_extension_classes("x"))
    assert list(found) == ["good"]
