"""
Apps for tests: everything in memory, and nothing left behind in the process.

``TestApp()`` makes an app with an in-memory broker and result store; ``setup_default_app`` puts
the registers of apps back when a test ends, and may set a trap for code that uses the current
app instead of the one it was given.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import _state
from celery.app.base import Celery
from celery.app.log import Logging

#: Settings of test apps, over which those of the test are laid.
DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}


class Trap:
    """Takes the place of the current app and refuses to be one."""

    def __getattr__(self, name: str) -> Any:
        # The machinery around threads and tests looks at such names; users don't.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        raise RuntimeError("Test depends on current_app")


class UnitLogging(Logging):
    """Leaves the logging of the test runner alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.already_setup = True


def TestApp(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: str | None = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celery:
    """
    Return an app for tests.

    Args:
        config: Settings, over :data:`DEFAULT_TEST_CONFIG`.
        enable_logging: Let the app set logging up, as a program does.
        log: Class of its logging otherwise.
    """
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=Logging if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults({**DEFAULT_TEST_CONFIG, **(config or {})})
    return app


# Its name looks like that of a test.
TestApp.__test__ = False  # type: ignore[attr-defined]  # read by pytest


@contextmanager
def set_trap(app: Celery) -> Iterator[None]:
    """Let whoever asks for the current app fall into a trap, in all threads without one."""
    trap: Any = Trap()
    default, current = _state.default_app, _state._tls.current_app
    _state.set_default_app(trap)
    _state._set_current_app(trap)
    try:
        yield
    finally:
        _state.set_default_app(default)
        _state._set_current_app(current)


@contextmanager
def setup_default_app(app: Celery, use_trap: bool = False) -> Iterator[None]:
    """
    Run a test with *app* and put the registers of apps back afterwards.

    Args:
        use_trap: Make the use of the current app an error.
    """
    default, current = _state.default_app, _state._tls.current_app
    finalizers = dict(_state._on_app_finalizers)
    apps = weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        _state.set_default_app(default)
        _state._set_current_app(current)
        if app is not current:
            app.close()
        _state._on_app_finalizers.clear()
        _state._on_app_finalizers.update(finalizers)
        for made in list(_state._apps):
            if made not in apps:
                _state._apps.discard(made)
