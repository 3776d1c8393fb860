"""Drivers of memcached, behind the few methods of pymemcache that the cache back-end uses.

They spread keys over several servers each in a way of its own, so all processes of a system have to
use the same one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from celery.exceptions import BackendStoreError, ImproperlyConfigured

REQUIRES_BACKEND = (
    "The result backend 'cache' needs the package {0} to talk to memcached: pip install {0}"
)
UNKNOWN_DRIVER = "cache_backend_options has the driver {0!r}, and there are: {1}"

#: An answer is waited for, and a server that is away is noticed.
DEFAULT_CLIENT_OPTIONS: dict[str, Any] = {
    "default_noreply": False,
    "connect_timeout": 5.0,
    "timeout": 5.0,
}
#: Options of pylibmc that configurations still carry; pymemcache has no such thing.
PYLIBMC_ONLY_OPTIONS = ("behaviors", "binary")
#: After an error pymemcache answers for the server itself for a second, as if nothing was there and
#: nothing could be written, and then goes to another server, where nobody looks. Never do that.
ALWAYS_TRY: dict[str, Any] = {
    "use_pooling": True,
    "retry_attempts": sys.maxsize,
    "retry_timeout": -1,
}
LOCAL_SERVER: Final = "127.0.0.1:11211"


def connect_pymemcache(servers: Iterable[str], **options: Any) -> Any:
    """Make a client of pymemcache; safe between threads."""
    from pymemcache.client.hash import HashClient

    for name in PYLIBMC_ONLY_OPTIONS:
        options.pop(name, None)
    return HashClient(list(servers), **{**ALWAYS_TRY, **DEFAULT_CLIENT_OPTIONS, **options})


class _Client:
    """What drivers but pymemcache have in common."""

    def _call(self, method: str, *args: Any) -> Any:
        raise NotImplementedError

    def get_multi(self, keys: list[str]) -> Any:
        """Read those of *keys* that have a value."""
        return self._call("get_multi", keys)

    def set(self, key: str, value: bytes, expire: int) -> Any:
        """Write a value that lives for *expire* seconds."""
        return self._call("set", key, value, expire)

    def add(self, key: str, value: bytes, expire: int) -> Any:
        """Write a value unless there is one; say whether it was written."""
        return bool(self._call("add", key, value, expire))

    def delete(self, key: str) -> Any:
        """Delete a key; say whether it was there."""
        return bool(self._call("delete", key))

    def incr(self, key: str, delta: int) -> Any:
        """Add to a counter and return it, None when there is none."""
        return self._call("incr", key, delta)

    def touch(self, key: str, expire: int) -> Any:
        """Let a key live for *expire* more seconds; say whether it was there."""
        return bool(self._call("touch", key, expire))


class PylibmcClient(_Client):
    """A client of pylibmc for each thread."""

    #: Milliseconds, and microseconds, as libmemcached counts.
    BEHAVIORS: Final = {
        "cas": True,
        "tcp_nodelay": True,
        "connect_timeout": 5_000,
        "send_timeout": 5_000_000,
        "receive_timeout": 5_000_000,
    }

    def __init__(self, servers: Iterable[str], **options: Any) -> None:
        self._driver = import_module("pylibmc")
        self._servers = list(servers)
        behaviors = {**self.BEHAVIORS, **options.pop("behaviors", {})}
        self._options = {**options, "behaviors": behaviors}
        self._of_thread = threading.local()

    def _call(self, method: str, *args: Any) -> Any:
        driver, own = self._driver, self._of_thread
        if not hasattr(own, "client"):
            own.client = driver.Client(self._servers, **self._options)
        try:
            return getattr(own.client, method)(*args)
        except driver.NotFound:
            return None
        except (driver.TooBig, driver.BadKeyProvided) as exc:
            raise BackendStoreError(f"memcached does not take this: {exc!r}") from exc
        except driver.Error as exc:
            # The driver keeps away from a server that was lost; another client does not.
            del own.client
            raise ConnectionError(f"memcached: {exc!r}") from exc

    def get(self, key: str) -> Any:
        """Read a value, None when there is none."""
        value = self._call("get", key)
        # The first answer that a lost connection owes is a miss, too; the second is an error.
        return self._call("get", key) if value is None else value

    def gets(self, key: str) -> tuple[Any, Any]:
        """Read a value, and what `cas` wants to know; two None when there is none."""
        value, token = self._call("gets", key)
        return self._call("gets", key) if value is None else (value, token)

    def cas(self, key: str, value: bytes, token: Any, expire: int) -> Any:
        """Write a value unless another has been written since `gets`; say whether it was."""
        return self._call("cas", key, value, token, expire)

    def get_multi(self, keys: list[str]) -> Any:
        """Read those of *keys* that have a value."""
        found = super().get_multi(keys)
        return super().get_multi(keys) if len(found) < len(set(keys)) else found


class PythonMemcachedClient(_Client):
    """A client of python-memcached, which says nothing of servers that it can't reach.

    It would go to another server then, where nobody looks. Here that is an error.
    """

    def __init__(self, servers: Iterable[str], **options: Any) -> None:
        for name in PYLIBMC_ONLY_OPTIONS:
            options.pop(name, None)
        driver = import_module("memcache")
        # Something in it for each thread.
        self._client = driver.Client(
            list(servers), **{"dead_retry": 0, "socket_timeout": 5, "cache_cas": True, **options}
        )

    def _call(self, method: str, *args: Any) -> Any:
        client = self._client
        answer = getattr(client, method)(*args)
        if any(server.deaduntil for server in client.servers):
            client.forget_dead_hosts()
            raise ConnectionError("memcached: a server can't be reached")
        return answer

    def get(self, key: str) -> Any:
        """Read a value, None when there is none."""
        return self._call("get", key)

    def gets(self, key: str) -> tuple[Any, Any]:
        """Read a value, and what `cas` wants to know; two None when there is none."""
        value = self._call("gets", key)
        # The driver would keep it for ever.
        token = dict(self._client.cas_ids)
        self._client.reset_cas()
        return value, token

    def cas(self, key: str, value: bytes, token: Any, expire: int) -> Any:
        """Write a value unless another has been written since `gets`; say whether it was."""
        self._client.cas_ids.update(token)
        try:
            return bool(self._call("cas", key, value, expire))
        finally:
            self._client.reset_cas()

    def set(self, key: str, value: bytes, expire: int) -> Any:
        """Write a value that lives for *expire* seconds."""
        if not super().set(key, value, expire):
            raise BackendStoreError(f"memcached does not take this: {len(value)} bytes for {key}")
        return True


#: By name: the module of the driver, its package, and what makes its clients. The first that is
#: installed is used where the settings name none.
DRIVERS: Final[dict[str, tuple[str, str, Callable[..., Any]]]] = {
    "pymemcache": ("pymemcache", "pymemcache", connect_pymemcache),
    "pylibmc": ("pylibmc", "pylibmc", PylibmcClient),
    "memcache": ("memcache", "python-memcached", PythonMemcachedClient),
}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:
        # In sys.modules, and no module.
        return False


def find_driver(name: str | None = None) -> Callable[..., Any]:
    """Return what makes clients: for a list of servers and options.

    Args:
        name: Name of the driver; None for the first that is installed.

    Raises:
        ImproperlyConfigured: It is not installed, or there is none of this name.
    """
    if name is not None and name not in DRIVERS:
        raise ImproperlyConfigured(UNKNOWN_DRIVER.format(name, ", ".join(DRIVERS)))
    for module, _, make in DRIVERS.values() if name is None else [DRIVERS[name]]:
        if _is_installed(module):
            return make
    raise ImproperlyConfigured(REQUIRES_BACKEND.format(DRIVERS[name or "pymemcache"][1]))


def lost_connections() -> tuple[type[Exception], ...]:
    """Return what clients raise when a connection is lost."""
    if not _is_installed("pymemcache"):
        return (OSError,)
    from pymemcache.exceptions import MemcacheUnexpectedCloseError

    return (MemcacheUnexpectedCloseError, OSError)
