"""
A signal calls its receivers when something happens.

Sending reads the list `Signal.receivers` without a lock: a change makes a new list.  An empty list
is false, so a sender on a hot path asks ``if signal.receivers:`` first and pays nothing more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType
from typing import Any

from celery.local import PromiseProxy, Proxy
from celery.utils import functional
from celery.utils.log import get_logger
from celery.utils.time import humanize_seconds

__all__ = ("Signal",)

logger = get_logger(__name__)

#: Flag of the code of functions with ``**kwargs``.
_VARKEYWORDS = 0x08

RECEIVER_RETRY_ERROR = "Signal receiver %(receiver)s failed, trying again %(when)s."

NO_RECEIVERS: Any = object()

#: The key of a receiver, or of a sender: text stands for itself, other objects for their identity.
_Key = Any


def _key_of(target: Any) -> _Key:
    # Not isinstance(): that asks the proxy for its class, which would make the target.
    if type(target) is PromiseProxy and not target.__evaluated__():
        return id(target)
    if isinstance(target, str | bytes):
        return target
    if isinstance(target, Proxy):
        target = target._get_current_object()
    if isinstance(target, MethodType):
        return id(target.__self__), id(target.__func__)
    return id(target)


NONE_ID = id(None)


def _keep(target: Any) -> Callable[[], Any]:
    return lambda: target


class _Receiver:
    """One connection: who is called, when which sender sends."""

    __slots__ = ("__weakref__", "find", "key", "retry", "sender", "sender_key")

    def __init__(self, find: Callable[[], Any], key: _Key, sender: Any, retry: bool) -> None:
        self.find = find
        self.key = key
        self.retry = retry
        self.sender_key: _Key = None
        # Held, so that no other object gets its identity while this connection lives.
        self.sender: Any = None
        if sender is not None:
            self.resolve_sender(sender)

    def resolve_sender(self, sender: Any) -> None:
        self.sender = sender
        self.sender_key = _key_of(sender)
        if type(sender) is PromiseProxy and not sender.__evaluated__():
            me = weakref.ref(self)
            sender.__then__(lambda: _resolve_again(me, sender))

    def listens_to(self, sender_key: _Key) -> bool:
        return self.sender_key is None or self.sender_key == sender_key


def _resolve_again(receiver: weakref.ref[_Receiver], sender: Any) -> None:
    connection = receiver()
    if connection is not None:
        connection.resolve_sender(sender._get_current_object())


class Signal:
    """
    Something that happens, and those who want to know.

    Args:
        providing_args: The arguments that receivers get; for the reader.
        use_caching: Accepted for old callers; looking receivers up is fast enough.
        name: For logs.
        robust: Log what a receiver raises, and go on; otherwise let it through to the sender.
    """

    receivers: list[_Receiver] = None  # type: ignore[assignment]  # each signal has its own

    def __init__(
        self,
        providing_args: Iterable[str] | None = None,
        use_caching: bool = False,
        name: str | None = None,
        robust: bool = True,
    ) -> None:
        self.receivers = []
        self.providing_args = set(providing_args or ())
        self.lock = threading.RLock()
        self.use_caching = use_caching
        self.name = name
        self.robust = robust

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """
        Call a function whenever the signal is sent; also a decorator, with or without arguments.

        Args:
            args: The receiver, and perhaps the sender.  The receiver must take ``**kwargs``.
            kwargs: ``sender``: only listen to this one (text is compared by value, any other
                object by identity).  ``weak`` (true by default): don't keep the receiver alive.
                ``dispatch_uid``: any connection with the same one is the same.  ``retry``: call
                the receiver again, after a pause, until it raises no error; it is kept alive.

        Raises:
            ValueError: The receiver doesn't take ``**kwargs``.
        """
        if not args or args[0] is None:
            return lambda receiver: self._connect(receiver, *args[1:], **kwargs)
        return self._connect(*args, **kwargs)

    def _connect(
        self,
        receiver: Callable[..., Any],
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Callable[..., Any]:
        if not callable(receiver):
            raise TypeError(f"a signal receiver must be callable, not {receiver!r}")
        if not _takes_named_arguments(receiver):
            raise ValueError(f"the signal receiver {receiver!r} must take **kwargs")
        key = _key_of(receiver) if dispatch_uid is None else ("uid", dispatch_uid)
        find = self._weakly(receiver) if weak and not retry else _keep(receiver)
        connection = _Receiver(find, key, sender, retry)
        with self.lock:
            if not self._has(key, connection.sender_key):
                self.receivers = [*self.receivers, connection]
        return receiver

    def _weakly(self, receiver: Callable[..., Any]) -> Callable[[], Any]:
        signal = weakref.ref(self)

        def forget(ref: Any) -> None:
            me = signal()
            if me is not None:
                me._remove(lambda connection: connection.find is ref)

        if isinstance(receiver, MethodType):
            return weakref.WeakMethod(receiver, forget)
        return weakref.ref(receiver, forget)

    def _has(self, key: _Key, sender_key: _Key) -> bool:
        return any(
            connection.key == key
            and connection.sender_key == sender_key
            and connection.find() is not None
            for connection in self.receivers
        )

    def _remove(self, is_meant: Callable[[_Receiver], bool]) -> bool:
        with self.lock:
            rest = [connection for connection in self.receivers if not is_meant(connection)]
            removed = len(rest) < len(self.receivers)
            if removed:
                self.receivers = rest
        return removed

    def disconnect(
        self,
        receiver: Callable[..., Any] | None = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Any = None,
    ) -> bool:
        """
        Undo `connect`; name the receiver, or the *dispatch_uid*, and the sender if there was one.

        Returns:
            Whether there was such a connection.
        """
        key = _key_of(receiver) if dispatch_uid is None else ("uid", dispatch_uid)
        sender_key = None if sender is None else _key_of(sender)
        return self._remove(
            lambda connection: connection.key == key and connection.sender_key == sender_key
        )

    def has_listeners(self, sender: Any = None) -> bool:
        """Say whether anyone would be called if *sender* sent the signal."""
        return bool(self._live_receivers(sender))

    def _live_receivers(self, sender: Any) -> list[tuple[Callable[..., Any], bool]]:
        sender_key = None if sender is None else _key_of(sender)
        found = (
            (connection.find(), connection.retry)
            for connection in self.receivers
            if connection.listens_to(sender_key)
        )
        return [(receiver, retry) for receiver, retry in found if receiver is not None]

    def send(self, sender: Any, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """
        Call the receivers, in the order in which they connected.

        Returns:
            Each receiver with what it returned, or with the error that it raised.
        """
        responses: list[tuple[Callable[..., Any], Any]] = []
        if not self.receivers:
            return responses
        for receiver, retry in self._live_receivers(sender):
            try:
                if retry:
                    response = self._call_until_it_works(receiver, sender, named)
                else:
                    response = receiver(signal=self, sender=sender, **named)
            except Exception as exc:
                if not self.robust:
                    raise
                logger.exception("Signal handler %r raised: %r", receiver, exc)  # noqa: TRY401
                response = exc
            responses.append((receiver, response))
        return responses

    send_robust = send

    def _call_until_it_works(
        self, receiver: Callable[..., Any], sender: Any, named: dict[str, Any]
    ) -> Any:
        def on_error(exc: BaseException, intervals: Any, retries: int) -> float:
            interval = float(next(intervals))
            logger.error(
                RECEIVER_RETRY_ERROR,
                {"receiver": receiver, "when": humanize_seconds(interval, "in", " ")},
                exc_info=exc,
            )
            return interval

        # Hardly any receiver asks for this, and kombu takes long to import.
        from kombu.utils.functional import retry_over_time

        return retry_over_time(
            receiver, Exception, (), {"signal": self, "sender": sender, **named}, on_error
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"

    __str__ = __repr__


def _takes_named_arguments(receiver: Callable[..., Any]) -> bool:
    function = receiver.func if isinstance(receiver, partial) else receiver
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _VARKEYWORDS and not hasattr(function, "__wrapped__"):
        # Plain to see, without the module `inspect`, which takes long to import.
        return True
    return functional.fun_accepts_kwargs(receiver)
