"""The tasks of an app: declaring, naming, registering and finding them.

A declaration makes a promise, which is kept when the registry is first looked at
(`Registration.finalize`): by then the app is configured, and shared tasks of other apps and
of the package itself are known.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from celery import _state, signals
from celery.app._decorators import factory_method
from celery.app.autoretry import add_autoretry_behaviour
from celery.exceptions import DuplicateTaskNameWarning
from celery.local import PromiseProxy, maybe_evaluate
from celery.utils import functional
from celery.utils.imports import gen_task_name

if TYPE_CHECKING:
    import inspect
    from types import FrameType

    from celery.app.base import Celery
    from celery.app.registry import TaskRegistry
    from celery.app.task import Task

W_DUPTASK = (
    "The task name {name!r} is already taken by {existing}; {new} is ignored. "
    "Give one of them another name."
)


def frame_is_celery(frame: FrameType) -> bool:
    """Say whether *frame* runs code of this package."""
    name = frame.f_globals.get("__name__", "")
    return name == "celery" or str(name).startswith("celery.")


def caller_stacklevel() -> int:
    """Return the ``stacklevel`` of `warnings.warn` that points at the first caller outside."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame_is_celery(frame):
        frame, level = frame.f_back, level + 1
    return level


def task_callable_qualname(task: Any) -> str:
    """Return where the function behind a task, or a function, is defined."""
    fun = getattr(task, "__wrapped__", None) or getattr(task, "run", None) or task
    fun = getattr(fun, "__func__", fun)
    return f"{getattr(fun, '__module__', '?')}.{getattr(fun, '__qualname__', repr(fun))}"


