"""Results as keys of Consul's key-value store (``consul://:token@host:8500/path``).

One key for each result, below the path. A key belongs to a session, and goes with it when
``result_expires`` seconds have passed: ten at least, a day at most, as Consul has it. A process
opens one session a minute and not one for each result. Results of more than about 380 kB need a
higher ``txn_max_req_len`` of the server. ``consul+https://…`` is for a server with TLS.
"""

from __future__ import annotations

import time
import warnings
from base64 import b64encode
from typing import Any, NamedTuple

from kombu.utils.encoding import bytes_to_str, ensure_bytes
from kombu.utils.url import parse_url

from celery.backends._versioned import Stored, VersionedBackend, once_per_process
from celery.exceptions import ImproperlyConfigured

try:
    import consul

    from celery.backends import _http
except ImportError:
    consul = None

__all__ = ("ConsulBackend",)

CONSUL_MISSING = (
    "The Consul result back-end needs the package python-consul2: pip install 'celery[consul]'"
)
W_LIFE = "Consul keeps results for a day at most: result_expires is {0} s, and counts as {1} s."

#: Seconds that a session may live, as Consul has it.
SHORTEST_S, LONGEST_S = 10, 86_400
#: Seconds in which results share a session, at most.
SHARED_S = 60


class _Version(NamedTuple):
    number: int
    session: str | None


class _Session(NamedTuple):
    name: str
    #: Seconds of the monotonic clock from which another one is taken.
    end: float


class ConsulBackend(VersionedBackend):
    """Keeps results below a path of the key-value store.

    Raises:
        ImproperlyConfigured: The package python-consul2 is not installed.
    """

    consul = consul
    supports_autoexpire = True
    consistency = "consistent"
    path: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if consul is None:
            raise ImproperlyConfigured(CONSUL_MISSING)
        where = parse_url(self.url or "consul://")
        self.hostname = where["hostname"] or "localhost"
        self.port = where["port"] or 8500
        self.path = (where["virtual_host"] or "").strip("/")
        self._scheme = "https" if where["transport"] == "https" else "http"
        self._token = where["password"] or None
        #: A process has one client.
        self.one_client = True
        self._life: int | None = None
        if self.expires:
            self._life = min(max(int(self.expires), SHORTEST_S), LONGEST_S)
            if self.expires > LONGEST_S:
                warnings.warn(W_LIFE.format(self.expires, self._life), stacklevel=2)
        self._session: _Session | None = None

    def client(self) -> Any:
        """Return the client of the service."""
        return self._client

    @once_per_process
    def _client(self) -> Any:
        return self.consul.Consul(
            host=self.hostname,
            port=self.port,
            scheme=self._scheme,
            token=self._token,
            consistency=self.consistency,
            timeout=_http.TIMEOUTS_S,
        )

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        # What is not the fault of the request: a cluster without a leader, say.
        return _http.is_passing(exc) or type(exc) is self.consul.ConsulException

    def _name(self, key: Any) -> str:
        name: str = bytes_to_str(key)
        return f"{self.path}/{name}" if self.path else name

    def _open_session(self, life: int) -> str:
        now = time.monotonic()
        if self._session is None or self._session.end < now:
            name = self._client.session.create(
                # The health of a node says nothing about how long results are wanted.
                checks=[],
                lock_delay=0,
                behavior="delete",
                ttl=life,
            )
            self._session = _Session(name, now + min(SHARED_S, life / 10))
        return self._session.name

    def load(self, key: Any) -> Stored | None:
        """Read a value with its version, None when there is none."""
        _, found = self._client.kv.get(self._name(key))
        if found is None:
            return None
        return Stored(found["Value"], _Version(found["ModifyIndex"], found.get("Session")))

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a value if that version is still there; None: if nothing is."""
        name = self._name(key)
        held = {"Key": name, "Value": b64encode(ensure_bytes(value)).decode()}
        steps: list[dict[str, Any]] = [{"Verb": "check-not-exists", "Key": name}]
        if version is not None:
            steps = [{"Verb": "check-index", "Key": name, "Index": version.number}]
            if version.session:
                # Its time began when the former state was stored.
                steps.append({**held, "Verb": "unlock", "Session": version.session})
        if self._life:
            steps.append({**held, "Verb": "lock", "Session": self._open_session(self._life)})
        else:
            steps.append({**held, "Verb": "set"})
        try:
            self._client.txn.put([{"KV": step} for step in steps])
        except self.consul.base.ClientError as exc:
            text = str(exc)
            if not text.startswith("409"):
                raise
            if "session" in text:
                # Somebody has ended it.
                self._session = None
            return False
        return True

    def delete(self, key: Any) -> None:
        """Delete a key; a missing one is fine."""
        self._client.kv.delete(self._name(key))
