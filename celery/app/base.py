"""The app: one object that holds configuration, tasks and the way to the broker.

Making an app does nothing but remember its arguments. Configuration is read when a
setting is first needed, tasks are created when the registry is first looked at (see
`Celery.finalize`), connections are made when a message is first sent. Everything
below works on the app it is handed; only the doors in `celery._state` look one up.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from kombu.clocks import LamportClock

import celery.app.builtins as _builtins  # noqa: F401 - its tasks are added to every app
from celery import _state
from celery.app import _upward, annotations as task_annotations, backends
from celery.app._configuration import Configured, PendingConfiguration
from celery.app._connections import BrokerConnections
from celery.app._registration import (
    W_DUPTASK as W_DUPTASK,
    Registration,
    caller_stacklevel as caller_stacklevel,
    frame_is_celery as frame_is_celery,
    pydantic_wrapper as pydantic_wrapper,
    task_callable_qualname as task_callable_qualname,
)
from celery.app._sending import Sending
from celery.app.registry import TaskRegistry
from celery.app.utils import (
    AppPickler,
    Settings,
    bugreport,
)
from celery.loaders import get_loader_cls
from celery.local import PromiseProxy
from celery.utils.dispatch import Signal
from celery.utils.ids import new_id
from celery.utils.imports import instantiate, symbol_by_name
from celery.utils.log import get_logger
from celery.utils.objects import lasting_property, mro_lookup
from celery.utils.time import timezone

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from celery.app._series import Series
    from celery.app.amqp import AMQP
    from celery.app.control import Control
    from celery.app.events import Events
    from celery.app.log import Logging
    from celery.app.task import Task
    from celery.loaders.base import BaseLoader

__all__ = ("Celery",)

logger = get_logger(__name__)

BUILTIN_FIXUPS = {"celery.fixups.django:fixup"}

#: Set in children of billiard that were started by executing a new interpreter.
USING_EXECV = os.environ.get("FORKED_BY_MULTIPROCESSING")


def app_has_custom(app: Celery, attr: str) -> bool:
    """Say whether a subclass of the app overrides the method *attr*."""
    return bool(mro_lookup(app.__class__, attr, stop={Celery, object}, monkey_patched=[__name__]))


def _unpickle_appattr(reverse_name: str, args: tuple[Any, ...]) -> Any:
    return getattr(_state.get_current_app(), reverse_name)(*args)


def _after_fork_cleanup_app(app: Celery) -> None:
    # Connections of the parent must not be used, nor closed, by its children.
    try:
        app._after_fork()
    except Exception as exc:
        logger.info("after forker raised exception: %r", exc, exc_info=True)


class Celery(Configured, Registration, Sending, BrokerConnections):
    """A Celery application.

    Args:
        main: Name of the main module; it stands for ``__main__`` in names of tasks.
        loader: Class or name of the loader; by default from ``CELERY_LOADER``, or ``app``.
        backend: URL, name or class of the result back-end.
        amqp, events, log, control: Classes, or dotted paths, for these parts.
        set_as_current: Become the current app of the calling thread.
        tasks: A registry to use, or its class.
        broker: URL of the broker, or several separated by ``;``.
        include: Modules that workers import.
        changes: Settings; they win over any configuration source.
        config_source: As for `config_from_object`.
        fixups: Dotted paths of adaptions to frameworks; None for the built-in ones.
        task_cls: Base class of all tasks, or its dotted path.
        autofinalize: Finalize when the registry is first read; else that is an error.
        namespace: Prefix of setting names in configuration sources.
        strict_typing: Check arguments of calls against signatures of tasks.
        config_source_silent: A missing *config_source* is an empty configuration.
        kwargs: Further settings.
    """

    #: Python class that pickles this app.
    Pickler = AppPickler

    SYSTEM = platform.system()
    IS_macOS, IS_WINDOWS = SYSTEM == "Darwin", SYSTEM == "Windows"

    main: str | None = None
    #: Options that programs add to commands: ``{"worker": {click.Option, …}, "preload": …}``.
    user_options: Any = None
    #: Boot steps to add: ``{"worker": {Step, …}, "consumer": {Step, …}}``.
    steps: Any = None
    builtin_fixups = BUILTIN_FIXUPS
    amqp_cls: Any = "celery.app.amqp:AMQP"
    backend_cls: Any = None
    events_cls: Any = "celery.app.events:Events"
    loader_cls: Any = None
    log_cls: Any = "celery.app.log:Logging"
    control_cls: Any = "celery.app.control:Control"
    task_cls: Any = "celery.app.task:Task"
    registry_cls: Any = "celery.app.registry:TaskRegistry"

    on_configure: Any = None
    on_after_configure: Any = None
    on_after_finalize: Any = None
    on_after_fork: Any = None

    _fixups: list[Any] | None = None
    _conf: Settings | None = None
    _after_fork_registered = False

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | Sequence[str] | None = None,
        include: Sequence[str] | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Iterable[Any] | None = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self.main = main
        for part, choice in {
            "control_cls": control,
            "log_cls": log,
            "events_cls": events,
            "amqp_cls": amqp,
        }.items():
            if choice:
                setattr(self, part, choice)
        self.loader_cls = loader or self._default_loader()
        self._custom_task_cls_used = bool(task_cls) or self.task_cls != Celery.task_cls
        if task_cls:
            self.task_cls = task_cls
        self._start_blank()
        registry_cls = self.registry_cls = symbol_by_name(self.registry_cls)
        self._tasks = tasks if isinstance(tasks, TaskRegistry) else registry_cls(tasks or {})
        self.strict_typing = strict_typing
        self.autofinalize = autofinalize
        self.set_as_current = set_as_current
        self.namespace = namespace
        self._config_source = config_source
        self._config_source_silent = config_source_silent

        self._preconf: dict[str, Any] = dict(changes or {})
        self._preconf_set_by_auto: set[str] = set()
        self._set_early("broker_url", broker)
        self._set_early("result_backend", backend)
        self._set_early("include", include)
        for key, value in kwargs.items():
            self._set_early(key, value)
        self._conf = None
        self._pending_conf = PendingConfiguration(self._preconf, self._finalize_pending_conf)

        self.fixups = set(self.builtin_fixups) if fixups is None else fixups
        self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args={"source"})
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")
        # A plain function the app is called with counts as a handler of on_configure.
        custom_hook = type(self).on_configure
        if callable(custom_hook) and not isinstance(custom_hook, Signal):
            self.on_configure.connect(functools.partial(custom_hook, self), weak=False)

        if set_as_current:
            self.set_current()
        self._fixups = [
            fixup
            for fixup in (symbol_by_name(path)(self) for path in self.fixups)
            if fixup is not None
        ]
        self.on_init()
        _state._register_app(self)

    def _start_blank(self) -> None:
        """Set up what is the same for every app: nothing read, nothing made, nobody waiting."""
        self.configured = self.finalized = self._finalizing = False
        self.use_fast_trace_task = False
        self.clock = LamportClock()
        self._local = threading.local()
        self._backend_cache: Any = None
        self._conf_mutex, self._finalize_mutex = threading.RLock(), threading.RLock()
        self._pending: deque[PromiseProxy] = deque()
        self._pending_periodic_tasks: deque[tuple[str, Any]] = deque()
        self._pending_defaults: deque[Any] = deque()
        self.steps, self.user_options = defaultdict(set), defaultdict(set)

    @staticmethod
    def _default_loader() -> Any:
        return os.environ.get("CELERY_LOADER") or "celery.loaders.app:AppLoader"

    def _set_early(self, key: str, value: Any) -> None:
        if value is not None:
            self._preconf[key] = value
            self._preconf_set_by_auto.add(key)

    def on_init(self) -> None:
        """Called at the end of construction; for subclasses."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"

    def __enter__(self) -> Celery:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- which app is current

    def set_current(self) -> None:
        """Make this the current app of the calling thread."""
        _state._set_current_app(self)

    def set_default(self) -> None:
        """Make this the app of threads that have no current one."""
        _state.set_default_app(self)

    def close(self) -> None:
        """Release connections and threads; the registry stays usable, and so does the app.

        Threads that act for event loops end when they have nothing to do; nobody waits for that.
        """
        # Who never had an event loop has not loaded asyncio either.
        bridges = sys.modules.get("celery.utils.bridge")
        if bridges is not None:
            bridges.stop_bridges(self)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.force_close_all()
        amqp = self.__dict__.get("amqp")
        if amqp is not None:
            amqp.forget_connections()
        _state._deregister_app(self)

    def _forget_connections(self) -> None:
        """Let go of connections, without closing anything: they may be those of a parent."""
        self._pool = None
        vars(self._local).pop("oid", None)
        amqp = self.__dict__.get("amqp")
        if amqp is not None:
            amqp.forget_connections()

    def _after_fork(self) -> None:
        self._forget_connections()
        events = self.__dict__.get("events")
        if events is not None:
            events.__dict__.pop("_default_dispatcher", None)
        self.on_after_fork.send(sender=self)

    def _ensure_after_fork(self) -> None:
        if self._after_fork_registered:
            return
        self._after_fork_registered = True
        # Who gets here is about to connect.
        from kombu.utils.compat import register_after_fork  # type: ignore[attr-defined]

        if register_after_fork is not None:
            register_after_fork(self, _after_fork_cleanup_app)

    # -- programs

    def start(self, argv: Sequence[str] | None = None) -> Any:
        """Run the ``celery`` program with *argv*, by default that of this process."""
        command = _upward.load(_upward.COMMAND_LINE)
        command.params[0].default = self
        arguments = list(sys.argv[1:] if argv is None else argv)
        try:
            return command.main(args=arguments, standalone_mode=False)
        except Exception as exc:
            code = getattr(exc, "exit_code", None)
            if code is None:
                raise
            return code
        finally:
            command.params[0].default = None

    def worker_main(self, argv: Sequence[str] | None = None) -> Any:
        """Run ``celery worker`` with *argv*, which has to name the sub-command.

        Raises:
            ValueError: *argv* does not contain ``worker``.
        """
        arguments = list(sys.argv if argv is None else argv)
        if "worker" not in arguments:
            raise ValueError(
                "The worker sub-command must be specified in argv.\n"
                "Use app.start() to run other commands."
            )
        return self.start(argv=arguments)

    # -- what it is

    def bugreport(self) -> str:
        """Return versions, platform and settings as text for a report."""
        return bugreport(self)

    # -- time

    def uses_utc_timezone(self) -> bool:
        """Say whether the zone of the app is UTC."""
        return bool(self.timezone == timezone.utc)

    @lasting_property
    def timezone(self) -> tzinfo:
        """The zone of the app: ``timezone``, else UTC or, without ``enable_utc``, local time."""
        conf = self.conf
        if not conf.timezone:
            return timezone.utc if conf.enable_utc else timezone.local
        return timezone.get_timezone(conf.timezone)

    def now(self) -> datetime:
        """Return the current time in the zone of the app; aware."""
        return datetime.now(UTC).astimezone(self.timezone)

    # -- parts

    def select_queues(self, queues: Any = None) -> Any:
        """Consume only from these queues."""
        return self.amqp.queues.select(queues)

    @property
    def current_task(self) -> Task | None:
        """The task that runs in this thread, or None."""
        return _state.get_current_task()

    @property
    def current_worker_task(self) -> Task | None:
        """The task that a worker runs in this thread, or None; direct calls don't count."""
        return _state.get_current_worker_task()

    @lasting_property
    def oid(self) -> str:
        """Id of this app in this process: the name of its reply queue."""
        from kombu.common import oid_from

        return oid_from(self, threads=False)  # type: ignore[no-any-return]

    @property
    def thread_oid(self) -> str:
        """Id of this app in this thread: the name of its reply queue there.

        By chance: a number made of the thread's is that of a later thread too, whose replies
        would go to whoever still reads for the earlier one.
        """
        oid: str | None = getattr(self._local, "oid", None)
        if oid is None:
            oid = self._local.oid = new_id()
        return oid

    def _series(self, producer: Any) -> AbstractContextManager[Series]:
        """Return `Series.through`, which nobody needs before there is something to send."""
        from celery.app._series import Series

        return Series.through(self, producer)

    def _part(self, cls: Any) -> Any:
        return instantiate(cls, app=self)

    @lasting_property
    def amqp(self) -> AMQP:
        """Queues, messages and producers."""
        return self._part(self.amqp_cls)  # type: ignore[no-any-return]

    @property
    def _backend(self) -> Any:
        """The back-end shared by all threads, or None while there is none."""
        return self._backend_cache

    @property
    def backend(self) -> Any:
        """The result back-end: one per thread, unless ``result_backend_thread_safe``."""
        shared = self._backend_cache
        if shared is not None:
            return shared
        backend = getattr(self._local, "backend", None)
        if backend is None:
            backend = self._get_backend()
            if backend.thread_safe:
                self._backend_cache = backend
            else:
                self._local.backend = backend
        return backend

    def _get_backend(self) -> Any:
        cls, url = backends.by_url(self.backend_cls or self.conf.result_backend, self.loader)
        return cls(app=self, url=url)

    @lasting_property
    def control(self) -> Control:
        """Client of remote control."""
        return self._part(self.control_cls)  # type: ignore[no-any-return]

    @lasting_property
    def events(self) -> Events:
        """Sending and receiving of monitoring events."""
        return self._part(self.events_cls)  # type: ignore[no-any-return]

    @lasting_property
    def loader(self) -> BaseLoader:
        """Reads the configuration and imports task modules."""
        return get_loader_cls(self.loader_cls)(app=self)

    @lasting_property
    def log(self) -> Logging:
        """Set-up of logging."""
        return self._part(self.log_cls)  # type: ignore[no-any-return]

    @lasting_property
    def annotations(self) -> tuple[Any, ...]:
        """What ``task_annotations`` says, prepared."""
        return task_annotations.prepare(self.conf.task_annotations)

    # -- classes bound to this app

    def create_task_cls(self) -> Any:
        """Return the base class of this app's tasks."""
        return self.subclass_with_self(
            self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True
        )

    def subclass_with_self(
        self,
        Class: Any,
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **kw: Any,
    ) -> Any:
        """Return a subclass of *Class* whose *attribute* is this app.

        Instances pickle as the attribute *reverse* of the current app, called with the
        arguments that their ``__reduce_args__`` returns, unless *keep_reduce* is true.
        """
        Class = symbol_by_name(Class)
        reverse = reverse or Class.__name__

        def __reduce__(instance: Any) -> tuple[Any, ...]:
            return _unpickle_appattr, (reverse, instance.__reduce_args__())

        attributes = {
            attribute: self,
            "__module__": Class.__module__,
            "__doc__": Class.__doc__,
            **kw,
        }
        if not keep_reduce:
            attributes["__reduce__"] = __reduce__
        return type(name or Class.__name__, (Class,), attributes)

    @lasting_property
    def Task(self) -> Any:
        """Base class of tasks of this app."""
        return self.create_task_cls()

    @lasting_property
    def Worker(self) -> Any:
        """The worker program."""
        return self.subclass_with_self(_upward.WORKER)

    @lasting_property
    def WorkController(self) -> Any:
        """The worker, to be embedded in a program."""
        return self.subclass_with_self(_upward.WORK_CONTROLLER)

    @lasting_property
    def Beat(self) -> Any:
        """The beat program."""
        return self.subclass_with_self(_upward.BEAT)

    @lasting_property
    def AsyncResult(self) -> Any:
        """Class of results of this app."""
        return self.subclass_with_self("celery.result:AsyncResult")

    @lasting_property
    def ResultSet(self) -> Any:
        """Class of result sets of this app."""
        return self.subclass_with_self("celery.result:ResultSet")

    @lasting_property
    def GroupResult(self) -> Any:
        """Class of group results of this app."""
        return self.subclass_with_self("celery.result:GroupResult")

    # -- pickling

    def __reduce__(self) -> Any:
        if type(self) is not Celery:
            return self.__reduce_v1__()
        return _restore_app, (type(self), self.__reduce_keys__())

    def __reduce_v1__(self) -> Any:
        # Subclasses with constructors of their own decide what to pickle by __reduce_args__.
        return _restore_app_v1, (type(self), self.Pickler, *self.__reduce_args__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """The keyword arguments that make an equal app."""
        return {
            "main": self.main,
            "changes": dict(self._conf.changes) if self._conf is not None else dict(self._preconf),
            "loader": self.loader_cls,
            "backend": self.backend_cls,
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "log": self.log_cls,
            "control": self.control_cls,
            "fixups": self.fixups,
            "config_source": self._config_source,
            "config_source_silent": self._config_source_silent,
            "task_cls": self.task_cls,
            "namespace": self.namespace,
        }

    def __reduce_args__(self) -> tuple[Any, ...]:
        keys = self.__reduce_keys__()
        return (
            keys["main"], keys["changes"], keys["loader"], keys["backend"], keys["amqp"],
            keys["events"], keys["log"], keys["control"], False, keys["config_source"],
            keys["config_source_silent"],
        )  # fmt: skip


App = Celery


def _restore_app(cls: type[Celery], kwargs: dict[str, Any]) -> Celery:
    return cls(**kwargs, set_as_current=False)


def _restore_app_v1(cls: type[Celery], pickler: type[AppPickler], *args: Any) -> Any:
    return pickler()(cls, *args)


def _forget_inherited() -> None:
    # Also after a fork of which no library is told. What a parent has connected is its own.
    for app in _state._get_active_apps():
        app._forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
