"""
Finding classes and modules by name, with the working directory on the path where users expect it.

Component references are strings, ``"package.module:attribute"`` or ``"package.module.attribute"``,
or the object itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module, invalidate_caches, reload
from types import ModuleType
from typing import Any

__all__ = (
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
)

#: The script of the parent process, which children started afresh know as ``__mp_main__``.
MP_MAIN_FILE = os.environ.get("MP_MAIN_FILE")


class NotAPackage(Exception):
    """Something inside a plain module was asked for as if that were a package."""


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[..., Any] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """
    Return what the reference *name* stands for; anything but a string is returned as it is.

    Args:
        aliases: Short names.
        imp: Imports a module, in place of `importlib.import_module`.
        package: What relative names are relative to; where a name without separator belongs.
        sep: Stands between module and attribute where there is no colon.
        default: Returned, unless None, where there is no such module or attribute.
        kwargs: For *imp*.
    """
    if not isinstance(name, str):
        return name
    if aliases:
        name = aliases.get(name) or name
    module, _, attribute = name.rpartition(":" if ":" in name else sep)
    if not module:
        module, attribute = package or attribute, ""
    try:
        found = (imp or import_module)(module, package=package, **kwargs)
        return getattr(found, attribute) if attribute else found
    except ValueError as exc:
        raise ValueError(f"Couldn't import {name!r}: {exc}") from exc
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default


def qualname(obj: Any) -> str:
    """Return ``module.name`` of a class or function, or of the class of any other object."""
    if not hasattr(obj, "__name__"):
        obj = type(obj)
    name: str = getattr(obj, "__qualname__", obj.__name__)
    return name if "." in name else f"{obj.__module__}.{name}"


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the class *name* (a reference, or the class itself) with the other arguments."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """Have the working directory at the front of the module search path for a while."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:  # it was deleted; nothing can be imported from it
        yield
        return
    if cwd in sys.path:
        yield
        return
    sys.path.insert(0, cwd)
    try:
        yield
    finally:
        # The imported code may have changed the path, and removed our entry with it.
        if cwd in sys.path:
            sys.path.remove(cwd)


def find_module(
    module: str, path: str | None = None, imp: Callable[[str], ModuleType] | None = None
) -> ModuleType:
    """
    Import *module*, with the working directory on the search path.

    Raises:
        NotAPackage: A parent of *module* exists but is a plain module.
        ModuleNotFoundError: It does not exist; the error names what is missing.
    """
    load = imp or import_module
    with cwd_in_path():
        try:
            return load(module)
        except ModuleNotFoundError:
            parent, _, _ = module.rpartition(".")
            while parent:
                found = sys.modules.get(parent)
                if found is not None and not hasattr(found, "__path__"):
                    raise NotAPackage(f"{parent} is a module, so there is no {module}") from None
                parent, _, _ = parent.rpartition(".")
            raise


def import_from_cwd(
    module: str,
    imp: Callable[..., ModuleType] | None = None,
    package: str | None = None,
) -> ModuleType:
    """Import *module* (relative to *package*), looking into the working directory as well."""
    with cwd_in_path():
        return (imp or import_module)(module, package=package)


def reload_from_cwd(
    module: ModuleType, reloader: Callable[[ModuleType], ModuleType] | None = None
) -> ModuleType:
    """Load the source of *module* again, looking into the working directory as well."""
    with cwd_in_path():
        invalidate_caches()
        return (reloader or reload)(module)


def module_file(module: ModuleType) -> str:
    """Return the source file of *module*, never the compiled one."""
    name = module.__file__ or ""
    return name[:-1] if name.endswith((".pyc", ".pyo")) else name


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """
    Name a task after its module and function.

    Tasks of the script that is being run carry the name its module will have in the worker: that
    of the app, or of the file.
    """
    module_name = module_name or "__main__"
    module = sys.modules.get(module_name)
    if module is not None:
        # The key under which it was imported need not be its name.
        module_name = module.__name__
        if MP_MAIN_FILE and getattr(module, "__file__", None) == MP_MAIN_FILE:
            module_name = "__main__"
    if module_name == "__main__" and app.main:
        module_name = app.main
    return f"{module_name}.{name}"


def load_extension_class_names(namespace: str) -> Iterator[tuple[str, str]]:
    """Yield name and reference of each entry point in the group *namespace*."""
    from importlib.metadata import entry_points

    seen = set()
    for entry in entry_points(group=namespace):
        if (entry.name, entry.value) not in seen:
            seen.add((entry.name, entry.value))
            yield entry.name, entry.value


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """Yield name and class of each entry point in *namespace*; warn about those that don't load."""
    import warnings

    for name, reference in load_extension_class_names(namespace):
        try:
            cls = symbol_by_name(reference)
        except (ImportError, SyntaxError, AttributeError) as exc:
            warnings.warn(
                f"Cannot load the {namespace} extension {name!r} ({reference}): {exc!r}",
                stacklevel=2,
            )
        else:
            yield name, cls
