"""The serializer ``auth``: data of another serializer with a signature around it.

Signed data is base64 text of five fields joined by :data:`DEFAULT_SEPARATOR`: the id of the
signer's certificate and the signature, both base64 again so that they cannot hold the separator,
content type, content encoding, and the body, which comes last and may hold anything.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any, Final, NamedTuple

from kombu.serialization import dumps, loads, registry
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.exceptions import ImproperlyConfigured, SecurityError
from celery.security.certificate import Certificate, CertStore, FSCertStore
from celery.security.key import PrivateKey
from celery.security.utils import reraise_errors

__all__ = ("SecureSerializer", "register_auth")

DEFAULT_SEPARATOR: Final = b"\x00\x01"

#: Content types that are harmless to decode whoever made them.
_SAFE_CONTENT: Final = frozenset(
    {"application/json", "application/x-msgpack", "application/x-yaml"},
)


class _Signed(NamedTuple):
    signer: bytes
    signature: bytes
    content_type: str
    content_encoding: str
    body: bytes


class SecureSerializer:
    """Sign on the way out, verify on the way in.

    Args:
        key: Signs; needed for sending only.
        cert: The certificate of *key*.
        cert_store: Certificates of all whose messages are accepted.
        digest: Name of the hash.
        serializer: Makes the data that is signed.
    """

    def __init__(
        self,
        key: PrivateKey | None = None,
        cert: Certificate | None = None,
        cert_store: CertStore | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        self._key = key
        self._cert = cert
        self._cert_store = cert_store
        self._digest = digest
        self._serializer = serializer

    def serialize(self, data: Any) -> str:
        """Serialize and sign *data*."""
        if self._key is None or self._cert is None:
            raise ImproperlyConfigured("The auth serializer needs a key and a certificate to sign")
        with reraise_errors("Unable to serialize: {0!r}", errors=(ValueError, TypeError)):
            content_type, content_encoding, body = dumps(data, serializer=self._serializer)
            body = ensure_bytes(body)
            fields = (
                base64.b64encode(ensure_bytes(self._cert.get_id())),
                base64.b64encode(self._key.sign(body, self._digest)),
                ensure_bytes(content_type),
                ensure_bytes(content_encoding),
                body,
            )
            return base64.b64encode(DEFAULT_SEPARATOR.join(fields)).decode()

    def deserialize(self, data: str | bytes) -> Any:
        """Verify the signature of *data* and load what is inside.

        Raises:
            SecurityError: The signature is wrong, or the signer unknown or expired.
            ContentDisallowed: The content is neither harmless nor of this serializer's own kind.
        """
        if self._cert_store is None:
            raise ImproperlyConfigured("The auth serializer needs a certificate store to verify")
        signed = _unpack(data)
        cert = self._cert_store[signed.signer]
        if cert.has_expired():
            raise SecurityError(f"Expired certificate: {cert.get_id()!r}")
        cert.verify(signed.body, signed.signature, self._digest)
        # The signature covers the body alone, so the content type is not to be trusted: somebody
        # could have text read as a pickle.
        accept = _SAFE_CONTENT | {registry.name_to_type.get(self._serializer)}
        return loads(signed.body, signed.content_type, signed.content_encoding, accept=accept)


def _unpack(data: str | bytes) -> _Signed:
    with reraise_errors("Unable to deserialize: {0!r}", errors=(ValueError, binascii.Error)):
        signer, signature, kind, encoding, body = base64.b64decode(ensure_bytes(data)).split(
            DEFAULT_SEPARATOR, 4
        )
        return _Signed(
            base64.b64decode(signer),
            base64.b64decode(signature),
            str(bytes_to_str(kind)),
            str(bytes_to_str(encoding)),
            body,
        )


def register_auth(
    key: str | bytes | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str = "sha256",
    serializer: str = "json",
) -> None:
    """Register the serializer ``auth``.

    Args:
        key: File with the private key.
        key_password: Of that key.
        cert: File with its certificate.
        store: Directory or pattern of the trusted certificates.
        digest: Name of the hash.
        serializer: Makes the data that is signed.
    """
    auth = SecureSerializer(
        PrivateKey(_content(key), password=key_password) if key else None,
        Certificate(_content(cert)) if cert else None,
        FSCertStore(store) if store else None,
        digest=digest,
        serializer=serializer,
    )
    registry.register(
        "auth",
        auth.serialize,
        auth.deserialize,
        content_type="application/data",
        content_encoding="utf-8",
    )


def _content(path: str | bytes) -> bytes:
    return Path(str(bytes_to_str(path))).read_bytes()
