"""The loader of apps made by users: it reads what ``app.config_from_object`` names."""

from __future__ import annotations

from celery.loaders.base import BaseLoader

__all__ = ("AppLoader",)


class AppLoader(BaseLoader):
    """Loader of an app that configures itself."""
