"""Abstract classes of what can be called like a task; ``isinstance`` works by structure."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

__all__ = ("CallableSignature", "CallableTask")


class _AbstractClass(metaclass=ABCMeta):
    """A class whose subclass check asks for the attributes in ``__required_attributes__``."""

    __required_attributes__: frozenset[str] = frozenset()

    @classmethod
    def _has_all(cls, candidate: type) -> bool:
        return all(
            any(name in vars(base) for base in candidate.__mro__)
            for name in cls.__required_attributes__
        )

    @classmethod
    def register(cls, other: type) -> type:
        """Count *other* as a subclass; a decorator."""
        # ABCMeta keeps the register; this only makes it reachable on the class under mypy.
        return ABCMeta.register(cls, other)


class CallableTask(_AbstractClass, Callable):  # type: ignore[misc]
    """What has the calling methods of a task."""

    __required_attributes__ = frozenset({"delay", "apply_async", "apply"})

    @abstractmethod
    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Call with these arguments."""

    @abstractmethod
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Call with options."""

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Call in this process."""

    @classmethod
    def __subclasshook__(cls, candidate: type) -> Any:
        return (cls is CallableTask and cls._has_all(candidate)) or NotImplemented


class CallableSignature(CallableTask):
    """What has the parts and the algebra of a signature."""

    __required_attributes__ = frozenset({"clone", "freeze", "set", "link", "link_error", "__or__"})

    @property
    @abstractmethod
    def name(self) -> Any:
        """Name of the task."""

    @property
    @abstractmethod
    def type(self) -> Any:
        """The task."""

    @property
    @abstractmethod
    def app(self) -> Any:
        """The app."""

    @property
    @abstractmethod
    def id(self) -> Any:
        """Id of the call, once frozen."""

    @property
    @abstractmethod
    def task(self) -> Any:
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
    def subtask_type(self) -> Any:
        """Which kind of composite this is, or None."""

    @property
    @abstractmethod
    def chord_size(self) -> Any:
        """How many results a chord header with this in it yields."""

    @property
    @abstractmethod
    def immutable(self) -> Any:
        """Whether further arguments are refused."""

    @abstractmethod
    def clone(self, args: Any = None, kwargs: Any = None) -> Any:
        """Copy, with further arguments."""

    @abstractmethod
    def freeze(
        self,
        id: Any = None,
        group_id: Any = None,
        chord: Any = None,
        root_id: Any = None,
        group_index: Any = None,
    ) -> Any:
        """Give the call its id; return its result."""

    @abstractmethod
    def set(self, immutable: Any = None, **options: Any) -> Any:
        """Set options."""

    @abstractmethod
    def link(self, callback: Any) -> Any:
        """Add a callback."""

    @abstractmethod
    def link_error(self, errback: Any) -> Any:
        """Add an errback."""

    @abstractmethod
    def __or__(self, other: Any) -> Any:
        """Chain."""

    @abstractmethod
    def __invert__(self) -> Any:
        """Apply, and wait for the result."""

    @classmethod
    def __subclasshook__(cls, candidate: type) -> Any:
        return (cls is CallableSignature and cls._has_all(candidate)) or NotImplemented
