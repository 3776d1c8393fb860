"""
Containers: chained mappings for settings, bounded sets and buffers for the worker.

`ConfigurationView` is what an app's ``conf`` is made of: values that were set, over defaults, under
several spellings of each key.  `LimitedSet` remembers revoked tasks without growing for ever.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict as _OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import chain
from queue import Empty
from typing import Any, ClassVar, cast

from celery.utils.functional import first, uniq

__all__ = (
    "AttributeDict",
    "AttributeDictMixin",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)

REPR_LIMITED_SET = "<{name}({size}): maxlen={0.maxlen}, expires={0.expires}, minlen={0.minlen}>"

Observer = Callable[..., Any]
KeyTransform = Callable[[str], str]


class LazyObject:
    """Stands for Django's class of this name where Django is not in use."""


LazySettings = LazyObject


def force_mapping(m: Any) -> Any:
    """Make a mapping of *m*: Django's lazy settings open up, objects get a `DictAttribute`."""
    django = sys.modules.get("django.utils.functional")
    if django is not None and isinstance(m, django.LazyObject):
        if m._wrapped is django.empty:
            m._setup()
        m = m._wrapped
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: dict[Any, Any], R: Mapping[Any, Any]) -> dict[Any, Any]:
    """Put into *L* what *R* has, except None; return *L*."""
    L.update((key, value) for key, value in R.items() if value is not None)
    return L


class OrderedDict(_OrderedDict[Any, Any]):
    """A dict that also tells which key is the oldest."""

    def _LRUkey(self) -> Any:
        return next(iter(self))


class AttributeDictMixin:
    """Gives a mapping its keys as attributes."""

    def __getattr__(self, k: str) -> Any:
        try:
            return cast("Mapping[str, Any]", self)[k]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        cast("MutableMapping[str, Any]", self)[key] = value


class AttributeDict(dict[str, Any], AttributeDictMixin):
    """A dict with its keys as attributes."""


class DictAttribute:
    """
    Presents the attributes of an object as a mapping.

    Iteration leaves out nothing that ``dir()`` shows; setting a key sets the attribute.
    """

    obj: Any = None

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the attribute *key*, or *default*."""
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the attribute *key*; set it to *default* first if there is none."""
        if key not in self:
            setattr(self.obj, key, default)
        return self[key]

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: str) -> bool:
        return hasattr(self.obj, key)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def iterkeys(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self)

    def iteritems(self) -> Iterator[tuple[str, Any]]:
        """Iterate over names and values."""
        return ((key, getattr(self.obj, key)) for key in self)

    def itervalues(self) -> Iterator[Any]:
        """Iterate over the values."""
        return (value for _, value in self.iteritems())

    keys = iterkeys
    items = iteritems
    values = itervalues


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[Any, Any]):
    """
    Looks a key up in several mappings, the first one first; writes go into the first.

    Args:
        maps: The mappings.
        kwargs: ``key_t`` converts each key before it is used.
    """

    key_t: Callable[[Any], Any] | None = None
    changes: Any = None
    defaults: Any = None
    maps: Any = None
    _observers: list[Observer]

    def __init__(self, *maps: Any, **kwargs: Any) -> None:
        chained = list(maps) or [{}]
        # Straight into __dict__, for subclasses may turn attributes into keys.
        self.__dict__.update(
            key_t=kwargs.get("key_t"),
            maps=chained,
            changes=chained[0],
            defaults=chained[1:],
            _observers=[],
        )

    def add_defaults(self, d: Any) -> None:
        """Put *d* right behind the first mapping."""
        added = force_mapping(d)
        for mappings, place in ((self.maps, 1), (self.defaults, 0)):
            mappings.insert(place, added)

    def _key(self, key: Any) -> Any:
        return self.key_t(key) if self.key_t is not None else key

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove *key* from the first mapping and return its value."""
        try:
            return self.changes.pop(self._key(key), *default)
        except KeyError:
            raise KeyError(f"{key!r} was not set here, so it cannot be removed") from None

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def __getitem__(self, key: Any) -> Any:
        wanted = self._key(key)
        for mapping in self.maps:
            try:
                return mapping[wanted]
            except KeyError:
                continue
        return self.__missing__(key)

    def __delitem__(self, key: Any) -> None:
        self.pop(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes[self._key(key)] = value

    def clear(self) -> None:
        """Empty the first mapping."""
        self.changes.clear()

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        try:
            return self[key]
        except KeyError:
            return default

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Any]:
        # Defaults first, so that a dict made of this has the order of the defaults.
        return uniq(chain.from_iterable(reversed(self.maps)))

    def __contains__(self, key: object) -> bool:
        wanted = self._key(key)
        return any(wanted in mapping for mapping in self.maps)

    def __bool__(self) -> bool:
        return any(self.maps)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of *key*; set it first if it has none."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Update the first mapping and tell the observers, with the same arguments."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value
        for callback in self._observers:
            callback(*args, **kwargs)

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], *args: Any) -> ChainMap:
        """Make a chain of one mapping with these keys."""
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> Any:
        """Return a chain over a copy of the first mapping, and over the same defaults."""
        return type(self)(self.changes.copy(), *self.defaults, key_t=self.key_t)

    def __copy__(self) -> Any:
        return self.copy()

    def bind_to(self, callback: Observer) -> None:
        """Call *callback* after each `update`."""
        self._observers.append(callback)

    def iterkeys(self) -> Iterator[Any]:
        """Iterate over the keys."""
        return iter(self)

    def iteritems(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over keys and values."""
        return ((key, self[key]) for key in self)

    def itervalues(self) -> Iterator[Any]:
        """Iterate over the values."""
        return (self[key] for key in self)

    keys = iterkeys  # type: ignore[assignment]
    items = iteritems  # type: ignore[assignment]
    values = itervalues  # type: ignore[assignment]


