from __future__ import annotations

import base64
import copy
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import dumps, loads, registry

from celery.exceptions import ImproperlyConfigured, SecurityError
from celery.security import setup_security
from celery.security.certificate import Certificate, CertStore, FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import DEFAULT_SEPARATOR, SecureSerializer
from celery.security.utils import get_digest_algorithm, reraise_errors


@pytest.fixture(autouse=True)
def clean_registry():
    """Give the serializers of the process back as they were."""
    saved = copy.copy(vars(registry))
    for name, value in saved.items():
        if isinstance(value, (dict, set)):
            setattr(registry, name, value.copy())
    yield
    vars(registry).update(saved)


def serializer(identity, *trusted, digest="sha256", inner="json"):
    store = CertStore()
    for other in trusted or (identity,):
        store.add_cert(Certificate(other.cert))
    return SecureSerializer(
        PrivateKey(identity.key), Certificate(identity.cert), store, digest, inner
    )


def fields(payload):
    return base64.b64decode(payload).split(DEFAULT_SEPARATOR, 4)


def repack(parts):
    return base64.b64encode(DEFAULT_SEPARATOR.join(parts)).decode()


def make_app(tmp_path, identity, **settings):
    (tmp_path / "key.pem").write_bytes(identity.key)
    store = tmp_path / "store"
    store.mkdir(exist_ok=True)
    (store / "cert.pem").write_bytes(identity.cert)
    conf = {
        "task_serializer": "auth",
        "accept_content": ["auth"],
        "security_key": str(tmp_path / "key.pem"),
        "security_key_password": None,
        "security_certificate": str(store / "cert.pem"),
        "security_cert_store": str(store),
        "security_digest": "sha256",
    }
    return SimpleNamespace(conf=SimpleNamespace(**{**conf, **settings}))


@pytest.mark.parametrize(
    "data", [{"a": [1, 2.5, None]}, "text", [], "\x00\x01", {"\x00\x01": "\x00\x01"}]
)
def test_signed_data_comes_back(alice, data):
    auth = serializer(alice)

    assert auth.deserialize(auth.serialize(data)) == data


def test_bytes_survive_a_binary_inner_serializer(alice):
    auth = serializer(alice, inner="pickle")

    assert auth.deserialize(auth.serialize(b"\x00\x01\xff")) == b"\x00\x01\xff"


def test_signed_data_holds_signer_signature_content_type_and_body(alice):
    """B-SEC-006: signer (issuer + serial), signature, inner content type and encoding, body."""
    cert = Certificate(alice.cert)

    signer, signature, kind, encoding, body = fields(serializer(alice).serialize([1]))

    assert base64.b64decode(signer).decode() == f"alice {cert.get_serial_number()}"
    assert (kind, encoding, body) == (b"application/json", b"utf-8", b"[1]")
    cert.verify(body, base64.b64decode(signature), "sha256")


def test_a_changed_body_is_refused(alice):
    """B-SEC-008: a tampered message fails."""
    auth = serializer(alice)
    parts = fields(auth.serialize([1]))

    with pytest.raises(SecurityError, match="Bad signature"):
        auth.deserialize(repack([*parts[:4], b"[2]"]))


def test_an_unknown_signer_is_refused(alice, mallory):
    """B-SEC-008: an unknown-signer message fails."""
    signed = serializer(mallory).serialize([1])

    with pytest.raises(SecurityError, match="Unknown certificate: 'mallory"):
        serializer(alice).deserialize(signed)


def test_a_signature_by_somebody_else_is_refused(alice, mallory):
    parts = fields(serializer(mallory).serialize([1]))
    parts[0] = base64.b64encode(Certificate(alice.cert).get_id().encode())

    with pytest.raises(SecurityError, match="Bad signature"):
        serializer(alice).deserialize(repack(parts))


@pytest.mark.parametrize("garbage", ["", "not base64!", "AAAA", b"\xff\xfe"])
def test_garbage_is_a_security_error(alice, garbage):
    with pytest.raises(SecurityError, match="Unable to deserialize"):
        serializer(alice).deserialize(garbage)


def test_the_content_type_cannot_be_turned_into_pickle(alice):
    auth = serializer(alice)
    parts = fields(auth.serialize([1]))
    parts[2] = b"application/x-python-serialize"

    with pytest.raises(ContentDisallowed):
        auth.deserialize(repack(parts))


def test_a_certificate_that_expires_later_is_refused_then(alice, monkeypatch):
    """B-SEC-009: expired certificates are refused."""
    auth = serializer(alice)
    signed = auth.serialize([1])

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=30)

    monkeypatch.setattr("celery.security.certificate.datetime", Later)
    with pytest.raises(SecurityError, match="Expired certificate"):
        auth.deserialize(signed)


def test_sending_needs_a_key_and_reading_a_store():
    with pytest.raises(ImproperlyConfigured):
        SecureSerializer().serialize([1])
    with pytest.raises(ImproperlyConfigured):
        SecureSerializer().deserialize("AAAA")


def test_the_digest_is_part_of_the_signature(alice):
    signed = serializer(alice, digest="sha512").serialize([1])

    assert serializer(alice, digest="sha512").deserialize(signed) == [1]
    with pytest.raises(SecurityError, match="Bad signature"):
        serializer(alice, digest="sha256").deserialize(signed)


def test_an_unknown_digest_is_named():
    assert get_digest_algorithm().name == "sha256"
    with pytest.raises(SecurityError, match="'md17'"):
        get_digest_algorithm("md17")


