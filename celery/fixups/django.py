"""Makes an app at home in a Django project.

Two objects share the work.  :class:`DjangoFixup` lives in every process that has
``DJANGO_SETTINGS_MODULE`` set: it offers Django's clock, its list of installed apps and a base
class of tasks.  :class:`DjangoWorkerFixup` lives in workers only and keeps database connections and
caches in order: no connection is shared between processes, none is kept longer than
``CONN_MAX_AGE`` or ``CELERY_DB_REUSE_MAX`` allow.

Both act for their own app alone, as several apps may live in one process.
"""

from __future__ import annotations

import os
import sys
import warnings
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.exceptions import FixupWarning
from celery.utils.text import strtobool

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("DjangoFixup", "fixup")

ERR_NOT_INSTALLED: Final = (
    "The environment variable DJANGO_SETTINGS_MODULE is set but Django is not installed, so the "
    "app does without it."
)


def fixup(app: Celery, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Install the fixup if the environment variable *env* names settings and Django is there."""
    if not os.environ.get(env) or "django" in str(app.loader_cls).lower():
        # An app with a loader made for Django has no need of this.
        return None
    if find_spec("django") is None:
        warnings.warn(FixupWarning(ERR_NOT_INSTALLED), stacklevel=2)
        return None
    return DjangoFixup(app).install()


class DjangoFixup:
    """Django for an app in any process."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._worker_fixup: DjangoWorkerFixup | None = None

    def install(self) -> DjangoFixup:
        """Connect to the app; nothing of Django is imported yet."""
        # ``manage.py`` has its directory on the path, and so has a worker.
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        app: Any = self.app
        app.loader.now = self.now
        if not app._custom_task_cls_used:
            app.task_cls = "celery.contrib.django.task:DjangoTask"
        signals.import_modules.connect(self.on_import_modules)
        signals.worker_init.connect(self.on_worker_init)
        return self

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """The other half, made when a worker first needs it."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    def on_import_modules(self, **kwargs: Any) -> None:
        """Set Django up, for the task modules are about to use it."""
        if _concerns(self.app, kwargs.get("sender")):
            self.worker_fixup.validate_models()

    def on_worker_init(self, **kwargs: Any) -> None:
        """Watch over connections from here on."""
        if _concerns(self.app, getattr(kwargs.get("sender"), "app", None)):
            self.worker_fixup.install()

    def now(self, utc: bool = False) -> datetime:
        """Give the time by Django's clock, or in UTC."""
        if utc:
            return datetime.now(UTC)
        moment: datetime = import_module("django.utils.timezone").now()
        return moment

    def autodiscover_tasks(self) -> list[str]:
        """List the packages of all installed apps."""
        configs = import_module("django.apps").apps.get_app_configs()
        return [config.name for config in configs]


class DjangoWorkerFixup:
    """Django for an app in a worker."""

    worker: Any = None

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._db = import_module("django.db")
        self._cache = import_module("django.core.cache")
        self.db_reuse_max: int | None = app.conf.get("CELERY_DB_REUSE_MAX")
        self.interface_errors: tuple[type[Exception], ...] = (self._db.InterfaceError,)
        self.DatabaseError: type[Exception] = self._db.DatabaseError
        self._uses = 0

    def django_setup(self) -> None:
        """Load Django's apps and models."""
        import_module("django").setup()

    def validate_models(self) -> None:
        """Set Django up and run its system checks, unless ``CELERY_SKIP_CHECKS`` says not to.

        Raises:
            SystemCheckError: A check failed; the worker does not start.
        """
        self.django_setup()
        skip = os.environ.get("CELERY_SKIP_CHECKS") or os.environ.get("SKIP_CHECKS") or "false"
        if not strtobool(skip):
            import_module("django.core.management.base").BaseCommand().check()

    def install(self) -> DjangoWorkerFixup:
        """Watch tasks and processes, and begin with everything closed."""
        signals.beat_embedded_init.connect(self.close_database)
        signals.worker_before_create_process.connect(self._on_before_create_process)
        signals.worker_process_init.connect(self.on_worker_process_init)
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        self.close_database()
        self.close_cache()
        return self

    def _on_before_create_process(self, **kwargs: Any) -> None:
        """Close what a child must not inherit: connections, and pools with their threads."""
        for connection in self._db.connections.all(initialized_only=True):
            self._close(connection.close)
            close_pool = getattr(connection, "close_pool", None)
            if close_pool is not None:
                close_pool()

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """Give up connections that came from the parent without saying good-bye on them.

        The socket belongs to the parent too: a regular close would end the parent's session.
        """
        for connection in self._db.connections.all(initialized_only=True):
            _detach(connection)
            self._close(connection.close)
        self.close_cache()

    def on_task_prerun(self, sender: Any, **kwargs: Any) -> None:
        """Begin a task without connections that are too old."""
        if self._is_own(sender):
            self.close_database()

    def on_task_postrun(self, sender: Any, **kwargs: Any) -> None:
        """End a task the way Django ends a web request."""
        if self._is_own(sender):
            self.close_database()
            self.close_cache()

    def _is_own(self, task: Any) -> bool:
        # An eager task runs in the middle of something that goes on using its connection.
        return not task.request.is_eager and _concerns(self.app, task.app)

    def close_database(self, **kwargs: Any) -> None:
        """Close connections that are broken or older than ``CONN_MAX_AGE``.

        With ``CELERY_DB_REUSE_MAX`` set, close all of them once that many tasks have used them, and
        none before.
        """
        if not self.db_reuse_max:
            self._close_each("close_if_unusable_or_obsolete")
            return
        # Called before and after each task.
        if self._uses >= self.db_reuse_max * 2:
            self._uses = 0
            self._close_each("close")
        self._uses += 1

    def _close_each(self, method: str) -> None:
        for connection in self._db.connections.all(initialized_only=True):
            self._close(getattr(connection, method))

    def _close(self, close: Any) -> None:
        try:
            close()
        except self.interface_errors:
            pass  # it was closed from the other side, which is as good
        except self.DatabaseError as exc:
            if not any(word in str(exc) for word in ("closed", "not connected")):
                raise

    def close_cache(self) -> None:
        """Give the connections of caches back."""
        self._cache.close_caches()


def _concerns(app: Any, other: Any) -> bool:
    """Say whether a signal about the app *other*, if it names one, is about *app*."""
    return other is None or bool(other == app)


def _detach(connection: Any) -> None:
    """Put the null device in place of a connection's socket, in this process alone."""
    fileno = getattr(connection.connection, "fileno", None)
    if fileno is None:
        return
    try:
        with open(os.devnull, "r+b", buffering=0) as null:
            os.dup2(null.fileno(), fileno())
    except (OSError, ValueError, connection.Database.Error):
        return  # it is closed already
