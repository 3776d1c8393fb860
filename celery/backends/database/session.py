"""Engines and sessions: one engine for each URL and process, its tables made once."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

from celery.backends.database import models

__all__ = ("SessionManager",)

logger = logging.getLogger(__name__)

#: Tries to make the tables, while other processes make them, too.
PREPARE_MODELS_MAX_RETRIES = 10

#: Options of pools that keep connections.
_POOL_OPTIONS = frozenset(
    {"max_overflow", "pool_recycle", "pool_size", "pool_timeout", "pool_use_lifo"}
)


class SessionManager:
    """Makes engines and sessions; safe between threads, and in a child after a fork.

    Args:
        engine_callback: Called with each new engine.
    """

    def __init__(self, engine_callback: Callable[[Any], Any] | None = None) -> None:
        self.engine_callback = engine_callback
        self.prepared = False
        self.forked = False
        self._engines: dict[Any, Any] = {}
        self._sessions: dict[Any, Any] = {}
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._columns: dict[int, frozenset[str]] = {}

    def _check_fork(self) -> None:
        if self._pid == os.getpid():
            return
        # Connections belong to the parent; closing them here would tell the server good-bye.
        for engine in self._engines.values():
            engine.dispose(close=False)
        self._engines.clear()
        self._sessions.clear()
        self.forked = True
        self.prepared = False
        self._pid = os.getpid()

    def get_engine(self, dburi: str, **kwargs: Any) -> Any:
        """Return the engine for a URL; *kwargs* are options of SQLAlchemy's ``create_engine``."""
        with self._lock:
            self._check_fork()
            engine = self._engines.get(dburi)
            if engine is None:
                engine = self._engines[dburi] = self._make_engine(dburi, kwargs)
            return engine

    def _make_engine(self, dburi: str, options: dict[str, Any]) -> Any:
        pool = options.get("poolclass")
        url = sa.engine.make_url(dburi)
        in_memory = url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}
        if pool is NullPool or in_memory:
            # These pools refuse options that mean nothing to them.
            options = {name: options[name] for name in options if name not in _POOL_OPTIONS}
        engine = sa.create_engine(dburi, **options)
        if self.engine_callback is not None:
            self.engine_callback(engine)
        return engine

    def create_session(
        self, dburi: str, short_lived_sessions: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Return the engine for a URL and what makes sessions on it.

        Args:
            dburi: URL of the database.
            short_lived_sessions: Make the maker anew.
            kwargs: Options of the engine.
        """
        engine = self.get_engine(dburi, **kwargs)
        with self._lock:
            if short_lived_sessions or dburi not in self._sessions:
                self._sessions[dburi] = sessionmaker(bind=engine)
            return engine, self._sessions[dburi]

    def invalidate(self, dburi: str) -> None:
        """Close the connections to a database; the next session connects anew."""
        with self._lock:
            engine = self._engines.get(dburi)
        if engine is not None:
            engine.dispose()

    def prepare_models(self, engine: Any) -> None:
        """Make the tables where they are missing, and add what older ones lack; once."""
        with self._lock:
            if self.prepared:
                return
            for tries in range(PREPARE_MODELS_MAX_RETRIES + 1):
                try:
                    models.ResultModelBase.metadata.create_all(engine)
                    self._add_children_column(engine)
                    break
                except DatabaseError:
                    # Another process made them between our look and our try.
                    if tries == PREPARE_MODELS_MAX_RETRIES:
                        raise
            self.prepared = True

    def _add_children_column(self, engine: Any) -> None:
        """Tables of older versions have no column for children."""
        table = models.Task.__table__
        if "children" in self.columns(engine):
            return
        kind = table.c.children.type.compile(engine.dialect)
        name = engine.dialect.identifier_preparer.format_table(table)
        with engine.begin() as connection:
            connection.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN children {kind}"))
        self._columns.clear()

    def columns(self, engine: Any) -> frozenset[str]:
        """Return the columns that the table of tasks really has."""
        known = self._columns.get(id(engine))
        if known is None:
            table = models.Task.__table__
            found = sa.inspect(engine).get_columns(table.name, schema=table.schema)
            known = self._columns[id(engine)] = frozenset(column["name"] for column in found)
        return known

    def session_factory(self, dburi: str, **kwargs: Any) -> Any:
        """Return a new session, with the tables made."""
        engine, make_session = self.create_session(dburi, **kwargs)
        self.prepare_models(engine)
        return make_session()
