"""Results in a table of Apache Cassandra or Astra (``cassandra://``).

Where it is stands in settings: ``cassandra_servers`` (or, for Astra, the path of a bundle in
``cassandra_secure_bundle_path``), ``cassandra_port``, ``cassandra_keyspace``, which has to exist,
and ``cassandra_table``, which is made when it is missing. Further ``cassandra_auth_provider``, a
class of ``cassandra.auth``, with ``cassandra_auth_kwargs``; ``cassandra_read_consistency`` and
``cassandra_write_consistency``; ``cassandra_entry_ttl``, seconds that results live; and
``cassandra_options``, which go to the driver's Cluster.

Every state of a task is a row of its own, in the order of time. So nothing is overwritten, a
write needs no look at what is there, and which of the states counts is decided by whoever reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from kombu.utils.encoding import bytes_to_str

from celery import states
from celery._protocol import meta as documents
from celery.backends._finality import stays
from celery.backends._versioned import once_per_process
from celery.backends.base import BaseBackend
from celery.exceptions import ImproperlyConfigured

try:
    import cassandra
    import cassandra.auth
    import cassandra.cluster
    import cassandra.policies
except ImportError:
    cassandra = None

__all__ = ("CassandraBackend",)

E_NO_CASSANDRA = (
    "The Cassandra result back-end needs the package cassandra-driver:"
    ' pip install "celery[cassandra]"'
)
E_NO_SUCH_CASSANDRA_AUTH_PROVIDER = (
    "cassandra_auth_provider: there is no class {0!r} in cassandra.auth that takes the names of"
    " cassandra_auth_kwargs"
)
E_CASSANDRA_MISCONFIGURED = (
    "The Cassandra result back-end needs either cassandra_servers or cassandra_secure_bundle_path,"
    " not both"
)
E_CASSANDRA_NOT_CONFIGURED = (
    "The Cassandra result back-end needs cassandra_keyspace and cassandra_table, and either"
    " cassandra_servers or cassandra_secure_bundle_path"
)

Q_CREATE_RESULT_TABLE = (
    "CREATE TABLE IF NOT EXISTS {table} (task_id text, status text, result blob,"
    " date_done timestamp, traceback blob, children blob, PRIMARY KEY ((task_id), date_done))"
    " WITH CLUSTERING ORDER BY (date_done DESC)"
)
Q_INSERT_RESULT = (
    "INSERT INTO {table} (task_id, status, result, date_done, traceback, children)"
    " VALUES (?, ?, ?, ?, ?, ?){expires}"
)
Q_EXPIRES = " USING TTL {0}"
Q_SELECT_RESULT = (
    "SELECT status, result, date_done, traceback, children FROM {table} WHERE task_id = ?"
    " LIMIT {limit}"
)
Q_SELECT_FIRST_SUCCESS = (
    "SELECT status, result, date_done, traceback, children FROM {table} WHERE task_id = ?"
    " AND status = 'SUCCESS' ORDER BY date_done ASC LIMIT 1 ALLOW FILTERING"
)
Q_DELETE_RESULT = "DELETE FROM {table} WHERE task_id = ?"

#: Seconds from the loss of a server to the first attempt to come back, and between later ones.
RECONNECT_S = (0.1, 30.0)
#: States of a task that are read at once; those of most have room in it.
STATES_READ = 10
#: Rows of groups have keys that no task has.
GROUP_PREFIX = "celery-taskset-meta-"


def buf_t(x: Any) -> bytes:
    """Return a value for a column of type blob."""
    return x.encode() if isinstance(x, str) else bytes(x)


class CassandraBackend(BaseBackend):
    """Keeps results in a table.

    Args:
        servers: Overrides ``cassandra_servers``; the others, their settings.

    Raises:
        ImproperlyConfigured: The driver is missing, or a setting is, or the class for
            authentication can't be made.
    """

    servers: list[str] | None = None
    bundle_path: str | None = None
    supports_autoexpire = True
    supports_result_compression = True

    def __init__(
        self,
        servers: list[str] | None = None,
        keyspace: str | None = None,
        table: str | None = None,
        entry_ttl: float | None = None,
        port: int | str | None = None,
        bundle_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if cassandra is None:
            raise ImproperlyConfigured(E_NO_CASSANDRA)
        conf = self.app.conf
        self.servers = servers or conf.get("cassandra_servers", None)
        self.bundle_path = (
            bundle_path
            or conf.get("cassandra_secure_bundle_path", None)
            or conf.get("cassandra_bundle_path", None)
        )
        self.port = int(port or conf.get("cassandra_port", None) or 9042)
        self.keyspace = keyspace or conf.get("cassandra_keyspace", None)
        self.table = table or conf.get("cassandra_table", None)
        self.cassandra_options = conf.get("cassandra_options", None) or {}
        if self.servers and self.bundle_path:
            raise ImproperlyConfigured(E_CASSANDRA_MISCONFIGURED)
        if not ((self.servers or self.bundle_path) and self.keyspace and self.table):
            raise ImproperlyConfigured(E_CASSANDRA_NOT_CONFIGURED)
        expires = entry_ttl or conf.get("cassandra_entry_ttl", None)
        self.cqlexpires = Q_EXPIRES.format(int(expires)) if expires else ""
        self.read_consistency = self._consistency("cassandra_read_consistency")
        self.write_consistency = self._consistency("cassandra_write_consistency")
        self.auth_provider = self._authentication()

    def _consistency(self, setting: str) -> Any:
        name = self.app.conf.get(setting, None) or "LOCAL_QUORUM"
        return getattr(cassandra.ConsistencyLevel, name, cassandra.ConsistencyLevel.LOCAL_QUORUM)

    def _authentication(self) -> Any:
        name = self.app.conf.get("cassandra_auth_provider", None)
        options = self.app.conf.get("cassandra_auth_kwargs", None)
        if not name or not options:
            return None
        try:
            return getattr(cassandra.auth, name)(**options)
        except (AttributeError, TypeError):
            # Without the cause, which may show a password.
            raise ImproperlyConfigured(E_NO_SUCH_CASSANDRA_AUTH_PROVIDER.format(name)) from None

    def as_uri(self, include_password: bool = True) -> str:
        """Return the scheme: where the store is stands in settings."""
        return "cassandra://"

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        passing = (
            cassandra.OperationTimedOut,
            cassandra.Timeout,
            cassandra.Unavailable,
            cassandra.cluster.NoHostAvailable,
        )
        return isinstance(exc, passing)

    # -- the table

    @once_per_process
    def _session(self) -> Any:
        where: dict[str, Any] = {"contact_points": self.servers, "port": self.port}
        if self.bundle_path:
            where = {"cloud": {"secure_connect_bundle": self.bundle_path}}
        if not {"execution_profiles", "load_balancing_policy"} & self.cassandra_options.keys():
            policy = cassandra.cluster.default_lbp_factory()
            profile = cassandra.cluster.ExecutionProfile(load_balancing_policy=policy)
            where["execution_profiles"] = {cassandra.cluster.EXEC_PROFILE_DEFAULT: profile}
        options = {
            "auth_provider": self.auth_provider,
            "reconnection_policy": cassandra.policies.ExponentialReconnectionPolicy(*RECONNECT_S),
            **where,
            **self.cassandra_options,
        }
        cluster = cassandra.cluster.Cluster(**options)
        session = cluster.connect(self.keyspace)
        # Who may not make tables has had one made.
        with suppress(cassandra.AlreadyExists, cassandra.Unauthorized):
            session.execute(Q_CREATE_RESULT_TABLE.format(table=self.table))
        return session

    @once_per_process
    def _statements(self) -> dict[str, Any]:
        return {}

    def _run(self, text: str, values: Iterable[Any], consistency: Any) -> Any:
        """Carry out a statement, which the server knows from its first use on."""
        statement = self._statements.get(text)
        if statement is None:
            query = text.format(table=self.table, expires=self.cqlexpires, limit=STATES_READ)
            statement = self._session.prepare(query)
            statement.consistency_level = consistency
            self._statements[text] = statement
        return self._session.execute(statement, tuple(values))

    def _write(self, key: str, status: str, result: Any, traceback: Any, children: Any) -> None:
        row = (key, status, result, datetime.now(UTC), traceback, children)
        self._run(Q_INSERT_RESULT, row, self.write_consistency)

    def _read(self, key: str) -> Any:
        """Return the row that counts, None when there is none."""
        newest_first = list(self._run(Q_SELECT_RESULT, (key,), self.read_consistency))
        if len(newest_first) == STATES_READ:
            # There may be more, but nothing counts more than the first success.
            first = self._run(Q_SELECT_FIRST_SUCCESS, (key,), self.read_consistency).one()
            if first is not None:
                return first
        counts = None
        for row in reversed(newest_first):
            if counts is None or not stays(counts.status, row.status):
                counts = row
        return counts

    # -- tasks

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        packed = self.encode(result)
        if self.compression:
            packed = documents.compress(packed, self.compression)
        children = self.current_task_children(request)
        self._write(
            task_id,
            state,
            buf_t(packed),
            buf_t(self.encode(traceback)),
            buf_t(self.encode(children)),
        )
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        row = self._read(task_id)
        if row is None:
            return documents.unknown_task()
        is_ready = row.status in states.READY_STATES
        done = row.date_done.replace(tzinfo=UTC).isoformat() if is_ready else None
        return self.meta_from_decoded(
            {
                "task_id": task_id,
                "status": row.status,
                "result": self._decoded(row.result),
                "date_done": done,
                "traceback": self._decoded(row.traceback),
                "children": self._decoded(row.children),
            }
        )

    def _decoded(self, value: Any) -> Any:
        return None if value is None else self.decode(value)

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether anything is stored for a task."""
        return self._read(task_id) is not None

    def _forget(self, task_id: str) -> None:
        self._run(Q_DELETE_RESULT, (bytes_to_str(task_id),), self.write_consistency)

    # -- groups

    def _save_group(self, group_id: str, result: Any) -> Any:
        members = buf_t(self.encode(result.as_tuple()))
        # The newest one counts.
        self._write(f"{GROUP_PREFIX}{group_id}", "SAVED", members, None, None)
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        row = self._read(f"{GROUP_PREFIX}{group_id}")
        if row is None:
            return None
        document = {"task_id": group_id, "date_done": row.date_done}
        return self._group_from_document({**document, "result": self._decoded(row.result)})

    def _delete_group(self, group_id: str) -> None:
        self._forget(f"{GROUP_PREFIX}{group_id}")
