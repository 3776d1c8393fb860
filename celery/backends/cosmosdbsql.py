"""Results as documents of Azure Cosmos DB (``cosmosdbsql://:KEY@ACCOUNT.documents.azure.com``).

Each key is a document with the text of the result in ``value``, in the collection
``cosmosdbsql_collection_name`` of the database ``cosmosdbsql_database_name``; both are made when
they are missing. Another port than 443 is spoken to without TLS. Other settings:
``cosmosdbsql_consistency_level``, and ``cosmosdbsql_max_retry_attempts`` and
``cosmosdbsql_max_retry_wait_time`` for when the service asks to slow down. What has expired is
deleted by the clean-up task.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.url import _parse_url

from celery.backends._versioned import (
    Stored,
    VersionedBackend,
    once_per_process,
    text_fields,
    text_value,
)
from celery.exceptions import ImproperlyConfigured

try:
    import pydocumentdb
    import pydocumentdb.document_client
    from pydocumentdb.documents import ConnectionPolicy, ConsistencyLevel
    from pydocumentdb.errors import HTTPFailure
    from pydocumentdb.retry_options import RetryOptions

    from celery.backends import _http
except ImportError:
    pydocumentdb = None

__all__ = ("CosmosDBSQLBackend",)

E_MISSING = (
    "The Cosmos DB result back-end needs the package pydocumentdb:"
    " pip install 'celery[cosmosdbsql]'"
)
E_NO_URL = (
    "The Cosmos DB result back-end needs a URL: cosmosdbsql://:KEY@ACCOUNT.documents.azure.com"
)
E_CONSISTENCY = "cosmosdbsql_consistency_level: there is no level {0!r}; there are: {1}"

HTTPS = 443
ERROR_NOT_FOUND = 404
ERROR_EXISTS = 409
ERROR_CHANGED = 412
#: Milliseconds for an answer.
TIMEOUT_MS = 30_000

CLEAN_UP = (
    "SELECT c.id, c._etag FROM c WHERE c._ts < @oldest"
    " AND (STARTSWITH(c.id, @tasks) OR STARTSWITH(c.id, @groups))"
)


class CosmosDBSQLBackend(VersionedBackend):
    """Keeps results in a collection.

    Args:
        url: See the module.
        database_name: This and what follows: instead of the setting of that name.

    Raises:
        ImproperlyConfigured: pydocumentdb is not installed, the URL names no host, or there is no
            such consistency level.
    """

    def __init__(
        self,
        url: str | None = None,
        database_name: str | None = None,
        collection_name: str | None = None,
        consistency_level: str | None = None,
        max_retry_attempts: int | None = None,
        max_retry_wait_time: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if pydocumentdb is None:
            raise ImproperlyConfigured(E_MISSING)
        self.url = url
        _, host, port, _, key, _, _ = _parse_url(url or "")
        if not host:
            raise ImproperlyConfigured(E_NO_URL)
        port = port or HTTPS
        self._endpoint = f"{'https' if port == HTTPS else 'http'}://{host}:{port}"
        self._master_key = key
        conf = self.app.conf
        self._database_name = database_name or conf["cosmosdbsql_database_name"]
        self._collection_name = collection_name or conf["cosmosdbsql_collection_name"]
        self._consistency = _checked_level(
            consistency_level or conf["cosmosdbsql_consistency_level"]
        )
        self._retries = (
            max_retry_attempts or conf["cosmosdbsql_max_retry_attempts"],
            max_retry_wait_time or conf["cosmosdbsql_max_retry_wait_time"],
        )
        self._database = f"dbs/{self._database_name}"
        self._collection = f"{self._database}/colls/{self._collection_name}"

    @once_per_process
    def _client(self) -> Any:
        attempts, wait_s = self._retries
        policy = ConnectionPolicy()
        policy.RequestTimeout = TIMEOUT_MS
        policy.RetryOptions = RetryOptions(
            max_retry_attempt_count=attempts, max_wait_time_in_seconds=wait_s
        )
        return pydocumentdb.document_client.DocumentClient(
            self._endpoint, {"masterKey": self._master_key}, policy, self._consistency
        )

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        if isinstance(exc, HTTPFailure):
            return exc.status_code in _http.PASSING
        return _http.is_passing(exc)

    def load(self, key: Any) -> Stored | None:
        """Read a value with the tag of its document, None when there is none."""
        name = bytes_to_str(key)
        try:
            found = self._client.ReadDocument(self._link(name), {"partitionKey": name})
        except HTTPFailure as exc:
            if exc.status_code != ERROR_NOT_FOUND:
                raise
            return None
        return Stored(text_value(found, "value"), found["_etag"])

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a document if that tag is still there; None: if there is none."""
        name = bytes_to_str(key)
        document = {"id": name, **text_fields(value, "value")}
        try:
            if version is None:
                self._create(document)
            else:
                self._client.ReplaceDocument(self._link(name), document, _if_is(name, version))
        except HTTPFailure as exc:
            if exc.status_code not in {ERROR_NOT_FOUND, ERROR_EXISTS, ERROR_CHANGED}:
                raise
            return False
        return True

    def _create(self, document: dict[str, Any]) -> None:
        options = {"partitionKey": document["id"], "disableAutomaticIdGeneration": True}
        try:
            self._client.CreateDocument(self._collection, document, options)
        except HTTPFailure as exc:
            if exc.status_code != ERROR_NOT_FOUND:
                raise
            self._make_collection()
            self._client.CreateDocument(self._collection, document, options)

    def _make_collection(self) -> None:
        client, name = self._client, self._collection_name
        with _unless_exists():
            client.CreateDatabase({"id": self._database_name})
        with _unless_exists():
            client.CreateCollection(
                self._database, {"id": name, "partitionKey": {"paths": ["/id"], "kind": "Hash"}}
            )

    def delete(self, key: Any) -> None:
        """Delete a document; a missing one is fine."""
        name = bytes_to_str(key)
        self._delete(name, {"partitionKey": name})

    def _delete(self, name: str, options: dict[str, Any]) -> None:
        try:
            self._client.DeleteDocument(self._link(name), options)
        except HTTPFailure as exc:
            if exc.status_code not in {ERROR_NOT_FOUND, ERROR_CHANGED}:
                raise

    def _link(self, name: str) -> str:
        return f"{self._collection}/docs/{name}"

    def cleanup(self) -> None:
        """Delete what was stored longer ago than ``result_expires``."""
        if not self.expires:
            return
        values = {
            "@oldest": time.time() - self.expires,
            "@tasks": bytes_to_str(self.task_keyprefix),
            "@groups": bytes_to_str(self.group_keyprefix),
        }
        parameters = [{"name": name, "value": value} for name, value in values.items()]
        query = {"query": CLEAN_UP, "parameters": parameters}
        options = {"enableCrossPartitionQuery": True}
        for found in self._client.QueryDocuments(self._collection, query, options):
            # What was written in the meantime has another tag, and stays.
            self._delete(found["id"], _if_is(found["id"], found["_etag"]))


def _if_is(name: str, tag: str) -> dict[str, Any]:
    """Return the options of a request about a document that has to be as it was."""
    return {"partitionKey": name, "accessCondition": {"type": "IfMatch", "condition": tag}}


@contextmanager
def _unless_exists() -> Iterator[None]:
    try:
        yield
    except HTTPFailure as exc:
        if exc.status_code != ERROR_EXISTS:
            raise


def _checked_level(name: str) -> str:
    levels = {level for level in vars(ConsistencyLevel) if not level.startswith("_")}
    if name not in levels:
        raise ImproperlyConfigured(E_CONSISTENCY.format(name, ", ".join(sorted(levels))))
    return str(getattr(ConsistencyLevel, name))
