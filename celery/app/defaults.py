"""Every setting there is, as one table.

Each row gives the name, the type used for values from the command line, the default and the
upper-case name the setting had before version 4.  All else here is derived from the rows: the
nested :data:`NAMESPACES`, the flat :data:`DEFAULTS`, and the two maps between old and new names.

To add a setting, add a row here, a paragraph in ``docs/userguide/configuration.rst``, and read it
in one place.  Values are never read from this module at run time: that is what ``app.conf`` is for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from math import inf
from typing import Any, ClassVar, Final, NamedTuple

from celery.exceptions import CDeprecationWarning
from celery.utils.text import strtobool

__all__ = ("NAMESPACES", "Option", "find", "flatten")

DEFAULT_POOL: Final = "prefork"
DEFAULT_ACCEPT_CONTENT: Final = ("json",)
DEFAULT_SECURITY_DIGEST: Final = "sha256"
DEFAULT_PROCESS_LOG_FMT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT: Final = (
    "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
)

#: Templates of the names used before version 4; ``{0}`` stands for the key within its namespace.
OLD_NS = {"celery_{0}"}
OLD_NS_BEAT = {"celerybeat_{0}"}
OLD_NS_WORKER = {"celeryd_{0}"}


class Option:
    """One setting: its default, its type, its former names and whether it is on its way out."""

    alt: str | None = None
    deprecate_by: str | None = None
    remove_by: str | None = None
    old: set[str] = set()  # noqa: RUF012  (the shared empty value is never changed)
    typemap: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "string": str,
        "str": str,
        "bytes": lambda value: value.encode() if isinstance(value, str) else value,
        "int": int,
        "float": float,
        "bool": strtobool,
        "any": lambda value: value,
        "dict": dict,
        "list": list,
        "tuple": tuple,
    }

    def __init__(self, default: Any = None, *args: Any, **kwargs: Any) -> None:
        self.default = default
        self.type: str = args[0] if args else kwargs.pop("type", "string")
        for name, value in kwargs.items():
            setattr(self, name, value)

    def to_python(self, value: Any) -> Any:
        """Convert *value*, usually text from the command line, to the type of this setting."""
        return self.typemap[self.type](value)

    def __repr__(self) -> str:
        return f"<Option: type={self.type} default={self.default!r}>"


class searchresult(NamedTuple):
    """Where :func:`find` found a setting."""

    namespace: str
    key: str | None
    type: Any


#: name, type, default, name before version 4
_TABLE: Final[tuple[tuple[str, str, Any, str], ...]] = (
    # without a namespace
    ("accept_content", "list", DEFAULT_ACCEPT_CONTENT, "CELERY_ACCEPT_CONTENT"),
    ("result_accept_content", "list", None, "RESULT_ACCEPT_CONTENT"),
    ("enable_utc", "bool", True, "ENABLE_UTC"),
    ("imports", "tuple", (), "CELERY_IMPORTS"),
    ("include", "tuple", (), "CELERY_INCLUDE"),
    ("timezone", "string", None, "CELERY_TIMEZONE"),
    # beat
    ("beat_enable_remote_control", "bool", False, "CELERYBEAT_ENABLE_REMOTE_CONTROL"),
    ("beat_remote_control_max_tick_age", "float", None, "CELERYBEAT_REMOTE_CONTROL_MAX_TICK_AGE"),
    ("beat_max_loop_interval", "float", 0, "CELERYBEAT_MAX_LOOP_INTERVAL"),
    ("beat_schedule", "dict", {}, "CELERYBEAT_SCHEDULE"),
    ("beat_scheduler", "string", "celery.beat:PersistentScheduler", "CELERYBEAT_SCHEDULER"),
    ("beat_schedule_filename", "string", "celerybeat-schedule", "CELERYBEAT_SCHEDULE_FILENAME"),
    ("beat_store_url", "string", None, "CELERYBEAT_STORE_URL"),
    ("beat_store_name", "string", "celery-beat", "CELERYBEAT_STORE_NAME"),
    ("beat_sync_every", "int", 0, "CELERYBEAT_SYNC_EVERY"),
    ("beat_cron_starting_deadline", "int", None, "CELERYBEAT_CRON_STARTING_DEADLINE"),
    # broker
    ("broker_url", "string", None, "BROKER_URL"),
    ("broker_read_url", "string", None, "BROKER_READ_URL"),
    ("broker_write_url", "string", None, "BROKER_WRITE_URL"),
    ("broker_transport", "string", None, "BROKER_TRANSPORT"),
    ("broker_transport_options", "dict", {}, "BROKER_TRANSPORT_OPTIONS"),
    ("broker_connection_timeout", "float", 4, "BROKER_CONNECTION_TIMEOUT"),
    ("broker_connection_retry", "bool", True, "BROKER_CONNECTION_RETRY"),
    ("broker_connection_retry_on_startup", "bool", None, "BROKER_CONNECTION_RETRY_ON_STARTUP"),
    ("broker_connection_max_retries", "int", 100, "BROKER_CONNECTION_MAX_RETRIES"),
    ("broker_channel_error_retry", "bool", False, "BROKER_CHANNEL_ERROR_RETRY"),
    ("broker_failover_strategy", "string", None, "BROKER_FAILOVER_STRATEGY"),
    ("broker_heartbeat", "int", 120, "BROKER_HEARTBEAT"),
    ("broker_heartbeat_checkrate", "int", 3.0, "BROKER_HEARTBEAT_CHECKRATE"),
    ("broker_login_method", "string", None, "BROKER_LOGIN_METHOD"),
    (
        "broker_native_delayed_delivery_queue_type",
        "string",
        "quorum",
        "BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE",
    ),
    ("broker_pool_limit", "int", 10, "BROKER_POOL_LIMIT"),
    ("broker_pool_acquire_timeout", "float", None, "BROKER_POOL_ACQUIRE_TIMEOUT"),
    ("broker_use_ssl", "bool", False, "BROKER_USE_SSL"),
    ("broker_host", "string", None, "BROKER_HOST"),
    ("broker_port", "int", None, "BROKER_PORT"),
    ("broker_user", "string", None, "BROKER_USER"),
    ("broker_password", "string", None, "BROKER_PASSWORD"),
    ("broker_vhost", "string", None, "BROKER_VHOST"),
    # cache
    ("cache_backend", "string", None, "CELERY_CACHE_BACKEND"),
    ("cache_backend_options", "dict", {}, "CELERY_CACHE_BACKEND_OPTIONS"),
    # cassandra
    ("cassandra_entry_ttl", "float", None, "CASSANDRA_ENTRY_TTL"),
    ("cassandra_keyspace", "string", None, "CASSANDRA_KEYSPACE"),
    ("cassandra_port", "string", None, "CASSANDRA_PORT"),
    ("cassandra_read_consistency", "string", None, "CASSANDRA_READ_CONSISTENCY"),
    ("cassandra_servers", "list", None, "CASSANDRA_SERVERS"),
    ("cassandra_bundle_path", "string", None, "CASSANDRA_BUNDLE_PATH"),
    ("cassandra_table", "string", None, "CASSANDRA_TABLE"),
    ("cassandra_write_consistency", "string", None, "CASSANDRA_WRITE_CONSISTENCY"),
    ("cassandra_auth_provider", "string", None, "CASSANDRA_AUTH_PROVIDER"),
    ("cassandra_auth_kwargs", "string", None, "CASSANDRA_AUTH_KWARGS"),
    ("cassandra_options", "dict", {}, "CASSANDRA_OPTIONS"),
    # s3
    ("s3_access_key_id", "string", None, "S3_ACCESS_KEY_ID"),
    ("s3_secret_access_key", "string", None, "S3_SECRET_ACCESS_KEY"),
    ("s3_bucket", "string", None, "S3_BUCKET"),
    ("s3_base_path", "string", None, "S3_BASE_PATH"),
    ("s3_endpoint_url", "string", None, "S3_ENDPOINT_URL"),
    ("s3_region", "string", None, "S3_REGION"),
    # azureblockblob
    ("azureblockblob_container_name", "string", "celery", "AZUREBLOCKBLOB_CONTAINER_NAME"),
    (
        "azureblockblob_retry_initial_backoff_sec",
        "int",
        2,
        "AZUREBLOCKBLOB_RETRY_INITIAL_BACKOFF_SEC",
    ),
    ("azureblockblob_retry_increment_base", "int", 2, "AZUREBLOCKBLOB_RETRY_INCREMENT_BASE"),
    ("azureblockblob_retry_max_attempts", "int", 3, "AZUREBLOCKBLOB_RETRY_MAX_ATTEMPTS"),
    ("azureblockblob_base_path", "string", "", "AZUREBLOCKBLOB_BASE_PATH"),
    ("azureblockblob_connection_timeout", "int", 20, "AZUREBLOCKBLOB_CONNECTION_TIMEOUT"),
    ("azureblockblob_read_timeout", "int", 120, "AZUREBLOCKBLOB_READ_TIMEOUT"),
    # gcs
    ("gcs_bucket", "string", None, "GCS_BUCKET"),
    ("gcs_project", "string", None, "GCS_PROJECT"),
    ("gcs_base_path", "string", "", "GCS_BASE_PATH"),
    ("gcs_ttl", "float", 0, "GCS_TTL"),
    # control
    ("control_queue_ttl", "float", 300.0, "CONTROL_QUEUE_TTL"),
    ("control_queue_expires", "float", 10.0, "CONTROL_QUEUE_EXPIRES"),
    ("control_queue_exclusive", "bool", True, "CONTROL_QUEUE_EXCLUSIVE"),
    ("control_queue_durable", "bool", False, "CONTROL_QUEUE_DURABLE"),
    ("control_exchange", "string", "celery", "CONTROL_EXCHANGE"),
    # couchbase
    ("couchbase_backend_settings", "dict", None, "CELERY_COUCHBASE_BACKEND_SETTINGS"),
    # arangodb
    ("arangodb_backend_settings", "dict", None, "CELERY_ARANGODB_BACKEND_SETTINGS"),
    # mongodb
    ("mongodb_backend_settings", "dict", None, "CELERY_MONGODB_BACKEND_SETTINGS"),
    # cosmosdbsql
    ("cosmosdbsql_database_name", "string", "celerydb", "COSMOSDBSQL_DATABASE_NAME"),
    ("cosmosdbsql_collection_name", "string", "celerycol", "COSMOSDBSQL_COLLECTION_NAME"),
    ("cosmosdbsql_consistency_level", "string", "Session", "COSMOSDBSQL_CONSISTENCY_LEVEL"),
    ("cosmosdbsql_max_retry_attempts", "int", 9, "COSMOSDBSQL_MAX_RETRY_ATTEMPTS"),
    ("cosmosdbsql_max_retry_wait_time", "int", 30, "COSMOSDBSQL_MAX_RETRY_WAIT_TIME"),
    # event
    ("event_queue_expires", "float", 60.0, "CELERY_EVENT_QUEUE_EXPIRES"),
    ("event_queue_ttl", "float", 5.0, "CELERY_EVENT_QUEUE_TTL"),
    ("event_queue_prefix", "string", "celeryev", "CELERY_EVENT_QUEUE_PREFIX"),
    ("event_queue_exclusive", "bool", True, "CELERY_EVENT_QUEUE_EXCLUSIVE"),
    ("event_queue_durable", "bool", False, "CELERY_EVENT_QUEUE_DURABLE"),
    ("event_serializer", "string", "json", "CELERY_EVENT_SERIALIZER"),
    ("event_exchange", "string", "celeryev", "CELERY_EVENT_EXCHANGE"),
    # redis
    ("redis_backend_use_ssl", "dict", None, "CELERY_REDIS_BACKEND_USE_SSL"),
    ("redis_db", "int", None, "CELERY_REDIS_DB"),
    ("redis_host", "string", None, "CELERY_REDIS_HOST"),
    ("redis_max_connections", "int", None, "CELERY_REDIS_MAX_CONNECTIONS"),
    ("redis_username", "string", None, "CELERY_REDIS_USERNAME"),
    ("redis_password", "string", None, "CELERY_REDIS_PASSWORD"),
    ("redis_port", "int", None, "CELERY_REDIS_PORT"),
    ("redis_socket_timeout", "float", 120.0, "CELERY_REDIS_SOCKET_TIMEOUT"),
    ("redis_socket_connect_timeout", "float", None, "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT"),
    ("redis_retry_on_timeout", "bool", False, "CELERY_REDIS_RETRY_ON_TIMEOUT"),
    ("redis_socket_keepalive", "bool", False, "CELERY_REDIS_SOCKET_KEEPALIVE"),
    # result
    ("result_backend", "string", None, "CELERY_RESULT_BACKEND"),
    ("result_cache_max", "int", -1, "CELERY_MAX_CACHED_RESULTS"),
    ("result_compression", "str", None, "CELERY_RESULT_COMPRESSION"),
    ("result_exchange", "string", "celeryresults", "CELERY_RESULT_EXCHANGE"),
    ("result_exchange_type", "string", "direct", "CELERY_RESULT_EXCHANGE_TYPE"),
    ("result_expires", "float", timedelta(days=1), "CELERY_TASK_RESULT_EXPIRES"),
    ("result_chord_expires", "float", None, "CELERY_RESULT_CHORD_EXPIRES"),
    ("result_failure_expires", "float", None, "CELERY_RESULT_FAILURE_EXPIRES"),
    ("result_persistent", "bool", None, "CELERY_RESULT_PERSISTENT"),
    ("result_extended", "bool", False, "CELERY_RESULT_EXTENDED"),
    ("result_serializer", "string", "json", "CELERY_RESULT_SERIALIZER"),
    ("result_backend_transport_options", "dict", {}, "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS"),
    ("result_chord_retry_interval", "float", 1.0, "CELERY_RESULT_CHORD_RETRY_INTERVAL"),
    ("result_chord_join_timeout", "float", 3.0, "CELERY_RESULT_CHORD_JOIN_TIMEOUT"),
    (
        "result_backend_max_sleep_between_retries_ms",
        "int",
        10000,
        "CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS",
    ),
    ("result_backend_max_retries", "float", inf, "CELERY_RESULT_BACKEND_MAX_RETRIES"),
    (
        "result_backend_base_sleep_between_retries_ms",
        "int",
        10,
        "CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS",
    ),
    ("result_backend_always_retry", "bool", False, "CELERY_RESULT_BACKEND_ALWAYS_RETRY"),
    # elasticsearch
    ("elasticsearch_retry_on_timeout", "bool", None, "CELERY_ELASTICSEARCH_RETRY_ON_TIMEOUT"),
    ("elasticsearch_max_retries", "int", None, "CELERY_ELASTICSEARCH_MAX_RETRIES"),
    ("elasticsearch_timeout", "float", None, "CELERY_ELASTICSEARCH_TIMEOUT"),
    ("elasticsearch_save_meta_as_text", "bool", True, "CELERY_ELASTICSEARCH_SAVE_META_AS_TEXT"),
    # security
    ("security_certificate", "string", None, "CELERY_SECURITY_CERTIFICATE"),
    ("security_cert_store", "string", None, "CELERY_SECURITY_CERT_STORE"),
    ("security_key", "string", None, "CELERY_SECURITY_KEY"),
    ("security_key_password", "bytes", None, "CELERY_SECURITY_KEY_PASSWORD"),
    ("security_digest", "string", DEFAULT_SECURITY_DIGEST, "CELERY_SECURITY_DIGEST"),
    # database
    ("database_url", "string", None, "CELERY_RESULT_DBURI"),
    (
        "database_engine_options",
        "dict",
        {"pool_pre_ping": True, "pool_recycle": 3600},
        "CELERY_RESULT_ENGINE_OPTIONS",
    ),
    ("database_engine_callback", "any", None, "DATABASE_ENGINE_CALLBACK"),
    ("database_short_lived_sessions", "bool", False, "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS"),
    ("database_table_schemas", "dict", None, "DATABASE_TABLE_SCHEMAS"),
    ("database_table_names", "dict", None, "CELERY_RESULT_DB_TABLENAMES"),
    ("database_create_tables_at_setup", "bool", True, "DATABASE_CREATE_TABLES_AT_SETUP"),
    # task
    ("task_acks_late", "bool", False, "CELERY_ACKS_LATE"),
    ("task_acks_on_failure_or_timeout", "bool", True, "CELERY_ACKS_ON_FAILURE_OR_TIMEOUT"),
    ("task_acks_on_failure", "bool", None, "CELERY_ACKS_ON_FAILURE"),
    ("task_acks_on_timeout", "bool", None, "CELERY_ACKS_ON_TIMEOUT"),
    ("task_always_eager", "bool", False, "CELERY_ALWAYS_EAGER"),
    ("task_annotations", "any", None, "CELERY_ANNOTATIONS"),
    ("task_compression", "string", None, "CELERY_MESSAGE_COMPRESSION"),
    ("task_create_missing_queues", "bool", True, "CELERY_CREATE_MISSING_QUEUES"),
    ("task_create_missing_queue_type", "string", "classic", "CELERY_CREATE_MISSING_QUEUE_TYPE"),
    (
        "task_create_missing_queue_exchange_type",
        "string",
        None,
        "CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE",
    ),
    ("task_inherit_parent_priority", "bool", False, "CELERY_INHERIT_PARENT_PRIORITY"),
    ("task_default_delivery_mode", "string", 2, "CELERY_DEFAULT_DELIVERY_MODE"),
    ("task_default_queue", "string", "celery", "CELERY_DEFAULT_QUEUE"),
    ("task_default_queue_type", "string", "classic", "CELERY_DEFAULT_QUEUE_TYPE"),
    ("task_default_exchange", "string", None, "CELERY_DEFAULT_EXCHANGE"),
    ("task_default_exchange_type", "string", "direct", "CELERY_DEFAULT_EXCHANGE_TYPE"),
    ("task_default_routing_key", "string", None, "CELERY_DEFAULT_ROUTING_KEY"),
    ("task_default_rate_limit", "string", None, "CELERY_DEFAULT_RATE_LIMIT"),
    ("task_default_priority", "string", None, "CELERY_DEFAULT_PRIORITY"),
    ("task_eager_propagates", "bool", False, "CELERY_EAGER_PROPAGATES_EXCEPTIONS"),
    ("task_ignore_result", "bool", False, "CELERY_IGNORE_RESULT"),
    ("task_store_eager_result", "bool", False, "CELERY_STORE_EAGER_RESULT"),
    ("task_protocol", "int", 2, "CELERY_TASK_PROTOCOL"),
    ("task_publish_retry", "bool", True, "CELERY_TASK_PUBLISH_RETRY"),
    (
        "task_publish_retry_policy",
        "dict",
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "CELERY_TASK_PUBLISH_RETRY_POLICY",
    ),
    ("task_queues", "dict", None, "CELERY_QUEUES"),
    ("task_queue_max_priority", "int", None, "CELERY_QUEUE_MAX_PRIORITY"),
    ("task_reject_on_worker_lost", "bool", None, "CELERY_REJECT_ON_WORKER_LOST"),
    ("task_retry_on_worker_lost", "bool", False, "CELERY_RETRY_ON_WORKER_LOST"),
    ("task_remote_tracebacks", "bool", False, "CELERY_REMOTE_TRACEBACKS"),
    ("task_repr_maxlevels", "int", 3, "CELERY_REPR_MAXLEVELS"),
    ("task_routes", "any", None, "CELERY_ROUTES"),
    ("task_send_sent_event", "bool", False, "CELERY_SEND_TASK_SENT_EVENT"),
    ("task_serializer", "string", "json", "CELERY_TASK_SERIALIZER"),
    ("task_soft_time_limit", "float", None, "CELERYD_TASK_SOFT_TIME_LIMIT"),
    ("task_time_limit", "float", None, "CELERYD_TASK_TIME_LIMIT"),
    ("task_store_errors_even_if_ignored", "bool", False, "CELERY_STORE_ERRORS_EVEN_IF_IGNORED"),
    ("task_track_started", "bool", False, "CELERY_TRACK_STARTED"),
    ("task_allow_error_cb_on_chord_header", "bool", False, "CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER"),
    # worker
    ("worker_agent", "string", None, "CELERYD_AGENT"),
    ("worker_autoscaler", "string", "celery.worker.autoscale:Autoscaler", "CELERYD_AUTOSCALER"),
    (
        "worker_cancel_long_running_tasks_on_connection_loss",
        "bool",
        False,
        "CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS",
    ),
    ("worker_soft_shutdown_timeout", "float", 0.0, "CELERYD_SOFT_SHUTDOWN_TIMEOUT"),
    ("worker_enable_soft_shutdown_on_idle", "bool", False, "CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE"),
    ("worker_concurrency", "any", None, "CELERYD_CONCURRENCY"),
    ("worker_consumer", "string", "celery.worker.consumer:Consumer", "CELERYD_CONSUMER"),
    ("worker_direct", "bool", False, "CELERY_WORKER_DIRECT"),
    ("worker_disable_rate_limits", "bool", False, "CELERY_DISABLE_RATE_LIMITS"),
    ("worker_deduplicate_successful_tasks", "bool", False, "CELERYD_DEDUPLICATE_SUCCESSFUL_TASKS"),
    ("worker_enable_remote_control", "bool", True, "CELERY_ENABLE_REMOTE_CONTROL"),
    ("worker_hijack_root_logger", "bool", True, "CELERYD_HIJACK_ROOT_LOGGER"),
    ("worker_log_color", "bool", None, "CELERYD_LOG_COLOR"),
    ("worker_log_datefmt", "string", None, "CELERYD_LOG_DATEFMT"),
    ("worker_log_format", "string", DEFAULT_PROCESS_LOG_FMT, "CELERYD_LOG_FORMAT"),
    ("worker_lost_wait", "float", 10.0, "CELERYD_WORKER_LOST_WAIT"),
    ("worker_max_memory_per_child", "int", None, "CELERYD_MAX_MEMORY_PER_CHILD"),
    ("worker_max_tasks_per_child", "int", None, "CELERYD_MAX_TASKS_PER_CHILD"),
    ("worker_pool", "string", DEFAULT_POOL, "CELERYD_POOL"),
    ("worker_pool_putlocks", "bool", True, "CELERYD_POOL_PUTLOCKS"),
    ("worker_pool_restarts", "bool", False, "CELERYD_POOL_RESTARTS"),
    ("worker_pool_start_method", "string", "fork", "CELERYD_POOL_START_METHOD"),
    ("worker_proc_alive_timeout", "float", 4.0, "CELERYD_PROC_ALIVE_TIMEOUT"),
    ("worker_prefetch_multiplier", "int", 4, "CELERYD_PREFETCH_MULTIPLIER"),
    ("worker_eta_task_limit", "int", None, "CELERYD_ETA_TASK_LIMIT"),
    (
        "worker_enable_prefetch_count_reduction",
        "bool",
        True,
        "CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION",
    ),
    ("worker_disable_prefetch", "bool", False, "CELERYD_DISABLE_PREFETCH"),
    ("worker_redirect_stdouts", "bool", True, "CELERY_REDIRECT_STDOUTS"),
    ("worker_redirect_stdouts_level", "string", "WARNING", "CELERY_REDIRECT_STDOUTS_LEVEL"),
    ("worker_send_task_events", "bool", False, "CELERY_SEND_EVENTS"),
    ("worker_state_db", "string", None, "CELERYD_STATE_DB"),
    ("worker_task_log_datefmt", "string", None, "CELERYD_TASK_LOG_DATEFMT"),
    ("worker_task_log_format", "string", DEFAULT_TASK_LOG_FMT, "CELERYD_TASK_LOG_FORMAT"),
    ("worker_timer", "string", None, "CELERYD_TIMER"),
    ("worker_timer_precision", "float", 1.0, "CELERYD_TIMER_PRECISION"),
    ("worker_detect_quorum_queues", "bool", True, "CELERYD_DETECT_QUORUM_QUEUES"),
    ("worker_health_address", "string", None, "CELERYD_HEALTH_ADDRESS"),
)

#: Settings without a namespace; in every other name the first word is the namespace.
_TOP_LEVEL: Final = frozenset(
    {"accept_content", "enable_utc", "imports", "include", "result_accept_content", "timezone"}
)

#: name -> (deprecated in, removed in, what to set instead)
_DEPRECATED: Final = {
    "task_acks_on_failure_or_timeout": (
        "6.0",
        "7.0",
        "task_acks_on_failure and task_acks_on_timeout",
    ),
}


def old_ns(ns: str) -> set[str]:
    """Give the template of old names that began with *ns*."""
    return {ns + "_{0}"}


def Namespace(__old__: set[str] | None = None, **options: Any) -> dict[str, Any]:
    """Group options; those without old names of their own get them from the *__old__* templates."""
    if __old__:
        for key, option in options.items():
            if isinstance(option, Option) and not option.old:
                option.old = {template.format(key) for template in __old__}
    return options


def _option(name: str, type: str, default: Any, old: str) -> Option:
    option = Option(default, type=type, old={old.lower()})
    if name in _DEPRECATED:
        option.deprecate_by, option.remove_by, option.alt = _DEPRECATED[name]
    return option


def _nested() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, type, default, old in _TABLE:
        option = _option(name, type, default, old)
        if name in _TOP_LEVEL:
            tree[name] = option
        else:
            namespace, _, key = name.partition("_")
            tree.setdefault(namespace, {})[key] = option
    return tree


def _pairs(namespace: str, key: str, option: Option) -> Iterable[tuple[str, Any]]:
    return ((namespace + key, option),)


def flatten(
    d: Mapping[str, Any],
    root: str = "",
    keyfilter: Callable[[str, str, Option], Iterable[tuple[str, Any]]] = _pairs,
) -> Iterator[tuple[str, Any]]:
    """Walk nested options, outer ones first.

    Args:
        d: Options, or mappings of them, by key.
        root: Prepended to every name, with an underscore.
        keyfilter: Makes the pairs to yield from a prefix (``""`` or ending in an underscore), a key
            and an option.
    """
    prefix = f"{root}_" if root else ""
    groups: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in d.items():
        if isinstance(value, Mapping):
            groups.append((prefix + key, value))
        else:
            yield from keyfilter(prefix, key, value)
    for name, group in groups:
        yield from flatten(group, name, keyfilter)


#: namespace -> key -> :class:`Option`; settings without a namespace stand beside the namespaces.
NAMESPACES: Final[dict[str, Any]] = _nested()
#: Name to default.  Mutable defaults are copied for each app.
DEFAULTS: Final[dict[str, Any]] = {name: default for name, _, default, _ in _TABLE}
SETTING_KEYS: Final[set[str]] = set(DEFAULTS)
OLD_TO_NEW: Final[dict[str, str]] = {old: name for name, _, _, old in _TABLE}
NEW_TO_OLD: Final[dict[str, str]] = {name: old for name, _, _, old in _TABLE}


def find_deprecated_settings(source: Any) -> Any:
    """Warn about each deprecated setting that *source* has as a true attribute; return *source*."""
    for name, (deprecated, removed, instead) in _DEPRECATED.items():
        if getattr(source, name, None):
            warnings.warn(
                CDeprecationWarning(
                    f"The setting {name} is deprecated from version {deprecated} and goes away in "
                    f"version {removed}. Use {instead} instead."
                ),
                stacklevel=2,
            )
    return source


def find(name: str, namespace: str = "celery") -> searchresult:
    """Look a setting up by its name or by the last part of it.

    *namespace* is searched first, then the settings and namespaces called *name*, then all
    namespaces in order.

    Raises:
        KeyError: No setting has this name.
    """
    group = NAMESPACES.get(namespace)
    if isinstance(group, dict) and name in group:
        return searchresult(namespace, name, group[name])
    if name in NAMESPACES:
        entry = NAMESPACES[name]
        return (
            searchresult(name, None, entry)
            if isinstance(entry, dict)
            else searchresult("", name, entry)
        )
    for other, group in NAMESPACES.items():
        if isinstance(group, dict):
            key = name.removeprefix(f"{other}_")
            if key in group:
                return searchresult(other, key, group[key])
    raise KeyError(name)
