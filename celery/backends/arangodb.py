"""Results as documents of ArangoDB (``arangodb://user:password@host:8529/database/collection``).

Each key is a document of the collection, with the text of the result in the field ``task``.
Database and collection are both ``celery`` unless they are named, and made when they are missing.
The same, and ``http_protocol`` and ``verify`` (of certificates), can be said in
``arangodb_backend_settings``; ``arangodb+https://…`` is for a server with TLS. What has expired is
deleted by the clean-up task.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from kombu.utils.url import _parse_url

from celery.backends._codec import encode_json
from celery.backends._versioned import (
    Stored,
    VersionedBackend,
    once_per_process,
    text_fields,
    text_value,
)
from celery.exceptions import ImproperlyConfigured

try:
    import pyArango
    import pyArango.connection

    from celery.backends import _http
except ImportError:
    pyArango = None

__all__ = ("ArangoDbBackend",)

E_MISSING = (
    "The ArangoDB result back-end needs the package pyArango: pip install 'celery[arangodb]'"
)
E_SETTINGS = "arangodb_backend_settings has to be a mapping of names to values, not {0}"
E_REFUSED = "ArangoDB did not {0} in collection {1}: {2}"

#: Settings that become attributes.
ATTRIBUTES = (
    "host", "port", "database", "collection", "username", "password", "http_protocol", "verify",
)  # fmt: skip
ABSENT, EXISTS, CHANGED = 404, 409, 412
#: Number of the error for a collection that is not there.
NO_COLLECTION = 1203
#: What was stored before a time; written by others it has none, and stays.
CLEAN_UP = """
    FOR document IN @@collection
    FILTER document.stored_at != null AND document.stored_at < @oldest
    REMOVE document IN @@collection
"""


class ArangoDbBackend(VersionedBackend):
    """Keeps results in a collection.

    Raises:
        ImproperlyConfigured: pyArango is missing, or ``arangodb_backend_settings`` is no mapping.
    """

    host = "127.0.0.1"
    port: int | str = "8529"
    database = "celery"
    collection = "celery"
    username: str | None = None
    password: str | None = None
    http_protocol = "http"
    verify = False
    key_t = str  # type: ignore[assignment] # a function of one argument, too

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if pyArango is None:
            raise ImproperlyConfigured(E_MISSING)
        self.url = url
        settings = self.app.conf.get("arangodb_backend_settings", None)
        if settings is not None and not isinstance(settings, Mapping):
            raise ImproperlyConfigured(E_SETTINGS.format(type(settings).__name__))
        found = {name: value for name, value in (settings or {}).items() if name in ATTRIBUTES}
        found.update(_parts(url))
        for name, value in found.items():
            setattr(self, name, value)
        self.port = int(self.port)
        self.arangodb_url = f"{self.http_protocol}://{self.host}:{self.port}"

    @once_per_process
    def connection(self) -> Any:
        """The client of the service."""
        return pyArango.connection.Connection(
            arangoURL=self.arangodb_url,
            username=self.username,
            password=self.password,
            verify=self.verify,
            timeout=_http.TIMEOUTS_S,
        )

    @once_per_process
    def db(self) -> Any:
        """The database."""
        connection = self.connection
        if not connection.hasDatabase(self.database):
            # The driver's own way loads everything that there is in a database.
            content = encode_json({"name": self.database})
            connection.session.post(f"{connection.getURL()}/database", data=content)
            connection.reload()
        return connection[self.database]

    def _make_collection(self) -> None:
        url, content = self.db.getCollectionsURL(), encode_json({"name": self.collection})
        answer = self.connection.session.post(url, data=content)
        if answer.status_code >= 400 and answer.status_code != EXISTS:
            raise _refused(answer, "make", self.collection)

    @property
    def expires_delta(self) -> timedelta:
        """How long documents live."""
        return timedelta(seconds=self.expires or 0)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        return _http.is_passing(exc)

    # -- documents

    def _ask(
        self, method: str, key: str = "", fine: tuple[int, ...] = (), query: str = "", **kwargs: Any
    ) -> tuple[int, Any]:
        """Send a request about a document, or the collection; errors not *fine* are raised."""
        path = f"/{quote(key, safe='')}" if key else ""
        url = f"{self.db.getURL()}/document/{self.collection}{path}{query}"
        send = getattr(self.connection.session, method)
        answer = send(url, **kwargs)
        if answer.status_code == ABSENT and answer.json().get("errorNum") == NO_COLLECTION:
            self._make_collection()
            answer = send(url, **kwargs)
        if answer.status_code >= 400 and answer.status_code not in fine:
            raise _refused(answer, method, self.collection)
        return answer.status_code, answer.json()

    def load(self, key: Any) -> Stored | None:
        """Read a value with the revision of its document, None when there is none."""
        status, document = self._ask("get", key, (ABSENT,))
        if status == ABSENT:
            return None
        return Stored(text_value(document, "task"), document["_rev"])

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in the order of *keys*, with one request."""
        names = list(keys)
        if not names:
            return []
        _, found = self._ask("put", query="?onlyget=true", data=encode_json(names))
        return [None if row.get("error") else text_value(row, "task") for row in found]

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a document if that revision is still there; None: if there is none."""
        document = {"_key": key, **text_fields(value, "task"), "stored_at": int(time.time())}
        content = encode_json(document)
        if version is None:
            status, _ = self._ask("post", fine=(EXISTS,), data=content)
            return status != EXISTS
        status, _ = self._ask(
            "put",
            key,
            (ABSENT, EXISTS, CHANGED),
            data=content,
            headers={"If-Match": f'"{version}"'},
        )
        return status not in {ABSENT, EXISTS, CHANGED}

    def delete(self, key: Any) -> None:
        """Delete a document; a missing one is fine."""
        self._ask("delete", key, (ABSENT,))

    def cleanup(self) -> None:
        """Delete what was stored longer ago than ``result_expires``."""
        if self.expires:
            oldest = time.time() - self.expires_delta.total_seconds()
            bound = {"@collection": self.collection, "oldest": oldest}
            self.db.AQLQuery(CLEAN_UP, rawResults=True, bindVars=bound)


def _refused(answer: Any, what: str, collection: str) -> Exception:
    text = E_REFUSED.format(what, collection, answer.json().get("errorMessage"))
    return _http.RefusedError(answer.status_code, text)


def _parts(url: str | None) -> dict[str, Any]:
    """Return what *url* says, by the names of the attributes."""
    if not url:
        return {}
    scheme, host, port, user, password, path, _ = _parse_url(url)
    database, _, collection = (path or "").strip("/").partition("/")
    parts = {
        "host": host,
        "port": port,
        "database": database,
        "collection": collection,
        "username": user,
        "password": password,
        "http_protocol": "https" if scheme == "https" else None,
    }
    return {name: value for name, value in parts.items() if value}
