"""Results in memcached (``cache+memcached://host:port;host:port/``), or in this process' memory.

``cache+memory://`` shares one dictionary between all threads of a process: for tests, and for
workers that run as a thread of their client.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.backends import _memcached
from celery.backends._finality import stays
from celery.backends._memcached import (
    DEFAULT_CLIENT_OPTIONS as DEFAULT_CLIENT_OPTIONS,
    PYLIBMC_ONLY_OPTIONS as PYLIBMC_ONLY_OPTIONS,
    REQUIRES_BACKEND as REQUIRES_BACKEND,
)
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import BackendStoreError, ImproperlyConfigured

if TYPE_CHECKING:
    from datetime import timedelta

    from celery.app.base import Celery
    from celery.canvas import Signature

__all__ = ("CacheBackend",)

UNKNOWN_BACKEND = (
    "The result backend 'cache' can't work with {0!r}. "
    "Set cache_backend, or a URL such as cache+memcached://127.0.0.1:11211/, with one of: {1}"
)
W_CHORD_EXPIRES_TOO_LONG = (
    "memcached reads result_chord_expires = {0} as a point in time, as it does with everything "
    "over {1} seconds; it is sent as one."
)

#: memcached takes a longer time to live for seconds since 1970.
MAX_RELATIVE_EXPIRES = 2_592_000

#: How often a document is written anew because another process has written meanwhile.
MOST_ATTEMPTS = 100

#: Results that ``cache+memory://`` keeps; beyond that the least used one goes.
MEMORY_LIMIT = 100_000


class _Memory:
    """The dictionary behind all `DummyClient` objects, with expiry; safe between threads."""

    def __init__(self, limit: int) -> None:
        self.lock = threading.RLock()
        self._limit = limit
        self._entries: OrderedDict[bytes, tuple[Any, float | None]] = OrderedDict()

    def read(self, key: Any) -> Any:
        entry = self._entries.get(ensure_bytes(key))
        if entry is None:
            return None
        value, end = entry
        if end is not None and end <= time.monotonic():
            self._entries.pop(ensure_bytes(key), None)
            return None
        return value

    def write(self, key: Any, value: Any, expire: float | None = None) -> None:
        name = ensure_bytes(key)
        self._entries[name] = (value, time.monotonic() + expire if expire else None)
        self._entries.move_to_end(name)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def drop(self, key: Any) -> bool:
        return self._entries.pop(ensure_bytes(key), None) is not None

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


_memory = _Memory(MEMORY_LIMIT)


class DummyClient:
    """A memcached client without memcached: all of them share the memory of this process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cache = _memory

    def get(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        """Read a value, None when there is none."""
        with self.cache.lock:
            return self.cache.read(key)

    def get_multi(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Read those of *keys* that have a value."""
        with self.cache.lock:
            found = {key: self.cache.read(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    get_many = get_multi

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        """Write a value; the next argument is its life in seconds."""
        with self.cache.lock:
            self.cache.write(key, value, *args[:1])
        return True

    def add(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        """Write a value unless there is one; say whether it was written."""
        with self.cache.lock:
            if self.cache.read(key) is not None:
                return False
            self.cache.write(key, value, *args[:1])
        return True

    def gets(self, key: Any) -> tuple[Any, Any]:
        """Read a value, and what `cas` wants to know; two None when there is none."""
        value = self.get(key)
        return value, value

    def cas(self, key: Any, value: Any, token: Any, expire: float) -> bool:
        """Write a value unless another has been written since `gets`; say whether it was."""
        with self.cache.lock:
            if self.cache.read(key) is not token:
                return False
            self.cache.write(key, value, expire)
        return True

    def delete(self, key: Any, *args: Any, **kwargs: Any) -> bool:
        """Delete a key; say whether it was there."""
        with self.cache.lock:
            return self.cache.drop(key)

    def incr(self, key: Any, delta: int = 1) -> int | None:
        """Add to a counter and return it, None when there is none."""
        with self.cache.lock:
            before = self.cache.read(key)
            if before is None:
                return None
            after = int(before) + delta
            self.cache.write(key, after)
        return after

    def touch(self, key: Any, expire: float) -> bool:
        """Let a key live for *expire* more seconds; say whether it was there."""
        with self.cache.lock:
            value = self.cache.read(key)
            if value is None:
                return False
            self.cache.write(key, value, expire)
        return True

    def flush_all(self) -> None:
        """Delete everything."""
        with self.cache.lock:
            self.cache.clear()


def import_best_memcache(
    driver: str | None = None,
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Return what makes clients for memcached, and what makes their keys.

    Raises:
        ImproperlyConfigured: The driver is not installed; without a name, none is.
    """
    return _memcached.find_driver(driver), bytes_to_str


def get_best_memcache(*args: Any, **kwargs: Any) -> Any:
    """Make a client for memcached."""
    return import_best_memcache()[0](*args, **kwargs)


def get_memcache_client(
    driver: str | None = None,
) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """Return what `import_best_memcache` does."""
    return import_best_memcache(driver)


def _memory_client(driver: str | None = None) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    return DummyClient, ensure_bytes


#: By name of the cache: returns what makes clients, and what makes keys.
backends: dict[str, Callable[..., tuple[Callable[..., Any], Callable[[Any], Any]]]] = {
    "memcache": get_memcache_client,
    "memcached": get_memcache_client,
    "pylibmc": get_memcache_client,
    "pymemcache": get_memcache_client,
    "memory": _memory_client,
}


class CacheBackend(KeyValueStoreBackend):
    """Keeps results in memcached or in memory.

    Args:
        app: The app whose settings apply.
        expires: Life of a result in seconds; by default ``result_expires``.
        backend: Name of a cache, or a URL; by default *url*, then ``cache_backend``.
        options: Options of the client, over those of ``cache_backend_options``.
        url: ``memcached://host:port;host:port/`` or ``memory://``.

    The option ``driver`` picks one: ``pymemcache``, ``pylibmc`` or ``memcache``, which is
    python-memcached; by default it is the first that is installed.

    Raises:
        ImproperlyConfigured: There is no such cache, or its driver is missing.
    """

    servers: list[str] | None = None
    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(
        self,
        app: Celery,
        expires: float | timedelta | None = None,
        backend: str | None = None,
        options: dict[str, Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        name, _, servers = (url or backend or app.conf.cache_backend or "").partition("://")
        try:
            make = backends[name]
        except KeyError:
            known = ", ".join(sorted(backends))
            raise ImproperlyConfigured(UNKNOWN_BACKEND.format(name or None, known)) from None
        self.backend = name
        self.servers = servers.rstrip("/").split(";")
        self.options = {**app.conf.cache_backend_options, **(options or {})}
        self.Client, key_type = make(self.options.get("driver"))
        self.key_t = key_type  # type: ignore[assignment, method-assign]
        self._client: Any = None
        self._pid = os.getpid()
        super().__init__(app, url=url, expires=expires, **kwargs)
        self.expires = self.prepare_expires(expires, type=int)
        chord_expires = app.conf.result_chord_expires
        if chord_expires is not None and self.chord_expires > MAX_RELATIVE_EXPIRES:
            warnings.warn(
                W_CHORD_EXPIRES_TOO_LONG.format(self.chord_expires, MAX_RELATIVE_EXPIRES),
                stacklevel=2,
            )

    @property
    def client(self) -> Any:
        """The client; made at its first use, and anew in a child after a fork."""
        if self._client is None or self._pid != os.getpid():
            # The connections of the other client belong to the parent, which goes on using them.
            options = {name: each for name, each in self.options.items() if name != "driver"}
            servers = [server for server in self.servers or () if server]
            self._client = self.Client(servers or [_memcached.LOCAL_SERVER], **options)
            self._pid = os.getpid()
        return self._client

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """Return the cache and its servers."""
        return f"{self.backend}://{';'.join(self.servers or ())}/"

    @cached_property
    def connection_errors(self) -> tuple[type[Exception], ...]:
        """What the driver raises when a connection is lost."""
        return () if self.backend == "memory" else _memcached.lost_connections()

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether *exc* is a lost connection."""
        return isinstance(exc, self.connection_errors)

    def _call(self, method: str, *args: Any) -> Any:
        """Call the client, a second time when its idle connection turns out to be dead."""
        try:
            return getattr(self.client, method)(*args)
        except self.connection_errors:
            return getattr(self.client, method)(*args)

    def get(self, key: Any) -> Any:
        """Read a value, None when there is none."""
        return self._call("get", key)

    def mget(self, keys: Iterable[Any]) -> Any:
        """Read those of *keys* that have a value."""
        return self._call("get_multi", list(keys))

    def set(self, key: Any, value: Any) -> Any:
        """Write a value that lives as long as a result."""
        return self._call("set", key, ensure_bytes(value), _exptime(self.expires))

    def delete(self, key: Any) -> Any:
        """Delete a key."""
        return self._call("delete", key)

    def incr(self, key: Any) -> int | None:
        """Add one to a counter and return it, None when there is none."""
        counter: int | None = self._call("incr", key, 1)
        return counter

    def claim(self, name: str, seconds: int) -> bool:
        """Become the only one, of those who ask for *name*, for so many seconds."""
        return bool(self._call("add", self.get_key_for_chord(name), b"1", seconds))

    def expire(self, key: Any, value: Any) -> Any:
        """Let a key live for *value* more seconds."""
        return self._call("touch", key, _exptime(value))

    def _store_document(self, task_id: str, payload: Any, state: str) -> None:
        key = self.get_key_for_task(task_id)
        # Most tasks store once, so trying to be the first saves reading what isn't there.
        value, life_s = ensure_bytes(payload), _exptime(self.expires)
        if self._call("add", key, value, life_s):
            return
        for _ in range(MOST_ATTEMPTS):
            before, token = self._call("gets", key)
            if before is None:
                # It has expired, or was forgotten.
                is_written = self._call("add", key, value, life_s)
            elif stays(self.decode(before)["status"], state):
                return
            else:
                is_written = self._call("cas", key, value, token, life_s)
            if is_written:
                return
        raise BackendStoreError(
            f"memcached did not take the state {state} in {MOST_ATTEMPTS} attempts",
            state=state,
            task_id=task_id,
        )

    def apply_chord(
        self, header_result_args: tuple[Any, ...], body: Signature, **kwargs: Any
    ) -> Any:
        """Get ready to start *body* when the header is done; see `Backend.apply_chord`."""
        counter = self.get_key_for_chord(header_result_args[0])
        self._call("set", counter, b"0", _exptime(self.chord_expires))
        return super().apply_chord(header_result_args, body, **kwargs)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        fields = {
            "backend": f"{self.backend}://{';'.join(self.servers or ())}",
            "expires": self.expires,
            "options": self.options,
            **(kwargs or {}),
        }
        return super().__reduce__(args, fields)


def _exptime(seconds: float | None) -> int:
    """Turn a life in seconds into what memcached takes; 0 is for ever."""
    if not seconds:
        return 0
    whole = max(int(seconds), 1)
    return int(time.time()) + whole if whole > MAX_RELATIVE_EXPIRES else whole
