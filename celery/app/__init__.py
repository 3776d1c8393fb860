"""The application layer: apps, tasks, routing, publishing, tracing."""

# No ``from __future__ import annotations`` here: it would hide the module of that name.
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import _state
from celery._state import (
    app_or_default,
    disable_trace,
    enable_trace,
    pop_current_task as _pop_current_task,
    push_current_task as _push_current_task,
)
from celery.app._decorators import factory
from celery.local import Proxy

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.utils import AppPickler

__all__ = (
    "AppPickler",
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
    "shared_task",
)

_LAZY = {"Celery": "celery.app.base", "AppPickler": "celery.app.utils"}

#: The app used where none was made: the current one.
default_app: Any = Proxy(_state.get_current_app)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def push_current_task(obj: Any) -> Any:
    """Enter a task on this thread's stack of running tasks."""
    return _push_current_task(obj)


def pop_current_task() -> Any:
    """Leave the innermost running task of this thread."""
    return _pop_current_task()


def bugreport(app: "Celery | None" = None) -> str:
    """Return versions, platform and settings of *app*, by default the current one, as text."""
    return app_or_default(app).bugreport()


@factory
def shared_task(*args: Any, **kwargs: Any) -> Any:
    """Make a task of a function for every app, also those made later; a decorator.

    For libraries, which have no app of their own. The proxy that is returned resolves
    to the task of the current app at each use. Takes the options of `Celery.task`.

    Raises:
        TypeError: It is applied twice to one function.
    """

    def make(**options: Any) -> Callable[[Callable[..., Any]], Any]:
        def wrap(fun: Callable[..., Any]) -> Any:
            if isinstance(fun, Proxy) or hasattr(fun, "__shared_task__"):
                raise TypeError(f"@shared_task was applied more than once to {fun!r}")
            name = options.get("name")
            task_options = {key: value for key, value in options.items() if key != "lazy"}

            def constructor(app: "Celery") -> Any:
                return app._task_from_fun(fun, **task_options)

            # Apps finalized from now on, and those that are finalized already.
            _state.connect_on_app_finalize(constructor)
            for app in _state._get_active_apps():
                if app.finalized:
                    with app._finalize_mutex:
                        app._task_from_fun(fun, **task_options)

            def task_of_current_app() -> Any:
                app = _state.get_current_app()
                return app.tasks[name or app.gen_task_name(fun.__name__, fun.__module__)]

            proxy: Any = Proxy(task_of_current_app)
            # Not every callable takes attributes; those are just not checked.
            with suppress(AttributeError):
                fun.__shared_task__ = True  # type: ignore[attr-defined]
            return proxy

        return wrap

    if len(args) == 1 and callable(args[0]):
        return make(**kwargs)(args[0])
    return make(*args, **kwargs)
