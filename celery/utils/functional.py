"""
Small functions about functions and iterables.

Most come from kombu; ours are the lazily filled list (`regen`), the introspection that decides
which arguments a task takes (`head_from_fun`), and helpers for sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from celery.local import names_on_demand

if TYPE_CHECKING:
    from kombu.utils.functional import (
        LRUCache,
        dictfilter,
        is_list,
        lazy,
        maybe_evaluate,
        maybe_list,
        memoize,
    )

    from celery.utils._introspection import (
        fun_accepts_kwargs,
        head_from_fun,
        is_coroutine_function,
    )
    from celery.utils._mlazy import mlazy

__all__ = (
    "LRUCache",
    "chunks",
    "dictfilter",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "head_from_fun",
    "is_coroutine_function",
    "is_list",
    "lazy",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "regen",
    "uniq",
)

T = TypeVar("T")

#: Kept for code that reads it; `head_from_fun` works without generated source.
FUNHEAD_TEMPLATE = "def {fun_name}({fun_args}):\n    return {fun_value}\n"


#: What takes longer to import than all of this module; few programs need it.
__getattr__ = names_on_demand(
    __name__,
    {
        "arity_greater": "celery.utils._introspection:arity_greater",
        "fun_accepts_kwargs": "celery.utils._introspection:fun_accepts_kwargs",
        "fun_takes_argument": "celery.utils._introspection:fun_takes_argument",
        "head_from_fun": "celery.utils._introspection:head_from_fun",
        "is_coroutine_function": "celery.utils._introspection:is_coroutine_function",
        "LRUCache": "kombu.utils.functional:LRUCache",
        "dictfilter": "kombu.utils.functional:dictfilter",
        "is_list": "kombu.utils.functional:is_list",
        "lazy": "kombu.utils.functional:lazy",
        "maybe_evaluate": "kombu.utils.functional:maybe_evaluate",
        "maybe_list": "kombu.utils.functional:maybe_list",
        "memoize": "kombu.utils.functional:memoize",
        "mlazy": "celery.utils._mlazy:mlazy",
    },
)


class DummyContext:
    """A context that does nothing."""

    def __enter__(self) -> DummyContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def noop(*args: Any, **kwargs: Any) -> None:
    """Take anything, do nothing."""


def idle_hook(function: T) -> T:
    """Mark a method that does nothing until it is overridden, see `unless_idle`."""
    function.is_idle = True  # type: ignore[attr-defined]  # any function takes attributes
    return function


def unless_idle(hook: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return *hook*, or None when calling it would do nothing."""
    return None if getattr(hook, "is_idle", False) else hook


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:
    """Return the first argument."""
    return arg


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """Yield each item, `lazy` ones evaluated."""
    # A name on demand is none to this module itself.
    from kombu.utils.functional import maybe_evaluate

    return map(maybe_evaluate, it)


def first(predicate: Callable[[T], Any] | None, it: Iterable[T]) -> T | None:
    """
    Return the first item that *predicate* accepts, or None; promises are evaluated.

    Without a predicate it is the first item that is not None.
    """
    accept = predicate or (lambda item: item is not None)
    return next(filter(accept, evaluate_promises(it)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """
    Make a function that asks a list of objects and returns the first answer that is not None.

    Args:
        method: Name of the method to call on each object; promises in the list are evaluated.
        on_call: Called as ``on_call(answer, *args, **kwargs)``; its result is the answer.
    """

    def ask(objects: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for obj in evaluate_promises(objects):
            answer_of = getattr(obj, method)
            answer = on_call(answer_of, *args, **kwargs) if on_call else answer_of(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return ask


def chunks(it: Iterator[T], n: int) -> Iterator[list[T]]:
    """Cut *it* into lists of *n* items; the last may be shorter."""
    it = iter(it)
    while piece := list(islice(it, n)):
        yield piece


def padlist(container: Iterable[T], size: int, default: Any = None) -> Iterator[Any]:
    """Yield *size* items: those of *container*, cut or filled up with *default*."""
    it = iter(container)
    return (next(it, default) for _ in range(size))


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """Make a function that reads *attrs* from an object into a dict, None for absent ones."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """Yield each item where it occurs first."""
    seen: set[T] = set()
    for item in it:
        if item not in seen:
            seen.add(item)
            yield item


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Yield each item with the one that follows, None for the last."""
    items = iter(it)
    try:
        current = next(items)
    except StopIteration:
        return
    for following in items:
        yield current, following
        current = following
    yield current, None


def maybe(typ: Callable[[Any], T], val: Any) -> T | None:
    """Convert *val* with *typ*, but leave None alone."""
    return None if val is None else typ(val)


def is_numeric_value(value: Any) -> bool:
    """Say whether *value* is a number; booleans don't count."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def seq_concat_item(seq: Any, item: Any) -> Any:
    """Return a new sequence of the type of *seq* (list or tuple) with *item* at its end."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Join two sequences into one of the type of *a*, whatever the type of *b*."""
    return a + type(a)(b)


# -- a sequence over an iterator --------------------------------------------------------------


def regen(it: Iterable[Any]) -> Any:
    """Return lists and tuples as they are, anything else as a sequence filled while it is read."""
    return it if isinstance(it, list | tuple) else _regen(it)


class _regen(MutableSequence[Any]):
    """
    A sequence that takes items from an iterator no sooner than they are asked for.

    It may be iterated again and again.  ``len()``, changes and serializers need, and so fetch,
    everything; ``repr()`` and ``bool()`` don't.
    """

    __slots__ = ("_seen", "_source")

    def __init__(self, it: Iterable[Any]) -> None:
        self._seen: list[Any] = []
        self._source: Iterator[Any] | None = iter(it)

    def _fetch(self, upto: int) -> None:
        """Have at least *upto* items, if there are so many."""
        missing = upto - len(self._seen)
        if missing > 0 and self._source is not None:
            self._seen.extend(islice(self._source, missing))
            if len(self._seen) < upto:
                self._source = None

    @property
    def data(self) -> list[Any]:
        """All items, as a list."""
        if self._source is not None:
            source, self._source = self._source, None
            self._seen.extend(source)
        return self._seen

    def fully_consumed(self) -> bool:
        """Say whether the iterator has come to its end."""
        return self._source is None

    def __iter__(self) -> Iterator[Any]:
        position = 0
        while True:
            # Somebody else may have fetched more, or changed what is there.
            if position >= len(self._seen):
                self._fetch(position + 1)
                if position >= len(self._seen):
                    return
            yield self._seen[position]
            position += 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index >= 0:
            self._fetch(index + 1)
            return self._seen[index]
        return self.data[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data[index] = value

    def __delitem__(self, index: Any) -> None:
        del self.data[index]

    def insert(self, index: int, value: Any) -> None:
        """Put *value* before *index*."""
        self.data.insert(index, value)

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        self._fetch(1)
        return bool(self._seen)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _regen):
            other = other.data
        return self.data == other

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self.data, *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self.data]

    def __repr__(self) -> str:
        shown = [repr(item) for item in self._seen]
        if self._source is not None:
            shown.append("...")
        return f"[{', '.join(shown)}]"

    def __copy__(self) -> list[Any]:
        return list(self.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.data,)

    def __json__(self) -> list[Any]:
        return self.data
