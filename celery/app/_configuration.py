"""The settings of an app: when they are read, from where, and what is added to them."""

from __future__ import annotations

import functools
import os
from collections import UserDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.app import _upward
from celery.app.utils import Settings, detect_settings
from celery.exceptions import ImproperlyConfigured
from celery.local import maybe_evaluate
from celery.utils import abstract
from celery.utils.collections import AttributeDictMixin
from celery.utils.dispatch import Signal
from celery.utils.functional import first
from celery.utils.objects import lasting_property

__all__ = ("Configured", "PendingConfiguration")

ERR_ENVVAR_NOT_SET = """
The environment variable {0!r} is not set, so there is no configuration to load.
Point it to a Python module, for example:
    {0}="proj.celeryconfig"
"""


class PendingConfiguration(UserDict, AttributeDictMixin):  # type: ignore[type-arg]
    """Stands in for the settings of an app that has not read its configuration.

    Setting values only remembers them; the first read loads the configuration, and
    what was remembered goes on top of it.

    Args:
        conf: Where the values are remembered.
        callback: Loads the configuration and returns the settings.
    """

    callback: Any = None

    def __init__(self, conf: dict[str, Any], callback: Callable[[], Settings]) -> None:
        object.__setattr__(self, "_pending", conf)
        object.__setattr__(self, "callback", callback)

    @lasting_property
    def data(self) -> Any:
        """The settings; reading them loads the configuration."""
        return self.callback()

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    @property
    def _target(self) -> Any:
        # Somebody may hold on to this object; once settings are loaded, changes belong there.
        return self.__dict__.get("data", self._pending)

    def __setitem__(self, key: str, value: Any) -> None:
        self._target[key] = value

    def clear(self) -> None:
        """Forget what was remembered."""
        self._target.clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Remember several values."""
        self._target.update(*args, **kwargs)

    def setdefault(self, *args: Any, **kwargs: Any) -> Any:
        """Remember a value unless one is remembered under this name."""
        return self._target.setdefault(*args, **kwargs)

    def __contains__(self, key: object) -> bool:
        # Asking must not load the configuration: who asks is often about to set.
        return key in self._target

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        return getattr(self.data, key)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return repr(self.data)


class Configured:
    """What `celery.Celery` offers of its settings; mixed into it."""

    _conf: Settings | None = None

    if TYPE_CHECKING:
        loader: Any
        namespace: str | None
        on_configure: Any
        on_after_configure: Any
        _conf_mutex: Any
        _config_source: Any
        _config_source_silent: bool
        _pending_conf: PendingConfiguration
        _pending_defaults: deque[Any]
        _pending_periodic_tasks: deque[tuple[str, Any]]
        _preconf: dict[str, Any]
        _preconf_set_by_auto: set[str]
        configured: bool

    # -- configuration

    @property
    def conf(self) -> Any:
        """The settings; reading one loads the configuration."""
        conf = self._conf
        return self._pending_conf if conf is None else conf

    @conf.setter
    def conf(self, value: Any) -> None:
        self._conf = value
        self._forget_settings()

    def _forget_settings(self) -> None:
        """Drop what was derived from settings that are being replaced as a whole."""
        for derived in ("timezone", "annotations"):
            self.__dict__.pop(derived, None)
        amqp = self.__dict__.get("amqp")
        if amqp is not None:
            amqp._plan = None

    def add_defaults(self, fun: Any) -> Any:
        """Put a mapping, or what a function returns, behind the configuration as defaults."""
        if not callable(fun):
            mapping, fun = fun, lambda: mapping
        if self._conf is not None:
            return self._conf.add_defaults(fun())
        self._pending_defaults.append(fun)
        return fun

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from a module, an object, a mapping, or the dotted path of one.

        Nothing is read before a setting is needed, unless *force* is true.

        Args:
            silent: A missing module is an empty configuration.
            namespace: Prefix of setting names, such as ``"CELERY"``.
        """
        self._config_source = obj
        self._config_source_silent = silent
        if namespace is not None:
            self.namespace = namespace
        if force or self.configured:
            self._conf = None
            if self.configured:
                # What was set after the first configuration was loaded goes with it.
                self._pending_conf = PendingConfiguration(
                    self._preconf, self._finalize_pending_conf
                )
            if force:
                if self.loader.config_from_object(obj, silent=silent):
                    self._load_config()
            else:
                self.configured = False

    def config_from_envvar(
        self, variable_name: str, silent: bool = False, force: bool = False
    ) -> bool | None:
        """Take settings from the module that an environment variable names.

        Returns:
            False when the variable is unset and *silent* is true.

        Raises:
            ImproperlyConfigured: The variable is unset or empty.
        """
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(ERR_ENVVAR_NOT_SET.strip().format(variable_name))
        self.config_from_object(module, silent=silent, force=force)
        return True

    def config_from_cmdline(self, argv: Sequence[str], namespace: str = "celery") -> None:
        """Take settings from arguments of the form ``name=value``."""
        self.conf.update(self.loader.cmdline_config_parser(argv, namespace))

    def prepare_config(self, c: Any) -> Any:
        """Return the configuration source in the form used; for subclasses."""
        return c

    def _finalize_pending_conf(self) -> Settings:
        """Load the configuration, once, whichever thread asks first."""
        with self._conf_mutex:
            if self._conf is not None:
                return self._conf
            return self._load_config()

    def _announce_configuring(self) -> None:
        hook = self.on_configure
        # A subclass may have a method in its place.
        tell = functools.partial(hook.send, sender=self) if isinstance(hook, Signal) else hook
        tell()

    def _load_config(self) -> Settings:
        self._announce_configuring()
        if source := self._config_source:
            self.loader.config_from_object(source, silent=self._config_source_silent)
        self.configured = True
        loaded = self.prepare_config(self.loader.conf)
        conf = detect_settings(
            loaded, self._preconf, prefix=self.namespace, ignore_keys=self._preconf_set_by_auto
        )
        self.conf = conf
        while self._pending_defaults:
            conf.add_defaults(maybe_evaluate(self._pending_defaults.popleft()()))
        self.on_after_configure.send(sender=self, source=conf)
        while self._pending_periodic_tasks:
            key, entry = self._pending_periodic_tasks.popleft()
            self._add_periodic_task(key, entry)
        return conf

    def either(self, default_key: str, *defaults: Any) -> Any:
        """Return the first of *defaults* that is not None, else the setting *default_key*."""
        given = first(None, defaults)
        return self.conf.get(default_key) if given is None else given

    def setup_security(
        self,
        allowed_serializers: Iterable[str] | None = None,
        key: str | None = None,
        key_password: str | bytes | None = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        """Sign messages, and refuse unsigned ones; see the setting group ``security_…``."""
        _upward.load(_upward.SECURITY)(
            allowed_serializers, key, key_password, cert, store, digest, serializer, app=self
        )

    # -- periodic tasks

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = {},
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Add an entry to the beat schedule.

        Args:
            schedule: Seconds, a timedelta, or a schedule object.
            sig: Signature of the task.
            args: Put before the arguments of *sig*.
            opts: Publish options of the entry.

        Returns:
            The name of the entry: *name*, or the repr of *sig*.
        """
        key, entry = self._sig_to_periodic_task_entry(
            schedule, sig, args, dict(kwargs), name, **opts
        )
        if self.configured:
            self._add_periodic_task(key, entry)
        else:
            self._pending_periodic_tasks.append((key, entry))
        return key

    def _sig_to_periodic_task_entry(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> tuple[str, dict[str, Any]]:
        if not isinstance(sig, abstract.CallableSignature):
            sig = sig.subtask(args, kwargs) if args or kwargs else sig.s()
        else:
            sig = sig.clone(args, kwargs)
        return name or repr(sig), {
            "schedule": schedule,
            "task": sig.name,
            "args": sig.args,
            "kwargs": sig.kwargs,
            "options": {**sig.options, **opts},
        }

    def _add_periodic_task(self, key: str, entry: dict[str, Any]) -> None:
        self.conf.beat_schedule[key] = entry
