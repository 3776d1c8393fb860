"""Settings as an app sees them, and small helpers around the app.

:class:`Settings` looks a setting up in several sources: changes made at run time, the loaded
configuration, sources added as defaults, built-in defaults.  Each source may spell a setting by its
name, by its name before version 4, or with the prefix of the configuration's namespace.

Looking up costs a walk through the sources, which is nothing for start-up and too much for each
message.  Code on the path of a message keeps a snapshot of plain values and makes a new one when
:attr:`Settings.version` has moved.
"""

from __future__ import annotations

import os
import platform as _platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from celery.app.defaults import (
    DEFAULTS,
    NEW_TO_OLD,
    OLD_TO_NEW,
    SETTING_KEYS,
    find,
    searchresult,
)
from celery.exceptions import CDeprecationWarning, ImproperlyConfigured
from celery.utils.collections import ConfigurationView, force_mapping
from celery.utils.imports import import_from_cwd, qualname, symbol_by_name as _symbol_by_name

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = (
    "Settings",
    "appstr",
    "bugreport",
    "filter_hidden_settings",
    "find_app",
    "sanitize_url",
)

MASK: Final = "********"

#: Settings whose name matches are not shown, unless their value is a URL or has parts to show.
HIDDEN_SETTINGS: Final = re.compile(
    "API|TOKEN|KEY|SECRET|PASS|SIGNATURE|DATABASE",
    re.IGNORECASE,
)

FMT_REPLACE_SETTING: Final = "{replace:<36} -> {with_}"

E_MIX_OLD_INTO_NEW: Final = """
A configuration cannot mix old and new setting keys. Most of yours are new, so rename these:

{renames}
"""

E_MIX_NEW_INTO_OLD: Final = """
A configuration cannot mix old and new setting keys. Most of yours are old, so either rename these:

{renames}

or, better, change all of your settings to the new format.
"""

BUGREPORT_INFO: Final = """
software -> celery:{celery_v} kombu:{kombu_v} py:{py_v}
            billiard:{billiard_v} {driver_v}
platform -> system:{system} arch:{arch}
            kernel version:{kernel_version} imp:{py_i}
loader   -> {loader}
settings -> transport:{transport} results:{results}

{human_settings}
"""


