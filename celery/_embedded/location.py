"""Where an embedded store is: from the URL to the path of its file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from celery.exceptions import ImproperlyConfigured

__all__ = ("SCHEME", "default_path", "path_of", "path_of_url")

#: Of URLs: three slashes before a relative path, four before an absolute one.
SCHEME = "sqlite"
#: Name of the file that ``sqlite://`` stands for.
DEFAULT_NAME = "celery.db"


def default_path() -> Path:
    """Return the file that ``sqlite://`` stands for, in the state directory of the user.

    That is ``$XDG_STATE_HOME/celery``, or what the platform has in its stead.
    """
    base = os.environ.get("XDG_STATE_HOME")
    if not base:
        home = Path.home()
        is_mac = sys.platform == "darwin"
        base = str(home / "Library/Application Support" if is_mac else home / ".local/state")
    return Path(base) / "celery" / DEFAULT_NAME


def path_of(name: str | None) -> Path:
    """Return the absolute path of the file called *name* in a URL.

    Raises:
        ImproperlyConfigured: The name cannot be that of a shared file.
    """
    if not name or name == "/":
        return default_path()
    if name.startswith(":memory:"):
        raise ImproperlyConfigured(
            "sqlite:///:memory: would be seen by one process only; name a file, such as"
            " sqlite:///celery.db, or use memory:// for tests within one process"
        )
    return Path(os.path.abspath(os.path.expanduser(name)))  # keeps links


def path_of_url(url: str) -> Path:
    """Return the path that a URL such as ``sqlite:///celery.db`` names.

    Raises:
        ImproperlyConfigured: It names a host, or no file.
    """
    parts = urlsplit(url)
    if parts.netloc:
        raise ImproperlyConfigured(
            f"{url}: an embedded store has no host; write {SCHEME}:///relative/path.db or"
            f" {SCHEME}:////absolute/path.db"
        )
    return path_of(unquote(parts.path[1:]))
