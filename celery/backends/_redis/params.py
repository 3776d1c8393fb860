"""Where and how to connect: URL and settings of the Redis back-end as arguments of the driver."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from kombu.utils.url import maybe_sanitize_url, url_to_parts

from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import symbol_by_name

logger = logging.getLogger("celery.backends.redis")

#: Logged for each lost connection: tries, most tries, error.
E_LOST = "Connection to Redis lost: Retry (%s/%s) %s."
E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH = (
    "There are TLS settings, and the URL of the result back-end starts with redis://; "
    "write rediss:// to have them used."
)
E_REDIS_SSL_CERT_REQS_MISSING_INVALID = (
    "A rediss:// URL must have the parameter ssl_cert_reqs, and it must be CERT_REQUIRED, "
    "CERT_OPTIONAL or CERT_NONE (or required, optional, none); redis_backend_use_ssl may set it, "
    "too."
)
W_REDIS_SSL_CERT_OPTIONAL = (
    "ssl_cert_reqs=CERT_OPTIONAL: the certificate of the Redis server is only checked if it has "
    "one, so somebody in between could pretend to be the server. CERT_REQUIRED is safer."
)
W_REDIS_SSL_CERT_NONE = (
    "ssl_cert_reqs=CERT_NONE: the certificate of the Redis server is not checked, so anybody in "
    "between could pretend to be the server. CERT_REQUIRED is safer."
)

_CERT_REQS = {
    "CERT_REQUIRED": ssl.CERT_REQUIRED,
    "CERT_OPTIONAL": ssl.CERT_OPTIONAL,
    "CERT_NONE": ssl.CERT_NONE,
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def from_settings(conf: Any) -> dict[str, Any]:
    """Return what the settings say, without a URL."""
    params: dict[str, Any] = {
        "host": conf.redis_host or "localhost",
        "port": conf.redis_port or 6379,
        "db": conf.redis_db or 0,
        "password": conf.redis_password,
        "socket_timeout": conf.redis_socket_timeout and float(conf.redis_socket_timeout),
        "retry_on_timeout": conf.redis_retry_on_timeout or False,
        "socket_connect_timeout": (
            conf.redis_socket_connect_timeout and float(conf.redis_socket_connect_timeout)
        ),
    }
    optional = {
        "username": conf.redis_username,
        "max_connections": conf.redis_max_connections,
        "client_name": conf.get("redis_client_name"),
        "health_check_interval": conf.get("redis_backend_health_check_interval"),
        "socket_keepalive": conf.redis_socket_keepalive or None,
    }
    params.update((name, value) for name, value in optional.items() if value is not None)
    provider = conf.get("redis_backend_credential_provider")
    if provider:
        params["credential_provider"] = _credential_provider(provider)
        # The driver refuses two sources of the same thing.
        for name in ("username", "password"):
            params.pop(name, None)
    return params


def _credential_provider(provider: Any) -> Any:
    from redis import CredentialProvider

    if isinstance(provider, str):
        provider = symbol_by_name(provider)
    if isinstance(provider, type):
        provider = provider()
    if not isinstance(provider, CredentialProvider):
        raise ImproperlyConfigured(
            f"redis_backend_credential_provider: {provider!r} is no redis.CredentialProvider"
        )
    return provider


def from_url(url: str, defaults: Mapping[str, Any], driver: Any) -> dict[str, Any]:
    """Return *defaults* with what *url* says.

    Args:
        url: ``redis://``, ``rediss://`` or ``socket://``.
        defaults: What the settings say.
        driver: The module ``redis``.
    """
    scheme, host, port, username, password, path, raw_query = url_to_parts(url)
    query = dict(raw_query)
    params = dict(defaults)
    if scheme == "socket":
        # The driver has other arguments for sockets in the file system.
        params["connection_class"] = driver.UnixDomainSocketConnection
        params["path"] = "/" + (path or "")
        for name in (
            "host", "port", "socket_connect_timeout", "socket_keepalive", "health_check_interval"
        ):  # fmt: skip
            params.pop(name, None)
        params["db"] = _database(query.pop("virtual_host", None) or params["db"])
    else:
        params["host"] = host or params["host"]
        params["port"] = port or params["port"]
        params["db"] = _database(path or query.pop("virtual_host", None) or params["db"])
    if "credential_provider" not in params:
        if username:
            params["username"] = username
        if password:
            params["password"] = password
    params.update(_converted(query, driver))
    return params


def _database(value: Any) -> int:
    """Read the number of a database, as it stands in a setting or a path."""
    if isinstance(value, int):
        return value
    text = str(value).strip("/")
    try:
        return int(text or 0)
    except ValueError:
        raise ImproperlyConfigured(
            f"A Redis database is a number from 0, and not {text!r}"
        ) from None


def _converted(query: Mapping[str, str], driver: Any) -> dict[str, Any]:
    """Give the parameters of a URL the types that the driver wants."""
    parsers = getattr(driver.connection, "URL_QUERY_ARGUMENT_PARSERS", {})
    converted: dict[str, Any] = {}
    for name, value in query.items():
        if name in parsers:
            converted[name] = parsers[name](value)
        elif name == "ssl_check_hostname" or value.lower() in {"true", "false"}:
            converted[name] = value.lower() in _TRUE or value.lower() not in _FALSE
        else:
            converted[name] = value
    return converted


def with_tls(
    params: dict[str, Any], use_ssl: Any, url: str | None, connection_class: type[Any]
) -> dict[str, Any]:
    """Return *params* with TLS, where the URL or ``redis_backend_use_ssl`` asks for it.

    Raises:
        ValueError: The setting and the scheme of the URL contradict each other, or nobody says
            whether the certificate is to be checked.
    """
    params = dict(params)
    scheme = url.partition("://")[0] if url else ""
    if isinstance(use_ssl, Mapping):
        params.update(use_ssl)
        params["connection_class"] = connection_class
    elif use_ssl:
        params["connection_class"] = connection_class
    if scheme == "redis" and any(name.startswith("ssl_") for name in params) and not use_ssl:
        raise ValueError(E_REDIS_SSL_PARAMS_AND_SCHEME_MISMATCH)
    if scheme == "rediss":
        params["connection_class"] = connection_class
    if params.get("connection_class") is not connection_class:
        return params
    required = params.get("ssl_cert_reqs")
    if scheme == "rediss" and required is None:
        raise ValueError(E_REDIS_SSL_CERT_REQS_MISSING_INVALID)
    if required is not None:
        params["ssl_cert_reqs"] = _cert_reqs(required)
    return params


def _cert_reqs(value: Any) -> ssl.VerifyMode:
    try:
        mode = _CERT_REQS[value] if isinstance(value, str) else ssl.VerifyMode(value)
    except (KeyError, ValueError):
        raise ValueError(E_REDIS_SSL_CERT_REQS_MISSING_INVALID) from None
    if mode == ssl.CERT_OPTIONAL:
        logger.warning(W_REDIS_SSL_CERT_OPTIONAL)
    elif mode == ssl.CERT_NONE:
        logger.warning(W_REDIS_SSL_CERT_NONE)
    return mode


def hosts_of(url: str, default_port: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Split the URL of a group of servers.

    Args:
        url: ``sentinel://[password@]host:port/db;sentinel://host:port/db…``
        default_port: Of those that name none.

    Returns:
        Host, port and credentials of each server, and what the first that says so says of the
        database: its number, user, password and parameters.
    """
    hosts: list[dict[str, Any]] = []
    shared: dict[str, Any] = {}
    for chunk in filter(None, url.split(";")):
        full = chunk if "://" in chunk else f"redis://{chunk}"
        _, host, port, username, password, path, query = url_to_parts(full)
        hosts.append(
            {"host": host or "localhost", "port": port or default_port, "password": password}
        )
        own = {
            "db": _database(path) if path else None,
            "username": username,
            "password": password,
            **query,
        }
        shared.update(
            (name, value) for name, value in own.items() if value is not None and name not in shared
        )
    return hosts, shared


def uri_of_hosts(url: str | None, include_password: bool) -> str:
    """Return the URL of a group of servers as it may be shown."""
    chunks = (url or "").split(";")
    if not include_password:
        chunks = [unquote(maybe_sanitize_url(chunk)).rstrip("/") for chunk in chunks]
    return ";".join(chunks)