class ConfigurationView(ChainMap, AttributeDictMixin):
    """
    Settings: what was set, over defaults, with keys as attributes.

    Args:
        changes: What was set; writes go here.
        defaults: Mappings to fall back to, the first one first.
        keys: Functions that give other spellings of a key, tried in order after the key itself.
        prefix: What keys begin with in *changes*; may be left out of the key that is asked for.
    """

    def __init__(
        self,
        changes: Any,
        defaults: Iterable[Any] | None = None,
        keys: Iterable[KeyTransform] | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(changes, *(defaults or ()))
        self.__dict__.update(
            prefix=f"{prefix.rstrip('_')}_" if prefix else "",
            _keys=tuple(keys or ()),
        )

    def _to_keys(self, key: str) -> Iterator[str]:
        """Yield each spelling of *key*, each also with the prefix, the most specific first."""
        prefix = self.__dict__["prefix"]
        spellings = (key, *(transform(key) for transform in self.__dict__["_keys"]))
        if not prefix:
            return uniq(spellings)
        bare = (spelling.removeprefix(prefix) for spelling in spellings)
        return uniq(chain.from_iterable((f"{prefix}{each}", each) for each in bare))

    def __getitem__(self, key: str) -> Any:
        spellings = tuple(self._to_keys(key))
        # Mapping by mapping, so that a changed value wins under whichever name it was changed.
        for mapping in self.maps:
            for spelling in spellings:
                try:
                    return mapping[spelling]
                except KeyError:
                    continue
        return self.__missing__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __contains__(self, key: object) -> bool:
        spellings = tuple(self._to_keys(cast("str", key)))
        return any(spelling in mapping for mapping in self.maps for spelling in spellings)

    def first(self, *keys: str) -> Any:
        """Return the first value that is not None among *keys*."""
        return first(None, (self.get(key) for key in keys))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        try:
            return self[key]
        except KeyError:
            return default

    def clear(self) -> None:
        """Forget what was set; the defaults stay."""
        self.changes.clear()

    def copy(self) -> Any:
        """Return a view over a copy of what was set."""
        return type(self)(
            self.changes.copy(),
            defaults=list(self.defaults),
            keys=self.__dict__["_keys"],
            prefix=self.__dict__["prefix"],
        )

    def __copy__(self) -> Any:
        return self.copy()

    def swap_with(self, other: ConfigurationView) -> None:
        """Become a view of what *other* views; observers stay."""
        mine = self.__dict__
        for name in ("changes", "defaults", "maps", "key_t", "prefix", "_keys"):
            mine[name] = other.__dict__[name]


class LimitedSet:
    """
    A set that forgets: its oldest items when there are too many, and those that are too old.

    Args:
        maxlen: Number of items to keep at most; 0 is no limit.
        expires: Seconds an item stays; 0 is for ever.
        data: Items to begin with: a mapping item -> time, another limited set, or any iterable.
        minlen: Number of items to keep even if they are too old.

    Times are those of the monotonic clock.  They mean nothing on another machine; a time that lies
    ahead of our clock counts as now.
    """

    #: Kept for code that reads it; there is no heap.
    max_heap_percent_overload = 15

    def __init__(
        self, maxlen: int = 0, expires: float = 0, data: Any = None, minlen: int = 0
    ) -> None:
        self.maxlen = maxlen or 0
        self.minlen = minlen or 0
        self.expires = expires or 0
        if self.maxlen < 0 or self.minlen < 0 or self.expires < 0:
            raise ValueError("maxlen, minlen and expires must not be negative")
        if self.maxlen and self.minlen > self.maxlen:
            raise ValueError(f"minlen ({self.minlen}) is greater than maxlen ({self.maxlen})")
        #: Item -> time.  In the order of time as long as `_sorted` is true.
        self._data: dict[Any, float] = {}
        self._sorted = True
        self._newest = float("-inf")
        if data:
            self.update(data)

    def clear(self) -> None:
        """Forget everything."""
        self._data.clear()
        self._sorted = True
        self._newest = float("-inf")

    def add(self, item: Any, now: float | None = None) -> None:
        """Add *item*, or renew it, at the time *now*; then drop what is too much or too old."""
        self._insert(item, time.monotonic() if now is None else now)
        if self.expires or (self.maxlen and len(self._data) > self.maxlen):
            self.purge(now)

    def _insert(self, item: Any, at: float) -> None:
        # Adding in the order of time, which is nearly always, keeps the dict sorted for free.
        data = self._data
        data.pop(item, None)
        data[item] = at
        if at >= self._newest:
            self._newest = at
        else:
            self._sorted = False

    def update(self, other: Any) -> None:
        """Add the items of *other*, with their times if it knows them."""
        if not other:
            return
        now = time.monotonic()
        if isinstance(other, LimitedSet):
            other = other._data
        if isinstance(other, Mapping):
            for item, at in other.items():
                # The same item in both is as old as its latest addition.
                self._insert(item, max(min(at, now), self._data.get(item, float("-inf"))))
        else:
            for item in other:
                self._insert(item, now)
        self.purge()

    def discard(self, item: Any) -> None:
        """Remove *item* if it is there."""
        self._data.pop(item, None)

    pop_value = discard

    def purge(self, now: float | None = None) -> None:
        """Drop the oldest while there are too many, and then those that are too old at *now*."""
        data = self._data
        if self.maxlen:
            while len(data) > self.maxlen:
                self.pop()
        if self.expires and len(data) > self.minlen:
            self._sort()
            limit = (time.monotonic() if now is None else now) - self.expires
            while len(data) > self.minlen:
                oldest = next(iter(data))
                if data[oldest] >= limit:
                    break
                del data[oldest]

    def pop(self, default: Any = None) -> Any:
        """Remove and return the oldest item, or return *default*."""
        if not self._data:
            return default
        self._sort()
        oldest = next(iter(self._data))
        del self._data[oldest]
        return oldest

    def _sort(self) -> None:
        if not self._sorted:
            by_age = sorted(self._data.items(), key=lambda entry: entry[1])
            self._data.clear()
            self._data.update(by_age)
            self._sorted = True

    def as_dict(self) -> dict[Any, float]:
        """Return a dict item -> time, the oldest first."""
        self._sort()
        return dict(self._data)

    def __contains__(self, item: object) -> bool:
        return item in self._data

    def __iter__(self) -> Iterator[Any]:
        self._sort()
        return iter(list(self._data))

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return bool(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return REPR_LIMITED_SET.format(self, name=type(self).__name__, size=len(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.maxlen, self.expires, self.as_dict(), self.minlen)


class Evictable:
    """What can make room by dropping its oldest items."""

    Empty = Empty
    maxsize: int

    def evict(self) -> None:
        """Drop items until the size is right."""
        self._evict(range(self._evictcount))

    @property
    def _evictcount(self) -> int:
        """How many items are too many."""
        return 0

    def _evict(self, turns: Iterable[int]) -> None:
        for _ in turns:
            try:
                self._evict1()
            except IndexError:
                break

    def _evict1(self) -> None:
        raise NotImplementedError


class Messagebuffer(Evictable):
    """
    A queue that drops its oldest item when it is full.

    Args:
        maxsize: Number of items to hold at most; 0 or None is no limit.
        iterable: Items to begin with.
    """

    def __init__(self, maxsize: int, iterable: Iterable[Any] | None = None) -> None:
        self.maxsize = maxsize
        self.data: deque[Any] = deque(iterable or ())
        self.evict()

    def put(self, item: Any) -> None:
        """Append *item*."""
        self.data.append(item)
        if self.maxsize and len(self.data) > self.maxsize:
            self.evict()

    def extend(self, it: Iterable[Any]) -> None:
        """Append each item."""
        self.data.extend(it)
        self.evict()

    def take(self, *default: Any) -> Any:
        """Remove and return the oldest item, or *default*; without that, raise ``Empty``."""
        if self.data:
            return self.data.popleft()
        if default:
            return default[0]
        raise self.Empty

    @property
    def _evictcount(self) -> int:
        return max(0, len(self.data) - self.maxsize) if self.maxsize else 0

    def _evict1(self) -> None:
        self.data.popleft()

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self.data

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __iter__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.popleft()

    def __reversed__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.pop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"


class BufferMap(OrderedDict, Evictable):
    """
    Buffers by key, with a limit for all of them together.

    When there are too many items, the buffer that was used longest ago loses its oldest.

    Args:
        maxsize: Number of items in all buffers at most.
        iterable: Pairs of key and items to begin with.
        bufmaxsize: Number of items in one buffer at most.
    """

    Buffer: ClassVar[type[Messagebuffer]] = Messagebuffer
    maxsize: int = cast("int", None)
    total = 0
    bufmaxsize: int = cast("int", None)

    def __init__(
        self, maxsize: int, iterable: Iterable[Any] | None = None, bufmaxsize: int = 1000
    ) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        for key, items in dict(iterable or ()).items():
            self.extend(key, items)

    def _buffer_of(self, key: Any) -> Messagebuffer:
        try:
            buffer: Messagebuffer = self[key]
        except KeyError:
            buffer = self[key] = self.Buffer(maxsize=self.bufmaxsize)
        return buffer

    def put(self, key: Any, item: Any) -> None:
        """Append *item* to the buffer *key*."""
        self.extend(key, (item,))

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Append each item to the buffer *key*."""
        buffer = self._buffer_of(key)
        before = len(buffer)
        buffer.extend(it)
        self.total += len(buffer) - before
        self.move_to_end(key)
        self.evict()

    def take(self, key: Any, *default: Any) -> Any:
        """Take from the buffer *key*; an absent or empty one gives *default* or ``Empty``."""
        buffer = self.get(key)
        if buffer:
            item = buffer.take()
            self.total -= 1
            if buffer:
                self.move_to_end(key)
            else:
                del self[key]
            return item
        if default:
            return default[0]
        raise self.Empty

    @property
    def _evictcount(self) -> int:
        return max(0, self.total - self.maxsize) if self.maxsize else 0

    def _evict1(self) -> None:
        if not self:
            raise IndexError("nothing to evict")
        self.take(self._LRUkey())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"
