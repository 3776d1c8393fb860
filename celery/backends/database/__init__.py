"""Results in a database, through SQLAlchemy (``db+sqlite:///file``, ``db+postgresql://…``).

One row for each task, written with one statement where the database has an "insert or update".
Waiting polls; rows live until ``celery.backend_cleanup`` deletes them.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, timedelta
from typing import Any

from celery import states
from celery._protocol import meta as documents
from celery.backends._finality import lasting_states
from celery.backends.base import BaseBackend
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import symbol_by_name

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import (
        DatabaseError,
        IntegrityError,
        InterfaceError,
        InvalidRequestError,
        OperationalError,
        TimeoutError as PoolTimeoutError,
    )
    from sqlalchemy.orm.exc import StaleDataError
except ImportError as exc:
    raise ImproperlyConfigured(
        "The database result back-end needs the package sqlalchemy: pip install sqlalchemy"
    ) from exc

from celery.backends.database.models import Task, TaskExtended, TaskSet, utc_now
from celery.backends.database.session import SessionManager

__all__ = ("DatabaseBackend",)

#: What goes away by itself: lost connections, locks, exhausted pools, rows changed by others.
RETRYABLE_DB_ERRORS = (
    OperationalError,
    InterfaceError,
    InvalidRequestError,
    PoolTimeoutError,
    StaleDataError,
)

#: Tries after the first one, unless ``result_backend_max_retries`` says otherwise.
DEFAULT_RETRIES = 3

#: Classes in rows that versions before 5.7 pickled; plain values and members of groups.
_OLD_ROW_CLASSES = {
    ("_codecs", "encode"),  # how old protocols write bytes
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("collections", "OrderedDict"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("uuid", "UUID"),
    ("celery.result", "AsyncResult"),
    ("celery.result", "GroupResult"),
    ("celery.result", "ResultSet"),
}


class _OldRowUnpickler(pickle.Unpickler):
    """Reads old rows, and refuses to import anything else."""

    def find_class(self, module: str, name: str) -> Any:
        # The name that old protocols give to it.
        module = "builtins" if module == "__builtin__" else module
        if (module, name) not in _OLD_ROW_CLASSES:
            raise pickle.UnpicklingError(
                f"a stored result names {module}.{name}; add pickle to result_accept_content "
                "if the database is trusted"
            )
        return super().find_class(module, name)


def _is_old_row(value: bytes) -> bool:
    """Say whether *value* was pickled; no other serializer writes this head and this end."""
    return len(value) > 2 and value[0] == 0x80 and 2 <= value[1] <= 5 and value.endswith(b".")


@contextmanager
def session_cleanup(session: Any) -> Iterator[None]:
    """Roll *session* back after an error, and close it in any case."""
    try:
        yield
    except Exception:
        session.rollback()
        raise
    finally:
        session.close()


def retry(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Let *fun* try again after an error of the database; it takes ``max_retries`` (3)."""

    @functools.wraps(fun)
    def trying(*args: Any, **kwargs: Any) -> Any:
        left = kwargs.pop("max_retries", DEFAULT_RETRIES)
        while True:
            try:
                return fun(*args, **kwargs)
            except (DatabaseError, InvalidRequestError, StaleDataError):
                left -= 1
                if left < 0:
                    raise

    return trying


