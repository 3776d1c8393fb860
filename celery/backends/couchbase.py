"""Results as documents of Couchbase (``couchbase://user:password@host/bucket``).

Each key is a document of the bucket, ``default`` unless the URL names another, with the text of the
result, and goes after ``result_expires`` seconds. The same can be said in
``couchbase_backend_settings``: ``host``, ``port``, ``bucket``, ``username`` and ``password``. A
port other than 8091 is that of the data service. ``couchbase+couchbases://…`` is for a server with
TLS.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from kombu.utils.url import _parse_url

from celery.backends._versioned import Stored, VersionedBackend, once_per_process
from celery.exceptions import ImproperlyConfigured

try:
    import couchbase
    import couchbase.exceptions as errors
    from couchbase.auth import PasswordAuthenticator
    from couchbase.cluster import Cluster
    from couchbase.options import ClusterOptions, ClusterTimeoutOptions
    from couchbase.transcoder import JSONTranscoder, RawBinaryTranscoder
except ImportError:
    couchbase = None

__all__ = ("CouchbaseBackend",)

E_MISSING = (
    "The Couchbase result back-end needs the package couchbase: pip install 'celery[couchbase]'"
)
E_SETTINGS = "couchbase_backend_settings has to be a mapping of names to values, not {0}"

#: The client chooses the form of a value.
FMT_AUTO = None
#: Settings that become attributes.
ATTRIBUTES = ("host", "port", "bucket", "username", "password")
#: Port of the web console, which has always stood in URLs; the client finds the other ones.
CONSOLE = 8091
#: Seconds for a connection.
CONNECT_S = 10
#: Seconds in which a request is made again that had to wait for a connection in vain.
PATIENCE_S = 30


class CouchbaseBackend(VersionedBackend):
    """Keeps results in a bucket.

    Raises:
        ImproperlyConfigured: couchbase is missing, or ``couchbase_backend_settings`` is no mapping.
    """

    bucket = "default"
    host = "localhost"
    port = CONSOLE
    username: str | None = None
    password: str | None = None
    quiet = False
    supports_autoexpire = True
    #: Seconds for an answer.
    timeout = 2.5
    key_t = str  # type: ignore[assignment] # a function of one argument, too

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if couchbase is None:
            raise ImproperlyConfigured(E_MISSING)
        self.url = url
        settings = self.app.conf.get("couchbase_backend_settings", None)
        if settings is not None and not isinstance(settings, Mapping):
            raise ImproperlyConfigured(E_SETTINGS.format(type(settings).__name__))
        found = {name: value for name, value in (settings or {}).items() if name in ATTRIBUTES}
        scheme, host, port, user, password, path, _ = _parse_url(url or "couchbase://")
        named = (host, port, (path or "").strip("/"), user, password)
        found.update((name, value) for name, value in zip(ATTRIBUTES, named, strict=True) if value)
        for name, value in found.items():
            setattr(self, name, value)
        self._scheme = "couchbases" if scheme == "couchbases" else "couchbase"

    @once_per_process
    def connection(self) -> Any:
        """The keys of the bucket."""
        port = "" if self.port == CONSOLE else f":{self.port}"
        login = PasswordAuthenticator(self.username or "", self.password or "")
        wait, answer = timedelta(seconds=CONNECT_S), timedelta(seconds=self.timeout)
        options = ClusterOptions(
            login,
            timeout_options=ClusterTimeoutOptions(
                bootstrap_timeout=wait, connect_timeout=wait, kv_timeout=answer
            ),
            transcoder=_Transcoder(),
        )
        cluster = Cluster.connect(f"{self._scheme}://{self.host}{port}", options)
        return cluster.bucket(self.bucket).default_collection()

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        passing = (
            errors.TimeoutException,
            errors.AmbiguousTimeoutException,
            errors.UnAmbiguousTimeoutException,
            errors.TemporaryFailException,
            errors.RequestCanceledException,
            errors.ServiceUnavailableException,
        )
        return isinstance(exc, passing)

    def _ask(self, what: str, *args: Any, **kwargs: Any) -> Any:
        """Do something with a key; wait for a connection that has to be made anew."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return getattr(self.connection, what)(*args, **kwargs)
            except errors.UnAmbiguousTimeoutException:
                # It was not sent, or changed nothing.
                if time.monotonic() > end:
                    raise

    def _life(self) -> dict[str, Any]:
        return {"expiry": timedelta(seconds=self.expires)} if self.expires else {}

    def load(self, key: Any) -> Stored | None:
        """Read a value with its version, None when there is none."""
        try:
            found = self._ask("get", key)
        except errors.DocumentNotFoundException:
            return None
        return Stored(found.value, found.cas)

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in the order of *keys*, all at the same time."""
        names = list(keys)
        if not names:
            return []
        found = self._ask("get_multi", names)
        for error in found.exceptions.values():
            if not isinstance(error, errors.DocumentNotFoundException):
                raise error
        return [found.results[name].value if name in found.results else None for name in names]

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a value if that version is still there; None: if nothing is."""
        try:
            if version is None:
                self._ask("insert", key, value, **self._life())
            else:
                self._ask("replace", key, value, cas=version, **self._life())
        except (
            errors.DocumentExistsException,
            errors.DocumentNotFoundException,
            errors.CasMismatchException,
        ):
            return False
        return True

    def delete(self, key: Any) -> None:
        """Delete a document; a missing one is fine."""
        try:
            self._ask("remove", key)
        except errors.DocumentNotFoundException:
            return


class _Transcoder:
    """Text as JSON, which everybody can read; bytes, of serializers such as pickle, as they are."""

    def __init__(self) -> None:
        self._text, self._binary = JSONTranscoder(), RawBinaryTranscoder()

    def encode_value(self, value: Any) -> Any:
        kind = self._binary if isinstance(value, bytes) else self._text
        return kind.encode_value(value)

    def decode_value(self, value: Any, flags: int) -> Any:
        try:
            return self._text.decode_value(value, flags)
        except errors.ValueFormatException:
            return self._binary.decode_value(value, flags)
