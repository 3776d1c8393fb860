"""Result back-ends by URL scheme or name: one of the alias tables that look modules up by name."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import load_extension_class_names, symbol_by_name

__all__ = ("by_name", "by_url")

UNKNOWN_BACKEND: Final = "Unknown result backend: {0!r}. Did you spell that correctly? ({1!r})"

BACKEND_ALIASES: Final[dict[str, str]] = {
    "arangodb": "celery.backends.arangodb:ArangoDbBackend",
    "azureblockblob": "celery.backends.azureblockblob:AzureBlockBlobBackend",
    "cache": "celery.backends.cache:CacheBackend",
    "cassandra": "celery.backends.cassandra:CassandraBackend",
    "consul": "celery.backends.consul:ConsulBackend",
    "cosmosdbsql": "celery.backends.cosmosdbsql:CosmosDBSQLBackend",
    "couchbase": "celery.backends.couchbase:CouchbaseBackend",
    "couchdb": "celery.backends.couchdb:CouchBackend",
    "database": "celery.backends.database:DatabaseBackend",
    "db": "celery.backends.database:DatabaseBackend",
    "disabled": "celery.backends.base:DisabledBackend",
    "dynamodb": "celery.backends.dynamodb:DynamoDBBackend",
    "elasticsearch": "celery.backends.elasticsearch:ElasticsearchBackend",
    "file": "celery.backends.filesystem:FilesystemBackend",
    "gs": "celery.backends.gcs:GCSBackend",
    "mongodb": "celery.backends.mongodb:MongoBackend",
    "redis": "celery.backends.redis:RedisBackend",
    "redis+cluster": "celery.backends.redis_cluster:RedisClusterBackend",
    "rediss": "celery.backends.redis:RedisBackend",
    "rediss+cluster": "celery.backends.redis_cluster:RedisClusterBackend",
    "riak": "celery.backends.riak:RiakBackend",
    "rpc": "celery.backends.rpc.RPCBackend",
    "s3": "celery.backends.s3:S3Backend",
    "sentinel": "celery.backends.redis:SentinelBackend",
    "sqlite": "celery.backends.sqlite:SqliteBackend",
}


class UnknownBackend(ImproperlyConfigured, ModuleNotFoundError):
    """Neither an alias nor a module has the name."""


def by_name(
    backend: Any = None,
    loader: Any = None,
    extension_namespace: str = "celery.result_backends",
) -> type[Any]:
    """Find a back-end class.

    Args:
        backend: An alias, a dotted path, a class, or None for the disabled back-end.
        loader: Offers ``override_backends``, a map from alias to path that wins over all others.
        extension_namespace: Entry-point group in which other packages offer aliases.

    Raises:
        ImproperlyConfigured: The name leads to something that is no class.
        ModuleNotFoundError: There is no module for the name; an `UnknownBackend`.
        ImportError: The module does not import.
    """
    name = backend or "disabled"
    if not isinstance(name, str):
        return _checked(name, name)
    overrides = getattr(loader, "override_backends", None) or {}
    path = overrides.get(name) or BACKEND_ALIASES.get(name)
    if path is None:
        # Reading entry points costs milliseconds, so the built-in names never get here.
        path = dict(load_extension_class_names(extension_namespace)).get(name, name)
    try:
        found = symbol_by_name(path)
    except ValueError as exc:
        raise ImproperlyConfigured(UNKNOWN_BACKEND.format(name, str(exc))) from exc
    except ModuleNotFoundError as exc:
        if exc.name != path:
            raise
        raise UnknownBackend(UNKNOWN_BACKEND.format(name, str(exc))) from exc
    return _checked(name, found)


def _checked(name: Any, found: Any) -> type[Any]:
    if isinstance(found, ModuleType):
        raise ImproperlyConfigured(
            UNKNOWN_BACKEND.format(name, "is a Python module, not a backend class.")
        )
    found_class: type[Any] = found
    return found_class


def by_url(backend: Any = None, loader: Any = None) -> tuple[type[Any], str | None]:
    """Find the back-end class for a URL, and the URL to give to it.

    ``db+sqlite:///f`` is the back-end ``db`` with the URL ``sqlite:///f``; anything without a
    scheme is a name, and has no URL. A scheme that is an alias as a whole keeps its URL.
    """
    url: str | None = None
    if isinstance(backend, str) and "://" in backend:
        url = backend
        scheme, _, _ = url.partition("://")
        backend, plus, _ = scheme.partition("+")
        if scheme in BACKEND_ALIASES:
            backend = scheme
        elif plus:
            url = url[len(backend) + 1 :]
    return by_name(backend, loader), url
