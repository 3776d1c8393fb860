"""Results in MongoDB (``mongodb://user:password@host:27017/database``).

A document for each task in the collection ``celery_taskmeta``, for each group in
``celery_groupmeta``. Both can be set in ``mongodb_backend_settings``, beside ``host``, ``port``,
``user``, ``password``, ``database``, ``max_pool_size`` and ``options``, which go to the client.
What has expired is deleted by the clean-up task.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from kombu.utils.url import maybe_sanitize_url

from celery import states
from celery._protocol import meta as documents
from celery.backends._finality import lasting_states
from celery.backends.base import BaseBackend
from celery.exceptions import ImproperlyConfigured
from celery.utils.objects import lasting_property

try:
    import pymongo
    import pymongo.errors
    import pymongo.uri_parser
    from bson.binary import Binary
except ImportError:
    pymongo = None

__all__ = ("MongoBackend",)

E_MISSING = "The MongoDB result back-end needs the package pymongo: pip install 'celery[mongodb]'"

#: Serializers whose output is bytes.
BINARY_CODECS = frozenset({"msgpack", "pickle"})
#: Settings that become attributes.
ATTRIBUTES = ("host", "port", "user", "password", "taskmeta_collection", "groupmeta_collection")
#: Milliseconds for finding a server, and for an answer, unless the options say otherwise.
TIMEOUT_MS = 30_000


class MongoBackend(BaseBackend):
    """Keeps results in a database.

    Raises:
        ImproperlyConfigured: pymongo is missing, or ``mongodb_backend_settings`` is no mapping.
    """

    mongo_host: Any = None
    host = "localhost"
    port = 27017
    user: str | None = None
    password: str | None = None
    database_name = "celery"
    taskmeta_collection = "celery_taskmeta"
    groupmeta_collection = "celery_groupmeta"
    max_pool_size = 10
    options: dict[str, Any] | None = None
    supports_autoexpire = False
    supports_result_compression = True

    def __init__(self, app: Any = None, **kwargs: Any) -> None:
        self.options = {}
        super().__init__(app, **kwargs)
        if pymongo is None:
            raise ImproperlyConfigured(E_MISSING)
        settings = self.app.conf.mongodb_backend_settings
        if settings is not None and not isinstance(settings, Mapping):
            raise ImproperlyConfigured(
                "mongodb_backend_settings has to be a mapping of names to values, not"
                f" {type(settings).__name__}"
            )
        self._read_url()
        self._read_settings(dict(settings or {}))

    def _read_url(self) -> None:
        url = self.url
        if not url:
            return
        if url.startswith("mongodb+srv://"):
            parsed = pymongo.uri_parser.parse_uri(url)
        else:
            self.url = url = (
                url if "://" in url and not url.endswith("://") else "mongodb://localhost"
            )
            parsed = pymongo.uri_parser.parse_uri(url)
        self.mongo_host = [f"{host}:{port}" for host, port in parsed["nodelist"]]
        self.user = parsed.get("username") or self.user
        self.password = parsed.get("password") or self.password
        self.database_name = parsed.get("database") or self.database_name
        assert self.options is not None
        self.options.update(parsed.get("options") or {})

    def _read_settings(self, settings: dict[str, Any]) -> None:
        for name in ATTRIBUTES:
            if name in settings:
                setattr(self, name, settings.pop(name))
        self.mongo_host = settings.pop("mongo_host", self.mongo_host)
        self.database_name = settings.pop("database", self.database_name)
        self.max_pool_size = settings.pop("max_pool_size", self.max_pool_size)
        assert self.options is not None
        self.options.update(settings.pop("options", None) or {})
        self.options.update(settings)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {"url": self.url, **(kwargs or {})})

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, of several hosts the first, with the password masked."""
        url = self.url or "mongodb://"
        if include_password:
            return url
        first, _, rest = url.partition(",")
        text: str = maybe_sanitize_url(first)
        return f"{text},{rest}" if rest else text

    # -- the database

    @lasting_property
    def _connection(self) -> Any:
        hosts = self.mongo_host or [f"{self.host}:{self.port}"]
        options = {
            "maxPoolSize": self.max_pool_size,
            "serverSelectionTimeoutMS": TIMEOUT_MS,
            "socketTimeoutMS": TIMEOUT_MS,
            **(self.options or {}),
        }
        if self.user:
            options.update(username=self.user, password=self.password)
        if self.url and self.url.startswith("mongodb+srv://"):
            hosts = self.url
        return pymongo.MongoClient(host=hosts, **options)

    @lasting_property
    def database(self) -> Any:
        """The database."""
        return self._connection[self.database_name]

    @lasting_property
    def collection(self) -> Any:
        """The documents of tasks, with an index by the time when they were written."""
        return self._indexed(self.taskmeta_collection)

    @lasting_property
    def group_collection(self) -> Any:
        """The documents of groups, the same."""
        return self._indexed(self.groupmeta_collection)

    def _indexed(self, name: str) -> Any:
        collection = self.database[name]
        collection.create_index("date_done", background=True)
        return collection

    @property
    def expires_delta(self) -> timedelta:
        """How long documents live."""
        return timedelta(seconds=self.expires)

    # -- values

    def encode(self, data: Any) -> Any:
        """Encode a value, to text or binary as the serializer has it."""
        if self.serializer == "bson":
            return data
        payload = super().encode(data)
        return Binary(payload) if self.serializer in BINARY_CODECS else payload

    def decode(self, data: Any) -> Any:
        """Decode what `encode` made."""
        return data if self.serializer == "bson" else super().decode(data)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        value = self.encode(result)
        packed = documents.compress(value, self.compression) if self.compression else value
        document = self._document(task_id, packed, state, traceback, request)
        document.pop("task_id", None)
        self._encode_arguments(document)
        document["date_done"] = _now()
        lasting = list(lasting_states(state))
        try:
            # One request: replace what may be replaced, or insert what is not there.
            self.collection.replace_one(
                {"_id": task_id, "status": {"$nin": lasting}}, document, upsert=True
            )
        except pymongo.errors.DuplicateKeyError:
            # What is there has to stay.
            return result
        return result

    def _encode_arguments(self, document: dict[str, Any]) -> None:
        given = {
            name: document[name] for name in ("args", "kwargs") if document.get(name) is not None
        }
        try:
            document.update({name: self.encode(value) for name, value in given.items()})
        except Exception:  # noqa: BLE001 - whatever a serializer raises
            # The call came in another serializer; what it was is worth less than its result.
            printed = documents.with_printed_arguments(document)
            document.update({name: self.encode(printed[name]) for name in given})

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        found = self.collection.find_one({"_id": task_id})
        if not found:
            return documents.unknown_task()
        found["task_id"] = found.pop("_id")
        for name in ("result", "args", "kwargs"):
            if found.get(name) is not None:
                found[name] = self.decode(found[name])
        if found["status"] not in states.READY_STATES:
            # Kept for the clean-up.
            found["date_done"] = None
        if found.get("date_done") is not None:
            found["date_done"] = found["date_done"].replace(tzinfo=UTC).isoformat()
        return self.meta_from_decoded(found)

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether anything is stored for a task."""
        return self.collection.find_one({"_id": task_id}, {"_id": 1}) is not None

    def _forget(self, task_id: str) -> None:
        self.collection.delete_one({"_id": task_id})

    # -- groups

    def _save_group(self, group_id: str, result: Any) -> Any:
        members = self.encode([member.id for member in result])
        document = {"result": members, "date_done": _now()}
        self.group_collection.replace_one({"_id": group_id}, document, upsert=True)
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        found = self.group_collection.find_one({"_id": group_id})
        if not found:
            return None
        members = [self.app.AsyncResult(member) for member in self.decode(found["result"])]
        return {
            "task_id": found["_id"],
            "date_done": found["date_done"],
            "result": self.app.GroupResult(group_id, members),
        }

    def _delete_group(self, group_id: str) -> None:
        self.group_collection.delete_one({"_id": group_id})

    def cleanup(self) -> None:
        """Delete what was stored longer ago than ``result_expires``."""
        if not self.expires:
            return
        oldest = {"date_done": {"$lt": _now() - self.expires_delta}}
        self.collection.delete_many(oldest)
        self.group_collection.delete_many(oldest)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
