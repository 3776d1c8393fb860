"""Results as objects of Google Cloud Storage (``gs://bucket/path?gcs_project=name``).

One object for each key. Chords are counted in Firestore, of the same project unless
``firestore_project`` names another. Settings, each of which may stand in the query of the URL:
``gcs_bucket``, ``gcs_project``, ``gcs_base_path``, ``gcs_ttl``, ``gcs_threadpool_maxsize`` and
``firestore_project``. With ``gcs_ttl``, seconds, objects carry the time when they are to be
deleted, which a lifecycle rule of the bucket does. Give the field ``expires_at`` of the collection
``celery`` a time-to-live policy, so that counters of unfinished chords go too.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.backends._versioned import Stored, VersionedBackend, once_per_process
from celery.exceptions import ImproperlyConfigured

try:
    import requests
    from google.api_core import exceptions
    from google.cloud import firestore, storage
    from google.cloud.storage.retry import DEFAULT_RETRY
except ImportError:
    storage = None
else:
    #: Further attempts of the driver, which may take so many seconds.
    RETRY = DEFAULT_RETRY.with_timeout(60.0)

__all__ = ("GCSBackend",)

E_MISSING = (
    "The Google Cloud Storage result back-end needs the packages google-cloud-storage and"
    ' google-cloud-firestore: pip install "celery[gcs]"'
)
E_NO_NAME = "Missing {0}: the result back-end gs:// needs the setting {1}, or gs://BUCKET?{1}=…"
E_TTL = "Invalid ttl: gcs_ttl is {0}, it must be greater than or equal to 0 seconds"
E_NO_RULE = (
    "Missing lifecycle rule: gcs_ttl is set, and the bucket {0} has no rule that deletes objects"
    " by their custom time (action Delete, condition daysSinceCustomTime)"
)

#: Seconds for a connection, and for an answer.
TIMEOUTS_S = (10, 30)
#: Where counters of chords are kept, and their fields.
COLLECTION, COUNT, EXPIRES_AT = "celery", "chord_count", "expires_at"


class GCSBackendBase(VersionedBackend):
    """Keeps results in a bucket.

    Raises:
        ImproperlyConfigured: The drivers are missing, or bucket or project are not set, or the
            bucket does not delete what is to be deleted.
    """

    supports_result_compression = True

    def __init__(self, **kwargs: Any) -> None:
        if storage is None:
            raise ImproperlyConfigured(E_MISSING)
        super().__init__(**kwargs)
        self._options: dict[str, Any] = {}
        if self.url:
            parts = urlsplit(self.url)
            self._options = {"gcs_bucket": parts.netloc, "gcs_base_path": parts.path}
            self._options.update(parse_qsl(parts.query))
        self.bucket_name = self._option("gcs_bucket")
        if not self.bucket_name:
            raise ImproperlyConfigured(E_NO_NAME.format("bucket name", "gcs_bucket"))
        self.project = self._option("gcs_project")
        if not self.project:
            raise ImproperlyConfigured(E_NO_NAME.format("project", "gcs_project"))
        self.base_path = (self._option("gcs_base_path") or "").strip("/")
        self.ttl = float(self._option("gcs_ttl") or 0)
        self._threads = int(self._option("gcs_threadpool_maxsize") or 10)
        if self.ttl < 0:
            raise ImproperlyConfigured(E_TTL.format(self.ttl))
        if self.ttl and not self._expires_objects():
            raise ImproperlyConfigured(E_NO_RULE.format(self.bucket_name))

    def _option(self, name: str) -> Any:
        return self._options.get(name) or self.app.conf.get(name, None)

    def as_uri(self, include_password: bool = False) -> str:
        """Return where the objects are."""
        return f"gs://{self.bucket_name}/{self.base_path}"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {"url": self.url, **(kwargs or {})})

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        passing = (
            exceptions.ServerError,
            exceptions.TooManyRequests,
            exceptions.RetryError,
            requests.ConnectionError,
            requests.Timeout,
        )
        return isinstance(exc, passing)

    # -- drivers

    @once_per_process
    def client(self) -> Any:
        """The client of the service."""
        client = storage.Client(project=self.project)
        # One connection for each thread of `mget`.
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=self._threads)
        for scheme in ("http://", "https://"):
            client._http.mount(scheme, adapter)
        return client

    @once_per_process
    def bucket(self) -> Any:
        """The bucket; nothing is asked of the service for it."""
        return self.client.bucket(self.bucket_name)

    @once_per_process
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="celery-gcs")

    def _expires_objects(self) -> bool:
        bucket = self.client.get_bucket(self.bucket_name, timeout=TIMEOUTS_S)
        return any(
            rule.get("action", {}).get("type") == "Delete"
            and "daysSinceCustomTime" in rule.get("condition", {})
            for rule in bucket.lifecycle_rules
        )

    # -- objects

    def _blob(self, key: Any) -> Any:
        name = bytes_to_str(key)
        return self.bucket.blob(f"{self.base_path}/{name}" if self.base_path else name)

    def _upload(self, key: Any, value: Any, generation: Any = None) -> None:
        blob = self._blob(key)
        if self.ttl:
            blob.custom_time = datetime.now(UTC) + timedelta(seconds=self.ttl)
        # What is written may be written again: the same value, or for the same generation.
        blob.upload_from_string(
            ensure_bytes(value), timeout=TIMEOUTS_S, if_generation_match=generation, retry=RETRY
        )

    def get(self, key: Any) -> bytes | None:
        """Read an object, None when there is none."""
        try:
            content: bytes = self._blob(key).download_as_bytes(timeout=TIMEOUTS_S, retry=RETRY)
        except exceptions.NotFound:
            return None
        return content

    def load(self, key: Any) -> Stored | None:
        """Read an object with its generation, None when there is none."""
        blob = self._blob(key)
        try:
            blob.reload(timeout=TIMEOUTS_S, retry=RETRY)
            content = blob.download_as_bytes(
                timeout=TIMEOUTS_S, retry=RETRY, if_generation_match=blob.generation
            )
        except exceptions.NotFound:
            return None
        except exceptions.PreconditionFailed:
            # Written in between.
            return self.load(key)
        return Stored(content, blob.generation)

    def mget(self, keys: Iterable[Any]) -> list[bytes | None]:
        """Read many objects, some at a time."""
        return list(self._pool.map(self.get, keys))

    def set(self, key: Any, value: Any) -> None:
        """Write an object, whatever is there."""
        self._upload(key, value)

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write an object if that generation is still there; None: if there is none."""
        try:
            self._upload(key, value, version or 0)
        except exceptions.PreconditionFailed:
            return False
        return True

    def delete(self, key: Any) -> None:
        """Delete an object; a missing one is fine."""
        try:
            self._blob(key).delete(timeout=TIMEOUTS_S, retry=RETRY)
        except exceptions.NotFound:
            return