class DatabaseBackend(BaseBackend):
    """Keeps results in a database.

    Args:
        dburi: URL as SQLAlchemy takes it; by default *url*, then ``database_url``.
        engine_options: Options of the engine, over ``database_engine_options``.
        url: The same as *dburi*.

    Raises:
        ImproperlyConfigured: There is no URL, or SQLAlchemy is not installed.
    """

    #: Seconds between two looks while waiting.
    subpolling_interval = 0.5
    serves_green_threads = True
    task_cls: type[Any] = Task
    taskset_cls: type[Any] = TaskSet

    def __init__(
        self,
        dburi: str | None = None,
        engine_options: dict[str, Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(expires_type=_seconds, url=url, **kwargs)
        conf = self.app.conf
        if self.extended_result:
            self.task_cls = TaskExtended
        self.url = self._dburi = url or dburi or conf.database_url
        if not self._dburi:
            raise ImproperlyConfigured(
                "Missing connection string! Set database_url, or write the URL of the database "
                "behind db+ in result_backend, such as db+sqlite:///results.sqlite"
            )
        self.engine_options = {**(conf.database_engine_options or {}), **(engine_options or {})}
        self.short_lived_sessions = kwargs.get(
            "short_lived_sessions", conf.database_short_lived_sessions
        )
        schemas, names = conf.database_table_schemas or {}, conf.database_table_names or {}
        Task.configure(schema=schemas.get("task"), name=names.get("task"))
        TaskSet.configure(schema=schemas.get("group"), name=names.get("group"))
        callback = conf.database_engine_callback
        if isinstance(callback, str):
            callback = symbol_by_name(callback)
        self.session_manager = SessionManager(callback)
        # Databases restart and lock rows; losing a result for that is worth some tries.
        if not self.always_retry:
            self.always_retry = True
            if self.max_retries == float("inf"):
                self.max_retries = DEFAULT_RETRIES
        if conf.database_create_tables_at_setup:
            self._with_retries(self._make_tables, lambda: ImproperlyConfigured(self._unreachable()))

    def _unreachable(self) -> str:
        return f"The database of the result back-end can't be reached: {self.as_uri()}"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        fields = {
            "url": self.url,
            "expires": self.expires,
            "engine_options": self.engine_options,
            **(kwargs or {}),
        }
        return super().__reduce__(args, fields)

    @property
    def extended_result(self) -> bool:
        """Whether the call is stored with the result: ``result_extended``."""
        return self._extended

    # -- Connecting

    def _engine(self) -> Any:
        return self.session_manager.get_engine(self._dburi, **self.engine_options)

    def _make_tables(self) -> None:
        self.session_manager.prepare_models(self._engine())

    def ResultSession(self, session_manager: Any = None) -> Any:
        """Return a new session; close it, see `session_cleanup`."""
        manager = session_manager or self.session_manager
        return manager.session_factory(
            dburi=self._dburi, short_lived_sessions=self.short_lived_sessions, **self.engine_options
        )

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether *exc* goes away by itself: a lost connection, a lock."""
        return isinstance(exc, RETRYABLE_DB_ERRORS) or bool(
            getattr(exc, "connection_invalidated", False)
        )

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Connect anew for the next try."""
        self.session_manager.invalidate(self._dburi)

    def process_cleanup(self) -> None:
        """Do nothing: the engine keeps its connections for the next task."""

    # -- Tasks

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        children = self.current_task_children(request)
        row: dict[str, Any] = {
            "status": state,
            "result": self._encode_value(result),
            "traceback": traceback,
            "children": self._encode_value(children) if children else None,
            "date_done": utc_now(),
        }
        if self._extended and request is not None:
            row.update(self._extended_columns(request))
        engine = self._engine()
        with engine.begin() as connection:
            _write_unless_it_stays(connection, Task.__table__, task_id, row)
        return result

    def _extended_columns(self, request: Any) -> dict[str, Any]:
        fields = documents.extended_fields(request)
        names = fields.pop("stamped_headers", None) or ()
        stamps = {name: fields.pop(name) for name in names if name in fields}
        for name in ("args", "kwargs"):
            try:
                fields[name] = self._encode_value(fields[name])
            except Exception:  # noqa: BLE001 - the call came in another serializer than results
                fields[name] = self._encode_value(
                    documents.with_printed_arguments({name: fields[name]})[name]
                )
        # This column has to be added by hand to tables of older versions.
        if "stamps" in self.session_manager.columns(self._engine()):
            fields["stamps"] = self._encode_value(stamps) if stamps else None
        return fields

    def _encode_value(self, value: Any) -> bytes:
        encoded = self.encode(value)
        return encoded.encode() if isinstance(encoded, str) else bytes(encoded)

    def _decode_value(self, value: Any) -> Any:
        if value is None:
            return None
        encoded = bytes(value)
        if _is_old_row(encoded) and self.serializer != "pickle":
            if "application/x-python-serialize" in self.accept:
                return pickle.loads(encoded)
            return _OldRowUnpickler(io.BytesIO(encoded)).load()
        return self.decode(encoded)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        table = Task.__table__
        names: tuple[str, ...] = _EXTENDED_COLUMNS if self._extended else _COLUMNS
        if self._extended and "stamps" not in self.session_manager.columns(self._engine()):
            names = tuple(name for name in names if name != "stamps")
        query = sa.select(*(table.c[name] for name in names)).where(table.c.task_id == task_id)
        with self._engine().connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            return documents.unknown_task()
        return self.meta_from_decoded(dict(row._mapping))

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Decode the values of a row, and rebuild the error in it."""
        for name in ("result", "args", "kwargs"):
            if isinstance(meta.get(name), (bytes, memoryview)):
                meta[name] = self._decode_value(meta[name])
        if "children" in meta:
            meta["children"] = self._decode_value(meta["children"]) or []
        stamps = self._decode_value(meta.pop("stamps", None))
        if stamps:
            meta.update(stamped_headers=list(stamps), **stamps)
        done = meta.get("date_done")
        if meta["status"] not in states.READY_STATES:
            meta["date_done"] = None
        elif done is not None and done.tzinfo is None:
            meta["date_done"] = done.replace(tzinfo=UTC)
        return super().meta_from_decoded(meta)

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether there is a row for a task."""
        table = Task.__table__
        with self._engine().connect() as connection:
            query = sa.select(table.c.id).where(table.c.task_id == task_id)
            return connection.execute(query).first() is not None

    def _forget(self, task_id: str) -> None:
        table = Task.__table__
        with self._engine().begin() as connection:
            connection.execute(sa.delete(table).where(table.c.task_id == task_id))

    # -- Groups

    def _save_group(self, group_id: str, result: Any) -> Any:
        table = TaskSet.__table__
        row = {"result": self._encode_value(result.as_tuple()), "date_done": utc_now()}
        update = sa.update(table).where(table.c.taskset_id == group_id).values(**row)
        try:
            with self._engine().begin() as connection:
                if not connection.execute(update).rowcount:
                    connection.execute(sa.insert(table).values(taskset_id=group_id, **row))
        except sa.exc.IntegrityError:
            # Somebody else has inserted it in between.
            with self._engine().begin() as connection:
                connection.execute(update)
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        table = TaskSet.__table__
        query = sa.select(table.c.taskset_id, table.c.result, table.c.date_done)
        with self._engine().connect() as connection:
            row = connection.execute(query.where(table.c.taskset_id == group_id)).first()
        if row is None:
            return None
        members = self._decode_value(row.result)
        document = {"task_id": row.taskset_id, "date_done": row.date_done, "result": members}
        if isinstance(members, (list, tuple)):
            return self._group_from_document(document)
        return document

    def _delete_group(self, group_id: str) -> None:
        table = TaskSet.__table__
        with self._engine().begin() as connection:
            connection.execute(sa.delete(table).where(table.c.taskset_id == group_id))

    # -- Expiry

    def cleanup(self) -> None:
        """Delete rows that were not touched for ``result_expires``."""
        if not self.expires:
            return
        oldest = utc_now() - timedelta(seconds=self.expires)
        with self._engine().begin() as connection:
            for table in (Task.__table__, TaskSet.__table__):
                connection.execute(sa.delete(table).where(table.c.date_done < oldest))


_COLUMNS = ("task_id", "status", "result", "traceback", "date_done", "children")
_EXTENDED_COLUMNS = (*_COLUMNS, "name", "args", "kwargs", "worker", "retries", "queue", "stamps")


def _seconds(value: Any) -> float:
    return float(value)


def _write_unless_it_stays(connection: Any, table: Any, task_id: str, row: dict[str, Any]) -> None:
    """Insert or update the row of a task, unless the state that it has stays."""
    open_state = table.c.status.not_in(lasting_states(row["status"]))
    dialect = connection.dialect.name
    if dialect in {"postgresql", "sqlite"}:
        insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
        statement: Any = insert(table).values(task_id=task_id, **row)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[table.c.task_id], set_=row, where=open_state
            )
        )
        return
    update = sa.update(table).where(table.c.task_id == task_id, open_state).values(**row)
    if connection.execute(update).rowcount:
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(table).values(task_id=task_id, **row))
    except IntegrityError:
        # The row came in between, or its state stays; then this changes nothing.
        connection.execute(update)
