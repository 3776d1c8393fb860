"""The process-wide registers: which apps exist, which is current, which task runs.

This is one of the four doors through which lower layers look upward: everything
else is handed its app. Apps are held weakly, the current app per thread, and the
stack of running tasks per thread (per greenlet where one is patched in).

Set ``CELERY_TRACE_APP=1`` in the environment to make every fall-back to the
current or default app an error, which finds code that forgot to pass its app.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery.local import Proxy
from celery.utils.threads import LocalStack

if TYPE_CHECKING:
    from celery.app.base import Celery
    from celery.app.task import Task

__all__ = (
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
)

#: App used by threads that never set one; made on demand by `get_current_app`.
default_app: Celery | None = None

_apps: weakref.WeakSet[Celery] = weakref.WeakSet()
#: In the order of declaration: of two tasks that want one name, the first has it everywhere.
_on_app_finalizers: dict[Callable[[Any], Any], None] = {}
_task_join_will_block = False
_task_stack: LocalStack[Task] = LocalStack()
_awaits_freely: ContextVar[bool] = ContextVar("awaits_freely", default=False)


class _ThreadState(threading.local):
    current_app: Celery | None = None
    #: What this thread says in place of the process; None for nothing.
    join_will_block: bool | None = None


_tls = _ThreadState()


def connect_on_app_finalize(callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Call *callback* with every app that is finalized from now on; also a decorator."""
    _on_app_finalizers[callback] = None
    return callback


def _announce_app_finalized(app: Celery) -> None:
    for callback in tuple(_on_app_finalizers):
        callback(app)


def _set_task_join_will_block(blocks: bool) -> None:
    global _task_join_will_block  # noqa: PLW0603 - one register per process, by design
    _task_join_will_block = blocks


def task_join_will_block() -> bool:
    """Say whether waiting for a result here would occupy a slot of the pool."""
    own = _tls.join_will_block
    return _task_join_will_block if own is None else own


@contextmanager
def join_will_block(blocks: bool) -> Iterator[None]:
    """Let the calling thread alone say whether waiting for a result blocks, for a while."""
    before, _tls.join_will_block = _tls.join_will_block, blocks
    try:
        yield
    finally:
        _tls.join_will_block = before


def may_await() -> bool:
    """Say whether awaiting a result here leaves the pool free to do other things meanwhile."""
    return _awaits_freely.get()


def _allow_awaiting() -> None:
    """Let coroutines of the present context await results, whatever holds for their thread."""
    _awaits_freely.set(True)


def set_default_app(app: Celery | None) -> None:
    """Make *app* what threads without a current app fall back to."""
    global default_app  # noqa: PLW0603 - one register per process, by design
    default_app = app


def _set_current_app(app: Celery | None) -> None:
    _tls.current_app = app


def _make_default_app() -> Celery:
    from celery.app.base import Celery

    app = Celery(
        "default",
        fixups=[],
        set_as_current=False,
        loader=os.environ.get("CELERY_LOADER") or "default",
    )
    set_default_app(app)
    return app


def _get_current_app() -> Celery:
    app = _tls.current_app
    if app is not None:
        return app
    return default_app if default_app is not None else _make_default_app()


def _get_current_app_strictly() -> Celery:
    raise RuntimeError(
        "The current app was asked for, and CELERY_TRACE_APP forbids that: "
        "pass the app explicitly (see the traceback for who asked)."
    )


def _app_or_default(app: Celery | None = None) -> Celery:
    return _get_current_app() if app is None else app


def _app_or_default_strictly(app: Celery | None = None) -> Celery:
    return _get_current_app_strictly() if app is None else app


_strict = bool(os.environ.get("CELERY_TRACE_APP"))


def get_current_app() -> Celery:
    """Return the app of this thread, else the default app, which is made on demand."""
    return _get_current_app_strictly() if _strict else _get_current_app()


def app_or_default(app: Celery | None = None) -> Celery:
    """Return *app*, or the current app when it is None.

    Raises:
        RuntimeError: *app* is None and ``CELERY_TRACE_APP`` is set.
    """
    return _app_or_default_strictly(app) if _strict else _app_or_default(app)


def enable_trace() -> None:
    """Make falling back to the current app an error from now on."""
    global _strict  # noqa: PLW0603 - one register per process, by design
    _strict = True


def disable_trace() -> None:
    """Allow falling back to the current app again."""
    global _strict  # noqa: PLW0603 - one register per process, by design
    _strict = False


def get_current_task() -> Task | None:
    """Return the task that runs in this thread, or None outside of tasks."""
    return _task_stack.top


def get_current_worker_task() -> Task | None:
    """Return the innermost task that a worker started, skipping direct calls made by it."""
    started = (task for task in reversed(_task_stack.stack) if not task.request.called_directly)
    return next(started, None)


def push_current_task(task: Task) -> Any:
    """Enter *task* on this thread's stack of running tasks."""
    return _task_stack.push(task)


def pop_current_task() -> Task | None:
    """Leave the innermost running task of this thread and return it."""
    return _task_stack.pop()


def _register_app(app: Celery) -> None:
    _apps.add(app)


def _deregister_app(app: Celery) -> None:
    _apps.discard(app)


def _get_active_apps() -> Iterable[Celery]:
    return list(_apps)


#: The app of the calling thread.
current_app: Any = Proxy(get_current_app)

#: The running task of the calling thread; a false proxy of None outside of tasks.
current_task: Any = Proxy(get_current_task)
