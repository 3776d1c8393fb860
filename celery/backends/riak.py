"""Results as objects of Riak KV, over HTTP (``riak://user:password@host:8098/bucket``).

Each key is an object of the bucket, ``celery`` unless the URL names another; ``…/type/bucket``
names a type as well. ``riak+https://…`` is for a server with TLS. Expiry is up to the storage of
the server. Riak checks conditions of a write only as far as it has heard of others, so a success is
surely final only in a bucket that is strongly consistent; of siblings, the success is read.
"""

from __future__ import annotations

from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from kombu.utils.encoding import bytes_to_str

from celery import states
from celery.backends._address import Address
from celery.backends._versioned import Stored, VersionedBackend, once_per_process
from celery.exceptions import ImproperlyConfigured

try:
    import requests

    from celery.backends import _http
except ImportError:
    requests = None

__all__ = ("RiakBackend",)

E_MISSING = "The Riak result back-end needs the package requests: pip install 'celery[riak]'"
E_REFUSED = "Riak did not {0} an object of the bucket {1}: {2}"

SIBLINGS, ABSENT, CHANGED = 300, 404, 412
CLOCK = "X-Riak-Vclock"


class _Version(NamedTuple):
    tag: str
    clock: str


class RiakBackend(Address, VersionedBackend):
    """Keeps results in a bucket.

    Raises:
        ImproperlyConfigured: The package requests is not installed.
    """

    port = 8098
    bucket_type = "default"
    bucket_name = "celery"

    def __init__(self, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if requests is None:
            raise ImproperlyConfigured(E_MISSING)
        self.url = url
        kind, _, bucket = self._take_address(url).rpartition("/")
        self.bucket_type = kind or self.bucket_type
        self.bucket_name = bucket or self.bucket_name
        self._base = (
            f"{self.scheme}://{self.host}:{self.port}/types/{quote(self.bucket_type, safe='')}"
            f"/buckets/{quote(self.bucket_name, safe='')}/keys"
        )

    @once_per_process
    def client(self) -> Any:
        """The connections to the server."""
        session = _http.bound(requests.Session())
        session.auth = self._login
        return session

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        return _http.is_passing(exc)

    def _ask(self, method: str, key: Any, fine: tuple[int, ...], **kwargs: Any) -> Any:
        """Send a request about an object; errors that are not *fine* are raised."""
        url = f"{self._base}/{quote(bytes_to_str(key), safe='')}"
        answer = self.client.request(method, url, **kwargs)
        if answer.status_code >= 300 and answer.status_code not in fine:
            text = E_REFUSED.format(method.lower(), self.bucket_name, answer.text[:200])
            raise _http.RefusedError(answer.status_code, text)
        return answer

    def load(self, key: Any) -> Stored | None:
        """Read a value with its version, None when there is none."""
        # Siblings come only to those who ask for them.
        headers = {"Accept": "multipart/mixed, */*;q=0.9"}
        answer = self._ask("GET", key, (SIBLINGS, ABSENT), headers=headers)
        if answer.status_code == ABSENT:
            return None
        version = _Version(answer.headers.get("ETag", ""), answer.headers.get(CLOCK, ""))
        if answer.status_code == SIBLINGS:
            return Stored(self._choose(answer), version)
        return Stored(answer.content, version)

    def _choose(self, answer: Any) -> Any:
        head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
        found = []
        for part in BytesParser().parsebytes(head + answer.content).walk():
            if not part.is_multipart():
                value = part.get_payload(decode=True)
                state = self.decode(value).get("status", states.PENDING)
                found.append((_rank(state), parsedate_to_datetime(part["Last-Modified"]), value))
        return max(found, key=lambda sibling: sibling[:2])[2]

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a value if that version is still there; None: if nothing is."""
        is_text = isinstance(value, str)
        kind = "application/json" if is_text else "application/octet-stream"
        headers = {"Content-Type": kind, "If-None-Match": "*"}
        if version is not None:
            headers = {"Content-Type": kind, "If-Match": version.tag, CLOCK: version.clock}
        content = value.encode() if is_text else value
        answer = self._ask("PUT", key, (CHANGED,), data=content, headers=headers)
        return bool(answer.status_code != CHANGED)

    def delete(self, key: Any) -> None:
        """Delete an object; a missing one is fine."""
        self._ask("DELETE", key, (ABSENT,))


def _rank(state: str) -> int:
    """Say how much a sibling in *state* is worth."""
    if state == states.SUCCESS:
        return 2
    return 1 if state in states.READY_STATES else 0
