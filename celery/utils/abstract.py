"""
What makes an object a task, or a signature, for whoever only uses it.

A class belongs here by what it offers, or by being registered.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar

__all__ = ("CallableSignature", "CallableTask")


class _AbstractClass(metaclass=ABCMeta):  # noqa: B024 - a hook, no contract
    __required_attributes__: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        required = cls.__dict__.get("__required_attributes__")
        if not required:
            return NotImplemented
        offered = {name for base in other.__mro__ for name in vars(base)}
        return True if required <= offered else NotImplemented

    @classmethod
    def register(cls, other: type) -> type:
        """Declare that *other* belongs here; also a decorator."""
        return ABCMeta.register(cls, other)


class CallableTask(_AbstractClass):
    """What can be called, here or by a worker."""

    __required_attributes__ = frozenset({"delay", "apply_async", "apply", "__call__"})

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call here and now."""

    @abstractmethod
    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call with these arguments."""

    @abstractmethod
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call, with options."""

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Call here, as a worker would."""


class CallableSignature(CallableTask):
    """A call to be made: a task with arguments and options."""

    __required_attributes__ = frozenset(
        {
            *("name", "type", "app", "id", "task", "args", "kwargs", "options", "subtask_type"),
            *("chord_size", "immutable", "clone", "freeze", "set", "link", "link_error"),
            *("__or__", "__invert__"),
        }
    )

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the task."""

    @property
    @abstractmethod
    def type(self) -> Any:
        """The task."""

    @property
    @abstractmethod
    def app(self) -> Any:
        """The app it is called with."""

    @property
    @abstractmethod
    def id(self) -> str | None:
        """Id of the call, once it is frozen."""

    @property
    @abstractmethod
    def task(self) -> str:
        """Name of the task."""

    @property
    @abstractmethod
    def args(self) -> Any:
        """Positional arguments."""

    @property
    @abstractmethod
    def kwargs(self) -> Any:
        """Keyword arguments."""

    @property
    @abstractmethod
    def options(self) -> Any:
        """Options of the call."""

    @property
    @abstractmethod
    def subtask_type(self) -> str | None:
        """Kind of workflow; None for a single call."""

    @property
    @abstractmethod
    def chord_size(self) -> int | None:
        """Number of results it adds to a chord it is part of."""

    @property
    @abstractmethod
    def immutable(self) -> bool:
        """Whether it ignores the result of the call before it."""

    @abstractmethod
    def clone(self, args: Any = None, kwargs: Any = None) -> Any:
        """Copy it, with further arguments."""

    @abstractmethod
    def freeze(
        self,
        id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it an id before it is sent."""

    @abstractmethod
    def set(self, immutable: bool | None = None, **options: Any) -> Any:
        """Change options."""

    @abstractmethod
    def link(self, callback: Any) -> Any:
        """Call *callback* with the result."""

    @abstractmethod
    def link_error(self, errback: Any) -> Any:
        """Call *errback* if it fails."""

    @abstractmethod
    def __or__(self, other: Any) -> Any: ...

    @abstractmethod
    def __invert__(self) -> Any: ...
