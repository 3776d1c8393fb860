"""What clocks on the wall show, and when, around the changes that a zone makes to them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo

_DAY = timedelta(days=1)


def wall_time(moment: datetime, zone: tzinfo) -> datetime:
    """Return what a clock in *zone* shows."""
    return moment.astimezone(zone).replace(tzinfo=None)


def spread(moment: datetime, zone: tzinfo) -> timedelta:
    """Return by how much the clock is changed within a day of *moment*, in UTC."""
    offsets = [
        (moment + days).astimezone(zone).utcoffset() or timedelta(0)
        for days in (-_DAY, timedelta(0), _DAY)
    ]
    return max(offsets) - min(offsets)


def moments(wall: datetime, zone: tzinfo, each_pass: bool) -> Iterator[datetime]:
    """Yield when it is *wall* in *zone*, in UTC; what is left out counts from before the change."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    yield first
    if each_pass:
        second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
        if second > first:
            yield second


def on_clock(day: date, minutes: int) -> datetime:
    """Return what a clock shows *minutes* after the begin of *day*, as clocks count."""
    return datetime(day.year, day.month, day.day, *divmod(minutes, 60))  # noqa: DTZ001
