"""Small helpers for objects and classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "lasting_property", "mro_lookup")


class lasting_property(functools.cached_property[Any]):
    """A property that is computed once, by one thread; from then on a plain attribute.

    kombu's takes a lock at each access, Python's from 3.12 on takes none at all.
    """

    def __init__(self, func: Callable[[Any], Any]) -> None:
        super().__init__(func)
        self._computing = RLock()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        with self._computing:
            return super().__get__(instance, owner)


class Bunch:
    """An object with the given attributes."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


def mro_lookup(
    cls: type,
    attr: str,
    stop: Iterable[type] | None = None,
    monkey_patched: Iterable[str] | None = None,
) -> type | None:
    """
    Return the first class in the method resolution order that defines *attr* itself.

    Args:
        cls: Where to begin.
        attr: The name.
        stop: Where to end: when one of these classes is reached the answer is None.
        monkey_patched: Modules that the contents of the *stop* classes come from.  What comes from
            any other module was patched in, and counts as a definition after all.
    """
    ends = set(stop or ())
    originals = set(monkey_patched or ())
    for node in cls.__mro__:
        if node not in ends:
            if attr in vars(node):
                return node
            continue
        module = getattr(vars(node).get(attr), "__module__", None)
        return node if originals and module and module not in originals else None
    return None


class FallbackContext:
    """
    Uses an object that was given, or makes one for the time of the context.

    Args:
        provided: Returned as it is, and left alone, unless None.
        fallback: Makes a context manager if nothing is provided.
        fb_args: Passed to it.
        fb_kwargs: Passed to it.
    """

    def __init__(
        self,
        provided: Any,
        fallback: Callable[..., AbstractContextManager[Any]],
        *fb_args: Any,
        **fb_kwargs: Any,
    ) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        context = self._context = self.fallback(*self.fb_args, **self.fb_kwargs)
        return context.__enter__()

    def __exit__(self, *exc_info: Any) -> bool | None:
        if self._context is not None:
            return self._context.__exit__(*exc_info)
        return None


class getitem_property:
    """
    An attribute that is an item of a mapping within the object.

    Args:
        keypath: ``"key"`` is ``self["key"]``, ``"options.key"`` is ``self["options"]["key"]``.
            An absent item reads as None.
        doc: Docstring of the attribute.
    """

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        path, _, self.key = keypath.rpartition(".")
        self.path: list[str] | None = path.split(".") if path else None
        self.__doc__ = doc

    def _mapping_in(self, obj: Any) -> Any:
        for step in self.path or ():
            obj = obj[step]
        return obj

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        return self if obj is None else self._mapping_in(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._mapping_in(obj)[self.key] = value
