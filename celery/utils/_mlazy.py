"""A value that is computed when it is first asked for; offered by `celery.utils.functional`."""

from __future__ import annotations

from typing import Any

from kombu.utils.functional import lazy

__all__ = ("mlazy",)


class mlazy(lazy):
    """A `lazy` that is evaluated at most once."""

    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        """Return the value, computed by the first call."""
        if not self.evaluated:
            self._value = self._fun(*self._args, **self._kwargs)
            self.evaluated = True
        return self._value


#: Moved to the public path.
mlazy.__module__ = "celery.utils.functional"
