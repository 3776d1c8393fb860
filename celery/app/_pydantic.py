"""Pydantic models as arguments and return values of tasks (``pydantic=True``).

In the worker, parameters annotated with a model are validated, and a returned model is
dumped; for the caller, model instances are dumped when that is safe, that is when
validating the dump gives an equal model back. pydantic itself is an extra.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.exceptions import ImproperlyConfigured
from celery.utils.functional import is_coroutine_function

if TYPE_CHECKING:
    from celery.app.base import Celery


def _base_model() -> Any:
    try:
        from pydantic import BaseModel
    except ImportError as exc:
        raise ImproperlyConfigured(
            "A task with pydantic=True needs pydantic: pip install 'celery[pydantic]'"
        ) from exc
    return BaseModel


def _model_of(annotation: Any, base: Any) -> Any:
    """Return the model class that *annotation* names, also as Optional, else None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        choices = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        # A union of several models has no one class to validate with.
        annotation = choices[0] if len(choices) == 1 else None
    if inspect.isclass(annotation) and issubclass(annotation, base):
        return annotation
    return None


class Models:
    """What pydantic has to do for one task function.

    Args:
        strict: Validate without conversions.
        context: Merged over the names ``celery_app`` and ``celery_task_name``.
        dump_kwargs: Options of ``model_dump``.
    """

    def __init__(
        self,
        app: Celery,
        fun: Callable[..., Any],
        name: str,
        strict: bool,
        context: Mapping[str, Any] | None,
        dump_kwargs: Mapping[str, Any] | None,
    ) -> None:
        self.base = _base_model()
        self.fun = fun
        self.signature = inspect.signature(fun)
        hints = typing.get_type_hints(fun)
        self.returned = _model_of(hints.pop("return", None), self.base)
        found = ((param, _model_of(hint, self.base)) for param, hint in hints.items())
        self.models = {param: model for param, model in found if model is not None}
        self.strict = strict
        self.context = {"celery_app": app, "celery_task_name": name, **(context or {})}
        self.dump_kwargs = dict(dump_kwargs or {})

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with validated arguments and dump a model that it returns."""
        call = self._validated(args, kwargs)
        return self._returned(self.fun(*call.args, **call.kwargs))

    async def run_coroutine(self, *args: Any, **kwargs: Any) -> Any:
        """Do what `run` does, for a coroutine function."""
        call = self._validated(args, kwargs)
        return self._returned(await self.fun(*call.args, **call.kwargs))

    def _validated(self, args: Any, kwargs: Any) -> inspect.BoundArguments:
        call = self.signature.bind(*args, **kwargs)
        for param, model in self.models.items():
            value = call.arguments.get(param)
            if value is not None:
                call.arguments[param] = model.model_validate(
                    value, strict=self.strict, context=self.context
                )
        return call

    def _returned(self, result: Any) -> Any:
        if self.returned is not None and type(result) is self.returned:
            return self.dump(result)
        return result

    def dump(self, model: Any) -> Any:
        """Return *model* as data that JSON can carry."""
        return model.model_dump(**{"mode": "json", **self.dump_kwargs})

    def dump_arguments(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, *, bound: bool
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Dump the model instances among the arguments of a call that survive the round trip."""
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        try:
            names = list(self.signature.bind_partial(*((None,) if bound else ()), *args).arguments)
        except TypeError:
            # A call that does not fit fails in the check, or in the worker, with a better text.
            return args, kwargs
        positional = names[1:] if bound else names
        dumped = list(args)
        for index, param in enumerate(positional[: len(args)]):
            dumped[index] = self._dump_argument(param, args[index])
        return dumped, {param: self._dump_argument(param, kwargs[param]) for param in kwargs}

    def _dump_argument(self, param: str, value: Any) -> Any:
        model = self.models.get(param)
        if model is None or type(value) is not model or hasattr(value, "__json__"):
            return value
        try:
            data = value.model_dump(mode="json")
            again = model.model_validate(data, strict=self.strict, context=self.context)
        except ValueError:
            # Pydantic's ValidationError is one: the dump does not lead back to the model.
            return value
        return data if again == value else value


def wrap(
    app: Celery,
    fun: Callable[..., Any],
    name: str,
    strict: bool = True,
    context: Mapping[str, Any] | None = None,
    dump_kwargs: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Return *fun* with models as arguments and return value; ``__models__`` holds the `Models`."""
    models = Models(app, fun, name, strict, context, dump_kwargs)

    run = models.run_coroutine if is_coroutine_function(fun) else models.run

    @functools.wraps(fun)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    wrapper.__models__ = models  # type: ignore[attr-defined]
    return wrapper
