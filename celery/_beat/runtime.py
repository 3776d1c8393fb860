"""Adding, changing and removing entries while beat runs: ``app.control.schedule``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery._beat import definition as definitions
from celery._beat.persistent import location
from celery._beat.store import Store, open_store
from celery.schedules import maybe_schedule

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("Entry", "Schedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry, as beat has it or will have it soon."""

    name: str
    task: str | None
    schedule: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    enabled: bool
    #: Whether the settings know it.
    is_in_settings: bool
    #: Whether something was said at run time.
    is_defined: bool
    last_run_at: datetime | None
    total_run_count: int


class Schedule:
    """
    The schedule of the beats of an app, through the store that they share.

    No beat has to run.  One that does follows within some seconds.  What is said here goes before
    the settings, and stays until it is taken back.

    Args:
        app: Its settings tell where the store is.
        where: Path or URL of another one.
    """

    def __init__(self, app: Celery, where: str | None = None) -> None:
        self.app = app
        self._where = where

    @contextmanager
    def _opened(self) -> Iterator[Store]:
        conf = self.app.conf
        store = open_store(self._where or location(conf), conf.beat_store_name)
        store.open()
        try:
            yield store
        finally:
            store.close()

    def _in_settings(self) -> dict[str, Any]:
        self.app.finalize()
        known: dict[str, Any] = dict(self.app.conf.beat_schedule)
        return known

    def entries(self) -> list[Entry]:
        """Return all entries by name, those that are switched off as well."""
        with self._opened() as store:
            contents = store.load()
        known = self._in_settings()
        found = []
        for name in sorted({*known, *contents.definitions, *contents.runs}):
            definition = contents.definitions.get(name, {})
            given = _fields(known.get(name))
            whole = {**given, **definition}
            if not whole.get("task"):
                continue  # what beat adds by itself, or of settings that are no more
            if "schedule" in definition:
                whole["schedule"] = definitions.read_schedule(definition["schedule"])
            else:
                whole["schedule"] = maybe_schedule(whole.get("schedule"))
            run = contents.runs.get(name)
            found.append(
                Entry(
                    name=name,
                    task=whole["task"],
                    schedule=whole.get("schedule"),
                    args=tuple(whole.get("args") or ()),
                    kwargs=whole.get("kwargs") or {},
                    options=whole.get("options") or {},
                    enabled=whole.get("enabled", True),
                    is_in_settings=name in known,
                    is_defined=name in contents.definitions,
                    last_run_at=None if run is None else run.at,
                    total_run_count=0 if run is None else run.count,
                )
            )
        return found

    def add(
        self,
        name: str,
        task: str,
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Add an entry.

        Args:
            name: Of the entry.
            task: Name of the task.
            schedule: Seconds, a `~celery.schedules.schedule`, `~celery.schedules.crontab` or
                `~celery.schedules.solar`, or what describes one, such as ``{"every": 30}``.
            args: Positional arguments; like all else they have to fit into JSON.
            kwargs: Keyword arguments.
            options: Options of ``apply_async``.

        Raises:
            KeyError: There is such an entry.
            ValueError: It is not well formed.
        """
        fields = {
            "task": task,
            "schedule": definitions.describe_schedule(schedule),
            "args": list(args),
            "kwargs": dict(kwargs or {}),
            "options": dict(options or {}),
        }
        definitions.check(fields, is_whole=True)
        with self._opened() as store:
            if name in self._in_settings() or name in store.load().definitions:
                raise KeyError(f"there is an entry {name!r}; it can be changed")
            store.put(name, fields)

    def change(self, name: str, **fields: Any) -> None:
        """
        Change fields of an entry; its runs go on being counted.

        Args:
            name: Of the entry.
            fields: ``task``, ``schedule``, ``args``, ``kwargs``, ``options`` and ``enabled``.

        Raises:
            KeyError: There is no such entry.
            ValueError: They are not well formed.
        """
        if "schedule" in fields:
            fields["schedule"] = definitions.describe_schedule(fields["schedule"])
        definitions.check(fields, is_whole=False)
        self._change(name, lambda definition: {**definition, **fields})

    def enable(self, name: str) -> None:
        """Switch an entry on again."""
        self.change(name, enabled=True)

    def disable(self, name: str) -> None:
        """Switch an entry off; it stays in the store."""
        self.change(name, enabled=False)

    def _change(self, name: str, changed: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        with self._opened() as store:
            contents = store.load()
            if not {name} & {*self._in_settings(), *contents.definitions, *contents.runs}:
                raise KeyError(f"there is no entry {name!r}")
            store.put(name, changed(contents.definitions.get(name, {})))

    def remove(self, name: str) -> None:
        """
        Take back what was said about an entry.

        One that was added goes, and one of the settings is again as they say.

        Raises:
            KeyError: Nothing was said about it.
        """
        with self._opened() as store:
            if not store.remove(name):
                if name in self._in_settings():
                    raise KeyError(f"{name!r} is in the settings; it can be disabled")
                raise KeyError(f"there is no entry {name!r}")


def _fields(entry: Any) -> dict[str, Any]:
    """Return the fields of an entry of the settings."""
    if entry is None:
        return {}
    if isinstance(entry, Mapping):
        return dict(entry)
    return {key: getattr(entry, key) for key in ("task", "schedule", "args", "kwargs", "options")}
