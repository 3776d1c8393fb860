"""Tasks: what the ``@app.task`` decorator makes, and every way to call one.

A task is one object per app and process. Its options are class attributes; a call
turns them, the arguments and the caller's options into a message (`apply_async`) or
runs at once (`apply`). What happens in a worker is in `celery.app.trace`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import CoroutineType, GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar

from kombu.exceptions import OperationalError
from kombu.utils.uuid import uuid

from celery import _state, canvas
from celery._types import Generic
from celery.app import _eager, _replacement, annotations as task_annotations
from celery.app._context import X_DEATH_HEADERS as X_DEATH_HEADERS, Context, options_to_repeat
from celery.app._sealing import note_retry
from celery.exceptions import (
    CDeprecationWarning,
    Ignore,
    MaxRetriesExceededError,
    Retry,
)
from celery.local import class_property
from celery.result import AsyncResult, EagerResult, denied_join_result
from celery.utils.abstract import CallableTask
from celery.utils.bridge import call_for
from celery.utils.functional import maybe_list
from celery.utils.imports import instantiate
from celery.utils.serialization import raise_with_context
from celery.utils.threads import LocalStack

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from typing_extensions import ParamSpec, TypeVar

    from celery.app.base import Celery
    from celery.app.trace import Tracer
    from celery.canvas import Signature

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ("Context", "Task")

R_BOUND_TASK = "<class {0.__name__} of {app}{flags}>"
R_UNBOUND_TASK = "<unbound {0.__name__}{flags}>"
R_INSTANCE = "<@task: {0.name} of {app}{flags}>"

#: Task attributes that become publish options of each call.
EXECUTION_OPTIONS = (
    "queue", "routing_key", "exchange", "priority", "expires", "serializer",
    "delivery_mode", "compression", "time_limit", "soft_time_limit", "immediate", "mandatory",
)  # fmt: skip

#: Task attributes that name a destination; the place for these is ``task_routes``.
ROUTING_ATTRIBUTES = (
    "queue", "exchange", "exchange_type", "routing_key", "delivery_mode", "priority",
)  # fmt: skip

#: Old name of the metaclass of tasks, kept for isinstance checks.
TaskType = type


def extract_exec_options(obj: Any) -> dict[str, Any]:
    """Return the publish options that *obj* states as attributes, unset ones left out."""
    found = ((name, getattr(obj, name, None)) for name in EXECUTION_OPTIONS)
    return {name: value for name, value in found if value is not None}


def get_actual_ignore_result(task: Task, req: Context) -> bool:
    """Say whether the result of this call is dropped; the call's own option wins."""
    return bool(task.ignore_result if req.ignore_result is None else req.ignore_result)


def _reprtask(task: Any, fmt: str | None = None, flags: Iterable[str] = ()) -> str:
    shown = list(flags)
    app = task._app
    fmt = fmt or (R_BOUND_TASK if app is not None else R_UNBOUND_TASK)
    return fmt.format(
        task, flags=f" ({', '.join(shown)})" if shown else "", app=_appstr(app) if app else None
    )


def _appstr(app: Any) -> str:
    return f"{app.main or '__main__'} at {id(app):#x}"


def _restore_task(name: str, module: str | None = None) -> Task:
    """Unpickle a task: by name, from the current app, importing its module if need be."""
    app = _state.get_current_app()
    if module and name not in app.tasks:
        __import__(module)
    return app.tasks[name]


