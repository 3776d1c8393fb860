"""Tasks that are sent when the database transaction around the call commits."""

from __future__ import annotations

import functools
from typing import Any

from django.db import transaction

from celery.app.task import Task


class DjangoTask(Task):
    """A task with calls that wait for the commit; the default task class in Django projects."""

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call :meth:`delay` after the commit; there is no result, as there is no id yet."""
        transaction.on_commit(functools.partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call :meth:`apply_async` after the commit; there is no result, as above."""
        transaction.on_commit(functools.partial(self.apply_async, *args, **kwargs))
