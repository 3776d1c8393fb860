"""
Making errors and values fit to travel.

An exception that can't be pickled goes as its nearest base class that can, or in an
`UnpickleableExceptionWrapper`.  Rebuilding one from a message only ever makes a plain class of that
name: it imports nothing and calls nothing that the message chooses.
"""

from __future__ import annotations

import datetime
import decimal
import sys
from base64 import b64decode as _b64decode, b64encode as _b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from pickle import dumps as pickle_dumps, loads as pickle_loads
from typing import Any, NoReturn, cast
from uuid import UUID

from celery.utils.saferepr import saferepr
from celery.utils.text import STRTOBOOL_DEFAULT_TABLE as STRTOBOOL_DEFAULT_TABLE, strtobool

__all__ = (
    "UnpickleableExceptionWrapper",
    "create_exception_cls",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "strtobool",
    "subclass_exception",
)

Dumps = Callable[[Any], Any]
Loads = Callable[[Any], Any]

#: Bases that tell too little about an error to stand in for it.
unwanted_base_classes = (Exception, BaseException, object)


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """Make an exception class."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(
    name: str, module: str, parent: type[BaseException] | None = None
) -> type[BaseException]:
    """Make an exception class, of `Exception` by default."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """Yield *cls* and its bases in order, up to the first that is in *stop*."""
    ends = set(stop)
    for base in cls.__mro__:
        if base in ends:
            return
        yield base


def find_pickleable_exception(
    exc: BaseException, loads: Loads = pickle_loads, dumps: Dumps = pickle_dumps
) -> BaseException | None:
    """
    Return an instance of the nearest base class of *exc* that survives pickling, with its args.

    None if there is none below `Exception`.
    """
    args = getattr(exc, "args", ())
    for base in itermro(type(exc), unwanted_base_classes):
        try:
            substitute = cast("BaseException", base(*args))
            loads(dumps(substitute))
        except Exception:  # noqa: BLE001, S112 - constructors may do anything; try the next class
            continue
        return substitute
    return None


def get_pickleable_etype(
    cls: type[BaseException], loads: Loads = pickle_loads, dumps: Dumps = pickle_dumps
) -> type[BaseException]:
    """Return the nearest class to *cls* that can be pickled; `Exception` can always."""
    for base in itermro(cls, unwanted_base_classes):
        try:
            loads(dumps(base))
        except Exception:  # noqa: BLE001, S112 - as above
            continue
        return cast("type[BaseException]", base)
    return Exception


class UnpickleableExceptionWrapper(Exception):
    """
    Carries an exception that can't be pickled.

    Args:
        exc_module: Module of its class.
        exc_cls_name: Name of its class.
        exc_args: Its arguments; what can't be pickled is replaced by its repr.
        text: Its repr; shown as our text.
    """

    exc_module: str = cast("str", None)
    exc_cls_name: str = cast("str", None)
    exc_args: tuple[Any, ...] = cast("tuple[Any, ...]", None)

    def __init__(
        self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None
    ) -> None:
        safe_args = ensure_serializable(exc_args, _survives)
        super().__init__(exc_module, exc_cls_name, safe_args, text)
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = safe_args
        self.text = text

    def restore(self) -> BaseException:
        """Make an exception that looks like the original; its class is made up for it."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """Wrap *exc*; its cause and its traceback go along in this process."""
        wrapper = cls(
            type(exc).__module__, type(exc).__name__, getattr(exc, "args", ()), saferepr(exc)
        )
        wrapper.__cause__ = exc.__cause__
        return wrapper.with_traceback(exc.__traceback__)

    def __str__(self) -> str:
        return str(self.text)


def _survives(value: Any) -> None:
    pickle_loads(pickle_dumps(value))


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """Return *exc* if it survives pickling, else the best substitute that does."""
    try:
        _survives(exc)
    except Exception:  # noqa: BLE001 - whatever a user's class raises, it does not pickle
        return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)
    return exc


def get_pickled_exception(exc: BaseException) -> BaseException:
    """Undo `get_pickleable_exception` as far as that is possible."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Return *items*, those that *encoder* raises an error for replaced by their repr."""

    def fit(item: Any) -> Any:
        try:
            encoder(item)
        except Exception:  # noqa: BLE001 - any encoder, any value
            return saferepr(item)
        return item

    return tuple(fit(item) for item in items)


def b64encode(s: str | bytes) -> str:
    """Encode text (as UTF-8) or bytes in base 64."""
    return _b64encode(s.encode() if isinstance(s, str) else s).decode()


def b64decode(s: str | bytes) -> bytes:
    """Decode base 64."""
    return _b64decode(s)


def _iso_moment(value: datetime.datetime) -> str:
    # Milliseconds are all that every reader of the result understands.
    text = value.isoformat()
    if value.microsecond:
        text = text[:23] + text[26:]
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (int, float, str),
    key: Any = None,
    keyfilter: Callable[[Any], bool] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """
    Make *obj* of what JSON knows.

    Args:
        obj: Lists, tuples, dicts of numbers, text, times, UUIDs and so on.
        builtin_types: Left as they are.
        key: The key of *obj* in what holds it, for the error.
        keyfilter: Says which keys of dicts stay.
        unknown_type_filter: Converts what is left.

    Raises:
        ValueError: Something is of another type, and there is no *unknown_type_filter*.
    """
    if obj is None or isinstance(obj, builtin_types):
        return obj

    def convert(value: Any, key: Any = key) -> Any:
        return jsonify(value, builtin_types, key, keyfilter, unknown_type_filter)

    if isinstance(obj, list | tuple):
        return [convert(value) for value in obj]
    if isinstance(obj, Mapping):
        return {
            name: convert(value, name)
            for name, value in obj.items()
            if keyfilter is None or keyfilter(name)
        }
    if isinstance(obj, datetime.datetime):
        return _iso_moment(obj)
    if isinstance(obj, datetime.date | datetime.time):
        return obj.isoformat()
    if isinstance(obj, datetime.timedelta | decimal.Decimal | UUID):
        return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"{obj!r} (key {key!r}) is of type {type(obj).__name__}, unknown to JSON")
    return unknown_type_filter(obj)


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise *exc* as a consequence of the error that is being handled, if any."""
    current = sys.exc_info()[1]
    if current is None or current is exc:
        raise exc
    raise exc from current
