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

    id = sa.Column(
        DialectSpecificInteger,
        sa.Sequence("task_id_sequence"),
        primary_key=True,
        autoincrement=True,
    )
    task_id = sa.Column(sa.String(155), unique=True)
    status = sa.Column(sa.String(50), default=states.PENDING)
    result = sa.Column(_Value, nullable=True)
    #: When the row changed last, in UTC; for an ended task that is when it ended.
    date_done = sa.Column(sa.DateTime, default=utc_now, onupdate=utc_now, nullable=True)
    traceback = sa.Column(sa.Text, nullable=True)
    children = sa.Column(_Value, nullable=True)

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

    name = sa.Column(sa.String(155), nullable=True)
    args = sa.Column(_Value, nullable=True)
    kwargs = sa.Column(_Value, nullable=True)
    worker = sa.Column(sa.String(155), nullable=True)
    retries = sa.Column(sa.Integer, nullable=True)
    queue = sa.Column(sa.String(155), nullable=True)
    stamps = sa.Column(_Value, nullable=True)

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

    id = sa.Column(
        DialectSpecificInteger,
        sa.Sequence("taskset_id_sequence"),
        autoincrement=True,
        primary_key=True,
    )
    taskset_id = sa.Column(sa.String(155), unique=True)
    result = sa.Column(_Value, nullable=True)
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
