"""Run commands in this process, in a folder of their own, on a broker in memory."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celery import _state
from celery.bin.celery import celery

MODULE = """
    from celery import Celery

    app = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_default_queue = "{queue}"
    app.conf.broker_transport_options = {{"polling_interval": 0.001}}

    @app.task(name="proj.add")
    def add(x, y):
        return x + y
"""

Run = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``proj``; environment and modules are put back."""
    (tmp_path / "proj.py").write_text(
        textwrap.dedent(MODULE).format(queue=f"q-{tmp_path.name}"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules, environ = set(sys.modules), dict(os.environ)
    current, default = _state._tls.current_app, _state.default_app
    finalizers = _state._on_app_finalizers.copy()
    yield tmp_path
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(finalizers)
    for name in set(sys.modules) - modules:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(tmp_path)):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environ)
    _state._set_current_app(current)
    _state.set_default_app(default)


@pytest.fixture
def run(project: Path) -> Run:
    """Run ``celery`` with these words."""

    def invoke(*words: str, input: str | None = None, **env: Any) -> Result:
        return CliRunner().invoke(celery, list(words), input=input, env=env)

    return invoke


@pytest.fixture
def app(project: Path) -> Any:
    import importlib

    return importlib.import_module("proj").app
