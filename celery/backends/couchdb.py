"""Results as documents of CouchDB (``couchdb://user:password@host:5984/database``).

Each key is a document of the database, ``default`` unless the URL names another, which is made when
it is missing; the text of the result is in the field ``value``. ``couchdb+https://…`` is for a
server with TLS. What has expired is deleted by the clean-up task.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from kombu.utils.encoding import bytes_to_str

from celery.backends._address import Address
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
    import pycouchdb
    from pycouchdb.exceptions import Conflict, NotFound

    from celery.backends import _http
except ImportError:
    pycouchdb = None

__all__ = ("CouchBackend",)

ERR_LIB_MISSING = (
    "The CouchDB result back-end needs the package pycouchdb: pip install 'celery[couchdb]'"
)

#: Where the time is in a document, in seconds since the epoch.
STORED_AT = "stored_at"
#: Documents that the clean-up deletes with one request.
CLEANUP_SIZE = 500


class CouchBackend(Address, VersionedBackend):
    """Keeps results in a database.

    Raises:
        ImproperlyConfigured: The package pycouchdb is not installed.
    """

    container = "default"
    port = 5984

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if pycouchdb is None:
            raise ImproperlyConfigured(ERR_LIB_MISSING)
        self.url = url
        self.container = self._take_address(url) or self.container

    @once_per_process
    def connection(self) -> Any:
        """The database."""
        login = ":".join(quote(each, safe="") for each in self._login or ())
        login = login and f"{login}@"
        server = pycouchdb.Server(f"{self.scheme}://{login}{self.host}:{self.port}", verify=True)
        _http.bound(server.resource.session)
        try:
            return server.database(self.container)
        except NotFound:
            try:
                return server.create(self.container)
            except Conflict:
                # Another process has just made it.
                return server.database(self.container)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        return _http.is_passing(exc)

    def load(self, key: Any) -> Stored | None:
        """Read a value with the revision of its document, None when there is none."""
        try:
            document = self.connection.get(bytes_to_str(key))
        except NotFound:
            return None
        return Stored(text_value(document, "value"), document["_rev"])

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Read many values, in the order of *keys*, with one request."""
        names = [bytes_to_str(key) for key in keys]
        if not names:
            return []
        rows = self.connection.all(keys=names, as_list=True)
        return [text_value(row["doc"], "value") if row.get("doc") else None for row in rows]

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a document if that revision is still there; None: if there is none."""
        document = {
            "_id": bytes_to_str(key),
            **text_fields(value, "value"),
            STORED_AT: int(time.time()),
        }
        if version is not None:
            document["_rev"] = version
        try:
            self.connection.save(document)
        except Conflict:
            return False
        return True

    def delete(self, key: Any) -> None:
        """Delete a document; a missing one is fine."""
        while found := self.load(key):
            try:
                self.connection.delete({"_id": bytes_to_str(key), "_rev": found.version})
            except NotFound:
                return
            except Conflict:
                # Written in the meantime: delete that too.
                continue
            return

    def cleanup(self) -> None:
        """Delete what was stored longer ago than ``result_expires``."""
        if not self.expires:
            return
        query = {
            "selector": {STORED_AT: {"$lt": time.time() - self.expires}},
            "fields": ["_id", "_rev"],
            "limit": CLEANUP_SIZE,
        }
        database = self.connection
        before: list[Any] = []
        while True:
            _, found = database.resource.post("_find", data=encode_json(query))
            old = [{**document, "_deleted": True} for document in found["docs"]]
            if old in ([], before):
                # Those that are left may not be deleted.
                return
            before = old
            # What was written in the meantime has another revision, and stays.
            with suppress(Conflict):
                database.resource.post("_bulk_docs", data=encode_json({"docs": old}))
