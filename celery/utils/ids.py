"""Ids of tasks and groups."""

from __future__ import annotations

from os import urandom

__all__ = ("new_id",)


def new_id() -> str:
    """Return a random UUID (version 4) as text: ``str(uuid.uuid4())``, at a third of its cost."""
    raw = urandom(16)
    digits = raw.hex()
    # Version and variant have their fixed places among the digits.
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-"
        f"{'89ab'[raw[8] & 3]}{digits[17:20]}-{digits[20:]}"
    )
