"""What a function takes; offered by `celery.utils.functional`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

__all__ = (
    "arity_greater",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_coroutine_function",
)

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters_of(fun: Callable[..., Any]) -> list[inspect.Parameter]:
    # A wrapper is judged by its own parameters: what it passes on is its own business.
    return list(inspect.signature(fun, follow_wrapped=False).parameters.values())


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Say whether *fun* has a ``**kwargs`` parameter."""
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD
        for parameter in inspect.signature(fun).parameters.values()
    )


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Say whether *fun* takes an argument by *name*, or at the 1-based *position* if given."""
    parameters = _parameters_of(fun)
    kinds = {parameter.kind for parameter in parameters}
    if kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
        return True
    if position:
        return sum(parameter.kind in _POSITIONAL for parameter in parameters) >= position
    return any(parameter.name == name for parameter in parameters)


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Say whether *fun* takes more than *n* positional arguments."""
    parameters = _parameters_of(fun)
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    return sum(parameter.kind in _POSITIONAL for parameter in parameters) > n


def _anything(*args: Any, **kwargs: Any) -> None:
    """Accept every call; its code is the blank from which `head_from_fun` cuts."""


def _nothing() -> None:
    """Accept no argument; its code is the blank from which `head_from_fun` cuts."""


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """
    Make a function that takes what *fun* takes and does nothing.

    Calling it checks arguments at the speed of the interpreter, with the interpreter's own error
    messages, so a task call can be refused before it is sent.

    Args:
        fun: A function, method, or object with ``__call__``.
        bound: Leave out the first parameter, which the task fills with itself.
    """
    name = getattr(fun, "__name__", None) or type(fun).__name__
    try:
        parameters = _parameters_of(fun)
    except (TypeError, ValueError):  # some built-in functions don't tell
        return _anything
    if bound and parameters and parameters[0].kind in _POSITIONAL:
        parameters = parameters[1:]
    by_kind: dict[Any, list[inspect.Parameter]] = {}
    for parameter in parameters:
        by_kind.setdefault(parameter.kind, []).append(parameter)
    kinds = inspect.Parameter
    only = by_kind.get(kinds.POSITIONAL_ONLY, [])
    positional = only + by_kind.get(kinds.POSITIONAL_OR_KEYWORD, [])
    keyword = by_kind.get(kinds.KEYWORD_ONLY, [])
    rest = by_kind.get(kinds.VAR_POSITIONAL, []) + by_kind.get(kinds.VAR_KEYWORD, [])

    flags = _nothing.__code__.co_flags
    if kinds.VAR_POSITIONAL in by_kind:
        flags |= inspect.CO_VARARGS
    if kinds.VAR_KEYWORD in by_kind:
        flags |= inspect.CO_VARKEYWORDS
    variables = tuple(parameter.name for parameter in (*positional, *keyword, *rest))
    code = _nothing.__code__.replace(
        co_argcount=len(positional),
        co_posonlyargcount=len(only),
        co_kwonlyargcount=len(keyword),
        co_varnames=variables,
        co_nlocals=len(variables),
        co_flags=flags,
        co_name=name,
        co_qualname=name,
    )
    empty = inspect.Parameter.empty
    defaults = tuple(p.default for p in positional if p.default is not empty)
    head = FunctionType(code, {}, name, defaults or None)
    head.__kwdefaults__ = {p.name: p.default for p in keyword if p.default is not empty} or None
    head.__module__ = getattr(fun, "__module__", None) or __name__
    return head


def is_coroutine_function(fun: Any) -> bool:
    """Say whether calling *fun* makes a coroutine, as far as can be known before."""
    return inspect.iscoroutinefunction(inspect.unwrap(fun))