class GCSBackend(GCSBackendBase):
    """Keeps results in a bucket, and counts chords in Firestore.

    Raises:
        ImproperlyConfigured: See `GCSBackendBase`.
    """

    implements_incr = True
    supports_native_join = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.firestore_project = self._option("firestore_project") or self.project

    @once_per_process
    def firestore_client(self) -> Any:
        """The client of Firestore."""
        return firestore.Client(project=self.firestore_project)

    def _counter(self, key: Any) -> Any:
        return self.firestore_client.collection(COLLECTION).document(bytes_to_str(key))

    def incr(self, key: Any) -> int:
        """Add one to a counter and return it; it lives as long as what chords leave behind."""
        fields: dict[str, Any] = {COUNT: firestore.Increment(1)}
        if self.chord_expires:
            fields[EXPIRES_AT] = datetime.now(UTC) + timedelta(seconds=self.chord_expires)
        written = self._counter(key).set(fields, merge=True, timeout=TIMEOUTS_S[1])
        return int(written.transform_results[0].integer_value)

    def delete(self, key: Any) -> None:
        """Delete an object or a counter; a missing one is fine."""
        if bytes_to_str(key).startswith(bytes_to_str(self.chord_keyprefix)):
            self._counter(key).delete(timeout=TIMEOUTS_S[1])
        else:
            super().delete(key)

    def claim(self, name: str, seconds: int) -> bool:
        """Become the only one, of those who ask for *name*, for so many seconds."""
        mark = self._counter(self.get_key_for_chord(name))
        now = datetime.now(UTC)
        fields = {EXPIRES_AT: now + timedelta(seconds=seconds)}
        try:
            mark.create(fields, timeout=TIMEOUTS_S[1])
        except exceptions.Conflict:
            found = mark.get(timeout=TIMEOUTS_S[1])
            if not found.exists or found.get(EXPIRES_AT) > now:
                return False
            unchanged = self.firestore_client.write_option(last_update_time=found.update_time)
            try:
                mark.update(fields, option=unchanged, timeout=TIMEOUTS_S[1])
            except (exceptions.FailedPrecondition, exceptions.NotFound):
                return False
        return True