class Settings(ConfigurationView):
    """The configuration of one app: a mapping that also reads as attributes.

    Args:
        changes: What is set at run time; wins over all else and takes every assignment.
        defaults: The other sources, most important first; the last one holds built-in defaults.
        keys: Unused; kept for callers of the base class.
        prefix: Namespace of the loaded configuration, such as ``"CELERY_"``.
        deprecated_settings: Old names found in use, or None.
    """

    deprecated_settings: set[str] | None
    version: int
    _known_spellings: dict[str, tuple[str, ...]]

    def __init__(
        self,
        *args: Any,
        deprecated_settings: set[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # Attributes of this object would become settings, so its own go straight to __dict__.
        self.__dict__.update(
            deprecated_settings=deprecated_settings, version=0, _known_spellings={}
        )

    # -- lookup

    def _spellings(self, key: str) -> tuple[str, ...]:
        """List the names under which a source may hold *key*, best first."""
        name = OLD_TO_NEW.get(key, key)
        old = NEW_TO_OLD.get(name)
        prefix = self.prefix
        if prefix:
            return (_prefixed(prefix, name), name, old) if old else (_prefixed(prefix, name), name)
        return (name, old) if old else (name,)

    def __getitem__(self, key: str) -> Any:
        spellings = self._spellings(key)
        for source in self.maps:
            for name in spellings:
                if name in source:
                    return source[name]
        raise self._missing(key)

    def __getattr__(self, key: str) -> Any:
        # Every call of a task asks for a setting: the names are found once, the sources may change.
        spellings = self._known_spellings.get(key)
        if spellings is None:
            spellings = self._known_spellings[key] = self._spellings(key)
        for source in self.maps:
            for name in spellings:
                if name in source:
                    return source[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}")

    def _missing(self, key: str) -> KeyError:
        return KeyError(key, _prefixed(self.prefix, key)) if self.prefix else KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._is_in(self.maps, key)

    def _is_in(self, sources: Iterable[Any], key: str) -> bool:
        spellings = self._spellings(key)
        return any(name in source for source in sources for name in spellings)

    def get(self, key: str, default: Any = None) -> Any:
        """Give the value of *key*, or *default* if no source has it."""
        try:
            return self[key]
        except KeyError:
            return default

    def first(self, *keys: str) -> Any:
        """Give the first value among *keys* that is not None."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names(self.maps))

    def __len__(self) -> int:
        return len(self._names(self.maps))

    def _names(self, sources: Iterable[Any]) -> dict[str, None]:
        """Collect the names in *sources*, in today's spelling, those of the last source first."""
        loaded = self.maps[1] if len(self.maps) > 2 else None
        names: dict[str, None] = {}
        for source in reversed(list(sources)):
            # A configuration with a namespace shares its source with settings of other programs.
            shared = self.prefix if source is loaded else None
            for key in source:
                name = _own_name(key, shared)
                if name is not None:
                    names[name] = None
        return names

    # -- change

    def _changed(self) -> None:
        self.__dict__["version"] += 1

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(OLD_TO_NEW.get(key, key), value)
        self._changed()

    def __delitem__(self, key: str) -> None:
        del self.changes[OLD_TO_NEW.get(key, key)]
        self._changed()

    def pop(self, key: str, *default: Any) -> Any:
        """Remove a run-time change and return it."""
        value = self.changes.pop(OLD_TO_NEW.get(key, key), *default)
        self._changed()
        return value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Set *key* unless any source has it."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several settings; old names are understood."""
        super().update(
            {OLD_TO_NEW.get(key, key): value for key, value in dict(*args, **kwargs).items()}
        )
        self._changed()

    def clear(self) -> None:
        """Forget all run-time changes."""
        self.changes.clear()
        self._changed()

    def add_defaults(self, d: Any) -> None:
        """Put a source between the loaded configuration and the built-in defaults."""
        source = _as_mapping(d)
        # Behind the changes and the loaded configuration; a later source wins over earlier ones.
        place = min(2, len(self.maps) - 1)
        self.maps.insert(place, source)
        self.defaults.insert(place - 1, source)
        self._changed()

    def swap_with(self, other: ConfigurationView) -> None:
        """Take over the sources of *other*."""
        super().swap_with(other)
        self.__dict__["deprecated_settings"] = other.__dict__.get("deprecated_settings")
        self._changed()

    def copy(self) -> Settings:
        """Copy the run-time changes; the other sources are shared."""
        return Settings(
            dict(self.changes),
            list(self.defaults),
            prefix=self.prefix,
            deprecated_settings=self.deprecated_settings,
        )

    def __copy__(self) -> Settings:
        return self.copy()

    # -- settings that follow others or the environment

    @property
    def broker_url(self) -> Any:
        """URL of the broker; ``CELERY_BROKER_URL`` in the environment wins."""
        return os.environ.get("CELERY_BROKER_URL") or self.get("broker_url")

    @property
    def broker_read_url(self) -> Any:
        """URL for consuming; ``CELERY_BROKER_READ_URL`` wins, :attr:`broker_url` is the default."""
        environ = os.environ.get("CELERY_BROKER_READ_URL")
        return environ or self.get("broker_read_url") or self.broker_url

    @property
    def broker_write_url(self) -> Any:
        """URL for sending; ``CELERY_BROKER_WRITE_URL`` wins, :attr:`broker_url` is the default."""
        environ = os.environ.get("CELERY_BROKER_WRITE_URL")
        return environ or self.get("broker_write_url") or self.broker_url

    @property
    def result_backend(self) -> Any:
        """URL or name of the back-end; ``CELERY_RESULT_BACKEND`` in the environment wins."""
        return os.environ.get("CELERY_RESULT_BACKEND") or self.get("result_backend")

    @property
    def task_default_exchange(self) -> Any:
        """Exchange of the default queue; by default of the same name."""
        return self.first("task_default_exchange", "task_default_queue")

    @property
    def task_default_routing_key(self) -> Any:
        """Routing key of the default queue; by default its name."""
        return self.first("task_default_routing_key", "task_default_queue")

    @property
    def timezone(self) -> Any:
        """Time zone, or None; ``TIME_ZONE`` of a Django configuration is the default."""
        return self.first("timezone", "TIME_ZONE")

    # -- questions about the settings

    def without_defaults(self) -> Settings:
        """Give the settings without the built-in defaults."""
        return Settings(self.changes, [*self.maps[1:-1], {}], prefix=self.prefix)

    def value_set_for(self, key: str) -> bool:
        """Say whether *key* has a value other than its built-in default."""
        return self._is_in(self.maps[:-1], key)

    def find_option(self, name: str, namespace: str = "") -> searchresult:
        """Find the declaration of a setting by its full name or the last part of it."""
        return find(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Give the value of the setting that :meth:`find_option` finds."""
        found = self.find_option(name, namespace=namespace)
        return self.get_by_parts(found.namespace, found.key)

    def get_by_parts(self, *parts: str | None) -> Any:
        """Give the value of the setting whose name is made of *parts*; empty ones are left out."""
        return self["_".join(part for part in parts if part)]

    def finalize(self) -> None:
        """Do nothing: these settings are loaded, unlike the stand-in an app begins with."""

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Give the settings in use as a plain dictionary.

        Args:
            with_defaults: Include settings that have their built-in default.
            censored: Mask passwords, keys and the like.
        """
        names = self._names(self.maps if with_defaults else self.maps[:-1])
        values: dict[str, Any] = {"deprecated_settings": self.deprecated_settings}
        for name in names:
            value = self.get(name)
            if not isinstance(value, ModuleType):  # an import of a configuration module
                values[name] = value
        return filter_hidden_settings(values) if censored else values

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Give the settings in use as text, one to a line."""
        table = self.table(with_defaults, censored)
        from pprint import pformat  # for reports only

        return "\n".join(f"{key}: {pformat(value, width=50)}" for key, value in table.items())

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn if the configuration uses old names; say whether it does."""
        names = self.deprecated_settings
        if not names:
            return False
        renames = ", ".join(f"{name} -> {OLD_TO_NEW.get(name, name)}" for name in sorted(names))
        warnings.warn(
            CDeprecationWarning(
                "The configuration uses setting names from before version 4, which go away in "
                f"version 6.0: {renames}. `celery upgrade settings FILE` renames them."
            ),
            stacklevel=2,
        )
        return True


def _prefixed(prefix: str, name: str) -> str:
    return prefix + (name.upper() if prefix.isupper() else name)


def _own_name(key: Any, prefix: str | None) -> str | None:
    """Give today's name for a key of a source, or None if it is none of our settings."""
    if not isinstance(key, str) or key.startswith("_"):
        return None
    if prefix and key.startswith(prefix):
        name = key[len(prefix) :]
        return name.lower() if prefix.isupper() else name
    if prefix and key not in OLD_TO_NEW and key not in SETTING_KEYS:
        return None
    return OLD_TO_NEW.get(key, key)


def _as_mapping(source: Any) -> Any:
    return force_mapping(source() if callable(source) and not isinstance(source, type) else source)


def detect_settings(
    conf: Any,
    preconf: MutableMapping[str, Any] | None = None,
    ignore_keys: Iterable[str] | None = None,
    prefix: str | None = None,
    all_keys: Iterable[str] | None = None,
    old_keys: Iterable[str] | None = None,
) -> Settings:
    """Make the settings of an app from its sources.

    Args:
        conf: The loaded configuration: a mapping.
        preconf: Values set before it was loaded; they win over it.
        ignore_keys: Names that do not count when old and new names are compared.
        prefix: Namespace of *conf*, with or without the underscore at its end.
        all_keys: New names, for tests.
        old_keys: Old names, for tests.

    Raises:
        ImproperlyConfigured: *conf* mixes old and new names.
    """
    if prefix and not prefix.endswith("_"):
        prefix += "_"
    changes = {OLD_TO_NEW.get(key, key): value for key, value in (preconf or {}).items()}
    ignored = set(ignore_keys or ())
    present = set(conf or ()) - ignored
    old = present & (set(old_keys) if old_keys else OLD_TO_NEW.keys())
    new = present & (set(all_keys) if all_keys else SETTING_KEYS)
    if prefix:
        # With a namespace, what looks like an old name may be a new one behind the prefix.
        old -= {_prefixed(prefix, name) for name in SETTING_KEYS}
    elif old and new:
        raise ImproperlyConfigured(_explain_mix(old, new))
    old |= (preconf or {}).keys() & OLD_TO_NEW.keys()
    return Settings(
        changes,
        [{} if conf is None else conf, _fresh_defaults()],
        prefix=prefix,
        deprecated_settings=old or None,
    )


def _fresh_defaults() -> dict[str, Any]:
    """Copy the defaults, so that a list or mapping changed in place stays with its app."""
    return {
        name: value.copy() if isinstance(value, (dict, list)) else value
        for name, value in DEFAULTS.items()
    }


def _explain_mix(old: set[str], new: set[str]) -> str:
    """Say what to rename: the fewer ones, and the old ones if there are as many."""
    template, names, table = (
        (E_MIX_OLD_INTO_NEW, old, OLD_TO_NEW)
        if len(new) >= len(old)
        else (E_MIX_NEW_INTO_OLD, new, NEW_TO_OLD)
    )
    renames = (
        FMT_REPLACE_SETTING.format(replace=name, with_=table[name]) for name in sorted(names)
    )
    return template.format(renames="\n".join(renames))


# -- showing settings


def sanitize_url(url: Any, mask: str = MASK) -> Any:
    """Replace the passwords in a URL, or in several given as a list or joined by semicolons.

    Anything that is no URL comes back as it is.
    """
    if isinstance(url, (list, tuple)):
        return type(url)(sanitize_url(part, mask) for part in url)
    if not isinstance(url, str) or "://" not in url:
        return url
    return ";".join(_sanitize_one(part, mask) for part in url.split(";"))


def _sanitize_one(url: str, mask: str) -> str:
    scheme, separator, rest = url.partition("://")
    rest, question, query = rest.partition("?")
    # The last "@" ends the credentials even if the password holds one unquoted.
    credentials, at, location = rest.rpartition("@")
    user, colon, password = credentials.partition(":")
    if password:
        rest = user + colon + mask + at + location
    if query:
        query = "&".join(_sanitize_parameter(item, mask) for item in query.split("&"))
    return scheme + separator + rest + question + query


def _sanitize_parameter(item: str, mask: str) -> str:
    name, _, value = item.partition("=")
    return f"{name}={mask}" if value and HIDDEN_SETTINGS.search(name) else item


def filter_hidden_settings(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Copy *conf* with passwords, keys and other secrets masked."""
    return {key: _censor(key, value) for key, value in conf.items()}


def _censor(key: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if isinstance(key, str) and isinstance(value, (str, bytes)) and HIDDEN_SETTINGS.search(key):
        return MASK
    if isinstance(value, (str, list, tuple)):
        if isinstance(key, str) and key.lower().startswith("broker_"):
            return _show_broker(value)
        return sanitize_url(value)
    return value


def _show_broker(value: Any) -> Any:
    """Show the URL of a broker as kombu understands it, with the default port filled in."""
    if not isinstance(value, str):
        return sanitize_url(value)
    if "://" not in value:
        return value
    if ";" not in value and "+" not in value:
        try:
            from kombu.connection import Connection

            return sanitize_url(Connection(value).as_uri(include_password=True))
        except (ImportError, KeyError, ValueError):
            pass  # an unknown transport or port; the text itself still tells something
    return sanitize_url(value)


def appstr(app: Celery) -> str:
    """Name an app in texts: its main name and its address."""
    return f"{app.main or '__main__'}:{id(app):#x}"


def bugreport(app: Celery) -> str:
    """Describe versions, platform and changed settings, for a report of a problem."""
    import billiard
    import kombu

    try:
        with app.connection() as connection:
            transport = connection.transport
            driver = f"{transport.driver_name}:{transport.driver_version()}"
            transport_name = connection.transport_cls
            if not isinstance(transport_name, str):
                transport_name = qualname(transport_name)
    except Exception:  # noqa: BLE001  (a report about a broken set-up has to work as well)
        driver, transport_name = "", "unusable"
    return BUGREPORT_INFO.format(
        system=_platform.system(),
        arch=", ".join(part for part in _platform.architecture() if part),
        kernel_version=_platform.release(),
        py_i=_platform.python_implementation(),
        celery_v=sys.modules["celery"].__version__,
        kombu_v=kombu.__version__,
        billiard_v=billiard.__version__,
        py_v=_platform.python_version(),
        driver_v=driver,
        transport=transport_name,
        results=sanitize_url(app.conf.result_backend) or "disabled",
        human_settings=app.conf.humanize(),
        loader=qualname(app.loader.__class__),
    )


# -- pickling apps


class AppPickler:
    """Rebuild an app from the arguments it was pickled with."""

    def __call__(self, cls: type[Celery], *args: Any) -> Celery:
        arguments = self.build_kwargs(*args)
        rebuilt = self.construct(cls, **arguments)
        self.prepare(rebuilt, **arguments)
        return rebuilt

    def construct(self, cls: type[Celery], **kwargs: Any) -> Celery:
        """Make the app."""
        return cls(**kwargs)

    def prepare(self, app: Celery, **kwargs: Any) -> None:
        """Set the changed settings on the new app."""
        changes = kwargs["changes"]
        app.conf.update(changes)

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        """Turn the pickled arguments into those of the constructor."""
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(
        self,
        main: str | None,
        changes: Mapping[str, Any],
        loader: Any,
        backend: Any,
        amqp: Any,
        events: Any,
        log: Any,
        control: Any,
        accept_magic_kwargs: Any,
        config_source: Any = None,
        config_source_silent: bool = False,
    ) -> dict[str, Any]:
        """Name the arguments in the order in which apps pickle them."""
        return {
            "main": main,
            "loader": loader,
            "backend": backend,
            "amqp": amqp,
            "events": events,
            "log": log,
            "control": control,
            "changes": changes,
            "config_source": config_source,
            "set_as_current": False,
        }


# -- finding apps


def find_app(
    app: str,
    symbol_by_name: Callable[..., Any] = _symbol_by_name,
    imp: Callable[..., ModuleType] = import_from_cwd,
) -> Celery:
    """Find the app meant by *app*: ``module``, ``module:attribute`` or ``module.attribute``.

    In a module it is the attribute ``app`` or ``celery``, then whatever the sub-module ``celery``
    of a package offers, then any app there is.

    Raises:
        ModuleNotFoundError: There is no such module, or no such attribute.
        AttributeError: The module holds no app.
    """
    try:
        found = symbol_by_name(app, imp=imp)
    except AttributeError as exc:
        if ":" in app:
            raise ModuleNotFoundError(f"There is nothing called {app!r}: {exc}", name=app) from exc
        found = imp(app)  # a sub-module that its package has not imported
    if not isinstance(found, ModuleType):
        named: Celery = found
        return named
    inside = _app_in(found, imp)
    if inside is None:
        raise AttributeError(f"Module {found.__name__!r} has no attribute 'celery'")
    return inside


def _app_in(module: ModuleType, imp: Callable[..., ModuleType]) -> Celery | None:
    for attribute in ("app", "celery"):
        candidate = getattr(module, attribute, None)
        if _is_app(candidate):
            return candidate
    submodule = f"{module.__name__}.celery"
    if hasattr(module, "__path__"):
        try:
            nested = _app_in(imp(submodule), imp)
        except ModuleNotFoundError as exc:
            if exc.name != submodule:
                raise
        else:
            if nested is not None:
                return nested
    return next((value for value in list(vars(module).values()) if _is_app(value)), None)


def _is_app(value: Any) -> bool:
    """Say whether *value* is an app, without importing the class, which is in a higher layer."""
    return any(
        cls.__name__ == "Celery" and cls.__module__ == "celery.app.base"
        for cls in type(value).__mro__
    )
