"""The loader of the default app: it looks for a module called ``celeryconfig``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Final, cast

from celery.exceptions import NotConfigured
from celery.loaders.base import BaseLoader, is_missing
from celery.utils.collections import DictAttribute

__all__ = ("DEFAULT_CONFIG_MODULE", "Loader")

DEFAULT_CONFIG_MODULE: Final = "celeryconfig"

#: Environment switch: say so when there is no configuration module.
C_WNOCONF: Final = bool(os.environ.get("C_WNOCONF"))


class Loader(BaseLoader):
    """Loader for use without an app of one's own."""

    def setup_settings(self, settingsdict: Any) -> DictAttribute:
        """Make a mapping of an object with settings as attributes."""
        return DictAttribute(settingsdict)

    def read_configuration(self, fail_silently: bool | str = True) -> Mapping[str, Any]:
        """Import the configuration module; without one there are only defaults.

        The module is ``celeryconfig`` or the one named by ``CELERY_CONFIG_MODULE``.

        Raises:
            ImportError: The module is broken, or was asked for by name and is not there.
        """
        named = os.environ.get("CELERY_CONFIG_MODULE")
        try:
            module = self._import_config_module(named or DEFAULT_CONFIG_MODULE)
        except ImportError as exc:
            if named or not fail_silently or not is_missing(exc, DEFAULT_CONFIG_MODULE):
                raise
            if C_WNOCONF:
                warnings.warn(
                    NotConfigured(
                        f"No {DEFAULT_CONFIG_MODULE!r} module found: is it in the working "
                        "directory or on the Python path?"
                    ),
                    stacklevel=2,
                )
            return {}
        self.configured = True
        return cast("Mapping[str, Any]", self.setup_settings(module))
