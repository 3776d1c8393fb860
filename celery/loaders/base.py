"""What every loader can do: read configuration, import task modules, and offer hooks.

The app owns one loader.  It asks for the configuration at most once, when a setting is first read;
workers, beat and the shell ask for the task modules; pools call the hooks in parent and children.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from celery import signals
from celery.exceptions import ImproperlyConfigured
from celery.utils.collections import DictAttribute, force_mapping
from celery.utils.functional import idle_hook, maybe_list
from celery.utils.imports import NotAPackage, find_module, import_from_cwd, symbol_by_name

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("BaseLoader",)

CONFIG_INVALID_NAME: Final = (
    "Cannot import the configuration module {module!r}: a module of this name was not found."
)
CONFIG_WITH_SUFFIX: Final = (
    "Cannot import the configuration module {module!r}: give the name of the module, not that of "
    "its file. Did you mean {suggest!r}?"
)

#: Stands for "no configuration was read yet".
unconfigured: Final = object()

#: ``(int)42``: a value from the command line with its type spelled out.
_TYPED_VALUE = re.compile(r"\((\w+)\)")


def is_missing(exc: ImportError, module: str) -> bool:
    """Say whether *exc* means that *module*, or a package it is in, does not exist.

    Anything else, such as a failing import inside of it, is an error nobody wants to be silent.
    """
    missing = exc.name
    return isinstance(exc, ModuleNotFoundError) and (
        missing is not None and (module == missing or module.startswith(f"{missing}."))
    )


class BaseLoader:
    """Configuration and task modules of one app.

    Args:
        app: The app this loader serves.
        kwargs: Ignored; subclasses may take options.
    """

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    override_backends: dict[str, str] = {}  # noqa: RUF012  (replaced, never changed)
    worker_initialized = False

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()
        self._conf: Any = unconfigured

    # -- hooks for subclasses

    def now(self, utc: bool = True) -> datetime:
        """Give the current time, aware in UTC, or naive local time if *utc* is false."""
        return datetime.now(UTC) if utc else datetime.now()  # noqa: DTZ005  (asked for)

    @idle_hook
    def on_task_init(self, task_id: str, task: Any) -> None:
        """Run before each task."""

    @idle_hook
    def on_process_cleanup(self) -> None:
        """Run after each task."""

    def on_worker_init(self) -> None:
        """Run once in the worker, after the task modules were imported."""

    def on_worker_shutdown(self) -> None:
        """Run once when the worker stops."""

    def on_worker_process_init(self) -> None:
        """Run in each pool process when it starts."""

    # -- task modules

    @property
    def default_modules(self) -> tuple[str, ...]:
        """The modules to import: built-in ones, then ``imports``, then ``include``, each once."""
        conf = self.app.conf
        names = (*self.builtin_modules, *maybe_list(conf.imports), *maybe_list(conf.include))
        return tuple(dict.fromkeys(names))

    def import_default_modules(self) -> list[ModuleType]:
        """Send ``import_modules``, then import what ``imports`` and ``include`` name.

        Raises:
            Exception: Whatever a receiver of the signal or a module raised: a worker that lacks
                some of its tasks must not start.
        """
        for _, answer in signals.import_modules.send(sender=self.app):
            if isinstance(answer, Exception):
                raise answer
        return [self.import_task_module(name) for name in self.default_modules]

    def import_task_module(self, module: str) -> ModuleType:
        """Import a module of tasks and remember its name for reloading."""
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        """Import a module; subclasses may find it elsewhere."""
        return importlib.import_module(module, package=package)

    def import_from_cwd(
        self,
        module: str,
        imp: Callable[..., ModuleType] | None = None,
        package: str | None = None,
    ) -> ModuleType:
        """Import a module with the working directory on the path."""
        found: ModuleType = import_from_cwd(module, imp or self.import_module, package=package)
        return found

    def find_module(self, module: str) -> Any:
        """Find the spec of a module without importing it."""
        return find_module(module)

    def autodiscover_tasks(
        self, packages: Iterable[str], related_name: str | None = "tasks"
    ) -> None:
        """Import ``PACKAGE.related_name`` of each package that has it."""
        found = autodiscover_tasks(packages, related_name)
        self.task_modules.update(module.__name__ for module in found if module is not None)

    # -- life of a worker

    def init_worker(self) -> None:
        """Import the task modules and call the hook, once per process."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        """Call the hook for a stopping worker."""
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        """Call the hook for a starting pool process."""
        self.on_worker_process_init()

    # -- configuration

    @property
    def conf(self) -> Mapping[str, Any]:
        """The loaded configuration, read at first use."""
        if self._conf is unconfigured:
            self._conf = self.read_configuration()
        conf: Mapping[str, Any] = self._conf
        return conf

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take the configuration from *obj*.

        Args:
            obj: A mapping, an object with attributes, or the name of one: ``"pkg.module"``,
                ``"pkg.module.attr"`` or ``"pkg.module:attr"``.
            silent: Return False, instead of raising, when there is no such module or attribute.
        """
        if isinstance(obj, str):
            try:
                obj = self._import_object(obj)
            except (AttributeError, ImportError) as exc:
                if silent and (isinstance(exc, AttributeError) or is_missing(exc, _module(obj))):
                    return False
                raise
        self._conf = force_mapping(obj)
        overrides = self._conf.get("override_backends")
        if overrides is not None:
            self.override_backends = overrides
        return True

    def _import_object(self, path: str) -> Any:
        if ":" in path:
            return symbol_by_name(path, imp=self.import_from_cwd)
        try:
            return self.import_from_cwd(path)
        except ModuleNotFoundError as exc:
            if "." not in path or not is_missing(exc, path):
                raise
        # The last part is no module, so it has to be an attribute of one.
        return symbol_by_name(path, imp=self.import_from_cwd)

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Mapping[str, Any]:
        """Read the module named by the environment variable *env*; unset means no settings."""
        name = os.environ.get(env)
        if not name:
            return {}
        return cast("Mapping[str, Any]", DictAttribute(self._import_config_module(name)))

    def _import_config_module(self, name: str) -> ModuleType:
        try:
            self.find_module(name)
            return self.import_from_cwd(name)
        except NotAPackage as exc:
            stem, dot, suffix = name.rpartition(".")
            if dot and suffix == "py":
                raise NotAPackage(CONFIG_WITH_SUFFIX.format(module=name, suggest=stem)) from exc
            raise NotAPackage(CONFIG_INVALID_NAME.format(module=name)) from exc

    def cmdline_config_parser(
        self,
        args: Iterable[str],
        namespace: str = "celery",
        re_type: re.Pattern[str] = _TYPED_VALUE,
        extra_types: Mapping[str, Callable[[Any], Any]] | None = None,
        override_types: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Read settings from texts such as ``worker.concurrency=4`` or ``task_protocol=(int)1``.

        Args:
            args: ``NAME=VALUE`` texts; the namespace may be set off by a dot.
            namespace: Of names that begin with a dot.
            re_type: Finds the type at the beginning of a value.
            extra_types: Converters by type, besides those of the settings; JSON by default.
            override_types: Types to convert as another one; lists and mappings are JSON by default.

        Raises:
            ImproperlyConfigured: An argument is malformed, or its value has the wrong type.
        """
        convert = {**(extra_types or {"json": json.loads})}
        instead = override_types or {"tuple": "json", "list": "json", "dict": "json"}
        # The configuration may still be a stand-in that is not loaded yet; the settings proper,
        # which know the type of each, are inside.
        settings = getattr(self.app.conf, "data", self.app.conf)
        parsed: dict[str, Any] = {}
        for arg in args:
            name, equals, text = arg.partition("=")
            if not equals or not name.strip():
                raise ImproperlyConfigured(f"{arg!r} is no setting: expected NAME=VALUE")
            group, dot, key = name.strip().lower().rpartition(".")
            if dot and not group:
                group = namespace
            typed = re_type.match(text)
            try:
                found = settings.find_option(key, group)
                kind = typed[1] if typed else found.type.type
                text = text[typed.end() :] if typed else text
                kind = instead.get(kind, kind)
                value = convert[kind](text) if kind in convert else found.type.typemap[kind](text)
            except KeyError as exc:
                raise ImproperlyConfigured(f"{arg!r}: unknown setting or type {exc}") from exc
            except (TypeError, ValueError) as exc:
                raise ImproperlyConfigured(f"{arg!r}: {exc}") from exc
            prefix = f"{found.namespace}_" if found.namespace else ""
            parsed[prefix + found.key] = value
        return parsed


def _module(path: str) -> str:
    return path.partition(":")[0]


def autodiscover_tasks(
    packages: Iterable[str] | None, related_name: str | None = "tasks"
) -> list[ModuleType | None]:
    """Import the related module of each package; None stands for a package without one.

    Raises:
        ImportError: A package does not exist, or its related module is broken.
    """
    return [find_related_module(package, related_name) for package in packages or ()]


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """Import ``package.related_name``, or *package* itself if *related_name* is None.

    Args:
        package: Name of a package; the path of a class in one (such as a Django app
            configuration) means that package.
        related_name: Name of the module within the package.

    Returns:
        The module, or None if the package has no such module.

    Raises:
        ImportError: There is no such package, or an import within the module failed.
    """
    try:
        home = importlib.import_module(package)
    except ModuleNotFoundError as exc:
        parent, _, leaf = package.rpartition(".")
        if not parent or exc.name != package:
            raise
        home = importlib.import_module(parent)
        if not hasattr(home, leaf):
            raise
        package = home.__package__ or parent
    if related_name is None:
        return home
    wanted = f"{package}.{related_name}"
    try:
        return importlib.import_module(wanted)
    except ModuleNotFoundError as exc:
        if exc.name == wanted:
            return None
        raise
