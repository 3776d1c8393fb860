"""Turn what a caller says relative to now into what a message states absolutely."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from celery.utils.iso8601 import parse_iso8601
from celery.utils.time import make_aware

if TYPE_CHECKING:
    from collections.abc import Callable

INT_MIN = -2147483648


def check_countdown(countdown: float) -> float:
    """Return *countdown* when it is a usable number of seconds.

    Raises:
        ValueError: It is a number too small for any clock; the text names it.
        TypeError: It is no number.
    """
    if countdown < INT_MIN:
        raise ValueError(f"countdown is out of range: {countdown!r}")
    return countdown


def header_eta(
    countdown: float | None,
    eta: datetime | str | None,
    now: Callable[[], datetime],
) -> str | None:
    """State the moment before which a task must not start, as the ``eta`` header has it.

    Args:
        countdown: Seconds from *now*; wins over *eta*; may be negative (no wait).
        eta: Aware or naive moment, kept as given; text is passed through.
        now: The clock, called only when needed; aware in the app's zone.

    Returns:
        ISO 8601 text, or None for "as soon as possible".
    """
    if countdown is not None:
        return (now() + timedelta(seconds=check_countdown(countdown))).isoformat()
    if eta is None or isinstance(eta, str):
        return eta
    return eta.isoformat()


def header_expires(
    expires: float | datetime | str | None,
    now: Callable[[], datetime],
    zone: tzinfo | None,
) -> tuple[str | None, float | None]:
    """State when a task is no longer wanted: the ``expires`` header and the broker's TTL.

    Args:
        expires: Seconds from *now*, a moment (naive ones are in *zone*), or ISO 8601 text.
        now: The clock, called only when needed; aware.
        zone: Zone of naive moments; None for UTC.

    Returns:
        The header (ISO 8601 text or None), and the seconds from now after which the
        broker may drop the message itself; None where that can't be told, or has passed.
    """
    if expires is None:
        return None, None
    if isinstance(expires, bool) or not isinstance(expires, (int, float, datetime, str)):
        raise TypeError(f"expires must be seconds, a datetime or an ISO 8601 text, not {expires!r}")
    if isinstance(expires, (int, float)):
        moment = now() + timedelta(seconds=check_countdown(expires))
        return moment.isoformat(), float(expires) if expires > 0 else None
    if isinstance(expires, str):
        text, moment = expires, parse_iso8601(expires)
    else:
        text, moment = expires.isoformat(), expires
    if moment.tzinfo is None:
        moment = make_aware(moment, zone or UTC)
    left = (moment - now()).total_seconds()
    return text, left if left > 0 else None
