"""Ground for signing: digests, and errors of the driver made ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography import exceptions as driver
from cryptography.hazmat.primitives import hashes

from celery.exceptions import SecurityError, reraise

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

__all__ = ("get_digest_algorithm", "reraise_errors")

_DRIVER_ERRORS = (
    driver.AlreadyFinalized,
    driver.InvalidKey,
    driver.InvalidSignature,
    driver.InvalidTag,
    driver.NotYetFinalized,
    driver.UnsupportedAlgorithm,
)


def get_digest_algorithm(digest: str = "sha256") -> HashAlgorithm:
    """Give the hash named *digest*, such as ``"sha256"``.

    Raises:
        SecurityError: The driver has no such hash.
    """
    algorithm = getattr(hashes, digest.upper(), None)
    if not (isinstance(algorithm, type) and issubclass(algorithm, hashes.HashAlgorithm)):
        raise SecurityError(f"Unknown digest {digest!r}: use one such as 'sha256' or 'sha512'")
    found: HashAlgorithm = algorithm()
    return found


@contextmanager
def reraise_errors(
    msg: str = "{0!r}", errors: tuple[type[Exception], ...] | None = None
) -> Iterator[None]:
    """Turn *errors*, by default those of the driver, into ``SecurityError``.

    Args:
        msg: Text of the new error, formatted with the old one.
        errors: Classes to turn.
    """
    caught = errors or _DRIVER_ERRORS
    try:
        yield
    except caught as exc:
        reraise(SecurityError, SecurityError(msg.format(exc)), sys.exc_info()[2])
