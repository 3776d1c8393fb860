"""Results in Redis: one round trip to store, pushed to whoever waits, chords counted by a script.

Keys are ``celery-task-meta-ID`` and ``celery-taskset-meta-ID``, behind ``global_keyprefix``. A
document is announced on a channel named as its key. Scripts, connection settings, connections and
channels live in `celery.backends._redis`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.utils.compat import detect_environment
from kombu.utils.functional import retry_over_time

from celery import states
from celery._protocol import meta as documents
from celery.backends._chord import Part, body_argument, dependency_error, first_failure
from celery.backends._codec import encode_json
from celery.backends._finality import lasting_states
from celery.backends._redis import params, scripts
from celery.backends._redis.params import (
    E_LOST as E_LOST,
    E_REDIS_SSL_CERT_REQS_MISSING_INVALID as E_REDIS_SSL_CERT_REQS_MISSING_INVALID,
    E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH as E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH,
    W_REDIS_SSL_CERT_NONE as W_REDIS_SSL_CERT_NONE,
    W_REDIS_SSL_CERT_OPTIONAL as W_REDIS_SSL_CERT_OPTIONAL,
)
from celery.backends.asynchronous import (
    AsyncBackendMixin,
)
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import BackendStoreError, ChordError, ImproperlyConfigured
from celery.result import GroupResult
from celery.utils.objects import lasting_property

if TYPE_CHECKING:
    from celery.canvas import Signature

try:
    import redis
    import redis.connection
    from kombu.transport.redis import get_redis_error_classes
    from redis.exceptions import NoPermissionError

    from celery.backends._redis.consumer import ResultConsumer
    from celery.backends._redis.link import Link, Script
except ImportError:  # the driver is optional
    redis: Any = None  # type: ignore[no-redef]
    ResultConsumer: Any = None  # type: ignore[no-redef]

try:
    import redis.sentinel as sentinel
except ImportError:
    sentinel: Any = None  # type: ignore[no-redef]
    SentinelManagedSSLConnection: Any = None
else:

    class SentinelManagedSSLConnection(  # type: ignore[no-redef]
        sentinel.SentinelManagedConnection, redis.connection.SSLConnection
    ):
        """A TLS connection to whatever server the sentinels name."""


__all__ = ("RedisBackend", "SentinelBackend")

logger = logging.getLogger(__name__)

E_REDIS_MISSING = "The Redis result back-end needs the package redis: pip install 'celery[redis]'"
E_REDIS_SENTINEL_MISSING = (
    "The Sentinel result back-end needs a newer package redis, with redis.sentinel: "
    "pip install -U redis"
)
W_REDIS_COMPRESSION_DISABLED = (
    "result_compression has no effect: results are text for a driver with decode_responses."
)

CHORD_PART_RETURN_LUA = scripts.CHORD_PART_RETURN_LUA
CHORD_CLAIM_EXTEND_LUA = scripts.CHORD_CLAIM_EXTEND_LUA
CHORD_CLEANUP_LUA = scripts.CHORD_CLEANUP_LUA

#: Largest value that Redis takes, in bytes.
MAX_VALUE_SIZE = 512 * 1024 * 1024
#: Keys read with one command.
MGET_SIZE = 1000
#: Connections for the results of all green threads, where ``redis_max_connections`` says nothing.
GREEN_CONNECTIONS = 10

#: What has to be the code here for documents to be stored many at once.
STORING = ("mark_as_done", "store_result", "_store_result", "_store_document", "_store", "set")
#: Documents up to this many bytes are stored many at once.
LONG = 16 * 1024
#: What the script says of a document that it can't judge.
LOOK = 2

#: Seconds that the body of a complete chord is claimed for by the one who starts it: first to
#: get going, then for publishing. When they die, a redelivered header task claims it next.
CLAIM_S = 6
CLAIM_EXTENDED_S = 21
#: Seconds for which it is remembered that the body was started.
DONE_S = 300


def _whole_seconds(value: float) -> int:
    """Round a life up: less than a second must not become 'for ever'."""
    return math.ceil(value)


class RedisBackend(BaseKeyValueStoreBackend, AsyncBackendMixin):
    """Keeps results in Redis.

    Args:
        host: Name of the server; by default ``redis_host``.
        port: Its port; by default ``redis_port``.
        db: Number of the database; by default ``redis_db``.
        password: By default ``redis_password``.
        max_connections: Of the pool; by default ``redis_max_connections``.
        url: ``redis://``, ``rediss://`` or ``socket://``; wins over the above.
        connection_pool: A pool of the driver to use.

    Raises:
        ImproperlyConfigured: The driver is not installed.
        ValueError: The settings for TLS are contradictory or incomplete.
    """

    ResultConsumer: Any = ResultConsumer
    result_consumer: Any

    #: The driver.
    redis: Any = redis
    connection_class_ssl: Any = redis.connection.SSLConnection if redis is not None else None

    #: Further errors of the driver that are worth another try.
    unreachable_errors: tuple[type[Exception], ...] = ()
    max_connections: int | None = None
    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True
    serves_green_threads = True

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: int | None = None,
        password: str | None = None,
        max_connections: int | None = None,
        url: str | None = None,
        connection_pool: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(expires_type=_whole_seconds, **{**kwargs, "url": url})
        if self.redis is None:
            raise ImproperlyConfigured(E_REDIS_MISSING.strip())
        conf = self.app.conf
        options = conf.result_backend_transport_options
        self.connparams = self._connection_parameters(
            url, host=host, port=port, db=db, password=password, max_connections=max_connections
        )
        self.url = url
        if self.compression and self.connparams.get("decode_responses"):
            logger.warning(W_REDIS_COMPRESSION_DISABLED)
            self.compression = None
        failure_expires = conf.result_failure_expires
        self.failure_expires = (
            self.expires
            if failure_expires is None
            else self.prepare_expires(failure_expires, _whole_seconds)
        )
        self._given_pool = connection_pool
        classes = get_redis_error_classes()
        more = tuple(options.get("additional_connection_errors") or ())
        # A KeyError is what kombu's event loop may see of a dead connection; here it is a bug.
        self.connection_errors = (
            *(error for error in classes.connection_errors if error is not KeyError),
            *self.unreachable_errors,
            *more,
        )
        self.channel_errors = classes.channel_errors
        self._in_order = options.get("result_chord_ordered", True)
        few = self.connparams.get("max_connections")
        most = None
        if detect_environment() != "default":
            most = GREEN_CONNECTIONS if few is None else max(few - 2, 1)
        self._link = self._make_link(few is None or few > 2, most)
        self._store_script = Script(scripts.STORE_LUA)
        self._store_many_script = Script(scripts.STORE_MANY_LUA)
        self._part_script = Script(CHORD_PART_RETURN_LUA)
        self._extend_script = Script(CHORD_CLAIM_EXTEND_LUA)
        self._cleanup_script = Script(CHORD_CLEANUP_LUA)
        self._may_run_scripts = True
        self.result_consumer = self.ResultConsumer(
            self, self.app, self.accept, self._pending_results, self._pending_messages
        )

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(
            args, {"expires": self.expires, "url": self.url, **(kwargs or {})}
        )

    # -- Connecting

    def _connection_parameters(self, url: str | None, **given: Any) -> dict[str, Any]:
        conf = self.app.conf
        found = params.from_settings(conf)
        found.update((name, value) for name, value in given.items() if value is not None)
        if url:
            found = params.from_url(url, found, self.redis)
        found = params.with_tls(found, conf.redis_backend_use_ssl, url, self.connection_class_ssl)
        # The newer protocol mixes announcements and answers on one connection.
        found.setdefault("protocol", 2)
        return found

    def _make_link(self, keep: bool, most: int | None) -> Any:
        return Link(self.connection_pool, keep, most)

    @property
    def ConnectionPool(self) -> Any:
        """The driver's class of connection pools."""
        return self.redis.ConnectionPool

    def connection_pool(self) -> Any:
        """Return the pool of connections; made at its first use."""
        return self._pool

    @lasting_property
    def _pool(self) -> Any:
        return self._given_pool or self._make_pool()

    def _make_pool(self) -> Any:
        return self.ConnectionPool(**self.connparams)

    @lasting_property
    def client(self) -> Any:
        """A client of the driver, on the same pool of connections."""
        return self.redis.StrictRedis(connection_pool=self._pool)

    @cached_property
    def retry_policy(self) -> dict[str, Any]:  # type: ignore[override]
        """How often and how soon a command is sent again after the connection was lost."""
        policy = dict(BaseKeyValueStoreBackend.retry_policy)
        policy.update(self.app.conf.result_backend_transport_options.get("retry_policy") or {})
        return policy

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether *exc* is a lost connection."""
        return isinstance(exc, self.connection_errors)

    def ensure(self, fun: Callable[..., Any], args: Iterable[Any], **policy: Any) -> Any:
        """Call *fun* with *args*, again after the connection was lost.

        Raises:
            redis.exceptions.ConnectionError: The tries of the retry policy are used up.
        """
        args = tuple(args)
        try:
            return fun(*args)
        except self.connection_errors:
            policy = {**self.retry_policy, **policy}
            return retry_over_time(
                fun,
                self.connection_errors,
                args,
                {},
                partial(self.on_connection_error, policy.get("max_retries")),
                **policy,
            )

    def on_connection_error(
        self, max_retries: int | None, exc: BaseException, intervals: Any, retries: int
    ) -> float:
        """Log a lost connection and return the seconds until the next try."""
        pause: float = next(intervals)
        logger.error("%s next try in %.2f s", E_LOST % (retries, max_retries or "Inf", exc), pause)
        return pause

    # -- Keys and values

    def get(self, key: Any) -> Any:
        """Read a value, None when there is none."""
        return self.ensure(self._link.call, ("GET", key))

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in order."""
        names = list(keys)
        values: list[Any] = []
        for start in range(0, len(names), MGET_SIZE):
            values += self.ensure(self._link.call, ("MGET", *names[start : start + MGET_SIZE]))
        return values

    def set(self, key: Any, value: Any, expires: int | None = None, **retry_policy: Any) -> None:
        """Write a value and announce it; by default it lives as long as a result."""
        self._check_size(value)
        life = self.expires if expires is None else expires
        self.ensure(self._set, (key, value, life), **retry_policy)

    def _check_size(self, value: Any) -> None:
        if len(value) > MAX_VALUE_SIZE:
            raise BackendStoreError("value too large for Redis backend")

    def _set(self, key: Any, value: Any, life: int | None) -> None:
        with self.client.pipeline() as pipe:
            pipe.set(key, value, ex=life or None)
            pipe.publish(key, value)
            pipe.execute()

    def _set_document(self, key: Any, payload: Any, state: str) -> Any:
        self.set(key, payload)

    def delete(self, key: Any) -> Any:
        """Delete a key."""
        return self.ensure(self._link.call, ("DEL", key))

    def incr(self, key: Any) -> int:
        """Add one to a counter and return it."""
        return int(self.ensure(self._link.call, ("INCR", key)))

    def expire(self, key: Any, value: Any) -> Any:
        """Let a key live for *value* more seconds."""
        return self.ensure(self._link.call, ("EXPIRE", key, value))

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Note the call; whoever wants the result subscribes then."""
        self.result_consumer.note_sent(task_id)

    def forget(self, task_id: str) -> None:
        """Delete the result of a task, and stop listening for it."""
        super().forget(task_id)
        self.result_consumer.cancel_for(task_id)

    # -- Documents

    def _store_document(self, task_id: str, payload: Any, state: str) -> None:
        self._check_size(payload)
        life = self.failure_expires if state == states.FAILURE else self.expires
        self.ensure(self._store, (self.get_key_for_task(task_id), payload, life, state))

    def _store(self, key: Any, payload: Any, life: int | None, state: str) -> None:
        """Store a document in one round trip, unless what is stored has to stay."""
        lasting = lasting_states(state)
        replaceable: Any = ""
        while self._may_run_scripts:
            try:
                outcome = self._link.run(
                    self._store_script, (key,), payload, life or 0, replaceable, *lasting
                )
            except NoPermissionError:
                logger.warning("The Redis user may not run scripts; storing takes two round trips")
                self._may_run_scripts = False
                break
            if isinstance(outcome, int) or self._status(outcome) in lasting:
                return
            # It is compressed, or in a format that only Python reads.
            replaceable = outcome
        before = self._link.call("GET", key)
        if not before or self._status(before) not in lasting:
            self._set(key, payload, life)

    @cached_property
    def takes_documents(self) -> bool:
        """Whether documents are plain JSON, and stored by the code here."""
        own = RedisBackend
        return (
            self.encoder is encode_json
            and not self.compression
            and all(getattr(type(self), name) is getattr(own, name) for name in STORING)
        )

    def mark_as_done_later(self, task_id: str, result: Any, request: Any) -> bytes | None:
        """Return the document unless it is long, and would only be carried around."""
        if not self.takes_documents:
            return super().mark_as_done_later(task_id, result, request)
        plain = self.encode_result(result, states.SUCCESS)
        document = self._document(task_id, plain, states.SUCCESS, None, request)
        payload: bytes = self._encode_document(document).encode()
        if len(payload) <= LONG:
            return payload
        self._check_size(payload)
        self._store_persistently(task_id, payload)
        return None

    def store_documents(self, documents: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Store documents of tasks that succeeded, in one round trip."""
        outcomes: Sequence[int] = [LOOK] * len(documents)
        if self._may_run_scripts:
            with suppress(self.redis.exceptions.ResponseError):
                # One that is refused must not take the others with it.
                outcomes = self._store_together(documents)
        errors: list[Exception | None] = [None] * len(documents)
        for place, outcome in enumerate(outcomes):
            if outcome == LOOK:
                try:
                    self._store_persistently(*documents[place])
                except Exception as exc:  # noqa: BLE001 - it is that task's outcome
                    errors[place] = exc
        return errors

    def _store_together(self, documents: Sequence[tuple[str, bytes]]) -> Sequence[int]:
        """Return what the script says of each document."""
        keys = tuple(self.get_key_for_task(task_id) for task_id, _ in documents)
        arguments = (self.expires or 0, states.SUCCESS, *(payload for _, payload in documents))
        outcomes: Sequence[int] = self._persistently(
            self._link.run, self._store_many_script, keys, *arguments
        )
        return outcomes

    def _store_persistently(self, task_id: str, payload: bytes) -> None:
        key = self.get_key_for_task(task_id)
        self._persistently(self._store, key, payload, self.expires, states.SUCCESS)

    def _persistently(self, fun: Callable[..., Any], *args: Any) -> Any:
        """Call *fun* with *args*, as often as the settings allow."""
        if not self.always_retry:
            return self.ensure(fun, args)
        return self._with_retries(
            lambda: self.ensure(fun, args),
            lambda: BackendStoreError("failed to store results on the backend"),
        )

    def _status(self, payload: Any) -> str:
        status: str = self.decode(payload)["status"]
        return status

    # -- Chords

    @property
    def counts_unstored_parts(self) -> bool:  # type: ignore[override]
        """The value of a header task is kept with the count."""
        return True

    def _chord_keys(self, group_id: str) -> tuple[Any, ...]:
        """Return parts, size, additions, counted tasks, claim, first failure."""
        return tuple(self.get_key_for_group(group_id, suffix) for suffix in _CHORD_SUFFIXES)

    def add_to_chord(self, group_id: str, result: Any) -> None:
        """Make the header of a chord one task larger."""
        key = self.get_key_for_group(group_id, ".t")
        self.incr(key)
        if self.chord_expires:
            self.expire(key, self.chord_expires)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Note how many header tasks a chord has."""
        key = self.get_key_for_group(group_id, ".s")
        life = ("EX", self.chord_expires) if self.chord_expires else ()
        self.ensure(self._link.call, ("SET", key, chord_size, *life))

    def apply_chord(
        self, header_result_args: tuple[Any, ...], body: Signature, **kwargs: Any
    ) -> None:
        """Note the size of the header, before its tasks are published."""
        self.ensure_chords_allowed()
        group_id, results = header_result_args[:2]
        self.set_chord_size(group_id, sum(1 for _ in _leaves(results)))

    def on_chord_part_return(
        self, request: Any, state: str, result: Any, propagate: bool | None = None, **kwargs: Any
    ) -> None:
        """Count a finished header task; the last one starts the body."""
        group_id, task_id = request.group, request.id
        if not group_id or not task_id:
            return
        part = self.encode(documents.chord_part(task_id, state, self.encode_result(result, state)))
        index = request.group_index
        keys = self._chord_keys(group_id)
        token = uuid4().hex
        arguments = (
            f"{task_id}:{index}",
            part,
            "+inf" if index is None else index,
            self.chord_expires or 0,
            token,
            CLAIM_S,
            int(bool(self._in_order)),
            int(state in states.EXCEPTION_STATES),
        )
        while True:
            answer = self.ensure(self._link.run, (self._part_script, keys, *arguments))
            if answer[0] == 0:
                return
            if answer[0] == 1:
                break
            # This task was delivered again, and whoever claimed the body may be dead.
            time.sleep(max(answer[1], 1) / 1000)
        failed, encoded = answer[1], answer[2]
        self._settle_chord(request, keys, token, failed, encoded, propagate is not False)

    def _settle_chord(
        self,
        request: Any,
        keys: tuple[Any, ...],
        token: str,
        failed: Any,
        encoded: list[Any],
        propagate: bool,
    ) -> None:
        """Start the body of a complete chord, or fail it; forget the chord."""
        group_id = request.group
        body = self.app.signature(request.chord)
        try:
            parts = self._decode_parts(encoded)
            culprit = self._decode_parts([failed])[0] if failed else first_failure(parts)
            if culprit is not None and propagate:
                raise dependency_error(culprit, self.exception_to_python)
            if not self.ensure(
                self._link.run, (self._extend_script, (keys[4],), token, CLAIM_EXTENDED_S)
            ):
                # Reading took so long that somebody else starts the body.
                return
            self._start_body(body, body_argument(parts), request)
        except Exception as exc:
            error = exc if isinstance(exc, ChordError) else ChordError(f"Join error: {exc!r}")
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(body, error)
        others = tuple(key for key in keys if key is not keys[4])
        self.ensure(self._link.run, (self._cleanup_script, (keys[4], *others), DONE_S))

    def _decode_parts(self, encoded: Iterable[Any]) -> list[Part]:
        plain = documents.chord_parts(self.decode(part) for part in encoded)
        return [Part(*part) for part in plain]

    def _start_body(self, body: Signature, values: list[Any], request: Any) -> None:
        try:
            body.apply_async((values,), root_id=request.root_id, parent_id=request.id)
        except Exception as exc:
            raise ChordError(f"Callback error: {exc!r}") from exc


#: Parts, size, additions, counted tasks, claim, first failure; the order is that of the script.
_CHORD_SUFFIXES = (".j", ".s", ".t", ".d", ".c", ".f")


def _leaves(results: Iterable[Any]) -> Iterator[Any]:
    for result in results:
        if isinstance(result, GroupResult):
            yield from _leaves(result.results)
        else:
            yield result


class SentinelBackend(RedisBackend):
    """Keeps results in a Redis server that a group of sentinels watches.

    The URL is ``sentinel://:password@host:port/db;sentinel://host:port``; the name of the master
    stands in ``result_backend_transport_options["master_name"]``.
    """

    #: The part of the driver that talks to sentinels.
    sentinel: Any = sentinel
    connection_class_ssl: Any = SentinelManagedSSLConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.sentinel is None:
            raise ImproperlyConfigured(E_REDIS_SENTINEL_MISSING.strip())
        super().__init__(*args, **kwargs)

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URLs of the sentinels."""
        return params.uri_of_hosts(self.url, include_password)

    def _connection_parameters(self, url: str | None, **given: Any) -> dict[str, Any]:
        hosts, shared = params.hosts_of(url or "", 26379)
        found = super()._connection_parameters(None, **given)
        for name in ("host", "port"):
            found.pop(name)
        return {**found, **shared, "hosts": hosts}

    def _make_pool(self) -> Any:
        options = self.app.conf.result_backend_transport_options
        connection = dict(self.connparams)
        hosts = connection.pop("hosts")
        group = self.sentinel.Sentinel(
            [(host["host"], host["port"]) for host in hosts],
            min_other_sentinels=options.get("min_other_sentinels", 0),
            sentinel_kwargs=options.get("sentinel_kwargs", {}),
            **connection,
        )
        master = options.get("master_name")
        if not master:
            raise ImproperlyConfigured(
                "result_backend_transport_options needs master_name: "
                "which of the masters that the sentinels watch keeps the results?"
            )
        return group.master_for(master, redis_class=self.redis.StrictRedis).connection_pool
