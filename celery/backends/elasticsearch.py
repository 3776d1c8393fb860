"""Results as documents of Elasticsearch (``elasticsearch://user:password@host:9200/index``).

Each key is a document of the index, ``celery`` unless the URL names another, with the text of the
result in the field ``result``. Expiry is left to the life cycle of the index. Settings:
``elasticsearch_timeout``, ``elasticsearch_max_retries``, ``elasticsearch_retry_on_timeout`` and
``elasticsearch_save_meta_as_text``, which keeps the document as a text rather than as an object.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from kombu.utils.encoding import bytes_to_str

from celery.backends._address import Address
from celery.backends._versioned import (
    Stored,
    VersionedBackend,
    once_per_process,
    text_fields,
    text_value,
)
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

#: States of the service that pass: it is too busy, or not up yet.
PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})


class ElasticsearchBackend(Address, VersionedBackend):
    """Keeps results in an index.

    Args:
        url: See the module; ``elasticsearch+https://…`` for a server with TLS.

    Raises:
        ImproperlyConfigured: The package elasticsearch is not installed.
    """

    index = "celery"
    doc_type: str | None = None
    port = 9200
    es_retry_on_timeout = False
    es_timeout = 10
    es_max_retries = 3
    supports_result_compression = False

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if elasticsearch is None:
            raise ImproperlyConfigured(E_LIB_MISSING)
        self.url = url
        index, _, doc_type = self._take_address(url).partition("/")
        self.index = index or self.index
        self.doc_type = doc_type or self.doc_type
        conf = self.app.conf
        for name in ("retry_on_timeout", "timeout", "max_retries"):
            value = conf.get(f"elasticsearch_{name}", None)
            if value is not None:
                setattr(self, f"es_{name}", value)
        self.es_save_meta_as_text = bool(conf.get("elasticsearch_save_meta_as_text", True))

    @once_per_process
    def server(self) -> Any:
        """The client of the service."""
        return elasticsearch.Elasticsearch(
            f"{self.scheme}://{self.host}:{self.port}",
            retry_on_timeout=self.es_retry_on_timeout,
            max_retries=self.es_max_retries,
            request_timeout=self.es_timeout,
            basic_auth=self._login,
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

    def load(self, key: Any) -> Stored | None:
        """Read a value with its version, None when there is none."""
        try:
            found = self.server.get(index=self.index, id=bytes_to_str(key))
        except elasticsearch.NotFoundError:
            return None
        version = {"if_seq_no": found["_seq_no"], "if_primary_term": found["_primary_term"]}
        return Stored(_value(found["_source"]), version)

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

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a document if that version is still there; None: if there is none."""
        condition = {"op_type": "create"} if version is None else version
        try:
            self.server.index(
                index=self.index, id=bytes_to_str(key), document=_document(value), **condition
            )
        except elasticsearch.ConflictError:
            return False
        return True


def _document(value: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {"result": value} if isinstance(value, dict) else text_fields(value, "result")
    return {**fields, "@timestamp": f"{now[:-6]}Z"}


def _value(document: dict[str, Any]) -> Any:
    return text_value(document, "result")
