"""Signed messages: set-up of the serializer ``auth``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from kombu.serialization import registry

from celery import _state
from celery.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("setup_security",)

CRYPTOGRAPHY_NOT_INSTALLED: Final = (
    "Signed messages need the package cryptography: pip install 'celery[auth]'"
)

SECURITY_SETTING_MISSING: Final = (
    "Signed messages need all of security_key, security_certificate and security_cert_store; "
    "missing: {missing}"
)

SETTING_MISSING: Final = """\
Signed messages have to be switched on by these two settings:

    task_serializer = 'auth'
    accept_content = ['auth']
"""


def setup_security(
    allowed_serializers: Iterable[str] | None = None,
    key: str | None = None,
    key_password: str | bytes | None = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
    app: Celery | None = None,
) -> None:
    """Sign all messages, and accept only signed ones, in the whole process.

    Args:
        allowed_serializers: Serializers that stay enabled beside ``auth``.
        key: File of the private key; ``security_key`` by default.
        key_password: Of that key; ``security_key_password`` by default.
        cert: File of the certificate; ``security_certificate`` by default.
        store: Directory or pattern of trusted certificates; ``security_cert_store`` by default.
        digest: Name of the hash; ``security_digest`` by default.
        serializer: Makes the data that is signed.
        app: Gives the settings.

    Raises:
        ImproperlyConfigured: A setting or the driver is missing; nothing has been changed then.
    """
    conf: Any = _state.app_or_default(app).conf
    if conf.task_serializer != "auth" or list(conf.accept_content or ()) != ["auth"]:
        raise ImproperlyConfigured(SETTING_MISSING)
    try:
        from celery.security.serialization import register_auth
    except ImportError as exc:
        raise ImproperlyConfigured(CRYPTOGRAPHY_NOT_INSTALLED) from exc

    files = {
        "security_key": key or conf.security_key,
        "security_certificate": cert or conf.security_certificate,
        "security_cert_store": store or conf.security_cert_store,
    }
    missing = [name for name, path in files.items() if not path]
    if missing:
        raise ImproperlyConfigured(SECURITY_SETTING_MISSING.format(missing=", ".join(missing)))
    register_auth(
        files["security_key"],
        key_password or conf.security_key_password,
        files["security_certificate"],
        files["security_cert_store"],
        digest or conf.security_digest,
        serializer,
    )
    disable_untrusted_serializers({"auth", *(allowed_serializers or ())})
    registry._set_default_serializer("auth")


def disable_untrusted_serializers(whitelist: Iterable[str] | None = None) -> None:
    """Disable all serializers but those in *whitelist*, in the whole process."""
    trusted = set(whitelist or ())
    for name in trusted:
        registry.enable(name)
    for name in set(registry.name_to_type) - trusted:
        registry.disable(name)
