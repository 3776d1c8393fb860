"""
Stand-ins: for an object that is looked up at each use, made at first use, or imported at first use.

`Proxy` asks a function for its target every time (the current app, the current task).
`PromiseProxy` asks once and keeps the answer (a task declared before its app is ready).  The lazy
modules at the end let a package offer names, and whole modules of old, without importing what they
stand for.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, cast

__all__ = ("PromiseProxy", "Proxy", "maybe_evaluate", "names_on_demand", "try_import")

_set = object.__setattr__
_get = object.__getattribute__
_UNKNOWN = object()


class _ModuleName(str):
    """The ``__module__`` of the proxy class, and of the target when read from an instance."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return str(self) if instance is None else instance._get_current_object().__module__


class _Documentation:
    """The docstring of the proxy class, the one it was given, or the one of its target."""

    __slots__ = ("text",)

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __get__(self, instance: Any, owner: type | None = None) -> str | None:
        if instance is None:
            return self.text
        given = _get(instance, "_Proxy__given_doc")
        return instance._get_current_object().__doc__ if given is None else str(given)


class Proxy:
    """
    Behaves like whatever ``local(*args, **kwargs)`` returns at the moment it is used.

    Args:
        local: Finds the target.
        args: Passed to it.
        kwargs: Passed to it.
        name: Reported as ``__name__``; the target's own by default.
        __doc__: Reported as ``__doc__``; the target's own by default.
    """

    __slots__ = ("__args", "__given_doc", "__given_name", "__kwargs", "__local", "__weakref__")

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        _set(self, "_Proxy__local", local)
        _set(self, "_Proxy__args", args or ())
        _set(self, "_Proxy__kwargs", kwargs or {})
        _set(self, "_Proxy__given_name", name)
        _set(self, "_Proxy__given_doc", __doc__)

    def _get_current_object(self) -> Any:
        """Return the target itself, for code that needs to tell it from the proxy."""
        return self.__local(*self.__args, **self.__kwargs)

    @property
    def __name__(self) -> str:
        given = self.__given_name
        return str(self._get_current_object().__name__ if given is None else given)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        try:
            return cast("dict[str, Any]", self._get_current_object().__dict__)
        except RuntimeError:
            raise AttributeError("__dict__") from None

    # isinstance() and pickle look at the class, so it is the one of the target.
    @property
    def __class__(self) -> type:
        return cast("type", self._get_current_object().__class__)

    @__class__.setter
    def __class__(self, cls: type) -> None:
        self._get_current_object().__class__ = cls

    def __dir__(self) -> list[str]:
        try:
            return dir(self._get_current_object())
        except RuntimeError:
            return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __repr__(self) -> str:
        try:
            target = self._get_current_object()
        except RuntimeError:  # nothing to stand for right now
            return f"<{type(self).__name__} unbound>"
        return repr(target)

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:  # nothing to stand for right now
            return False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the target; some packages wrap this method."""
        return self._get_current_object()(*args, **kwargs)

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        return self._get_current_object().__exit__(*exc_info)

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)


_OPERATORS = """
    abs neg pos invert index lt le eq ne gt ge getitem setitem delitem contains
    add sub mul truediv floordiv mod pow lshift rshift and or xor matmul
    iadd isub imul itruediv ifloordiv imod ipow ilshift irshift iand ior ixor