def pydantic_wrapper(
    app: Celery,
    task_fun: Callable[..., Any],
    task_name: str,
    strict: bool = True,
    context: dict[str, Any] | None = None,
    dump_kwargs: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Return *task_fun* with models as arguments and return value; see `celery.app._pydantic`."""
    from celery.app import _pydantic

    return _pydantic.wrap(app, task_fun, task_name, strict, context, dump_kwargs)


class Registration:
    """What `celery.Celery` offers to declare tasks; mixed into it."""

    if TYPE_CHECKING:
        Task: Any
        autofinalize: bool
        finalized: bool
        loader: Any
        on_after_finalize: Any
        _finalize_mutex: Any
        _finalizing: bool
        _fixups: list[Any] | None
        _pending: deque[PromiseProxy]
        _tasks: TaskRegistry

    @factory_method
    def task(self, *args: Any, **opts: Any) -> Any:
        """Make a task of a function; a decorator, with or without options.

        Options become attributes of the task's class, for example ``bind``, ``base``,
        ``name``, ``autoretry_for``, ``rate_limit``, ``acks_late``, ``serializer``,
        ``pydantic``; ``shared=False`` keeps the task out of other apps; ``lazy=False``
        makes it at once.

        Raises:
            TypeError: It is not applied to one callable.
        """

        def decorator(
            shared: bool = True,
            filter: Callable[[Any], Any] | None = None,
            lazy: bool = True,
            **options: Any,
        ) -> Callable[[Callable[..., Any]], Any]:
            def make(fun: Callable[..., Any]) -> Any:
                if shared:
                    # Other apps get a task of their own when they are finalized.
                    def constructor(app: Celery) -> Any:
                        return app._task_from_fun(fun, **options)

                    constructor.__name__ = getattr(fun, "__name__", "task")
                    _state.connect_on_app_finalize(constructor)
                made = (
                    self._promise_task(fun, options)
                    if lazy and not self.finalized
                    else self._task_from_fun(fun, **options)
                )
                return filter(made) if filter else made

            return make

        if len(args) == 1:
            if callable(args[0]):
                return decorator(**opts)(*args)
            raise TypeError("argument 1 to @task() must be a callable")
        if args:
            raise TypeError(f"@task() takes exactly 1 argument ({len(args) + len(opts)} given)")
        return decorator(**opts)

    def _promise_task(self, fun: Callable[..., Any], options: dict[str, Any]) -> Any:
        doc = getattr(fun, "__doc__", None)
        promise = PromiseProxy(self._task_from_fun, (fun,), options, __doc__=doc)
        self._pending.append(promise)
        if self.finalized:
            # Another thread finalized the app since that was looked at.
            maybe_evaluate(promise)
        return promise

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Any:
        """Return a function that fails on arguments that *fun* would not take."""
        return staticmethod(functional.head_from_fun(fun, bound=bound))

    def _task_from_fun(self, fun: Callable[..., Any], *args: Any, **options: Any) -> Task:
        # Several threads may be the first to use a task that is declared lazily.
        with self._finalize_mutex:
            return self._make_task(fun, *args, **options)

    def _make_task(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: Any = None,
        bind: bool = False,
        pydantic: bool = False,
        pydantic_strict: bool = False,
        pydantic_context: dict[str, Any] | None = None,
        pydantic_dump_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Task:
        if not (self.finalized or self._finalizing or self.autofinalize):
            raise RuntimeError("Contract breach: app not finalized")
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        base = base or self.Task
        existing: Task | None = self._tasks.get(name)
        if existing is not None:
            if not _same_function(existing, fun):
                warnings.warn(
                    W_DUPTASK.format(
                        name=name,
                        existing=task_callable_qualname(existing),
                        new=task_callable_qualname(fun),
                    ),
                    DuplicateTaskNameWarning,
                    stacklevel=caller_stacklevel(),
                )
            return existing
        body = fun
        if pydantic:
            body = pydantic_wrapper(
                cast("Celery", self),
                fun,
                name,
                pydantic_strict,
                pydantic_context,
                pydantic_dump_kwargs,
            )
        attributes = {
            "name": name,
            "run": body if bind else staticmethod(body),
            "_decorated": True,
            "__doc__": fun.__doc__,
            "__module__": fun.__module__,
            "__annotations__": getattr(fun, "__annotations__", {}),
            "__header__": self.type_checker(fun, bound=bind),
            "__wrapped__": fun if bind else staticmethod(fun),
            "__signature__": _public_signature(fun, bound=bind),
            "__models__": getattr(body, "__models__", None),
            **options,
        }
        cls: Any = type(fun.__name__, (base,), attributes)
        cls._app = self
        cls.warn_of_routing_attributes(options)
        task: Task = cls()
        # Tools that describe functions ask the instance for it.
        task.__dict__["__qualname__"] = getattr(fun, "__qualname__", fun.__name__)
        self._tasks[name] = task
        cls.bind(self)
        add_autoretry_behaviour(task, **options)
        return task

    def register_task(self, task: Any, **options: Any) -> Task:
        """Register an instance, or the class, of a class-based task.

        Returns:
            The registered instance.
        """
        task = task() if isinstance(task, type) else task
        if not task.name:
            cls = type(task)
            task.name = self.gen_task_name(cls.__name__, cls.__module__)
        add_autoretry_behaviour(task, **options)
        self.tasks[task.name] = task
        task._app = self
        type(task).bind(self)
        return task

    def gen_task_name(self, name: str, module: str) -> str:
        """Return the name of a task that states none; override it for a scheme of your own."""
        return gen_task_name(self, name, module)

    def finalize(self, auto: bool = False) -> None:
        """Create every declared task and bind it; done once, on first use of `tasks`.

        Raises:
            RuntimeError: *auto* is true, and the app was made with ``autofinalize=False``.
        """
        if self.finalized:
            return
        app = cast("Celery", self)
        with self._finalize_mutex:
            if self._finalizing or self._is_finalized():
                # The first: a task's declaration asks for the registry that is being filled.
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self._finalizing = True
            try:
                _state._announce_app_finalized(app)
                self._evaluate_pending()
                for task in list(self._tasks.values()):
                    type(task).bind(app)
                # Only now: other threads take the registry as it is from here on.
                self.finalized = True
                self._evaluate_pending()
            finally:
                self._finalizing = False
            self.on_after_finalize.send(sender=self)

    def _is_finalized(self) -> bool:
        return self.finalized

    def _evaluate_pending(self) -> None:
        pending = self._pending
        while pending:
            # Taken off afterwards, so that a declaration that fails does so again next time.
            maybe_evaluate(pending[0])
            pending.popleft()

    @property
    def tasks(self) -> TaskRegistry:
        """The registry; reading it finalizes the app."""
        if not self.finalized:
            self.finalize(auto=True)
        return self._tasks

    def autodiscover_tasks(
        self, packages: Any = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Import the module *related_name* of each package when task modules are imported.

        Args:
            packages: Names, or a callable that returns them; None asks the fixups
                (with Django: all installed apps).
            related_name: None imports the packages themselves.
            force: Import now, not when a worker starts.
        """
        if force:
            self._autodiscover_tasks(packages, related_name)
            return
        signals.import_modules.connect(
            functools.partial(_discover, self, packages, related_name), weak=False, sender=self
        )

    def _autodiscover_tasks(self, packages: Any, related_name: str | None) -> list[Any]:
        if packages:
            names = packages() if callable(packages) else packages
        else:
            found: list[str] = []
            for fixup in self._fixups or ():
                autodiscover = getattr(fixup, "autodiscover_tasks", None)
                if autodiscover is not None:
                    found.extend(autodiscover())
            names = found
        return self.loader.autodiscover_tasks(names, related_name)  # type: ignore[no-any-return]


def _discover(app: Registration, packages: Any, related_name: str | None, **_: Any) -> None:
    app._autodiscover_tasks(packages, related_name)


def _same_function(task: Any, fun: Callable[..., Any]) -> bool:
    """Say whether *task* was made from *fun*: declaring one function twice is no conflict."""
    return getattr(type(task), "__wrapped__", None) is fun or getattr(task, "run", None) is fun


def _public_signature(fun: Callable[..., Any], bound: bool) -> inspect.Signature | None:
    """Return the signature of calls of a task, without the task instance it is bound to."""
    import inspect  # when the first task is made

    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):
        return None
    if bound:
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature
