"""Results in an embedded store (``sqlite:///celery.db``), which may be the broker's file as well.

Whoever waits for a result is woken by a bell (`celery._embedded.bell`) when one is stored, and
looks by itself only where there is none. Chords are counted in the store. What has expired is not
found any more, and is deleted by consumers of the same file or by `SqliteBackend.cleanup`.

Options of ``result_backend_transport_options``: ``synchronous`` and ``busy_timeout``, as for the
broker (`celery._transport.sqlite`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from sqlite3 import Connection
from typing import Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery import states
from celery._embedded.bell import Bell
from celery._embedded.location import SCHEME, path_of_url
from celery._embedded.store import BUSY_TIMEOUT_S, Store
from celery.backends._codec import encode_json
from celery.backends._finality import stays
from celery.backends.base import KeyValueStoreBackend

__all__ = ("SqliteBackend",)

#: Seconds between looks while a bell is listened to, in case it was not heard.
LOOK_S = 0.5

#: Documents up to this many bytes are stored many at once.
LONG = 16 * 1024

WRITE = "INSERT OR REPLACE INTO results (key, value, expires) VALUES (?, ?, ?)"
READ = "SELECT value FROM results WHERE key = ? AND (expires IS NULL OR expires > ?)"


class SqliteBackend(KeyValueStoreBackend):
    """Keeps results in an SQLite file.

    Args:
        url: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db``, or ``sqlite://`` for
            the file in the state directory of the user.

    Raises:
        ImproperlyConfigured: The URL names no such file.
    """

    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = url
        options = self.app.conf.result_backend_transport_options or {}
        path = path_of_url(url if url and "://" in url else f"{SCHEME}://")
        self.store = Store(
            path,
            synchronous=options.get("synchronous", "NORMAL"),
            timeout_s=float(options.get("busy_timeout", BUSY_TIMEOUT_S)),
        )
        self.bell = Bell(path.with_name(f"{path.name}-result-bell"))

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {"url": self.url, **(kwargs or {})})

    def key_t(self, key: Any = "") -> str:
        """Convert a key to text."""
        text: str = bytes_to_str(key)
        return text

    def get(self, key: Any) -> bytes | None:
        """Read a value, None when there is none."""
        rows = self.store.read(READ, (self.key_t(key), time.time()))
        return rows[0][0] if rows else None

    def mget(self, keys: Iterable[Any]) -> list[bytes | None]:
        """Read many values, in the order of *keys*."""
        names = [self.key_t(key) for key in keys]
        found = dict(
            self.store.read(
                "SELECT key, value FROM results WHERE key IN (SELECT value FROM json_each(?))"
                " AND (expires IS NULL OR expires > ?)",
                (json.dumps(names), time.time()),
            )
        )
        return [found.get(name) for name in names]

    def set(self, key: Any, value: Any) -> None:
        """Write a value."""
        with self.store as db:
            db.execute(WRITE, self._row(key, value))
        self.bell.ring()

    def delete(self, key: Any) -> None:
        """Delete a key; a missing one is fine."""
        with self.store as db:
            db.execute("DELETE FROM results WHERE key = ?", (self.key_t(key),))

    def incr(self, key: Any) -> int:
        """Add one to a counter and return it."""
        with self.store as db:
            (count,) = db.execute(
                "INSERT INTO results (key, value, expires) VALUES (?1, 1, NULL) ON CONFLICT (key)"
                " DO UPDATE SET expires = NULL,"
                " value = CASE WHEN expires <= ?2 THEN 1 ELSE value + 1 END RETURNING value",
                (self.key_t(key), time.time()),
            ).fetchone()
        return int(count)

    def claim(self, name: str, seconds: int) -> bool:
        """Become the only one, of those who ask for *name*, for so many seconds."""
        now = time.time()
        with self.store as db:
            taken = db.execute(
                "INSERT INTO results (key, value, expires) VALUES (?1, x'31', ?2) ON CONFLICT (key)"
                " DO UPDATE SET expires = excluded.expires WHERE expires <= ?3",
                (self.get_key_for_chord(name), now + seconds, now),
            )
            return taken.rowcount == 1

    def expire(self, key: Any, value: Any) -> None:
        """Let a key live for *value* more seconds."""
        with self.store as db:
            db.execute(
                "UPDATE results SET expires = ? WHERE key = ?",
                (time.time() + float(value), self.key_t(key)),
            )

    def cleanup(self) -> None:
        """Delete what has expired (``result_expires``)."""
        with self.store as db:
            db.execute("DELETE FROM results WHERE expires <= ?", (time.time(),))

    def _row(self, key: Any, value: Any) -> tuple[str, bytes, float | None]:
        expires = time.time() + self.expires if self.expires else None
        return self.key_t(key), ensure_bytes(value), expires

    def _store_document(self, task_id: str, payload: Any, state: str) -> None:
        row = self._row(self.get_key_for_task(task_id), payload)
        with self.store as db:
            if not self._stays(db, row[0], state):
                db.execute(WRITE, row)
        self.bell.ring()

    # -- Results that the main process of a worker stores, many at once

    @cached_property
    def takes_documents(self) -> bool:
        """Whether documents are plain JSON, and stored by the code here."""
        own = SqliteBackend
        return self.encoder is encode_json and all(
            getattr(type(self), name) is getattr(own, name)
            for name in ("mark_as_done", "store_result", "_store_result", "_store_document", "set")
        )

    def mark_as_done_later(self, task_id: str, result: Any, request: Any) -> bytes | None:
        """Return the document unless it is long, and would only be carried around."""
        if self.takes_documents:
            plain = self.encode_result(result, states.SUCCESS)
            document = self._document(task_id, plain, states.SUCCESS, None, request)
            payload: bytes = self._encode_document(document).encode()
            if len(payload) <= LONG:
                return payload
        return super().mark_as_done_later(task_id, result, request)

    def store_documents(self, documents: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Store documents of tasks that succeeded, in one transaction."""
        rows = [self._row(self.get_key_for_task(task_id), text) for task_id, text in documents]
        with self.store as db:
            for row in rows:
                if not self._stays(db, row[0], states.SUCCESS):
                    db.execute(WRITE, row)
        self.bell.ring()
        return [None] * len(documents)

    def _stays(self, db: Connection, key: str, state: str) -> bool:
        before = db.execute(READ, (key, time.time())).fetchone()
        return before is not None and stays(self.decode(before[0])["status"], state)

    def _pause(self, seconds: float) -> None:
        if self.bell.listen() >= 0:
            self.bell.wait(max(seconds, min(LOOK_S, seconds * 100)))
        else:
            time.sleep(seconds)
