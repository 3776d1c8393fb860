"""Private keys: they sign what this process sends."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from kombu.utils.encoding import ensure_bytes

from celery.exceptions import SecurityError
from celery.security.utils import get_digest_algorithm, reraise_errors

__all__ = ("PrivateKey",)


class PrivateKey:
    """An RSA key in PEM form.

    Args:
        key: The text of the key.
        password: Of an encrypted key.

    Raises:
        SecurityError: The text is no usable key, or the password is wrong.
    """

    def __init__(self, key: str | bytes, password: str | bytes | None = None) -> None:
        with reraise_errors("Invalid private key: {0!r}", errors=(ValueError, TypeError)):
            loaded = serialization.load_pem_private_key(
                ensure_bytes(key), password=ensure_bytes(password)
            )
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise SecurityError("Only RSA keys can sign messages; this key is of another kind")
        self._key = loaded

    def sign(self, data: str | bytes, digest: str) -> bytes:
        """Sign *data* with a hash by name; the certificate of this key verifies it."""
        algorithm = get_digest_algorithm(digest)
        with reraise_errors("Unable to sign: {0!r}", errors=(ValueError,)):
            return self._key.sign(
                ensure_bytes(data),
                padding.PSS(padding.MGF1(algorithm), padding.PSS.MAX_LENGTH),
                algorithm,
            )
