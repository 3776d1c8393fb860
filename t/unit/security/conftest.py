from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Identity:
    """A private key and its certificate, in PEM form."""

    key: bytes
    cert: bytes


def make_identity(name, *, expired=False, password=None):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    first, last = (
        (now - timedelta(days=9), now - timedelta(days=1))
        if expired
        else (now - timedelta(days=1), now + timedelta(days=9))
    )
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .sign(key, hashes.SHA256())
    )
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return Identity(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ),
        cert.public_bytes(serialization.Encoding.PEM),
    )


@pytest.fixture(scope="session")
def alice():
    return make_identity("alice")


@pytest.fixture(scope="session")
def mallory():
    return make_identity("mallory")


@pytest.fixture(scope="session")
def veteran():
    return make_identity("veteran", expired=True)


@pytest.fixture(scope="session")
def locked():
    return make_identity("locked", password=b"open sesame")
