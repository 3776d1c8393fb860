"""Django, as far as django-celery-results needs it: one database and one cache for the run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def django_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set Django up in this process, with the tables of django-celery-results; return where."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    folder = tmp_path_factory.mktemp("django")
    settings.configure(
        INSTALLED_APPS=["django_celery_results"],
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(folder / "results.sqlite"),
                # Writers wait for each other.
                "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
            }
        },
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                "LOCATION": str(folder / "cache"),
            }
        },
    )
    django.setup()
    call_command("migrate", verbosity=0)
    return folder
