"""Loaders: where an app's configuration and task modules come from.

A loader class is given by alias or dotted path; this is one of the alias tables that look modules
up by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from celery.utils.imports import import_from_cwd, symbol_by_name

if TYPE_CHECKING:
    from celery.loaders.base import BaseLoader

__all__ = ("get_loader_cls",)

LOADER_ALIASES: Final[dict[str, str]] = {
    "app": "celery.loaders.app:AppLoader",
    "default": "celery.loaders.default:Loader",
}


def get_loader_cls(loader: str | type[BaseLoader]) -> type[BaseLoader]:
    """Find a loader class by alias or dotted path, looking into the working directory as well."""
    found: type[BaseLoader] = symbol_by_name(loader, LOADER_ALIASES, imp=import_from_cwd)
    return found
