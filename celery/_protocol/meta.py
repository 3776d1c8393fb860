"""Result documents: what a store keeps about one task, and errors as plain data.

Written by the result back-ends, read by them and by anyone who looks into a store. The idea: a
document is a flat mapping in a fixed order, an error inside it is three plain fields, and turning
these back into an exception never calls anything that is not an exception class.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kombu import compression as codecs

from celery.exceptions import SecurityError, TaskError
from celery.utils.saferepr import saferepr
from celery.utils.serialization import create_exception_cls, ensure_serializable

#: Opens a compressed document; the content type of the codec and a zero byte follow.
COMPRESSED_MARK = b"\x00celery-compressed\x00"

#: Where the class of an error lives that this process can't import.
STRANGERS_MODULE = "celery.exceptions"

STATUS, RESULT, TRACEBACK, CHILDREN = "status", "result", "traceback", "children"
DATE_DONE, TASK_ID, GROUP_ID, PARENT_ID = "date_done", "task_id", "group_id", "parent_id"


def task_document(
    task_id: str,
    status: str,
    result: Any,
    traceback: str | None,
    children: list[Any],
    date_done: str | None,
    group_id: str | None = None,
    parent_id: str | None = None,
    extras: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the document of one task.

    Args:
        task_id: Id of the task.
        status: Any state.
        result: Plain value; errors have been through `error_document`.
        traceback: Text, or None.
        children: Results of called tasks, as tuples.
        date_done: ISO 8601 in UTC, or None while the task is not ready.
        group_id: Group of the task; left out when None.
        parent_id: Task that called this one; left out when None.
        extras: Further fields, see `extended_fields`.
    """
    document: dict[str, Any] = {
        "status": status,
        "result": result,
        "traceback": traceback,
        "children": children,
        "date_done": date_done,
    }
    if group_id:
        document["group_id"] = group_id
    if parent_id:
        document["parent_id"] = parent_id
    if extras:
        document.update(extras)
    document["task_id"] = task_id
    return document


def unknown_task() -> dict[str, Any]:
    """Return what stands for a task that the store knows nothing of."""
    return {"status": "PENDING", "result": None}


def group_document(members: Any) -> dict[str, Any]:
    """Wrap the tuple form of a group."""
    return {"result": members}


def extended_fields(request: Any) -> dict[str, Any]:
    """Return what ``result_extended`` adds: the call, who ran it, and its stamps."""
    delivery = getattr(request, "delivery_info", None)
    fields: dict[str, Any] = {
        "name": getattr(request, "task", None),
        "args": getattr(request, "args", None),
        "kwargs": getattr(request, "kwargs", None),
        "worker": getattr(request, "hostname", None),
        "retries": getattr(request, "retries", None),
        "queue": delivery.get("routing_key") if isinstance(delivery, Mapping) else None,
    }
    names = getattr(request, "stamped_headers", None)
    if names:
        stamps = getattr(request, "stamps", None) or {}
        fields["stamped_headers"] = names
        fields.update((name, stamps[name]) for name in names if name in stamps)
    return fields


def with_printed_arguments(document: dict[str, Any]) -> dict[str, Any]:
    """Copy *document* with the arguments of the call as text, for calls that can't be encoded."""
    copy = dict(document)
    for field in ("args", "kwargs"):
        if copy.get(field) is not None:
            copy[field] = saferepr(copy[field])
    return copy


# -- Errors


def error_document(error: BaseException, encode: Callable[[Any], Any]) -> dict[str, Any]:
    """Turn *error* into plain data.

    Arguments that *encode* refuses are replaced by their representation.
    """
    cls = type(error)
    name = cls.__qualname__
    return {
        "exc_type": cls.__name__ if "<" in name else name,
        "exc_message": list(ensure_serializable(error.args, encode)),
        "exc_module": cls.__module__,
    }


def is_error_document(value: object) -> bool:
    """Say whether *value* looks like the plain form of an error."""
    return isinstance(value, Mapping) and isinstance(value.get("exc_type"), str)


def error_from_document(document: Any) -> BaseException:
    """Rebuild the error that *document* describes.

    A class that can't be imported here is made up under its name; arguments that its constructor
    refuses end up in a plain `Exception` that names both.

    Raises:
        SecurityError: The name leads to something that is not an exception class. Nothing has
            been called.
    """
    if not is_error_document(document):
        # Someone stored a failed state by hand with a value of their own.
        return TaskError(document)
    name, module = document["exc_type"], document.get("exc_module")
    payload = document.get("exc_message")
    if payload is None:
        arguments = []
    else:
        arguments = list(payload) if isinstance(payload, (list, tuple)) else [payload]
    if not all(part.isidentifier() for part in name.split(".")):
        return Exception(f"{name!r}({arguments})")
    cls = _find_class(name, module)
    if cls is None:
        cls = create_exception_cls(name, STRANGERS_MODULE)
    elif not (isinstance(cls, type) and issubclass(cls, BaseException)):
        where = f"{module}.{name}" if module else name
        raise SecurityError(
            f"Expected an exception class, got {where} with payload {saferepr(payload)}"
        )
    try:
        return cls(*arguments)
    except Exception:  # noqa: BLE001 - the constructor is the user's code
        return Exception(f"{cls}({arguments})")


def _find_class(name: str, module: Any) -> Any:
    """Return what *name* leads to in *module*, or None when there is no such thing."""
    if module is None:
        return None
    found = _find_module(module)
    for part in name.split(".") if found is not None else ():
        try:
            # The dictionary, not getattr: a module may compute attributes.
            found = vars(found)[part]
        except (KeyError, TypeError):
            return None
    return found


def _find_module(name: Any) -> Any:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        return None
    if (known := sys.modules.get(name)) is not None:
        return known
    if name.split(".")[-1] == "__main__":
        # Importing such a module runs a program.
        return None
    try:
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001 - a module of the user's fails as it likes
        return None


# -- Compression


def compress(payload: bytes | str, method: str) -> bytes:
    """Compress *payload* and record the method in front of it."""
    data = payload.encode() if isinstance(payload, str) else bytes(payload)
    packed, content_type = codecs.compress(data, method)
    return b"".join((COMPRESSED_MARK, content_type.encode(), b"\x00", packed))


def decompress(payload: Any) -> Any:
    """Undo `compress`; anything that it didn't make is returned as it is."""
    if isinstance(payload, (bytearray, memoryview)):
        payload = bytes(payload)
    if not isinstance(payload, bytes) or not payload.startswith(COMPRESSED_MARK):
        return payload
    content_type, _, packed = payload[len(COMPRESSED_MARK) :].partition(b"\x00")
    return codecs.decompress(packed, content_type.decode())


# -- Parts of a chord


def chord_part(task_id: str, state: str, result: Any) -> list[Any]:
    """Build what is kept of a finished header task until its chord is complete."""
    return [1, task_id, state, result]


def chord_parts(documents: Iterable[Any]) -> list[tuple[str, str, Any]]:
    """Read back what `chord_part` built: task id, state and plain result of each."""
    return [(task_id, state, result) for _, task_id, state, result in documents]
