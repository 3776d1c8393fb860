"""Dates and times as ISO 8601 text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

__all__ = ("parse_iso8601",)

#: More lenient than the standard library: short numbers, month alone, any length of fraction.
ISO8601_REGEX = re.compile(
    r"""
    (?P<year>\d{4}) - (?P<month>\d{1,2}) (?: - (?P<day>\d{1,2})
        (?: [T ] (?P<hour>\d{1,2}) (?: :(?P<minute>\d{1,2}) )?
            (?: :(?P<second>\d{1,2}) (?: [.,](?P<fraction>\d+) )? )?
            (?P<zone> Z | [+-]\d{2}:?(?:\d{2})? )?
        )? )?
    """,
    re.VERBOSE | re.IGNORECASE,
)
TIMEZONE_REGEX = re.compile(r"(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?")


def parse_iso8601(datestring: str) -> datetime:
    """
    Parse a date, or a date and time; the result is aware if the text names a zone.

    Raises:
        ValueError: It is neither.
    """
    try:
        return datetime.fromisoformat(datestring)
    except ValueError:
        return _parse_leniently(datestring)


def _parse_leniently(text: str) -> datetime:
    match = ISO8601_REGEX.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an ISO 8601 date: {text!r}")
    fields = match.groupdict()
    return datetime(
        int(fields["year"]),
        int(fields["month"]),
        int(fields["day"] or 1),
        int(fields["hour"] or 0),
        int(fields["minute"] or 0),
        int(fields["second"] or 0),
        int((fields["fraction"] or "0")[:6].ljust(6, "0")),
        tzinfo=_zone(fields["zone"]),
    )


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    match = TIMEZONE_REGEX.fullmatch(text)
    if match is None:  # the only other form is "Z"
        return UTC
    offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
    return timezone(-offset if match["sign"] == "-" else offset)
