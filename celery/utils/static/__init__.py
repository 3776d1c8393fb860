"""Files that come with the package."""

from __future__ import annotations

import os


def get_file(*args: str) -> str:
    """Return the full path of a file in this directory."""
    return os.path.join(os.path.abspath(os.path.dirname(__file__)), *args)


def logo() -> str:
    """Return the path of the picture that stands for the project."""
    return get_file("celery_128.png")
