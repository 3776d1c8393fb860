"""Questions about type annotations."""

from __future__ import annotations

import types
from typing import Any, TypeGuard, Union, get_args, get_origin

_NoneType = type(None)


def is_none_type(value: Any) -> bool:
    """Say whether *value* is the type of None."""
    return value is _NoneType


def get_optional_arg(annotation: Any) -> Any:
    """Return X for ``Optional[X]`` or ``X | None``, else None."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    others = [arg for arg in get_args(annotation) if not is_none_type(arg)]
    return others[0] if len(others) == 1 and len(get_args(annotation)) == 2 else None


def annotation_is_class(annotation: Any) -> TypeGuard[type]:
    """Say whether the annotation is a plain class, as opposed to a generic or a union."""
    return isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)


def annotation_issubclass(annotation: Any, cls: type) -> bool:
    """Say whether the annotation is *cls* or a class below it."""
    return annotation_is_class(annotation) and issubclass(annotation, cls)
