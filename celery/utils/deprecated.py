"""Warnings about what goes away."""

from __future__ import annotations

import warnings
from collections.abc import Callable as _Function
from functools import wraps
from typing import Any, TypeVar

from celery.exceptions import CDeprecationWarning, CPendingDeprecationWarning

__all__ = ("Callable", "Property", "warn")

F = TypeVar("F", bound=_Function[..., Any])

PENDING_DEPRECATION_FMT = (
    "{description} will be deprecated in version {deprecation} and removed in version {removal}."
    " {alternative}"
)
DEPRECATION_FMT = (
    "{description} is deprecated and will be removed in version {removal}. {alternative}"
)


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """
    Warn the caller's caller.

    Args:
        description: What goes away.
        deprecation: The version that will deprecate it; None if it is deprecated already.
        removal: The version that will be without it.
        alternative: A sentence on what to use.
        stacklevel: As for `warnings.warn`.
    """
    text, category = (
        (DEPRECATION_FMT, CDeprecationWarning)
        if deprecation is None
        else (PENDING_DEPRECATION_FMT, CPendingDeprecationWarning)
    )
    message = text.format(
        description=description,
        deprecation=deprecation,
        removal=removal,
        alternative=alternative or "",
    )
    warnings.warn(category(message.rstrip()), stacklevel=stacklevel + 1)


def Callable(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Function[[F], F]:
    """Decorate a function so that calling it warns; the arguments are those of `warn`."""

    def decorate(fun: F) -> F:
        @wraps(fun)
        def deprecated(*args: Any, **kwargs: Any) -> Any:
            warn(
                description or f"{fun.__module__}.{fun.__qualname__}",
                deprecation,
                removal,
                alternative,
                stacklevel=2,
            )
            return fun(*args, **kwargs)

        return deprecated  # type: ignore[return-value]  # it takes and returns what fun does

    return decorate


class _DeprecatedProperty:
    """A property that warns when it is used."""

    def __init__(
        self,
        fget: _Function[[Any], Any] | None,
        fset: _Function[[Any, Any], None] | None,
        fdel: _Function[[Any], None] | None,
        about: dict[str, Any],
    ) -> None:
        self._get, self._set, self._del = fget, fset, fdel
        self._about = about
        self.__doc__ = fget.__doc__ if fget else None

    def __set_name__(self, owner: type, name: str) -> None:
        if not self._about.get("description"):
            self._about = {**self._about, "description": f"{owner.__qualname__}.{name}"}

    def _warned(self, function: _Function[..., Any] | None) -> _Function[..., Any]:
        if function is None:
            raise AttributeError(f"{self._about.get('description')} does not allow that")
        warn(**self._about, stacklevel=3)
        return function

    def __get__(self, obj: Any, type: type | None = None) -> Any:
        return self if obj is None else self._warned(self._get)(obj)

    def __set__(self, obj: Any, value: Any) -> None:
        self._warned(self._set)(obj, value)

    def __delete__(self, obj: Any) -> None:
        self._warned(self._del)(obj)

    def setter(self, fset: _Function[[Any, Any], None]) -> _DeprecatedProperty:
        """Return a copy that can be set."""
        return type(self)(self._get, fset, self._del, self._about)

    def deleter(self, fdel: _Function[[Any], None]) -> _DeprecatedProperty:
        """Return a copy that can be deleted."""
        return type(self)(self._get, self._set, fdel, self._about)


def Property(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Function[[_Function[[Any], Any]], _DeprecatedProperty]:
    """Make a property that warns when it is used; the arguments are those of `warn`."""
    about = {
        "description": description,
        "deprecation": deprecation,
        "removal": removal,
        "alternative": alternative,
    }
    return lambda fget: _DeprecatedProperty(fget, None, None, about)