"""


def _install_operators() -> None:
    """Give `Proxy` every operator, each applied to the target of its left operand."""
    table: dict[str, Callable[..., Any]] = {
        f"__{name}__": getattr(operator, f"__{name}__") for name in _OPERATORS.split()
    }
    calls = (len, iter, hash, str, int, float, complex, hex, oct, round, format, divmod)
    table |= {f"__{call.__name__}__": call for call in calls}
    # Names that only the second version of the language called; some code still asks for them.
    table |= {"__div__": operator.truediv, "__coerce__": lambda left, right: (left, right)}

    def forward(name: str, operate: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Proxy, *operands: Any) -> Any:
            return operate(self._get_current_object(), *operands)

        method.__name__ = name
        method.__qualname__ = f"Proxy.{name}"
        return method

    def reflected(name: str, operate: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Proxy, other: Any) -> Any:
            return operate(other, self._get_current_object())

        method.__name__ = name
        method.__qualname__ = f"Proxy.{name}"
        return method

    for name, operate in table.items():
        setattr(Proxy, name, forward(name, operate))
    mirrored = "add sub mul truediv floordiv mod pow lshift rshift and or xor matmul"
    for name in mirrored.split():
        setattr(Proxy, f"__r{name}__", reflected(f"__r{name}__", table[f"__{name}__"]))


_install_operators()
Proxy.__module__ = _ModuleName(__name__)
Proxy.__doc__ = cast("str", _Documentation(Proxy.__doc__))


class PromiseProxy(Proxy):
    """
    Asks for its target once, at first use, and keeps it.

    Callbacks added with `__then__` run right after that.  Two threads that come first at the same
    time may both ask, so what makes the target must give both the same one.
    """

    __slots__ = ("__pending", "__target")

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        super().__init__(local, args, kwargs, name, __doc__)
        _set(self, "_PromiseProxy__target", _UNKNOWN)
        _set(self, "_PromiseProxy__pending", [])

    def _get_current_object(self) -> Any:
        target = self.__target
        return self.__evaluate__() if target is _UNKNOWN else target

    def __getattr__(self, name: str) -> Any:
        # As inherited, but one call less for each ``task.delay``.
        target = self.__target
        return getattr(self.__evaluate__() if target is _UNKNOWN else target, name)

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *fun* once there is a target: now if there is one."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        self.__pending.append((fun, args, kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Say whether the target is known."""
        return self.__target is not _UNKNOWN

    def __maybe_evaluate__(self) -> Any:
        """Return the target."""
        return self._get_current_object()

    def __evaluate__(self) -> Any:
        """Find the target, forget how it was found, run the waiting callbacks."""
        target = super()._get_current_object()
        _set(self, "_PromiseProxy__target", target)
        # What the finder closes over (modules, unfinished tasks) may go now.
        _set(self, "_Proxy__local", lambda: target)
        _set(self, "_Proxy__args", ())
        _set(self, "_Proxy__kwargs", {})
        waiting = self.__pending
        while waiting:
            fun, args, kwargs = waiting.pop(0)
            fun(*args, **kwargs)
        return target


PromiseProxy.__doc__ = cast("str", _Documentation(PromiseProxy.__doc__))


def maybe_evaluate(obj: Any) -> Any:
    """Return the target of a promise, and anything else as it is."""
    if type(obj) is PromiseProxy:
        return obj._get_current_object()
    evaluate = getattr(type(obj), "__maybe_evaluate__", None)
    return obj if evaluate is None else evaluate(obj)


def try_import(module: str, default: Any = None) -> Any:
    """Import *module*, or return *default* where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        return default


# -- modules whose contents load when asked for -----------------------------------------------


def names_on_demand(module: str, origins: Mapping[str, str]) -> Callable[[str], Any]:
    """
    Return a function ``__getattr__`` for *module*: it imports what other modules have, when needed.

    Args:
        module: Its name.
        origins: The name to offer -> ``module:name``.
    """

    def find(name: str) -> Any:
        origin = origins.get(name)
        if origin is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, _, attribute = origin.partition(":")
        value = getattr(import_module(where), attribute)
        setattr(sys.modules[module], name, value)
        return value

    return find


#: Modules that exist for old code only; their names are attributes of the current app.
COMPAT_MODULES: dict[str, dict[str, dict[str, str]]] = {
    "celery": {
        "execute": {"send_task": "send_task"},
        "log": {
            "get_default_logger": "log.get_default_logger",
            "setup_logger": "log.setup_logger",
            "setup_logging_subsystem": "log.setup_logging_subsystem",
            "redirect_stdouts_to_logger": "log.redirect_stdouts_to_logger",
        },
        "messaging": {
            "TaskConsumer": "amqp.TaskConsumer",
            "establish_connection": "connection",
            "get_consumer_set": "amqp.TaskConsumer",
        },
        "registry": {"tasks": "tasks"},
    },
}
#: What every module has.
DEFAULT_ATTRS = {"__file__", "__path__", "__doc__", "__all__"}
#: Names of a compatibility module that warn when used; none at present.
DEPRECATED_ATTRS: set[str] = set()
MODULE_DEPRECATED = "The module {0} is deprecated and will be removed."


class LazyModule(ModuleType):
    """A module that imports what it offers when a name is first used."""

    #: Name of each attribute -> name of the module that has it.
    _object_origins: Mapping[str, str] = {}
    #: Names of modules to offer as attributes.
    _direct: Mapping[str, str] = {}
    _all_by_module: Mapping[str, Iterable[str]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self._object_origins:
            value = getattr(import_module(self._object_origins[name]), name)
        elif name in self._direct:
            value = import_module(self._direct[name])
        else:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._object_origins, *self._direct})

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


class _CompatModule(LazyModule):
    """Forwards each of its names to the current app, anew at each use."""

    _app_paths: Mapping[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            path = self._app_paths[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None
        return getappattr(path)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._app_paths})


class class_property:
    """A property of the class itself, not of its instances."""

    def __init__(
        self, getter: Callable[[Any], Any] | None = None, setter: Callable[..., Any] | None = None
    ) -> None:
        self._getter = fun_of_method(getter)
        self._setter = fun_of_method(setter)
        self.__doc__ = getattr(self._getter, "__doc__", None)

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        owner = obj.__class__ if type is None else type
        return self if self._getter is None else self._getter(owner)

    def __set__(self, obj: Any, value: Any) -> None:
        if self._setter is None:
            raise AttributeError("this class property is read-only")
        self._setter(obj.__class__, value)

    def setter(self, setter: Callable[..., Any]) -> class_property:
        """Return a copy that *setter* makes writable."""
        return type(self)(self._getter, setter)


def fun_of_method(method: Any) -> Any:
    """Return the plain function inside a method, classmethod or staticmethod."""
    return getattr(method, "__func__", method)


def reclassmethod(method: Any) -> Any:
    """Make a class method out of any kind of method."""
    return classmethod(fun_of_method(method))


def getappattr(path: str) -> Any:
    """Follow the dotted *path* from the current app."""
    app = sys.modules[__package__].current_app  # the facade is the door to the current app
    return operator.attrgetter(path)(app._get_current_object())


def get_origins(defs: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Turn module -> names into name -> module."""
    return {name: module for module, names in defs.items() for name in names}


