"""Overrides of task attributes by configuration.

The setting ``task_annotations`` names attributes to put on tasks when they are bound to their app.
Its forms (one mapping, an object with ``annotate``, a dotted path, or a list of these) all become
objects with the two methods of :class:`MapAnnotation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from celery.utils.imports import instantiate

__all__ = ("MapAnnotation", "prepare", "resolve_all")


class MapAnnotation(dict[str, Mapping[str, Any]]):
    """Attributes by task name; those under ``"*"`` are for every task."""

    def annotate_any(self) -> dict[str, Any] | None:
        """Give the attributes meant for all tasks, or None."""
        found = self.get("*")
        return None if found is None else dict(found)

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """Give the attributes meant for *task* alone, or None."""
        found = self.get(task.name)
        return None if found is None else dict(found)


def prepare(annotations: Any) -> tuple[Any, ...]:
    """Turn any value of ``task_annotations`` into objects with ``annotate``, in order."""
    if annotations is None:
        return ()
    entries = annotations if isinstance(annotations, (list, tuple)) else (annotations,)
    return tuple(_annotator(entry) for entry in entries)


def _annotator(entry: Any) -> Any:
    if isinstance(entry, str):
        return instantiate(entry)
    if isinstance(entry, Mapping) and not hasattr(entry, "annotate"):
        return MapAnnotation(entry)
    return entry


def resolve_all(anno: Iterable[Any], task: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the attribute overrides for *task*; later ones win, so exact names follow ``"*"``."""
    for annotator in anno:
        # ``annotate_any`` is optional for objects written by users.
        for_all = getattr(annotator, "annotate_any", None)
        for attributes in (for_all() if for_all else None, annotator.annotate(task)):
            if attributes:
                yield attributes
