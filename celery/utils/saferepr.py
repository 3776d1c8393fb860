"""
A ``repr`` that is always short, always returns, and never raises.

Every task call makes one of its arguments, for logs and events.  Nearly all arguments are a few
numbers and short strings, which `repr` itself writes fastest; only what may be long, deep, cyclic
or strange goes the long way, piece by piece under a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ("reprstream", "saferepr")

chars_t = (str, bytes, bytearray)
set_t = (set, frozenset)
safe_t = (int, float, complex, bool, type(None), *chars_t, *set_t)

LIT_LIST_START, LIT_LIST_END = "[", "]"
LIT_TUPLE_START, LIT_TUPLE_END, LIT_TUPLE_END_SV = "(", ")", ",)"
LIT_DICT_START, LIT_DICT_END = "{", "}"
LIT_SET_START, LIT_SET_END = "{", "}"
LIT_LIST_SEP = ", "
LIT_DICT_KVSEP = ": "

_MORE = "..."
# Types that write themselves in a few characters.  A subclass may not, hence `type() in`.
_ATOMS = frozenset({float, complex, bool, type(None)})
#: Strings, integers and containers beyond these sizes take the long way.
_SHORT = 100
_FEW = 16
_SMALL = 1 << 64


def saferepr(
    o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None
) -> str:
    """
    Write *o* as ``repr`` would, but cut.

    Args:
        o: Anything.
        maxlen: Characters to write before cutting; the closing of what is open comes on top.
        maxlevels: Containers within containers to open; deeper ones show as ``[...]``.
        seen: Ids of containers that must not be opened, because they are open already.
    """
    kind = type(o)
    if kind in _ATOMS or (kind is int and -_SMALL < o < _SMALL):
        text = repr(o)
        if maxlen is None or len(text) <= maxlen:
            return text
    if ((kind is tuple or kind is list) and len(o) <= _FEW and maxlevels > 0 and _are_atoms(o)) or (
        kind is dict
        and len(o) <= _FEW
        and maxlevels > 0
        and _are_atoms(o)
        and _are_atoms(o.values())
    ):
        text = repr(o)
        if maxlen is None or len(text) <= maxlen:
            return text
    writer = _Writer(maxlen, maxlevels, seen)
    writer.write(o, 1)
    return "".join(writer.out)


def reprstream(
    stack: Iterable[Any], seen: set[int] | None = None, maxlevels: int = 3, level: int = 0
) -> Iterator[str]:
    """Yield the pieces of text of each object in *stack*, the first one at depth *level*."""
    for obj in stack:
        writer = _Writer(None, maxlevels, seen)
        writer.write(obj, level + 1)
        yield from writer.out


def _are_atoms(items: Iterable[Any]) -> bool:
    for item in items:
        kind = type(item)
        if kind is str:
            if len(item) > _SHORT:
                return False
        elif kind is int:
            if not -_SMALL < item < _SMALL:
                return False
        elif kind not in _ATOMS:
            return False
    return True


class _Writer:
    """Writes objects into `out` until the budget is used up."""

    __slots__ = ("left", "maxlevels", "open", "out")

    def __init__(self, maxlen: int | None, maxlevels: int, seen: set[int] | None) -> None:
        self.out: list[str] = []
        self.left = float("inf") if maxlen is None else maxlen
        self.maxlevels = maxlevels
        self.open = set() if seen is None else seen

    def put(self, text: str) -> None:
        self.out.append(text)
        self.left -= len(text)

    def write(self, obj: Any, level: int) -> None:
        """Write *obj*, a container of which would be the *level*-th one open."""
        kind = type(obj)
        write_container = _CONTAINERS.get(kind.__repr__)
        if write_container is not None:
            write_container(self, obj, level)
        elif isinstance(obj, chars_t) and kind.__repr__ in _PLAIN_CHARS:
            self.write_chars(obj)
        else:
            self.write_object(obj)

    def write_chars(self, chars: Any) -> None:
        # Cut before asking for the repr: the text may be megabytes.
        room = int(max(self.left, 0)) if self.left != float("inf") else len(chars)
        if len(chars) <= room:
            self.put(repr(chars))
        else:
            cut = repr(chars[:room])
            end = -2 if cut.endswith(")") else -1  # bytearray(b'...')
            self.put(f"{cut[:end]}{_MORE}{cut[end:]}")

    def write_object(self, obj: Any) -> None:
        try:
            text = repr(obj)
        except Exception as exc:  # noqa: BLE001 - a user's __repr__ may do anything
            text = f"<{type(obj).__name__} object: repr raised {type(exc).__name__}>"
        if len(text) > self.left:
            text = text[: int(max(self.left, 0))] + _MORE
        self.put(text)

    def write_list(self, obj: list[Any], level: int) -> None:
        self.write_items(obj, obj, LIT_LIST_START, LIT_LIST_END, level, self.write)

    def write_tuple(self, obj: tuple[Any, ...], level: int) -> None:
        end = LIT_TUPLE_END_SV if len(obj) == 1 else LIT_TUPLE_END
        self.write_items(obj, obj, LIT_TUPLE_START, end, level, self.write)

    def write_set(self, obj: set[Any], level: int) -> None:
        if obj:
            self.write_items(obj, obj, LIT_SET_START, LIT_SET_END, level, self.write)
        else:
            self.write_object(obj)

    def write_frozenset(self, obj: frozenset[Any], level: int) -> None:
        if obj:
            start, end = f"frozenset({LIT_SET_START}", f"{LIT_SET_END})"
            self.write_items(obj, obj, start, end, level, self.write)
        else:
            self.write_object(obj)

    def write_dict(self, obj: dict[Any, Any], level: int) -> None:
        self.write_items(
            obj, obj.items(), LIT_DICT_START, LIT_DICT_END, level, self.write_dict_item
        )

    def write_dict_item(self, item: tuple[Any, Any], level: int) -> None:
        key, value = item
        self.write(key, level)
        self.put(LIT_DICT_KVSEP)
        self.write(value, level)

    def write_items(
        self,
        container: Any,
        items: Iterable[Any],
        start: str,
        end: str,
        level: int,
        write_item: Callable[[Any, int], None],
    ) -> None:
        me = id(container)
        if container and (level > self.maxlevels or me in self.open):
            self.put(f"{start}{_MORE}{end.removeprefix(',')}")
            return
        self.open.add(me)
        self.put(start)
        try:
            self._write_each(items, level, write_item)
        except RuntimeError:  # it changes while we read it
            self.put(f"{LIT_LIST_SEP}{_MORE}")
        self.put(end)
        self.open.discard(me)

    def _write_each(
        self, items: Iterable[Any], level: int, write_item: Callable[[Any, int], None]
    ) -> None:
        separator = ""
        for item in items:
            if separator:
                self.put(separator)
            if self.left <= 0:
                self.put(_MORE)
                return
            write_item(item, level + 1)
            separator = LIT_LIST_SEP


# By the function that writes them, so a subclass with a repr of its own keeps it.
_CONTAINERS: dict[Any, Callable[[_Writer, Any, int], None]] = {
    list.__repr__: _Writer.write_list,
    tuple.__repr__: _Writer.write_tuple,
    set.__repr__: _Writer.write_set,
    frozenset.__repr__: _Writer.write_frozenset,
    dict.__repr__: _Writer.write_dict,
}
_PLAIN_CHARS: frozenset[Any] = frozenset({str.__repr__, bytes.__repr__, bytearray.__repr__})
