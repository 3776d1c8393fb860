"""A project as a package: ``celery -A proj worker`` finds ``proj.celery``."""