class Task(Generic[P, R]):
    """One kind of work, and the ways to call it.

    Subclass it for common behaviour (``base=``, ``app.Task``), or let the decorator
    make the class. An instance is shared by all executions in a process; what belongs
    to one execution is in `request`.

    To type checkers it is generic in the parameters of a call and in the value of a result.
    """

    if not TYPE_CHECKING:
        # Also takes what typing refuses, such as Task[Any, Any]; annotations are never checked.
        __class_getitem__ = classmethod(GenericAlias)

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    #: Dotted path or object: makes the function that handles messages of this task.
    Strategy = "celery.worker.strategy:default"
    #: Dotted path or class: what a worker wraps a message of this task in.
    Request = "celery.worker.request:Request"

    __trace__: Tracer | None = None
    __bound__: ClassVar[bool] = False
    __header__: ClassVar[Callable[..., Any] | None] = None
    __self__: ClassVar[Any] = None
    __models__: ClassVar[Any] = None
    _app: ClassVar[Celery | None] = None
    _backend: Any = None
    _exec_options: dict[str, Any] | None = None

    #: Name in the registry and in messages; None until the task is registered.
    name: str | None = None
    #: Check arguments against the signature of `run` before publishing.
    typing: bool | None = None
    #: How often `retry` may be called for one call; None for no limit.
    max_retries: int | None = 3
    #: Seconds until a retry, unless `retry` is told otherwise.
    default_retry_delay: float = 180
    #: At most this many starts: ``"10/s"``, ``"10/m"``, ``"10/h"``, per second as a number.
    rate_limit: str | float | None = None
    ignore_result: bool | None = None
    #: Keep results of tasks called by this one as its children.
    trail = True
    send_events = True
    store_errors_even_if_ignored: bool | None = None
    serializer: str | None = None
    #: Seconds after which the process that runs the task is killed.
    time_limit: float | None = None
    #: Seconds after which `SoftTimeLimitExceeded` is raised in the body.
    soft_time_limit: float | None = None
    track_started: bool | None = None
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    store_eager_result: bool | None = None
    #: Exceptions that are part of normal operation: logged at INFO, without a traceback.
    throws: tuple[type[BaseException], ...] = ()
    #: Seconds, or a moment, after which a call is no longer wanted.
    expires: float | datetime | None = None
    priority: int | None = None
    #: Longest repr of a result in log and events, in characters.
    resultrepr_maxsize = 1024
    request_stack: Any = None
    abstract = True
    #: Limit of retries that `retry_kwargs` of an automatic retry ask for; None for none.
    override_max_retries: int | None

    from_config = (
        ("serializer", "task_serializer"),
        ("rate_limit", "task_default_rate_limit"),
        ("priority", "task_default_priority"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("ignore_result", "task_ignore_result"),
        ("store_eager_result", "task_store_eager_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    )

    if TYPE_CHECKING:
        # What ``base=`` does with the class, for type checkers; nobody else gives a function.
        def __init__(self, fun: Callable[P, R] = ..., /) -> None: ...

    else:

        def __init__(self) -> None:
            self.override_max_retries = None

    # -- belonging to an app

    @classmethod
    def bind(cls, app: Celery) -> Celery:
        """Make this class a task of *app*: settings fill what the class leaves unset."""
        # Asked of the class itself: a bound base class says nothing about this one.
        was_bound = cls.__dict__.get("__bound__", False)
        cls.__bound__ = True
        cls._app = app
        conf = app.conf
        cls._exec_options = None
        if cls.typing is None:
            cls.typing = app.strict_typing
        for attribute, setting in cls.from_config:
            if getattr(cls, attribute, None) is None:
                setattr(cls, attribute, conf[setting])
        cls.annotate()
        if not was_bound:
            cls.request_stack = LocalStack()
        cls.on_bound(app)
        return app

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called when the class is bound to *app*; override for set-up."""

    @classmethod
    def _get_app(cls) -> Celery:
        if cls._app is None:
            cls._app = _state.get_current_app()
        if not cls.__dict__.get("__bound__", False):
            # A class used without being registered works with the current app.
            cls.bind(cls._app)
        return cls._app

    app = class_property(_get_app, bind)

    @classmethod
    def annotate(cls) -> None:
        """Apply what ``task_annotations`` says about this task."""
        for annotation in task_annotations.resolve_all(cls.app.annotations, cls):
            for key, value in annotation.items():
                if key.startswith("@"):
                    cls.add_around(key[1:], value)
                else:
                    setattr(cls, key, value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[..., Any]) -> None:
        """Replace the method *attr* by what *around* makes of it."""
        inner = getattr(cls, attr)
        if getattr(inner, "__wrapped__", None):
            inner = inner.__wrapped__
        wrapped = around(inner)
        wrapped.__wrapped__ = inner
        setattr(cls, attr, wrapped)

    @classmethod
    def warn_of_routing_attributes(cls, options: Mapping[str, Any]) -> None:
        """Warn when a task class states where its messages go (B-ROUT-011)."""
        named = [name for name in ROUTING_ATTRIBUTES if options.get(name) is not None]
        if named:
            warnings.warn(
                f"Task {cls.name or cls.__name__} sets {', '.join(named)} as attributes; use the "
                "setting task_routes instead: routing attributes of tasks go in version 6.0.",
                CDeprecationWarning,
                stacklevel=3,
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body here and now, without a message or a state."""
        _state._task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            value = self.run(*args, **kwargs)
        finally:
            self.pop_request()
            _state._task_stack.pop()
        if type(value) is CoroutineType:
            return self._awaited(value, args, kwargs)  # type: ignore[return-value]  # as a coroutine
        return value

    async def _awaited(self, coro: Any, args: Any, kwargs: Any) -> Any:
        """Run the coroutine of a direct call, with the task as the current one."""
        _state._task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            return await coro
        finally:
            self.pop_request()
            _state._task_stack.pop()

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled by name: the receiver uses the task of its own app.
        module = type(self).__module__
        return _restore_task, (self.name, None if module == "__main__" else module)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The body of the task."""
        raise NotImplementedError("Tasks must define the run method.")

    def start_strategy(self, app: Celery, consumer: Any, **kwargs: Any) -> Any:
        """Return the function with which a worker handles messages of this task."""
        return instantiate(self.Strategy, self, app, consumer, **kwargs)

    # -- calling

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send a call with these arguments and no options; short for `apply_async`."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send a call of this task.

        Args:
            task_id: Id of the call; random by default. Nobody checks that it is unique.
            producer: kombu producer to publish with; by default one from the app's pool.
            link: Signature or list: called with the result after success.
            link_error: Signature or list: called after failure.
            shadow: Name shown in logs and events instead of the task's.
            options: ``countdown`` (seconds), ``eta`` (datetime), ``expires`` (seconds or
                datetime), ``queue``, ``exchange``, ``routing_key``, ``priority``,
                ``serializer``, ``compression``, ``retry``, ``retry_policy``, ``headers``,
                ``time_limit`` and ``soft_time_limit`` (seconds), ``ignore_result``,
                ``connection``, ``add_to_parent``; unknown ones become message properties.

        Raises:
            TypeError: The arguments do not fit the signature of the task.
            kombu.exceptions.OperationalError: The broker can't be reached.
        """
        if self.typing:
            check = self.__header__
            if check is not None:
                check(*(args or ()), **(kwargs or {}))
        if shadow is None:
            shadow = self.shadow_name(args, kwargs, options)
        app = self._app or self._get_app()
        if self.__models__ is not None:
            args, kwargs = self._dump_models(args, kwargs, options)
        preset = self._exec_options
        if preset is None:
            preset = self._get_exec_options()
        options = {**preset, **options} if preset else options
        if options.get("ignore_result") is None:
            options["ignore_result"] = bool(self.ignore_result)
        if options.get("priority") is None and "priority" in options:
            del options["priority"]
        if app.conf.task_always_eager:
            eager: EagerResult[R] = self._apply_eagerly(
                app, args, kwargs, task_id, link, link_error, shadow, options
            )
            return eager
        return app.send_task(
            self.name,  # type: ignore[arg-type]
            args,
            kwargs,
            task_id=task_id,
            producer=producer,
            link=link,
            link_error=link_error,
            result_cls=self.AsyncResult,
            shadow=shadow,
            task_type=self,
            **options,
        )

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Do what `delay` does on an event loop, without blocking it."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Do what `apply_async` does on an event loop, without blocking it."""
        return await call_for(self._get_app(), self.apply_async, args, kwargs, **options)

    def _dump_models(
        self, args: Any, kwargs: Any, options: Mapping[str, Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Dump pydantic models among the arguments, unless the serializer carries them as such."""
        serializer = options.get("serializer") or self.serializer or self.app.conf.task_serializer
        if serializer == "pickle":
            return args, kwargs
        bound = not isinstance(type(self).__dict__.get("run"), staticmethod)
        dumped: tuple[Sequence[Any], Mapping[str, Any]] = self.__models__.dump_arguments(
            args, kwargs, bound=bound
        )
        return dumped

    def _apply_eagerly(
        self,
        app: Celery,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        task_id: str | None,
        link: Any,
        link_error: Any,
        shadow: str | None,
        options: dict[str, Any],
    ) -> Any:
        """Run a call at once, on arguments that went through the serializer as a message's do."""
        serializer = options.get("serializer") or self.serializer or app.conf.task_serializer
        args, kwargs = _eager.as_received(args, kwargs, serializer)
        if self.__self__ is not None:
            args = (self.__self__, *args)
        with denied_join_result():
            return self.apply(
                args,
                kwargs,
                task_id=task_id or uuid(),
                link=link,
                link_error=link_error,
                shadow=shadow,
                **options,
            )

    def shadow_name(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> str | None:
        """Return the name to show for one call, or None for the task's own; override it."""

    def _get_exec_options(self) -> dict[str, Any]:
        preset = self._exec_options
        if preset is None:
            preset = self._exec_options = extract_exec_options(self)
        return preset

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Signature:
        """Return a signature that repeats the call of *request* (by default the current one)."""
        request = self.request if request is None else request
        args = request.args if args is None else args
        kwargs = request.kwargs if kwargs is None else kwargs
        options = options_to_repeat(request, queue, extra_options)
        return self.signature(args, kwargs, **options)

    subtask_from_request = signature_from_request

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Send the current call again, and leave this execution with `Retry`.

        Args:
            args, kwargs: Replace the arguments of the current call.
            exc: Why; it is raised when no retries are left.
            throw: Raise the `Retry`; else return it.
            eta: Moment of the next attempt.
            countdown: Seconds to the next attempt; by default `default_retry_delay`.
            max_retries: Limit for this call instead of the task's.
            options: Override options of the original call.

        Raises:
            Retry: The call was sent again; not an error, let it pass.
            MaxRetriesExceededError: No retries are left, and *exc* is None.
        """
        request = self.request
        retries = request.retries + 1
        limit = self.max_retries if max_retries is None else max_retries
        if request.called_directly:
            # Without a message there is nothing to send again.
            raise_with_context(exc or Retry("Task can be retried", None))
        if eta:
            countdown = None
        elif countdown is None:
            countdown = self.default_retry_delay
        is_eager = request.is_eager
        sig = self.signature_from_request(
            request,
            args,
            kwargs,
            countdown=countdown,
            eta=eta,
            retries=retries,
            **options,
        )
        if limit is not None and retries > limit:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{sig.args} kwargs:{sig.kwargs}",
                task_args=sig.args,
                task_kwargs=sig.kwargs,
            )
        again = Retry(exc=exc, when=eta or countdown, is_eager=is_eager, sig=sig)
        if is_eager:
            # `apply` runs the signature that the exception carries.
            if throw:
                raise again
            return again
        # A publish that fails for good reaches the body as what it is, and fails the task.
        sig.apply_async()
        note_retry(again)
        if throw:
            raise again
        return again

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: Any = None,
        loglevel: int | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run a call in this process and wait for its end.

        Args:
            throw: Raise what the body raises; by default as ``task_eager_propagates`` says.
            retries: The number of the attempt, from 0.
            options: As for `apply_async`; times and destinations have no effect.
        """
        app = self._get_app()
        if not isinstance(kwargs, Mapping | None):
            raise TypeError("task keyword arguments must be a mapping")
        fields = {
            "retries": retries or 0,
            "logfile": logfile,
            "loglevel": loglevel or 0,
            "callbacks": maybe_list(link),
            "errbacks": maybe_list(link_error),
            "headers": headers,
        }
        return _eager.run(
            app,
            app._tasks.get(self.name, self) if self.name else self,
            _eager.request_of(self, task_id or uuid(), fields, options),
            tuple(args or ()),
            dict(kwargs or {}),
            app.conf.task_eager_propagates if throw is None else throw,
        )

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """Return the result of the call *task_id* of this task."""
        cls: type[AsyncResult[R]] = (self._app or self._get_app()).AsyncResult
        return cls(task_id, backend=self.backend, task_name=self.name, **kwargs)

    # -- signatures

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature[R]:
        """Return a signature of this task: the call as data."""
        if "app" not in starkwargs:
            starkwargs["app"] = self._app or self._get_app()
        return canvas.Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature with these arguments; a callback gets its parent's result first."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Return an immutable signature: it takes no result of a parent."""
        return self.signature(args, kwargs, immutable=True)

    def chunks(self, it: Iterable[Any], n: int) -> canvas.chunks[list[R]]:
        """Return calls of this task over *it*, *n* items to a message."""
        return canvas.chunks(self.s(), it, n, app=self.app)

    def map(self, it: Iterable[Any]) -> canvas.xmap[list[R]]:
        """Return one message that calls this task for each item of *it* in turn."""
        return canvas.xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> canvas.xstarmap[list[R]]:
        """Like `map`, where each item is a list of arguments."""
        return canvas.xstarmap(self.s(), it, app=self.app)

    # -- for use in a running task

    def send_event(
        self,
        type_: str,
        retry: bool = True,
        retry_policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Any:
        """Send a monitoring event of this task, such as ``task-progress``."""
        request = self.request
        policy = self.app.conf.task_publish_retry_policy if retry_policy is None else retry_policy
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(
                type_,
                uuid=request.id,
                retry=retry,
                retry_policy=policy,
                **fields,
            )

    def replace(self, sig: Any) -> Any:
        """Let *sig* take the place of this task: its result becomes this task's result.

        Raises:
            Ignore: Always in a worker, once *sig* is published; let it pass.
            ImproperlyConfigured: *sig* is an empty chain or group, or a part of a chord.
        """
        return _replacement.replace(self, sig)

    def on_replace(self, sig: Any) -> Any:
        """Send the replacement *sig*; override to change how."""
        request = self.request
        if request.is_eager:
            return sig.apply()
        _replacement.send(self.app, request, sig)
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add *sig* to the header of the chord that this task belongs to.

        Args:
            lazy: Only count it; the caller sends it.

        Raises:
            ValueError: The current task is no member of a chord.
        """
        request = self.request
        if not request.chord:
            raise ValueError("Current task is not member of any chord")
        sig.set(
            group_id=request.group,
            group_index=request.group_index,
            chord=request.chord,
            root_id=request.root_id,
        )
        result = sig.freeze()
        self.backend.add_to_chord(request.group, result)
        return sig.delay() if not lazy else sig

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        **kwargs: Any,
    ) -> None:
        """Store a state of the current call, such as a custom ``PROGRESS`` with *meta*.

        Raises:
            ValueError: There is no current call, and no *task_id* was given.
        """
        task_id = self.request.id if task_id is None else task_id
        if not task_id:
            raise ValueError(f"task_id must not be empty. Got {task_id} instead.")
        self.backend.store_result(task_id, meta, state, request=self.request, **kwargs)

    # -- hooks, called in the process that runs the task

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before the body; it waits for this."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called after success, when the state is stored."""

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task is to be run again; *exc* is what `retry` was given."""

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after failure, when the state is stored."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called after success and failure; *retval* is the value or the exception."""

    # -- the running call

    def add_trail(self, result: Any) -> Any:
        """Note *result* as a child of the current call, unless `trail` is off."""
        if self.trail:
            self.request.children.append(result)
        return result

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Enter a call with these fields."""
        self._get_stack().push(Context(*args, **kwargs))

    def pop_request(self) -> None:
        """Leave the innermost call."""
        self.request_stack.pop()

    def _get_stack(self) -> Any:
        if self.request_stack is None:
            type(self).request_stack = LocalStack()
        return self.request_stack

    def _get_request(self) -> Context:
        top = self._get_stack().top
        if top is None:
            # No call is running: a blank context, kept for what is set on it.
            if self._default_request is None:
                self._default_request = Context()
            return self._default_request
        return top  # type: ignore[no-any-return]

    _default_request: Context | None = None
    request = property(_get_request)

    @property
    def backend(self) -> Any:
        """The result back-end of this task: its own, else the app's (one per thread)."""
        backend = self._backend
        if backend is not None:
            return backend
        # The property in full costs more than all else here, and only the first time does anything.
        return (self._app or self.app).backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def __name__(self) -> str:
        return str(type(self).__name__)

    def __repr__(self) -> str:
        return _reprtask(self, R_INSTANCE)


if TYPE_CHECKING:

    class CoroutineTask(Task[P, R]):
        """What the decorator makes of an ``async def``: a direct call has to be awaited."""

        def __init__(self, fun: Callable[P, Coroutine[Any, Any, R]] = ..., /) -> None: ...

        def __call__(  # type: ignore[override]  # that is the difference
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...

else:
    CoroutineTask = Task


#: What a call of a task is; another function in its place goes its own way.
APPLY_ASYNC = Task.apply_async

CallableTask.register(Task)
BaseTask = Task
