"""A store in any database that SQLAlchemy knows, for beats on several machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery._beat.sql import Execute, SQLStore
from celery._beat.store import StoreError
from celery.exceptions import ImproperlyConfigured

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool
except ImportError as exc:
    raise ImproperlyConfigured(
        "beat needs the package sqlalchemy to keep its schedule in a database:"
        " pip install celery[sqlalchemy]"
    ) from exc

__all__ = ("DatabaseStore",)


class DatabaseStore(SQLStore):
    """
    A store in a database.

    Args:
        url: As SQLAlchemy takes it.
        name: See `SQLStore`.
    """

    def __init__(self, url: str, name: str) -> None:
        super().__init__(name)
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        if self._engine.dialect.name == "sqlite":
            self._engine = sa.create_engine(url, poolclass=NullPool)
            # The driver would begin only with the first change, and then find others ahead.
            sa.event.listen(self._engine, "connect", _leave_transactions_to_us)
            sa.event.listen(self._engine, "begin", _begin_immediately)
        self._statements: dict[str, sa.TextClause] = {}

    @property
    def info(self) -> str:
        """The URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Run statements together."""
        try:
            with self._engine.begin() as connection:

                def execute(statement: str, **values: Any) -> tuple[int, Sequence[Sequence[Any]]]:
                    text = self._statements.get(statement)
                    if text is None:
                        text = self._statements[statement] = sa.text(statement)
                    result = connection.execute(text, values)
                    return (0, result.all()) if result.returns_rows else (result.rowcount, ())

                yield execute
        except SQLAlchemyError as exc:
            raise StoreError(f"{self.info}: {exc}") from exc

    def open(self) -> None:
        """Make the tables that are missing."""
        try:
            self.make_tables()
        except StoreError:
            # Two that start at once both find something missing; now it is there.
            self.make_tables()

    def close(self) -> None:
        """Close connections."""
        self._engine.dispose()


def _leave_transactions_to_us(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 5000")


def _begin_immediately(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
