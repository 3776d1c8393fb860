"""
Threads that end on request, and values that each thread (or greenlet) has for itself.

`LocalStack` is on the path of every task call: the running task is its top.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from celery.local import Proxy

try:
    from greenlet import getcurrent as get_ident
except ImportError:
    from threading import get_ident

__all__ = (
    "Local",
    "LocalManager",
    "LocalStack",
    "bgThread",
    "bound_open_broker_sockets",
    "default_socket_timeout",
    "get_ident",
)

T = TypeVar("T")

#: Kept for code that reads it; there is one implementation, and it is fast.
USE_FAST_LOCALS = os.environ.get("USE_FAST_LOCALS")


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """Give the sockets that this process opens meanwhile *timeout* seconds per operation."""
    import socket  # who wants this has it already

    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def bound_open_broker_sockets(connection: Any, timeout: float | None) -> ExitStack:
    """
    Give the open sockets of a kombu *connection* at most *timeout* seconds per operation.

    Takes effect at once; leaving the returned context restores what was set before.
    """
    restore = ExitStack()
    for sock in _sockets_of(connection):
        before = sock.gettimeout()
        if timeout is not None and (before is None or before > timeout):
            sock.settimeout(timeout)
            restore.callback(_settimeout_if_open, sock, before)
    return restore


def _settimeout_if_open(sock: Any, timeout: float | None) -> None:
    if sock.fileno() != -1:
        sock.settimeout(timeout)


def _sockets_of(connection: Any) -> Iterator[Any]:
    """Yield the open sockets behind an AMQP connection, or behind channels that share a client."""
    established = getattr(connection, "_connection", None)
    amqp = getattr(getattr(established, "transport", None), "sock", None)
    if amqp is not None:
        yield amqp
    for channel in getattr(established, "channels", None) or ():
        for name in ("client", "subclient"):
            client = vars(channel).get(name)  # a cached property: reading it would connect
            sock = getattr(getattr(client, "connection", None), "_sock", None)
            if sock is not None:
                yield sock


class bgThread(threading.Thread):
    """
    A daemon thread that calls `body` again and again until `stop`.

    An error in `body` ends the process: a worker that lost one of its services must not linger.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or type(self).__name__, daemon=True, **kwargs)
        self._stop_requested = threading.Event()

    def body(self) -> None:
        """Do one turn of the work; to be overridden."""
        raise NotImplementedError

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Report the error that is being handled."""
        print(msg.format(*fmt), file=sys.stderr)  # noqa: T201 - logging may be what broke
        traceback.print_exc(None, sys.stderr)

    def run(self) -> None:
        """Call `body` until `stop`."""
        while not self._stop_requested.is_set():
            try:
                self.body()
            except Exception as exc:  # noqa: BLE001 - the border of a thread
                try:
                    self.on_crash("{0!r} crashed: {1!r}", self.name, exc)
                finally:
                    sys.stderr.flush()
                    os._exit(1)

    def stop(self) -> None:
        """Ask the thread to end after the current turn, and wait for that unless it calls us."""
        self._stop_requested.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()


def release_local(local: Any) -> None:
    """Forget what the current thread or greenlet keeps in *local*."""
    local.__release_local__()


class Local:
    """Attributes that each thread and greenlet has for itself."""

    __slots__ = ("__ident_func__", "__storage__")

    def __init__(self) -> None:
        object.__setattr__(self, "__storage__", {})
        object.__setattr__(self, "__ident_func__", get_ident)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        return iter(self.__storage__.items())

    def __call__(self, proxy: str) -> Proxy:
        """Make a proxy to the attribute named *proxy*."""

        def current() -> Any:
            try:
                return getattr(self, proxy)
            except AttributeError:
                raise RuntimeError(f"no object bound to {proxy}") from None

        return Proxy(current, name=proxy)

    def __release_local__(self) -> None:
        self.__storage__.pop(self.__ident_func__(), None)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__storage__[self.__ident_func__()][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.__storage__.setdefault(self.__ident_func__(), {})[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self.__storage__[self.__ident_func__()][name]
        except KeyError:
            raise AttributeError(name) from None


class LocalStack(Generic[T]):
    """
    A stack that each thread, greenlet and asyncio task has for itself.

    An asyncio task begins with what its creator had: what a coroutine starts belongs to it.
    The stack is a tuple, which nobody else can change.
    """

    __slots__ = ("_var",)

    def __init__(self) -> None:
        self._var: ContextVar[tuple[T, ...]] = ContextVar("stack", default=())

    def push(self, obj: T) -> list[T]:
        """Put *obj* on top; return the stack."""
        var = self._var
        stack = (*var.get(), obj)
        var.set(stack)
        return list(stack)

    def pop(self) -> T | None:
        """Take the top off and return it, or None if there is none."""
        var = self._var
        stack = var.get()
        if not stack:
            return None
        var.set(stack[:-1])
        return stack[-1]

    @property
    def top(self) -> T | None:
        """The object pushed last, or None."""
        stack = self._var.get()
        return stack[-1] if stack else None

    @property
    def stack(self) -> list[T]:
        """All objects, the oldest first."""
        return list(self._var.get())

    def __len__(self) -> int:
        return len(self._var.get())

    def __call__(self) -> Proxy:
        """Make a proxy to the top."""

        def current() -> T:
            top = self.top
            if top is None:
                raise RuntimeError("object unbound")
            return top

        return Proxy(current)

    def __release_local__(self) -> None:
        self._var.set(())


#: Names that other code may import; they are the one implementation.
_LocalStack = _FastLocalStack = LocalStack


class LocalManager:
    """
    Releases several `Local` and `LocalStack` objects together.

    Args:
        locals: One of them, or a sequence.
        ident_func: Names the current thread, in place of `get_ident`.
    """

    def __init__(self, locals: Any = None, ident_func: Callable[[], Any] | None = None) -> None:
        if locals is None:
            self.locals: list[Any] = []
        elif isinstance(locals, Local | LocalStack):
            self.locals = [locals]
        else:
            self.locals = list(locals)
        self.ident_func = ident_func or get_ident

    def get_ident(self) -> Any:
        """Return what tells the current thread or greenlet from others."""
        return self.ident_func()

    def cleanup(self) -> None:
        """Forget what the current thread keeps in any of them."""
        for local in self.locals:
            release_local(local)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} storages: {len(self.locals)}>"
