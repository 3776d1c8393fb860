from __future__ import annotations

from types import SimpleNamespace

import pytest

from celery.app import backends
from celery.exceptions import ImproperlyConfigured


class Mine:
    pass


def test_the_scheme_of_a_url_selects_the_backend(monkeypatch):
    """B-BACK-001: the URL scheme selects the back-end, and the URL goes to it."""
    monkeypatch.setitem(backends.BACKEND_ALIASES, "mine", f"{__name__}:Mine")

    assert backends.by_url("mine://u:p@h/1") == (Mine, "mine://u:p@h/1")


def test_a_compound_scheme_leaves_the_rest_for_the_backend(monkeypatch):
    """B-BACK-001: scheme+rest for compound ones."""
    monkeypatch.setitem(backends.BACKEND_ALIASES, "db", f"{__name__}:Mine")

    assert backends.by_url("db+sqlite:///f") == (Mine, "sqlite:///f")
    assert backends.by_url("db+mysql+pymysql://h/d") == (Mine, "mysql+pymysql://h/d")


@pytest.mark.parametrize("name", [f"{__name__}:Mine", f"{__name__}.Mine", Mine])
def test_a_backend_is_also_a_path_or_a_class(name):
    """B-BACK-001: a dotted class path is accepted, and a class."""
    assert backends.by_url(name) == (Mine, None)


def test_the_loader_may_override_aliases():
    """B-BACK-001: override_backends maps alias to class path."""
    loader = SimpleNamespace(override_backends={"redis": f"{__name__}:Mine"})

    assert backends.by_url("redis://h", loader) == (Mine, "redis://h")


def test_other_packages_offer_backends_by_entry_point(monkeypatch):
    """B-DJ-011: the entry-point group celery.result_backends extends the aliases."""
    asked = []

    def entry_points(namespace):
        asked.append(namespace)
        return iter([("django-db", f"{__name__}:Mine")])

    monkeypatch.setattr(backends, "load_extension_class_names", entry_points)

    assert backends.by_name("django-db") is Mine
    assert asked == ["celery.result_backends"]


def test_an_unknown_scheme_is_treated_as_a_module():
    """B-APP-030: a ModuleNotFoundError for the scheme treated as a module path."""
    with pytest.raises(ModuleNotFoundError, match="nosuchbackend"):
        backends.by_url("nosuchbackend://")


def test_a_module_is_no_backend():
    """B-BACK-002: the old name amqp leads to a module, which the error says."""
    with pytest.raises(ImproperlyConfigured, match="is a Python module, not a backend class"):
        backends.by_url("amqp://guest@localhost//")


def test_every_alias_leads_to_a_module_of_ours():
    assert all(path.startswith("celery.backends.") for path in backends.BACKEND_ALIASES.values())
    assert backends.BACKEND_ALIASES["rpc"] == "celery.backends.rpc.RPCBackend"
