"""Results as files (``file:///directory``): one file per key, named as the key.

For a single machine or a shared directory. Files appear whole or not at all, so a reader never
sees half a document; what has expired is removed by `FilesystemBackend.cleanup`.
"""

from __future__ import annotations

import builtins
import locale
import os
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.backends._finality import stays
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured

default_encoding = locale.getpreferredencoding(False)

E_NO_PATH_SET = "The file system result backend needs a directory: file:///directory"
E_PATH_NON_CONFORMING_SCHEME = (
    "A path for the file system result backend is written as file:///directory "
    "or file://localhost/directory"
)
E_PATH_INVALID = (
    "The path of the file system result backend is not a directory that this process can "
    "write to; check that it exists, and its permissions."
)

#: Opens the names of files that are being written.
TEMPORARY = ".celery-writing-"


class FilesystemBackend(KeyValueStoreBackend):
    """Keeps results in a directory.

    Args:
        url: ``file:///directory`` or ``file://localhost/directory``.
        open: Opens files.
        unlink: Deletes files.
        sep: Separator of paths.
        encoding: Of file names.

    Raises:
        ImproperlyConfigured: No directory was given, or it can't be written to.
    """

    supports_result_compression = True

    def __init__(
        self,
        url: str | None = None,
        open: Callable[..., Any] = builtins.open,
        unlink: Callable[..., Any] = os.unlink,
        sep: str = os.sep,
        encoding: str = default_encoding,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.url = url
        self.encoding = encoding
        self.path = _directory(url).encode(encoding)
        self.sep = sep.encode(encoding)
        self.open, self.unlink = open, unlink
        self._check_directory()

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {"url": self.url, **(kwargs or {})})

    def _check_directory(self) -> None:
        probe = f"{TEMPORARY}{uuid4()}".encode()
        try:
            self._write(probe, b"?")
            if self.get(probe) != b"?":
                raise ImproperlyConfigured(E_PATH_INVALID)
            self.delete(probe)
        except OSError as exc:
            raise ImproperlyConfigured(f"{E_PATH_INVALID} ({exc})") from exc

    def _file_name(self, key: Any) -> bytes:
        name = ensure_bytes(key)
        if self.sep in name or b"\0" in name:
            # A task id is whatever the sender chose; it must not lead out of the directory.
            name = quote(name, safe="").encode()
        return self.sep.join((self.path, name))

    def get(self, key: Any) -> bytes | None:
        """Read a file, None when there is none."""
        try:
            with self.open(self._file_name(key), "rb") as file:
                content: bytes = file.read()
        except FileNotFoundError:
            return None
        return content

    def set(self, key: Any, value: Any) -> None:
        """Write a file; it appears whole."""
        self._write(key, ensure_bytes(value))

    def _write(self, key: Any, value: bytes, *, only_new: bool = False) -> bool:
        """Write a file and say whether that happened; *only_new* keeps one that is there."""
        target = self._file_name(key)
        draft = self.sep.join((self.path, f"{TEMPORARY}{uuid4()}".encode()))
        with self.open(draft, "wb") as file:
            file.write(value)
        if not only_new:
            os.replace(draft, target)
            return True
        try:
            os.link(draft, target)
        except FileExistsError:
            return False
        finally:
            self.unlink(draft)
        return True

    def mget(self, keys: Iterable[Any]) -> list[bytes | None]:
        """Read many files."""
        return [self.get(key) for key in keys]

    def delete(self, key: Any) -> None:
        """Delete a file; a missing one is fine."""
        try:
            self.unlink(self._file_name(key))
        except FileNotFoundError:
            return

    def task_result_exists(self, task_id: str) -> bool:
        """Say whether anything is stored for a task."""
        return os.path.exists(self._file_name(self.get_key_for_task(task_id)))

    def _store_document(self, task_id: str, payload: Any, state: str) -> None:
        key, content = self.get_key_for_task(task_id), ensure_bytes(payload)
        if not self._write_first(key, content):
            before = self.get(key)
            if before is None or not stays(self.decode(before)["status"], state):
                self._write(key, content)

    def _write_first(self, key: Any, payload: bytes) -> bool:
        try:
            return self._write(key, payload, only_new=True)
        except OSError:
            # This file system has no hard links; reading before writing has to do.
            return False

    def cleanup(self) -> None:
        """Delete the files of results that have expired (``result_expires``)."""
        if not self.expires:
            return
        oldest = time.time() - self.expires
        prefixes = tuple(
            bytes_to_str(prefix) for prefix in (self.task_keyprefix, self.group_keyprefix)
        )
        with os.scandir(os.fsdecode(self.path)) as entries:
            for entry in entries:
                if not unquote(entry.name).startswith((*prefixes, TEMPORARY)):
                    continue
                try:
                    if entry.stat().st_mtime < oldest:
                        self.unlink(entry.path)
                except FileNotFoundError:
                    # Another process cleans up too.
                    continue


def _directory(url: str | None) -> str:
    """Return the directory that *url* names."""
    if not url:
        raise ImproperlyConfigured(E_NO_PATH_SET)
    if not url.startswith("file://"):
        raise ImproperlyConfigured(E_PATH_NON_CONFORMING_SCHEME)
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise ImproperlyConfigured(E_PATH_NON_CONFORMING_SCHEME)
    if not parts.path:
        raise ImproperlyConfigured(E_NO_PATH_SET)
    return unquote(parts.path)
