"""Back-ends over stores that map a key to a value.

An adapter brings `get`, `set`, `delete` and, for speed, `mget`; where it can also count (`incr`),
chords need no polling.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.functional import LRUCache

from celery import states
from celery._protocol import meta as documents
from celery.backends._backend import Backend
from celery.backends._chord import Count, growth_id, header_error, judge_count
from celery.backends._finality import stays
from celery.backends._wait import SyncBackendMixin, pauses
from celery.exceptions import ChordError

if TYPE_CHECKING:
    from celery.canvas import Signature

Document = dict[str, Any]

logger = logging.getLogger("celery.backends.base")

#: Seconds that one worker has to start the body of a chord, before another one may.
CLAIM_S = 20
#: Seconds between two looks whether it has.
CLAIM_LOOK_S = 0.5

#: Sizes of chords that are remembered, so that a part need not read the group again.
CHORD_SIZES_KEPT = 1000


class BaseKeyValueStoreBackend(Backend):
    """A store of keys and values, without a way to wait for results."""

    task_keyprefix: str | bytes = "celery-task-meta-"
    group_keyprefix: str | bytes = "celery-taskset-meta-"
    chord_keyprefix: str | bytes = "chord-unlock-"
    #: `incr` and `expire` work, so chords are counted in the store.
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prefix = self.app.conf.result_backend_transport_options.get("global_keyprefix") or ""
        self._prefix_keys(prefix)
        self._chord_sizes: LRUCache = LRUCache(limit=CHORD_SIZES_KEPT)

    def _prefix_keys(self, prefix: str) -> None:
        self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix = (
            self.key_t(prefix + bytes_to_str(own))
            for own in (self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix)
        )
        self._task_prefix = bytes_to_str(self.task_keyprefix)

    def key_t(self, key: Any = "") -> Any:
        """Convert a key to what the driver takes; bytes by default."""
        return key.encode() if isinstance(key, str) else key

    @property
    def chord_expires(self) -> Any:
        """Seconds that the bookkeeping of a chord lives: ``result_chord_expires``."""
        own = self.app.conf.result_chord_expires
        return self.expires if own is None else self.prepare_expires(own, int)

    # -- What an adapter brings

    def get(self, key: Any) -> Any:
        """Read a value, None when there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not implement get")

    def mget(self, keys: Any) -> Any:
        """Read many values: a list in the order of *keys*, or a mapping."""
        raise NotImplementedError(f"{type(self).__name__} does not implement mget")

    def set(self, key: Any, value: Any) -> Any:
        """Write a value."""
        raise NotImplementedError(f"{type(self).__name__} does not implement set")

    def delete(self, key: Any) -> Any:
        """Delete a key; a missing one is fine."""
        raise NotImplementedError(f"{type(self).__name__} does not implement delete")

    def incr(self, key: Any) -> Any:
        """Add one to a counter and return it."""
        raise NotImplementedError(f"{type(self).__name__} does not implement incr")

    def expire(self, key: Any, value: Any) -> Any:
        """Let a key live for *value* more seconds."""

    def claim(self, name: str, seconds: int) -> bool:
        """Become the only one, of those who ask for *name*, for so many seconds.

        Where the store knows no such thing everybody is.
        """
        return True

    def _set_document(self, key: Any, payload: Any, state: str) -> Any:
        """Write the document of a task; *state* may decide how long it lives."""
        return self.set(key, payload)

    # -- Keys

    def get_key_for_task(self, task_id: str, key: Any = "") -> Any:
        """Return the key of a task's document, *key* being a suffix."""
        if not key and task_id and isinstance(task_id, str):
            # The case of every task, without the conversions.
            return self.key_t(f"{self._task_prefix}{task_id}")
        return self._key(self.task_keyprefix, task_id, key)

    def get_key_for_group(self, group_id: str, key: Any = "") -> Any:
        """Return the key of a group's document, *key* being a suffix."""
        return self._key(self.group_keyprefix, group_id, key)

    def get_key_for_chord(self, group_id: str, key: Any = "") -> Any:
        """Return the key of a chord's counter, *key* being a suffix."""
        return self._key(self.chord_keyprefix, group_id, key)

    def _key(self, prefix: Any, name: str, suffix: Any) -> Any:
        if not name:
            raise ValueError(f"{bytes_to_str(prefix)}…: the id must not be empty, got {name!r}")
        return self.key_t(bytes_to_str(prefix) + bytes_to_str(name) + bytes_to_str(suffix))

    def _task_id_of(self, key: Any) -> str:
        text: str = bytes_to_str(key)
        return text.removeprefix(self._task_prefix)

    # -- Documents

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        document = self._document(task_id, result, state, traceback, request)
        self._store_document(task_id, self._encode_document(document), state)
        return result

    def _store_document(self, task_id: str, payload: Any, state: str) -> None:
        """Write the document of a task, unless what is stored has to stay."""
        if not stays(self._get_task_meta_for(task_id)["status"], state):
            self._set_document(self.get_key_for_task(task_id), payload, state)

    def _get_task_meta_for(self, task_id: str) -> Document:
        payload = self.get(self.get_key_for_task(task_id))
        return documents.unknown_task() if not payload else self.decode_result(payload)

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether anything is stored for a task."""
        return bool(self.get(self.get_key_for_task(task_id)))

    def _save_group(self, group_id: str, result: Any) -> Any:
        payload = self.encode(documents.group_document(result.as_tuple()))
        self._set_document(self.get_key_for_group(group_id), payload, states.SUCCESS)
        return result

    def _restore_group(self, group_id: str) -> Document | None:
        payload = self.get(self.get_key_for_group(group_id))
        return self._group_from_document(self.decode(payload)) if payload else None

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))

    # -- Many documents

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Collection[str] = states.READY_STATES,
    ) -> Iterator[tuple[str, Document]]:
        """Yield ``(task id, document)`` as the tasks become ready, in no order.

        Args:
            task_ids: Ids of tasks; duplicates count once.
            timeout: Seconds for all of them; None waits for ever.
            interval: Longest pause between two looks, in seconds.
            no_ack: Of no meaning here.
            on_message: Called with each document.
            on_interval: Called after each look that left something open.
            max_iterations: Look at most this often, then stop without an error.
            READY_STATES: States that end the waiting for a task.

        Raises:
            celery.exceptions.TimeoutError: *timeout* seconds have passed.
        """
        waits = pauses(self.subpolling_interval or interval, timeout)
        # A dict keeps the order of submission and drops duplicates.
        open_ids = dict.fromkeys(bytes_to_str(task_id) for task_id in task_ids)
        looks = 0
        while True:
            for task_id, document in self._read_ready(open_ids, READY_STATES):
                del open_ids[task_id]
                if on_message is not None:
                    on_message(document)
                yield task_id, document
            looks += 1
            if not open_ids or (max_iterations and looks >= max_iterations):
                return
            if on_interval is not None:
                on_interval()
            self._pause(next(waits))

    def _pause(self, seconds: float) -> None:
        """Wait until a look may be worth it, about so many seconds."""
        time.sleep(seconds)

    def _read_ready(
        self, task_ids: Iterable[str], ready_states: Collection[str]
    ) -> list[tuple[str, Document]]:
        """Read the documents of *task_ids*; return those that are ready."""
        found: list[tuple[str, Document]] = []
        unread: list[str] = []
        for task_id in task_ids:
            known = None if self._cache is None else self._cache.get(task_id)
            if known is not None and known["status"] in ready_states:
                found.append((task_id, known))
            else:
                unread.append(task_id)
        if not unread:
            return found
        keys = [self.get_key_for_task(task_id) for task_id in unread]
        for task_id, payload in self._with_ids(self.mget(keys), unread):
            if not payload:
                continue
            document = self.decode_result(payload)
            if document["status"] in ready_states:
                found.append((task_id, document))
                if self._cache is not None:
                    self._cache[task_id] = document
        return found

    def _with_ids(self, values: Any, task_ids: Sequence[str]) -> Iterable[tuple[str, Any]]:
        """Pair what `mget` returned with the ids that were asked for."""
        if isinstance(values, Mapping):
            return [(self._task_id_of(key), value) for key, value in values.items()]
        return list(zip(task_ids, values, strict=False))

    # -- Chords

    @property
    def counts_unstored_parts(self) -> bool:  # type: ignore[override]
        """Header results are read back from the store, so they have to be in it."""
        return False

    def apply_chord(
        self, header_result_args: tuple[Any, ...], body: Signature, **kwargs: Any
    ) -> Any:
        """Get ready to start *body* when the header is done; see `Backend.apply_chord`."""
        if not self.implements_incr:
            return super().apply_chord(header_result_args, body, **kwargs)
        self.ensure_chords_allowed()
        header = self.app.GroupResult(*header_result_args)
        header.save(backend=self)
        if self.chord_expires:
            # The group is part of the bookkeeping, which may have to live longer than results.
            self.expire(self.get_key_for_group(header.id), self.chord_expires)
        return None

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a finished header task; the last one starts the body."""
        if not self.implements_incr or not request.group:
            return
        group_id = request.group
        key = self.get_key_for_chord(group_id)
        # Before it is counted: then another one may be the last, and forget the group at once.
        size = self._chord_size(group_id, request)
        if size is None:
            return
        counted = self.incr(key)
        if counted is None:
            # Delivered again after the body was started, or the bookkeeping has expired.
            return
        if self.chord_expires:
            self.expire(key, self.chord_expires)
        if judge_count(counted, size) is Count.WAIT:
            return
        while True:
            header = self.restore_group(group_id, cache=False)
            if header is None:
                # Another worker has started the body and cleaned up.
                self.delete(key)
                return
            header = self.grown_header(header)
            decision = judge_count(counted, len(header))
            if decision is Count.WAIT:
                return
            ids = [member.id for member in header.results]
            if sum(1 for _ in self.get_many(ids, max_iterations=1)) < len(ids):
                # A redelivered part counted twice; a part that is still to come will get here.
                return
            if self._claim_end(group_id):
                break
            # This task was delivered again, and whoever claimed the body may be dead.
            time.sleep(CLAIM_LOOK_S)
        if decision is Count.OVERCOUNTED:
            logger.warning("Chord %r: a header task was counted more than once", group_id)
        self._finish_chord(header, request, group_id)
        self.delete(key)

    def _additions(self, chord_id: str, task_ids: list[str]) -> dict[str, list[Any]]:
        # All with one request.
        keys = {
            self.get_key_for_group(growth_id(chord_id, task_id)): task_id for task_id in task_ids
        }
        found = self.mget(list(keys))
        values = found.items() if isinstance(found, Mapping) else zip(keys, found, strict=False)
        return {
            keys[self.key_t(key)]: self._group_from_document(self.decode(payload))["result"].results
            for key, payload in values
            if payload
        }

    def _chord_size(self, group_id: str, request: Any) -> int | None:
        """Return how many header tasks the chord has, None when its group is unknown."""
        size: int | None = self._chord_sizes.get(group_id)
        if size is not None:
            return size
        body = self.app.signature(request.chord)
        try:
            header = self.restore_group(group_id, cache=False)
        except Exception as exc:
            error = ChordError(f"Cannot restore group: {exc!r}")
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(body, error)
            return None
        if header is None:
            if self._has_ended(group_id, body):
                # This task was delivered again.
                return None
            logger.error("Chord callback %r raised: its group is not stored", group_id)
            self.chord_error_from_stack(
                body, ChordError(f"GroupResult {group_id} no longer exists")
            )
            return None
        self._chord_sizes[group_id] = size = len(header)
        return size

    def _claim_end(self, group_id: str) -> bool:
        """Become the one that ends a chord; false where another is, or has just been."""
        return self.claim(f"{group_id}.c", CLAIM_S)

    def _has_ended(self, group_id: str, body: Signature) -> bool:
        """Say whether a chord whose group is not stored has ended, as far as is known."""
        return (
            not self._claim_end(group_id)
            or self.incr(self.get_key_for_chord(group_id)) is None
            or self._get_task_meta_for(body.id)["status"] in states.READY_STATES
        )

    def _finish_chord(self, header: Any, request: Any, group_id: str) -> None:
        """Start the body with the values of *header*, or fail it; then forget the header group."""
        body = self.app.signature(request.chord)
        timeout = self.app.conf.result_chord_join_timeout
        join = header.join_native if header.supports_native_join else header.join
        try:
            values = join(timeout=timeout, propagate=True, disable_sync_subtasks=False)
        except Exception as exc:
            error = header_error(header, exc)
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(body, error)
        else:
            self._start_body(body, values, group_id)
        finally:
            header.delete(backend=self)

    def _start_body(self, body: Signature, values: list[Any], group_id: str) -> None:
        try:
            body.delay(values)
        except Exception as exc:
            error = ChordError(f"Callback error: {exc!r}")
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(body, error)


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """A store of keys and values that is asked again and again for results."""
