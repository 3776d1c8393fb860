"""Back-ends over stores that can write on condition: only what is absent, or has not changed since.

So a writer decides on what is there and can't undo what another one wrote in between. A result is
written without a look in the common case, that nothing is there; only when something is, it is
read, judged and replaced.
"""

from __future__ import annotations

import os
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, overload

from celery import states
from celery.backends._finality import stays
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import BackendStoreError

T = TypeVar("T")

#: Attempts at a value that others change at the same time.
ATTEMPTS = 100
#: Seconds, at most, between two of them, once the first few were in vain.
PAUSE_S = 0.05


class Stored(NamedTuple):
    """A value, and what the store calls this version of it."""

    value: Any
    version: Any


class VersionedBackend(KeyValueStoreBackend):
    """A store of keys and values whose writes can be tied to a version.

    An adapter brings `load`, `replace` and `delete`, and `mget` where that is quicker.
    """

    def load(self, key: Any) -> Stored | None:
        """Read a value with its version, None when there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not implement load")

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a value if *version* is still there; None: if nothing is.

        Returns:
            Whether it was written.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement replace")

    def get(self, key: Any) -> Any:
        """Read a value, None when there is none."""
        found = self.load(key)
        return None if found is None else found.value

    def mget(self, keys: Iterable[Any]) -> Any:
        """Read many values, one after the other."""
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        """Write a value, whatever is there."""
        self._write(key, value, lambda _: False)

    def _store_document(self, task_id: str, payload: Any, state: str) -> None:
        self._set_document(self.get_key_for_task(task_id), payload, state)

    def _set_document(self, key: Any, payload: Any, state: str) -> None:
        def is_kept(stored: Any) -> bool:
            return stays(self.decode(stored).get("status", states.PENDING), state)

        self._write(key, payload, is_kept)

    def _write(self, key: Any, value: Any, is_kept: Callable[[Any], bool]) -> None:
        """Write a value unless *is_kept* says that what is there has to stay."""
        version: Any = None
        for attempt in range(ATTEMPTS):
            if self.replace(key, value, version):
                return
            found = self.load(key)
            if found is not None and is_kept(found.value):
                return
            version = None if found is None else found.version
            if attempt > 2:
                time.sleep(PAUSE_S * random.random())
        raise BackendStoreError(f"{key!r} is changed by others all the time")


class once_per_process(Generic[T]):
    """A property that is made when it is first asked for, and again in a forked child.

    For clients of stores: two processes can't talk over one connection. What a child has inherited
    is never closed there: that would wait for threads which only its parent has.
    """

    _inherited: ClassVar[list[Any]] = []

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}_of_process"

    @overload
    def __get__(self, backend: None, owner: type) -> once_per_process[T]: ...
    @overload
    def __get__(self, backend: object, owner: type) -> T: ...
    def __get__(self, backend: object | None, owner: type) -> once_per_process[T] | T:
        if backend is None:
            return self
        pid = os.getpid()
        kept: tuple[int, T] | None = backend.__dict__.get(self._name)
        if kept is None or kept[0] != pid:
            if kept is not None:
                self._inherited.append(kept)
            kept = backend.__dict__[self._name] = (pid, self._make(backend))
        return kept[1]


def text_fields(value: Any, name: str) -> dict[str, str]:
    """Return the fields of a JSON document that hold *value*: text as it is, other bytes packed."""
    if isinstance(value, str):
        return {name: value}
    try:
        return {name: bytes(value).decode()}
    except UnicodeDecodeError:
        # Serializers such as pickle.
        return {name: b64encode(value).decode(), "encoding": "base64"}


def text_value(document: Mapping[str, Any], name: str) -> Any:
    """Undo `text_fields`."""
    value = document[name]
    return b64decode(value) if document.get("encoding") == "base64" else value
