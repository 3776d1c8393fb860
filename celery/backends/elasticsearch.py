"""Results as documents of Elasticsearch (``elasticsearch://user:password@host:9200/index``).

Each key is a document of the index, ``celery`` unless the URL names another, with the text of the
result in the field ``result``. Expiry is left to the life cycle of the index. Settings:
``elasticsearch_timeout``, ``elasticsearch_max_retries``, ``elasticsearch_retry_on_timeout`` and
``elasticsearch_save_meta_as_text``, which keeps the document as a text rather than as an object.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.url import _parse_url

from celery import states
from celery.backends._finality import stays
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured

try:
    import elasticsearch
except ImportError:
    elasticsearch = None

__all__ = ("ElasticsearchBackend",)

E_LIB_MISSING = (
    "The Elasticsearch result back-end needs the package elasticsearch:"
    " pip install 'celery[elasticsearch]'"
)

#: Attempts at a document that others change at the same time.
ATTEMPTS = 10
#: States of the service that pass: it is too busy, or not up yet.
PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})


class ElasticsearchBackend(KeyValueStoreBackend):
    """Keeps results in an index.

    Args:
        url: See the module; ``elasticsearch+https://…`` for a server with TLS.

    Raises:
        ImproperlyConfigured: The package elasticsearch is not installed.
    """

    index = "celery"
    doc_type: str | None = None
    scheme = "http"
    host = "localhost"
    port = 9200
    username: str | None = None
    password: str | None = None
    es_retry_on_timeout = False
    es_timeout = 10
    es_max_retries = 3
    supports_result_compression = False

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if elasticsearch is None:
            raise ImproperlyConfigured(E_LIB_MISSING)
        self.url = url
        if url:
            scheme, host, port, user, password, path, _ = _parse_url(url)
            self.scheme = "https" if scheme == "https" else self.scheme
            self.host, self.port = host or self.host, port or self.port
            self.username, self.password = user or self.username, password or self.password
            index, _, doc_type = (path or "").strip("/").partition("/")
            self.index = index or self.index
            self.doc_type = doc_type or self.doc_type
        conf = self.app.conf
        for name in ("retry_on_timeout", "timeout", "max_retries"):
            value = conf.get(f"elasticsearch_{name}", None)
            if value is not None:
                setattr(self, f"es_{name}", value)
        self.es_save_meta_as_text = bool(conf.get("elasticsearch_save_meta_as_text", True))

    @cached_property
    def server(self) -> Any:
        """The client of the service."""
        login = None
        if self.username and self.password:
            login = (self.username, self.password)
        return elasticsearch.Elasticsearch(
            f"{self.scheme}://{self.host}:{self.port}",
            retry_on_timeout=self.es_retry_on_timeout,
            max_retries=self.es_max_retries,
            request_timeout=self.es_timeout,
            basic_auth=login,
        )

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        if isinstance(exc, elasticsearch.ApiError):
            return exc.status_code in PASSING
        return isinstance(exc, elasticsearch.TransportError)

    # -- documents as texts, or as objects

    def encode(self, data: Any) -> Any:
        """Encode a document, unless it is kept as an object."""
        return super().encode(data) if self.es_save_meta_as_text else data

    def decode(self, payload: Any) -> Any:
        """Decode what `encode` made."""
        return payload if isinstance(payload, dict) else super().decode(payload)

    # -- keys

    def get(self, key: Any) -> Any:
        """Read a value, None when there is none."""
        found = self._read(bytes_to_str(key))
        return None if found is None else _value(found["_source"])

    def _read(self, name: str) -> Any:
        try:
            return self.server.get(index=self.index, id=name)
        except elasticsearch.NotFoundError:
            return None

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in the order of *keys*."""
        names = [bytes_to_str(key) for key in keys]
        if not names:
            return []
        try:
            found = self.server.mget(index=self.index, ids=names)
        except elasticsearch.NotFoundError:
            # There is no index yet.
            return [None] * len(names)
        return [
            _value(document["_source"]) if document.get("found") else None
            for document in found["docs"]
        ]

    def set(self, key: Any, value: Any) -> None:
        """Write a value."""
        self.server.index(index=self.index, id=bytes_to_str(key), document=_document(value))

    def delete(self, key: Any) -> None:
        """Delete a document; a missing one is fine."""
        try:
            self.server.delete(index=self.index, id=bytes_to_str(key))
        except elasticsearch.NotFoundError:
            return

    def _set_document(self, key: Any, payload: Any, state: str) -> None:
        """Write a document unless one that has to stay came first, told by its version."""
        name = bytes_to_str(key)
        for _ in range(ATTEMPTS):
            before = self._read(name)
            version: dict[str, Any] = {"op_type": "create"}
            if before is not None:
                stored = self.decode(_value(before["_source"]))
                if stays(stored.get("status", states.PENDING), state):
                    return
                version = {
                    "if_seq_no": before["_seq_no"],
                    "if_primary_term": before["_primary_term"],
                }
            try:
                self.server.index(index=self.index, id=name, document=_document(payload), **version)
            except elasticsearch.ConflictError:
                continue
            return
        # Whoever is so busy with it has a newer one.


def _document(value: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = {"result": value, "@timestamp": f"{now[:-6]}Z"}
    if isinstance(value, bytes):
        try:
            document["result"] = value.decode()
        except UnicodeDecodeError:
            # Serializers such as pickle.
            document.update(result=b64encode(value).decode(), encoding="base64")
    return document


def _value(document: dict[str, Any]) -> Any:
    value = document["result"]
    return b64decode(value) if document.get("encoding") == "base64" else value
