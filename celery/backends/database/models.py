"""The two tables of the database back-end, as SQLAlchemy models.

`Task` and `TaskExtended` are one table; the latter knows the columns of ``result_extended``, too.
Values are bytes in the format of ``result_serializer``. Names and schemas can be changed before
the tables are used: `Task.configure`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import declarative_base

from celery import states

__all__ = ("Task", "TaskExtended", "TaskSet")

ResultModelBase: Any = declarative_base()

#: A primary key that is large where the default one is small.
DialectSpecificInteger = sa.Integer().with_variant(sa.BigInteger(), "mssql")

#: MySQL chooses among its types by length; 64 KiB are too few for results.
_Value = sa.LargeBinary(length=2**32 - 1)


def _numbered(sequence: str) -> Any:
    """Return the primary key; databases without automatic numbers count with *sequence*."""
    return sa.Column(
        DialectSpecificInteger, sa.Sequence(sequence), autoincrement=True, primary_key=True
    )


def _word(**options: Any) -> Any:
    """Return a column for a name or an id."""
    return sa.Column(sa.String(155), nullable=True, **options)


def _encoded() -> Any:
    """Return a column for what was encoded by the serializer."""
    return sa.Column(_Value, nullable=True)


def utc_now() -> datetime:
    """Return the time as it stands in the tables: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def _rename(model: Any, schema: str | None, name: str | None) -> None:
    table = model.__table__
    table.schema = schema
    table.name = name or model.__tablename__
    table.fullname = f"{schema}.{table.name}" if schema else table.name
    sequence = table.c.id.default
    if sequence is not None:
        sequence.schema = schema
    for index in table.indexes:
        index.name = f"ix_{table.name}_date_done"


class Task(ResultModelBase):  # type: ignore[misc]
    """State and result of one task."""

    __tablename__ = "celery_taskmeta"
    __table_args__ = (
        sa.Index("ix_celery_taskmeta_date_done", "date_done"),
        {"sqlite_autoincrement": True},
    )

    id = _numbered("task_id_sequence")
    task_id = _word(unique=True)
    status = sa.Column(sa.String(50), default=states.PENDING)
    result = _encoded()
    #: When the row changed last, in UTC; for an ended task that is when it ended.
    date_done = sa.Column(sa.DateTime, default=utc_now, onupdate=utc_now, nullable=True)
    traceback = sa.Column(sa.Text, nullable=True)
    children = _encoded()

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id=task_id)

    def to_dict(self) -> dict[str, Any]:
        """Return the columns; values are still encoded."""
        return {
            "task_id": self.task_id,
            "status": self.status,
            "result": self.result,
            "traceback": self.traceback,
            "date_done": self.date_done,
            "children": self.children,
        }

    def __repr__(self) -> str:
        return f"<Task {self.task_id} state: {self.status}>"

    @classmethod
    def configure(cls, schema: str | None = None, name: str | None = None) -> None:
        """Use another schema or table name; call it before the table is used."""
        _rename(cls, schema, name)


class TaskExtended(Task):
    """State and result of one task, and how it was called."""

    name = _word()
    args = _encoded()
    kwargs = _encoded()
    worker = _word()
    retries = sa.Column(sa.Integer, nullable=True)
    queue = _word()
    stamps = _encoded()

    def to_dict(self) -> dict[str, Any]:
        """Return the columns; values are still encoded."""
        extended = ("name", "args", "kwargs", "worker", "retries", "queue", "stamps")
        return {**super().to_dict(), **{name: getattr(self, name) for name in extended}}


class TaskSet(ResultModelBase):  # type: ignore[misc]
    """Which tasks form a group."""

    __tablename__ = "celery_tasksetmeta"
    __table_args__ = (
        sa.Index("ix_celery_tasksetmeta_date_done", "date_done"),
        {"sqlite_autoincrement": True},
    )

    id = _numbered("taskset_id_sequence")
    taskset_id = _word(unique=True)
    result = _encoded()
    date_done = sa.Column(sa.DateTime, default=utc_now, nullable=True)

    def __init__(self, taskset_id: str, result: Any) -> None:
        super().__init__(taskset_id=taskset_id, result=result)

    def to_dict(self) -> dict[str, Any]:
        """Return the columns; the value is still encoded."""
        return {
            "taskset_id": self.taskset_id,
            "result": self.result,
            "date_done": self.date_done,
        }

    def __repr__(self) -> str:
        return f"<TaskSet: {self.taskset_id}>"

    @classmethod
    def configure(cls, schema: str | None = None, name: str | None = None) -> None:
        """Use another schema or table name; call it before the table is used."""
        _rename(cls, schema, name)