def create_module(
    name: str,
    attrs: Mapping[str, Any],
    cls_attrs: Mapping[str, Any] | None = None,
    pkg: ModuleType | None = None,
    base: type[ModuleType] = LazyModule,
    prepare_attr: Callable[[Any], Any] | None = None,
) -> ModuleType:
    """Make a module *name* of class *base*, known to the import system and to *pkg*."""
    fqdn = f"{pkg.__name__}.{name}" if pkg is not None else name
    cls = type(fqdn.rpartition(".")[2], (base,), {**(cls_attrs or {}), "__module__": __name__})
    module = cast("ModuleType", cls(fqdn))
    prepare = prepare_attr or (lambda attr: attr)
    module.__dict__.update({key: prepare(attr) for key, attr in attrs.items()})
    sys.modules[fqdn] = module
    return module


def recreate_module(
    name: str,
    compat_modules: Iterable[str] | None = None,
    by_module: Mapping[str, Iterable[str]] | None = None,
    direct: Mapping[str, str] | None = None,
    base: type[ModuleType] = LazyModule,
    **attrs: Any,
) -> tuple[ModuleType, ModuleType]:
    """
    Make the module *name*, which is being imported, lazy.

    Args:
        name: Its name; it has to be in `sys.modules`.
        compat_modules: Names of modules of `COMPAT_MODULES` to add to it.
        by_module: The names to offer, by the module that has them.
        direct: Modules to offer as attributes: attribute -> full name.
        base: The class of the module from now on.
        attrs: Put into the module as they are.

    Returns:
        The module, twice: it is changed in place, so the old one and the new one are the same.
    """
    module = sys.modules[name]
    by_module = by_module or {}
    origins = get_origins(by_module)
    module.__class__ = type(
        "LazyModule",
        (base,),
        {
            "__module__": __name__,
            "_object_origins": origins,
            "_direct": dict(direct or {}),
            "_all_by_module": by_module,
        },
    )
    module.__dict__.update(attrs)
    module.__dict__.setdefault("__all__", tuple(sorted({*origins, *(direct or ())})))
    for compat in compat_modules or ():
        setattr(module, compat, get_compat_module(module, compat))
    return module, module


def get_compat_module(pkg: ModuleType, name: str) -> ModuleType:
    """Make the module *name* that the package *pkg* had in former versions."""
    paths = COMPAT_MODULES[pkg.__name__][name]
    return create_module(
        name,
        {"__all__": tuple(sorted(paths))},
        cls_attrs={"_app_paths": paths},
        pkg=pkg,
        base=_CompatModule,
    )
