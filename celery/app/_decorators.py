"""What ``@app.task`` and ``@shared_task`` are to type checkers.

A task keeps the parameters of its function, less the first one with ``bind=True``. What an
``async def`` returns when awaited is the value of its results. With ``base=`` the task is an
instance of that class: if it is generic as `Task` is, ``class Base(Task[P, R])``, with the
parameters and value of the function; otherwise with those that the class states. Type checkers
take such a class for something that makes a task of a function, which `Task.__init__` tells them.

At run time nothing happens here: `factory` and `factory_method` return what they are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

    from celery.app.task import CoroutineTask, Task

    P = ParamSpec("P")
    R = TypeVar("R")
    R_co = TypeVar("R_co", covariant=True)
    T = TypeVar("T", bound=Task[..., Any])

    class Decorator(Protocol):
        """Makes a task of a function."""

        @overload
        def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
        @overload
        def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...

    class Method(Protocol[P, R_co]):
        """A function with a first parameter *self*, which Concatenate takes for positional only.

        mypy refuses that where the function also takes any keyword.
        """

        def __call__(self_, self: Any, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    class BindingDecorator(Protocol):
        """Makes a task of a function whose first parameter is the task.

        That parameter may have any name, or there may be any keyword, but not both. These are
        unions, rather than more overloads, as mypy settles for Any when several of them fit whose
        parameters differ.
        """

        @overload
        def __call__(
            self,
            fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]
            | Method[P, Coroutine[Any, Any, R]],
            /,
        ) -> CoroutineTask[P, R]: ...
        @overload
        def __call__(
            self, fun: Callable[Concatenate[Any, P], R] | Method[P, R], /
        ) -> Task[P, R]: ...

    class Factory(Protocol):
        """The decorator with or without options."""

        @overload
        def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
        @overload
        def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...
        @overload
        def __call__(
            self, *, base: Callable[[Callable[P, R]], T], bind: Literal[True], **options: Any
        ) -> Callable[[Callable[Concatenate[Any, P], R] | Method[P, R]], T]: ...
        @overload
        def __call__(
            self,
            *,
            base: Callable[[Callable[P, R]], T],
            bind: Literal[False] = ...,
            **options: Any,
        ) -> Callable[[Callable[P, R]], T]: ...
        @overload
        def __call__(
            self, *, base: type[T], **options: Any
        ) -> Callable[[Callable[..., Any]], T]: ...
        @overload
        def __call__(self, *, bind: Literal[True], **options: Any) -> BindingDecorator: ...
        @overload
        def __call__(self, *, bind: Literal[False] = ..., **options: Any) -> Decorator: ...
        @overload
        def __call__(self, *args: Any, **options: Any) -> Any: ...

    class FactoryMethod(Protocol):
        """The decorator as a method."""

        @overload
        def __get__(self, instance: None, owner: Any, /) -> Callable[..., Any]: ...
        @overload
        def __get__(self, instance: object, owner: Any, /) -> Factory: ...


def factory(fun: Callable[..., Any]) -> Factory:
    """Declare that *fun* makes tasks."""
    return fun


def factory_method(fun: Callable[..., Any]) -> FactoryMethod:
    """Declare that the method *fun* makes tasks."""
    return fun
