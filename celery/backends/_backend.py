"""The port of all result back-ends: states of tasks and groups, stored and read.

Who calls it: the tracer and the worker store (`mark_as_done` and its kin), results and groups
read (`get_task_meta`, `restore_group`), chords count (`on_chord_part_return`). An adapter
overrides the underscored methods that touch its store; everything here is about documents. One
instance serves one thread unless ``result_backend_thread_safe`` is set, or all green threads.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Collection, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from kombu import compression as codecs
from kombu.serialization import prepare_accept_content
from kombu.utils.compat import detect_environment
from kombu.utils.functional import LRUCache
from kombu.utils.url import maybe_sanitize_url

from celery import _state, states
from celery._protocol import meta as documents
from celery.backends import _errbacks
from celery.backends._codec import make_codec
from celery.backends._dependents import TellsDependents
from celery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ImproperlyConfigured,
    TaskRevokedError,
    TimeoutError,
)
from celery.result import AsyncResult, GroupResult, result_from_tuple
from celery.utils.collections import BufferMap
from celery.utils.functional import idle_hook
from celery.utils.serialization import get_pickleable_exception, get_pickled_exception
from celery.utils.time import get_exponential_backoff_interval

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Backend",)

T = TypeVar("T")
Document = dict[str, Any]

logger = logging.getLogger("celery.backends.base")

#: Serializers that take exceptions as they are.
EXCEPTION_ABLE_CODECS = frozenset({"pickle"})

#: Messages kept for results that nobody has asked for yet.
MESSAGE_BUFFER_MAX = 8192

E_NO_BACKEND = (
    "No result backend is configured, so there is no state or result to read. "
    "Set result_backend, or backend= of the app (see the section on result backends)."
)
E_CHORD_NO_BACKEND = (
    "Chords need a result backend: the body starts when the results of the header are stored. "
    "Set result_backend, or backend= of the app."
)
E_UNKNOWN_COMPRESSION = (
    "result_compression: there is no method {0!r}; methods that can be used here: {1}"
)
W_COMPRESSION_UNSUPPORTED = "result_compression has no effect: {0} stores results as they are."
W_FAILURE_EXPIRES_UNSUPPORTED = (
    "result_failure_expires has no effect: {0} keeps failures as long as other results."
)


class pending_results_t(NamedTuple):
    """Results that someone waits for: held firmly, and only as long as their owner does."""

    concrete: MutableMapping[str, Any]
    weak: MutableMapping[str, Any]


def unpickle_backend(cls: type[Backend], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Backend:
    """Rebuild a pickled back-end for the current app."""
    return cls(*args, **{"app": _state.get_current_app(), **kwargs})


def compress_payload(payload: bytes | str, compression: str) -> bytes:
    """Compress an encoded document; the method is recorded in front of it."""
    return documents.compress(payload, compression)


def decompress_payload(payload: Any) -> Any:
    """Undo `compress_payload`; what it did not make is returned unchanged."""
    return documents.decompress(payload)


class Backend(TellsDependents):
    """Stores and reads states and results; subclasses say where.

    Args:
        app: The app whose settings apply.
        serializer: Name of a serializer; by default ``result_serializer``.
        max_cached_results: Documents of ended tasks kept in memory; by default
            ``result_cache_max``, -1 for none, 0 for no limit.
        accept: Content types that are read; by default ``result_accept_content``.
        expires: Life of a result, see `prepare_expires`; by default ``result_expires``.
        expires_type: Converts the seconds of *expires*.
        url: Where the store is.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES

    TimeoutError = TimeoutError

    #: Seconds between two looks while waiting; None takes what the caller asks for.
    subpolling_interval: float | None = None
    #: Many results can be read with one request.
    supports_native_join = False
    #: The store forgets results by itself, so no clean-up task is needed.
    supports_autoexpire = False
    #: Results survive the process that wrote them.
    persistent: bool = True
    supports_result_compression = False
    supports_failure_expires = False
    #: One instance may serve all green threads of a process.
    serves_green_threads: ClassVar[bool] = False
    #: A header task counts for its chord even when its own result is not stored.
    counts_unstored_parts: ClassVar[bool] = False

    retry_policy: dict[str, Any] = {  # noqa: RUF012 - replaced as a whole, never changed
        "max_retries": 20,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }

    def __init__(
        self,
        app: Celery,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Collection[str] | None = None,
        expires: float | timedelta | None = None,
        expires_type: Callable[[Any], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.url = url
        conf = app.conf
        self.serializer = serializer or conf.result_serializer
        accepted = accept if accept is not None else conf.result_accept_content
        if accepted is None:
            accepted = conf.accept_content
        self.accept = prepare_accept_content(accepted)
        codec = make_codec(self.serializer, self.accept)
        self.content_type, self.content_encoding, self.encoder, self._decode = codec
        self.compression = self.prepare_compression(conf.result_compression)
        self.expires = self.prepare_expires(expires, expires_type)

        size = conf.result_cache_max if max_cached_results is None else max_cached_results
        #: Documents of ended tasks and groups; None when nothing is cached.
        self._cache: MutableMapping[str, Document] | None = (
            None if size == -1 else LRUCache(limit=size or None)
        )
        self._pending_results = pending_results_t({}, WeakValueDictionary())
        self._pending_messages = BufferMap(MESSAGE_BUFFER_MAX)

        # A back-end for each green thread, which is for each task, would connect each time.
        self.thread_safe = bool(conf.get("result_backend_thread_safe", False)) or (
            self.serves_green_threads and detect_environment() != "default"
        )
        self.always_retry = bool(conf.get("result_backend_always_retry", False))
        self.max_sleep_between_retries_ms = conf.get(
            "result_backend_max_sleep_between_retries_ms", 10_000
        )
        self.base_sleep_between_retries_ms = conf.get(
            "result_backend_base_sleep_between_retries_ms", 10
        )
        self.max_retries = conf.get("result_backend_max_retries", float("inf"))
        self._extended = bool(conf.find_value_for_key("extended", "result"))
        if conf.get("result_failure_expires") is not None and not self.supports_failure_expires:
            warnings.warn(W_FAILURE_EXPIRES_UNSUPPORTED.format(type(self).__name__), stacklevel=2)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        fields = {"url": self.url, "serializer": self.serializer, **(kwargs or {})}
        return unpickle_backend, (type(self), args, fields)

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL of the store, as a rule without its password."""
        url = self.url or ""
        # A scheme alone names a class path and not a store.
        url = url or f"{type(self).__module__}.{type(self).__name__}://"
        return url if include_password else maybe_sanitize_url(url)

    # -- Storing states

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store that the task runs; *meta* becomes its ``info``."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store that the task succeeded with *result*, and count it for its chord."""
        chord = request is not None and request.chord
        if store_result or (chord and not self.counts_unstored_parts):
            self.store_result(task_id, result, state, request=request)
        if chord:
            self.on_chord_part_return(request, state, result)

    def mark_as_done_later(self, task_id: str, result: Any, request: Any) -> bytes | None:
        """Do as `mark_as_done` does, or return a document for `store_documents`.

        Only for tasks that are in no chord, and where `takes_documents`.
        """
        self.mark_as_done(task_id, result, request)
        return None

    @property
    def takes_documents(self) -> bool:
        """Whether `store_documents` works."""
        return False

    def store_documents(self, documents: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Store documents of tasks that succeeded, in one round trip.

        Args:
            documents: Task ids, and what `mark_as_done_later` returned for them.

        Returns:
            For each of them None, or why it can't be stored.
        """
        raise NotImplementedError(f"{type(self).__name__} stores one result at a time")

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store that the task failed with *exc*, and tell everything that depends on it.

        That is: its chord, the rest of its chain (which never runs and fails with the same
        error) and its errbacks.
        """
        if store_result or (
            request is not None and request.chord and not self.counts_unstored_parts
        ):
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
        if request is None:
            return
        if request.chord:
            self.on_chord_part_return(request, state, exc)
        if getattr(request, "chain", None):
            self._fail_rest_of_chain(request, exc, traceback, state, store_result)
        if call_errbacks and request.errbacks:
            _errbacks.call(self.app, request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store that the task was revoked because of *reason*; its chord fails."""
        self.mark_as_failure(
            task_id,
            TaskRevokedError(reason),
            request=request,
            store_result=store_result,
            call_errbacks=False,
            state=state,
        )

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store that the task runs again later because of *exc*."""
        if not store_result:
            return None
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Store *state* and *result* of a task; a stored success is final.

        Args:
            task_id: Id of the task.
            result: A value, or an exception when *state* says so.
            state: Any state, custom ones included.
            traceback: Text of the traceback.
            request: Context of the task; its group, parent and children go into the document.

        Returns:
            *result* in the form in which it was stored.

        Raises:
            kombu.exceptions.EncodeError: The serializer has no form for *result*.
            celery.exceptions.BackendStoreError: ``result_backend_always_retry`` is set and the
                tries are used up.
        """
        plain = self.encode_result(result, state)
        if not self.always_retry:
            self._store_result(task_id, plain, state, traceback, request=request, **kwargs)
            return plain
        self._with_retries(
            lambda: self._store_result(task_id, plain, state, traceback, request=request, **kwargs),
            lambda: BackendStoreError(
                "failed to store result on the backend", task_id=task_id, state=state
            ),
        )
        return plain

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Write one document. For adapters; *result* is plain."""
        raise NotImplementedError(f"{type(self).__name__} does not store results")

    def _document(
        self, task_id: str, result: Any, state: str, traceback: str | None, request: Any
    ) -> Document:
        """Build the document of a task; *result* is plain."""
        date_done = (
            datetime.now(UTC).isoformat(timespec="microseconds")
            if state in states.READY_STATES
            else None
        )
        if request is None:
            children = self.current_task_children(None)
            return documents.task_document(task_id, state, result, traceback, children, date_done)
        return documents.task_document(
            task_id,
            state,
            result,
            traceback,
            self.current_task_children(request),
            date_done,
            getattr(request, "group", None),
            getattr(request, "parent_id", None),
            documents.extended_fields(request) if self._extended else None,
        )

    def _encode_document(self, document: Document) -> Any:
        """Encode a document, and compress it where that is on."""
        try:
            payload = self.encode(document)
        except Exception:
            if not self._extended:
                raise
            # The call came in another serializer; what it was is worth less than its result.
            payload = self.encode(documents.with_printed_arguments(document))
        if self.compression:
            return documents.compress(payload, self.compression)
        return payload

    def forget(self, task_id: str) -> None:
        """Delete the result of a task."""
        if self._cache is not None:
            self._cache.pop(task_id, None)
        self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        """Delete one document. For adapters."""
        raise NotImplementedError(f"{type(self).__name__} can't forget results")

    # -- Values, errors and documents, encoded and plain

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """Turn an error into something that the serializer takes."""
        serializer = self.serializer if serializer is None else serializer
        if serializer in EXCEPTION_ABLE_CODECS:
            return get_pickleable_exception(exc)
        return documents.error_document(exc, self.encode)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """Rebuild a stored error.

        Raises:
            celery.exceptions.SecurityError: It names something that is not an exception class.
        """
        if not exc:
            return None
        if not isinstance(exc, BaseException):
            return documents.error_from_document(exc)
        if self.serializer in EXCEPTION_ABLE_CODECS:
            error: BaseException = get_pickled_exception(exc)
            return error
        return exc

    def prepare_value(self, result: Any) -> Any:
        """Turn a return value into something that the serializer takes."""
        if isinstance(result, (AsyncResult, GroupResult)) and self.serializer != "pickle":
            return result.as_tuple()
        return result

    def encode_result(self, result: Any, state: str) -> Any:
        """Turn what a task ended with into something that the serializer takes."""
        if isinstance(result, BaseException) and state in states.EXCEPTION_STATES:
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def encode(self, data: Any) -> Any:
        """Serialize *data*."""
        return self.encoder(data)

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        """Serialize *data* to content type, content encoding and payload."""
        return self.content_type, self.content_encoding, self.encoder(data)

    def decode(self, payload: Any) -> Any:
        """Undo `encode`, and the compression of a document."""
        if payload is None:
            return None
        if isinstance(payload, (bytes, bytearray, memoryview)):
            payload = documents.decompress(payload)
        return self._decode(payload)

    def decode_result(self, payload: Any) -> Document:
        """Decode a document; an error in it is rebuilt."""
        return self.meta_from_decoded(self.decode(payload))

    def meta_from_decoded(self, meta: Document) -> Document:
        """Rebuild the error in a plain document, if there is one."""
        if meta["status"] in states.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    # -- Settings

    def prepare_expires(
        self, value: float | timedelta | None, type: Callable[[Any], Any] | None = None
    ) -> Any:
        """Return a life in seconds, None or 0 for no end; by default ``result_expires``."""
        if value is None:
            value = self.app.conf.result_expires
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if value is None:
            return None
        return type(value) if type else value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Say whether results shall survive a restart of the store: ``result_persistent``."""
        if enabled is None:
            enabled = self.app.conf.result_persistent
        return self.persistent if enabled is None else bool(enabled)

    def prepare_compression(self, compression: str | None) -> str | None:
        """Check the method of ``result_compression``.

        Raises:
            celery.exceptions.ImproperlyConfigured: There is no such method.
        """
        if not compression:
            return None
        if not self.supports_result_compression:
            warnings.warn(W_COMPRESSION_UNSUPPORTED.format(type(self).__name__), stacklevel=3)
            return None
        try:
            codecs.get_encoder(compression)
        except KeyError as exc:
            known = ", ".join(sorted(codecs.encoders()))
            raise ImproperlyConfigured(E_UNKNOWN_COMPRESSION.format(compression, known)) from exc
        return compression

    # -- Reading

    def is_cached(self, task_id: str) -> bool:
        """Say whether the document of an ended task is in memory."""
        return self._cache is not None and task_id in self._cache

    def get_state(self, task_id: str) -> str:
        """Read the state of a task."""
        state: str = self.get_task_meta(task_id)["status"]
        return state

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """Read the value or error of a task."""
        return self.get_task_meta(task_id).get("result")

    def get_traceback(self, task_id: str) -> str | None:
        """Read the traceback of a failed task."""
        return self.get_task_meta(task_id).get("traceback")

    def get_children(self, task_id: str) -> list[Any] | None:
        """Read the results that a task called or was linked to, as tuples."""
        return self.get_task_meta(task_id).get("children")

    def get_task_meta(self, task_id: str, cache: bool = True) -> Document:
        """Read the document of a task; an unknown one is ``PENDING``.

        Args:
            task_id: Id of the task.
            cache: May come from memory, where only ends are kept.
        """
        if cache and self._cache is not None:
            known = self._cache.get(task_id)
            if known is not None:
                return known
        if self.always_retry:
            document = self._with_retries(
                lambda: self._get_task_meta_for(task_id),
                lambda: BackendGetMetaError("failed to get meta", task_id=task_id),
            )
        else:
            document = self._get_task_meta_for(task_id)
        if cache and self._cache is not None and document.get("status") == states.SUCCESS:
            self._cache[task_id] = document
        return document

    def _get_task_meta_for(self, task_id: str) -> Document:
        """Read one document. For adapters."""
        raise NotImplementedError(f"{type(self).__name__} does not read results")

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether anything is stored for a task; override where that is cheaper to ask."""
        return bool(self._get_task_meta_for(task_id)["status"] != states.PENDING)

    def reload_task_result(self, task_id: str) -> None:
        """Read a document again, into the cache."""
        document = self.get_task_meta(task_id, cache=False)
        if self._cache is not None:
            self._cache[task_id] = document

    # -- Groups

    def get_group_meta(self, group_id: str, cache: bool = True) -> Document | None:
        """Read the document of a saved group; its ``result`` is a `GroupResult`."""
        if cache and self._cache is not None:
            known = self._cache.get(group_id)
            if known is not None:
                return known
        document = self._restore_group(group_id)
        if cache and self._cache is not None and document is not None:
            self._cache[group_id] = document
        return document

    def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None:
        """Read a saved group, None when there is none."""
        document = self.get_group_meta(group_id, cache=cache)
        return None if document is None else document["result"]

    def reload_group_result(self, group_id: str) -> None:
        """Read a saved group again, into the cache."""
        document = self.get_group_meta(group_id, cache=False)
        if self._cache is not None and document is not None:
            self._cache[group_id] = document

    def save_group(self, group_id: str, result: Any) -> Any:
        """Store which tasks form a group."""
        return self._save_group(group_id, result)

    def delete_group(self, group_id: str) -> None:
        """Delete a saved group; the results of its members stay."""
        if self._cache is not None:
            self._cache.pop(group_id, None)
        self._delete_group(group_id)

    def _group_from_document(self, document: Document) -> Document:
        document["result"] = result_from_tuple(document["result"], self.app)
        return document

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not store groups")

    def _restore_group(self, group_id: str) -> Document | None:
        raise NotImplementedError(f"{type(self).__name__} does not store groups")

    def _delete_group(self, group_id: str) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not store groups")

    # -- Trying again

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether ``result_backend_always_retry`` covers what failed with *exc*."""
        return False

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Called before each further try; override to reconnect."""

    def _with_retries(self, action: Callable[[], T], give_up: Callable[[], Exception]) -> T:
        """Call *action* until it succeeds, an error is final, or the tries are used up."""
        tries = 0
        while True:
            try:
                return action()
            except Exception as exc:
                if not (self.always_retry and self.exception_safe_to_retry(exc)):
                    raise
                if tries >= self.max_retries:
                    raise give_up() from exc
                self.on_backend_retryable_error(exc)
                pause_ms = get_exponential_backoff_interval(
                    self.base_sleep_between_retries_ms,
                    tries,
                    self.max_sleep_between_retries_ms,
                    True,
                )
                tries += 1
                time.sleep(pause_ms / 1000)

    # -- Life of the store

    def cleanup(self) -> None:
        """Delete what has expired, in stores that don't do so themselves."""

    @idle_hook
    def process_cleanup(self) -> None:
        """Called by the worker after each task; override to give back resources."""

    def on_task_call(self, producer: Any, task_id: str) -> Any:
        """Called before a task is published; override to get ready for its result."""
        return {}

    def current_task_children(self, request: Any = None) -> list[Any]:
        """Return what the running task called so far, as tuples."""
        if request is None:
            task = _state.get_current_task()
            request = None if task is None else task.request
            if request is None:
                return []
        children = getattr(request, "_children", None) or getattr(request, "children", None)
        return [child.as_tuple() for child in children] if children else []
