"""Certificates: they tell whose messages this process believes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from glob import glob
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import load_pem_x509_certificate
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.exceptions import SecurityError
from celery.security.utils import get_digest_algorithm, reraise_errors

__all__ = ("CertStore", "Certificate", "FSCertStore")


class Certificate:
    """An X.509 certificate with an RSA key, in PEM form.

    Raises:
        SecurityError: The text is no certificate, or one with another kind of key.
    """

    def __init__(self, cert: str | bytes) -> None:
        with reraise_errors("Invalid certificate: {0!r}", errors=(ValueError,)):
            self._cert = load_pem_x509_certificate(ensure_bytes(cert))
            public = self._cert.public_key()
        if not isinstance(public, rsa.RSAPublicKey):
            raise SecurityError("Only RSA certificates can verify messages")
        self._public = public

    def has_expired(self) -> bool:
        """Say whether the certificate is no longer valid."""
        return datetime.now(UTC) >= self._cert.not_valid_after_utc

    def get_pubkey(self) -> rsa.RSAPublicKey:
        """Give the public key."""
        return self._public

    def get_serial_number(self) -> int:
        """Give the serial number."""
        return self._cert.serial_number

    def get_issuer(self) -> str:
        """Give the values of the issuer's name, with spaces between."""
        return " ".join(str(bytes_to_str(attribute.value)) for attribute in self._cert.issuer)

    def get_id(self) -> str:
        """Give the name under which messages mention this certificate: issuer and serial number."""
        return f"{self.get_issuer()} {self.get_serial_number()}"

    def verify(self, data: str | bytes, signature: bytes, digest: str) -> None:
        """Check the *signature* of *data*.

        Raises:
            SecurityError: The owner of this certificate did not sign the data.
        """
        algorithm = get_digest_algorithm(digest)
        with reraise_errors("Bad signature: {0!r}"):
            self._public.verify(
                ensure_bytes(signature),
                ensure_bytes(data),
                padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO),
                algorithm,
            )


class CertStore:
    """Trusted certificates by id."""

    def __init__(self) -> None:
        self._certs: dict[str, Certificate] = {}

    def itercerts(self) -> Iterator[Certificate]:
        """Go through all certificates."""
        return iter(self._certs.values())

    def __getitem__(self, id: str | bytes) -> Certificate:
        name = bytes_to_str(id)
        try:
            return self._certs[name]
        except KeyError:
            raise SecurityError(f"Unknown certificate: {name!r}") from None

    def add_cert(self, cert: Certificate) -> None:
        """Trust *cert*.

        Raises:
            SecurityError: There is one with the same id.
        """
        name = cert.get_id()
        if name in self._certs:
            raise SecurityError(f"Duplicate certificate: {name!r}")
        self._certs[name] = cert


class FSCertStore(CertStore):
    """Trusted certificates read from files.

    Args:
        path: A directory, or a pattern such as ``"/etc/ssl/workers/*.pem"``.

    Raises:
        SecurityError: A file holds no certificate, or an expired one.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        pattern = str(Path(path) / "*") if Path(path).is_dir() else path
        for name in sorted(glob(pattern)):
            try:
                cert = Certificate(Path(name).read_bytes())
            except SecurityError as exc:
                raise SecurityError(f"{name}: {exc}") from exc
            if cert.has_expired():
                raise SecurityError(f"Expired certificate: {cert.get_id()!r} in {name}")
            self.add_cert(cert)