def test_a_key_may_have_a_password(locked):
    """B-SEC-009: the key may have a password."""
    signature = PrivateKey(locked.key, "open sesame").sign("data", "sha256")
    Certificate(locked.cert).verify("data", signature, "sha256")

    for wrong in (None, "guess"):
        with pytest.raises(SecurityError, match="Invalid private key"):
            PrivateKey(locked.key, wrong)


def test_broken_keys_and_certificates_are_named():
    with pytest.raises(SecurityError, match="Invalid private key"):
        PrivateKey("rubbish")
    with pytest.raises(SecurityError, match="Invalid certificate"):
        Certificate("rubbish")


def test_a_store_reads_a_directory_or_a_pattern(tmp_path, alice, mallory):
    """B-SEC-009: security_cert_store may be a glob."""
    (tmp_path / "a.pem").write_bytes(alice.cert)
    (tmp_path / "m.crt").write_bytes(mallory.cert)
    alices, mallorys = Certificate(alice.cert).get_id(), Certificate(mallory.cert).get_id()

    everything = {cert.get_id() for cert in FSCertStore(str(tmp_path)).itercerts()}
    some = FSCertStore(str(tmp_path / "*.pem"))

    assert everything == {alices, mallorys}
    assert some[alices].get_id() == alices
    with pytest.raises(SecurityError, match="Unknown certificate"):
        some[mallorys]


def test_a_store_refuses_expired_and_repeated_certificates(tmp_path, veteran, alice):
    """B-SEC-009: expired certificates are refused."""
    (tmp_path / "old.pem").write_bytes(veteran.cert)
    with pytest.raises(SecurityError, match=r"Expired certificate: 'veteran .*old\.pem"):
        FSCertStore(str(tmp_path))

    store = CertStore()
    store.add_cert(Certificate(alice.cert))
    with pytest.raises(SecurityError, match="Duplicate"):
        store.add_cert(Certificate(alice.cert))


def test_reraised_errors_keep_the_traceback():
    with (
        pytest.raises(SecurityError, match=r"boom: KeyError\('x'\)") as caught,
        reraise_errors("boom: {0!r}", errors=(KeyError,)),
    ):
        {}["x"]
    assert [str(entry.statement).strip() for entry in caught.traceback][-1] == '{}["x"]'


def test_set_up_registers_auth_as_the_default(tmp_path, alice):
    """B-SEC-004, B-SEC-006: the auth serializer is registered; its type is application/data."""
    setup_security(app=make_app(tmp_path, alice))

    content_type, encoding, payload = dumps({"a": 1})
    assert (content_type, encoding) == ("application/data", "utf-8")
    assert loads(payload, content_type, encoding) == {"a": 1}


def test_set_up_disables_all_other_serializers(tmp_path, alice):
    """B-SEC-004, B-SEC-007: other content types raise ContentDisallowed."""
    setup_security(app=make_app(tmp_path, alice))

    with pytest.raises(ContentDisallowed) as caught:
        loads("[]", "application/json", "utf-8")
    assert str(caught.value) == (
        "Refusing to deserialize disabled content of type json (application/json)"
    )


def test_set_up_leaves_allowed_serializers(tmp_path, alice):
    """B-SEC-004: all others are disabled except allowed_serializers."""
    setup_security(["json"], app=make_app(tmp_path, alice))

    assert loads("[1]", "application/json", "utf-8") == [1]
    with pytest.raises(ContentDisallowed):
        loads(b"", "application/x-python-serialize", "binary")


def test_a_damaged_message_is_a_decode_error(tmp_path, alice):
    """B-SEC-008: DecodeError."""
    setup_security(app=make_app(tmp_path, alice))
    content_type, encoding, payload = dumps([1])
    parts = fields(payload)
    parts[1] = base64.b64encode(b"damaged")

    with pytest.raises(DecodeError):
        loads(repack(parts), content_type, encoding)


@pytest.mark.parametrize(
    "settings", [{"task_serializer": "json"}, {"accept_content": ["auth", "json"]}]
)
def test_set_up_asks_for_both_settings(tmp_path, alice, settings):
    """B-SEC-005: ImproperlyConfigured, the message shows both lines."""
    with pytest.raises(ImproperlyConfigured) as caught:
        setup_security(app=make_app(tmp_path, alice, **settings))

    assert "task_serializer = 'auth'" in str(caught.value)
    assert "accept_content = ['auth']" in str(caught.value)
    assert loads("[]", "application/json", "utf-8") == []


@pytest.mark.parametrize("missing", ["security_key", "security_certificate", "security_cert_store"])
def test_set_up_names_what_is_missing(tmp_path, alice, missing):
    """B-SEC-005: raised when key, certificate or store are missing."""
    with pytest.raises(ImproperlyConfigured, match=f"missing: {missing}$"):
        setup_security(app=make_app(tmp_path, alice, **{missing: None}))

    assert loads("[]", "application/json", "utf-8") == []


def test_set_up_needs_cryptography(tmp_path, alice, monkeypatch):
    """B-SEC-010: ImproperlyConfigured without the package cryptography."""
    monkeypatch.delitem(sys.modules, "celery.security.serialization")
    monkeypatch.delitem(sys.modules, "celery.security.certificate")
    monkeypatch.setitem(sys.modules, "cryptography.x509", None)

    with pytest.raises(ImproperlyConfigured, match=r"celery\[auth\]"):
        setup_security(app=make_app(tmp_path, alice))
