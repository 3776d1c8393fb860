"""
Fixtures for pytest.

Named here (``pytest_plugins = ("celery.contrib.pytest",)`` or ``-p celery.contrib.pytest``), a
project's tests get ``celery_app``, ``celery_worker`` and their session-wide twins, made as the
fixtures below say, which a project overrides in its ``conftest.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.worker.worker import WorkController

#: Set in the environment: worker fixtures start no worker, the user runs one.
NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", "celery(**overrides): override settings of the app for this test"
    )


@contextmanager
def _create_app(
    enable_logging: bool = False,
    use_trap: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **config: Any,
) -> Iterator[Celery]:
    # The ping task has to be declared outside of the test, whose declarations are undone.
    from celery.contrib.testing import tasks  # noqa: F401 - declares it
    from celery.contrib.testing.app import TestApp, setup_default_app

    parameters = parameters or {}
    app = TestApp(
        set_as_current=parameters.get("set_as_current", False),
        enable_logging=enable_logging,
        config=config,
        **{name: value for name, value in parameters.items() if name != "set_as_current"},
    )
    with setup_default_app(app, use_trap=use_trap):
        yield app


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Override to return True: tests that use the current app fail."""
    return False


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: dict[str, Any],
    celery_parameters: dict[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """App for the whole session."""
    mark = request.node.get_closest_marker("celery")
    config = {**celery_config, **(mark.kwargs if mark else {})}
    with _create_app(
        enable_logging=celery_enable_logging,
        use_trap=use_celery_app_trap,
        parameters=celery_parameters,
        **config,
    ) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    request: pytest.FixtureRequest,
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: dict[str, Any],
) -> Iterator[WorkController | None]:
    """Worker for the whole session."""
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _running(celery_session_app, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@contextmanager
def _running(app: Celery, pool: Any, parameters: Mapping[str, Any]) -> Iterator[Any]:
    if NO_WORKER:
        yield None
        return
    from celery.contrib.testing import worker

    with worker.start_worker(app, pool=pool, **parameters) as running:
        yield running


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override to return True: apps set logging up as programs do."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Override to name the modules that workers import."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """Override to choose the pool of workers."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    """Override to give settings."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> dict[str, Any]:
    """Override to give arguments of the app's constructor."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Override to give options of workers, as ``queues`` or ``shutdown_timeout``."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Override to name task classes that are registered for the session's worker."""
    return []


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: dict[str, Any],
    celery_parameters: dict[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """App for one test, with the settings of its marker ``celery``."""
    # The marker nearest to the test is iterated over first, and has the last word.
    marks = reversed(list(request.node.iter_markers("celery")))
    config = dict(celery_config)
    for mark in marks:
        config.update(mark.kwargs)
    with _create_app(
        enable_logging=celery_enable_logging,
        use_trap=use_celery_app_trap,
        parameters=celery_parameters,
        **config,
    ) as app:
        yield app


@pytest.fixture
def celery_worker(
    request: pytest.FixtureRequest,
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: dict[str, Any],
) -> Iterator[WorkController | None]:
    """Worker for one test."""
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with _running(celery_app, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """Make the test's app the current one."""
    celery_app.set_current()
