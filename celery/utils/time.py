"""
Time zones, arithmetic over clock changes, and durations for people.

Two kinds of sums occur.  A number of seconds is *elapsed* time: it is added on the UTC time line,
and a clock change does not alter it.  `ffwd` names a place on the *wall clock*, such as "the 13th,
04:30"; how many seconds away that is depends on the zone.
"""

from __future__ import annotations

import os
import sys
import time as _time
from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any

from celery.utils.iso8601 import parse_iso8601
from celery.utils.text import pluralize

__all__ = (
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
)

#: Print what `remaining` computes.
C_REMDEBUG = bool(os.environ.get("C_REMDEBUG"))

DAYNAMES = "sun", "mon", "tue", "wed", "thu", "fri", "sat"
WEEKDAYS = {name: number for number, name in enumerate(DAYNAMES)}
MONTHNAMES = "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"
YEARMONTHS = {name: number for number, name in enumerate(MONTHNAMES, 1)}

#: Calls a second, from calls a unit.
RATE_MODIFIER_MAP: dict[str, Callable[[float], float]] = {
    "s": float,
    "m": lambda n: n / 60.0,
    "h": lambda n: n / 3600.0,
}

TIME_UNITS: tuple[tuple[str, float, Callable[[float], str]], ...] = tuple(
    (unit, seconds, "{:.2f}".format)
    for unit, seconds in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
)

ZERO = timedelta(0)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - where timestamps begin, on the wall clock
_UTC = UTC


class LocalTimezone(tzinfo):
    """The zone of the machine, with its clock changes, as the C library knows it."""

    def __init__(self) -> None:
        self.STDOFFSET = timedelta(seconds=-_time.timezone)
        self.DSTOFFSET = timedelta(seconds=-_time.altzone) if _time.daylight else self.STDOFFSET
        self.DSTDIFF = self.DSTOFFSET - self.STDOFFSET

    def _at(self, dt: datetime | None) -> _time.struct_time:
        if dt is None:
            return _time.localtime()
        # A naive datetime is local to the machine; "fold" tells which of two equal times it is.
        return _time.localtime(dt.replace(tzinfo=None).timestamp())

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """Return what to add to UTC; for a time that is left out, what was added before."""
        if dt is None:
            return timedelta(seconds=self._at(dt).tm_gmtoff)
        wall = dt.replace(tzinfo=None, microsecond=0)
        return (wall - _EPOCH) - timedelta(seconds=wall.timestamp())

    def dst(self, dt: datetime | None) -> timedelta:
        """Return how much of that is due to daylight saving."""
        return self.DSTDIFF if self._at(dt).tm_isdst > 0 else ZERO

    def tzname(self, dt: datetime | None) -> str:
        """Return the abbreviation in use."""
        return self._at(dt).tm_zone

    def fromutc(self, dt: datetime) -> datetime:
        """Convert *dt*, which is in UTC but carries this zone."""
        stamp = dt.replace(tzinfo=_UTC).timestamp()
        local = datetime.fromtimestamp(stamp)  # noqa: DTZ006 - the local time is wanted
        return local.replace(microsecond=dt.microsecond, tzinfo=self)

    def __repr__(self) -> str:
        return f"<LocalTimezone: {_time.tzname[0]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalTimezone)

    def __hash__(self) -> int:
        return hash(LocalTimezone)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class _Zone:
    """The zones that are always at hand, and the way to the others."""

    def __init__(self) -> None:
        self._local: LocalTimezone | None = None
        self._utc: tzinfo | None = None

    @property
    def utc(self) -> tzinfo:
        """UTC as a zone with a name, ``key``, which others look for; equal times to any UTC."""
        if self._utc is None:
            self._utc = self.get_timezone("UTC")
        return self._utc

    @property
    def local(self) -> LocalTimezone:
        """The zone of the machine."""
        if self._local is None:
            self._local = LocalTimezone()
        return self._local

    def get_timezone(self, zone: str | tzinfo) -> tzinfo:
        """Return the zone of that name; a zone is returned as it is."""
        if not isinstance(zone, str):
            return zone
        from zoneinfo import ZoneInfo  # few apps name a zone

        return ZoneInfo(zone)

    def tz_or_local(self, tzinfo: str | tzinfo | None = None) -> tzinfo:
        """Return the zone of that name, or that of the machine for None."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def to_local(
        self,
        dt: datetime,
        local: str | tzinfo | None = None,
        orig: tzinfo | None = None,
    ) -> datetime:
        """Convert *dt* to the zone *local*; a naive one is in the zone *orig*, or UTC."""
        return localize(make_aware(dt, orig or _UTC), self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """Convert *dt* to the zone of the machine."""
        return localize(dt, self.local)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """Convert *dt* to the zone of the machine; a naive one is there already."""
        return localize(make_aware(dt, self.local), self.local)


timezone = _Zone()


def is_naive(dt: datetime) -> bool:
    """Say whether *dt* lacks a zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """Say that the naive *dt* is in the zone *tz*; an aware one is converted to it."""
    if not is_naive(dt):
        return localize(dt, tz)
    attach = getattr(tz, "localize", None)  # zones of pytz need to be asked
    return attach(dt) if attach is not None else dt.replace(tzinfo=tz)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """Convert *dt* to the zone *tz*; a naive one is in UTC."""
    if dt.tzinfo is tz:
        return dt
    return (dt.replace(tzinfo=_UTC) if is_naive(dt) else dt).astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """Convert *dt* to UTC; a naive one is there already."""
    return make_aware(dt, _UTC)


def maybe_make_aware(
    dt: datetime, tz: str | tzinfo | None = None, naive_as_utc: bool = True
) -> datetime:
    """
    Convert *dt* to the zone *tz*, UTC if None.

    Args:
        dt: A moment.
        tz: A zone or its name.
        naive_as_utc: A naive *dt* is in UTC; otherwise it is in the zone *tz*.
    """
    zone = _UTC if tz is None else timezone.get_timezone(tz)
    if is_naive(dt) and naive_as_utc:
        dt = dt.replace(tzinfo=_UTC)
    return make_aware(dt, zone)


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """Return the moment *seconds* of elapsed time after *dt*, in the same zone."""
    return _add_elapsed(dt, timedelta(seconds=seconds))


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """Return the elapsed time from *start* to *end*; a naive one is in the zone of the other."""
    if is_naive(end) != is_naive(start):
        if is_naive(end):
            end = make_aware(end, start.tzinfo or _UTC)
        else:
            start = make_aware(start, end.tzinfo or _UTC)
    if is_naive(end):
        return end - start
    # Within one zone the difference of datetimes is that of the wall clock.
    return end.astimezone(_UTC) - start.astimezone(_UTC)


def _add_elapsed(dt: datetime, delta: timedelta) -> datetime:
    if is_naive(dt):
        return dt + delta
    return (dt.astimezone(_UTC) + delta).astimezone(dt.tzinfo)


def maybe_timedelta(delta: Any) -> Any:
    """Turn a number of seconds into a timedelta; anything else passes through."""
    if isinstance(delta, int | float) and not isinstance(delta, bool):
        return timedelta(seconds=delta)
    return delta


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """Round *dt* down to the unit of *delta*: a day, an hour, a minute or a second."""
    span = max(delta.total_seconds(), 0)
    zeros = {"microsecond": 0, "second": 0, "minute": 0, "hour": 0}
    if span >= 86400:
        return dt.replace(**zeros)  # type: ignore[arg-type]
    if span >= 3600:
        return dt.replace(minute=0, second=0, microsecond=0)
    if span >= 60:
        return dt.replace(second=0, microsecond=0)
    return dt.replace(microsecond=0)


def remaining(
    start: datetime,
    ends_in: timedelta | ffwd,
    now: datetime | None = None,
    relative: bool = False,
) -> timedelta:
    """
    Return the elapsed time from *now* until *ends_in* after *start*; negative if that is over.

    Args:
        start: The beginning.
        ends_in: Elapsed time, or a place on the wall clock in the zone of *start*.
        now: By default the time of the call.
        relative: Round the end down to the unit of *ends_in*.
    """
    if now is None:
        now = datetime.now(_UTC)
        if is_naive(start):
            now = now.replace(tzinfo=None)
    if isinstance(ends_in, ffwd):
        end = start + ends_in
    elif relative:
        end = delta_resolution(start + ends_in, ends_in)
    else:
        end = _add_elapsed(start, ends_in)
    left = subtract_datetimes(end, now)
    if C_REMDEBUG:
        print(  # noqa: T201 - asked for by the environment
            f"rem: now={now!r} start={start!r} ends_in={ends_in!r} end={end!r} left={left}",
            file=sys.stderr,
        )
    return left


def rate(r: str | float | None) -> float:
    """
    Turn a rate into calls a second: ``"10/m"``, ``"2.5/s"``, ``"5"`` or a number; 0 is unlimited.

    Raises:
        KeyError: The unit is not one of ``s``, ``m``, ``h``.
    """
    if not r:
        return 0.0
    if isinstance(r, str):
        number, slash, unit = r.partition("/")
        return RATE_MODIFIER_MAP[unit.strip() if slash else "s"](float(number))
    return float(r)


def weekday(name: str) -> int:
    """Return the number of a day, Sunday being 0; three letters or more, any case."""
    return _number_of(name, WEEKDAYS)


def yearmonth(name: str) -> int:
    """Return the number of a month, January being 1; three letters or more, any case."""
    return _number_of(name, YEARMONTHS)


def _number_of(name: str, table: dict[str, int]) -> int:
    try:
        return table[name[:3].lower()]
    except KeyError:
        raise KeyError(name) from None


def humanize_seconds(
    secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False
) -> str:
    """
    Write a duration in its largest unit: ``1.50 minutes``.

    Args:
        secs: The duration.
        prefix: Put before it, with *sep* between.
        sep: See there.
        now: What to say for less than a second.
        microseconds: Give fractions of a second rather than *now*.
    """
    secs = float(f"{float(secs):.2f}")
    for unit, size, written in TIME_UNITS:
        if secs >= size:
            amount = secs / size
            return f"{prefix}{sep}{written(amount)} {pluralize(amount, unit)}"
    if microseconds and secs > 0.0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """Parse *dt* if it is text; None and datetimes pass through."""
    if dt is None or isinstance(dt, datetime):
        return dt
    return parse_iso8601(dt)


class ffwd:
    """
    A place on the wall clock ahead of a date: ``date + ffwd(day=13, hour=4, minute=30)``.

    Args:
        year: The year; like all the others it is left alone when None.
        month: The month.
        weeks: Weeks to go ahead.
        weekday: Day of the week to go ahead to, Sunday being 0 or 7; today counts.
        day: Day of the month; the last one if the month is shorter.
        hour: The hour.
        minute: The minute.
        second: The second.
        microsecond: The microsecond.
        kwargs: Ignored.
    """

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year, self.month, self.day = year, month, day
        self.weekday, self.weeks, self.days = weekday, weeks, 7 * weeks
        self.hour, self.minute = hour, minute
        self.second, self.microsecond = second, microsecond

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value}
        return f"ffwd({', '.join(f'{name}={value}' for name, value in given.items())})"

    def _fields(self) -> dict[str, int]:
        names = ("hour", "minute", "second", "microsecond")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        _, last_day = monthrange(year, month)
        moved: Any = other.replace(
            year=year,
            month=month,
            day=min(last_day, self.day or other.day),
            **self._fields(),
        )
        ahead = self.days
        if self.weekday is not None:
            ahead += (self.weekday - moved.isoweekday()) % 7
        # Adding even nothing would lose which of two equal times around a clock change is meant.
        return moved + timedelta(days=ahead) if ahead else moved


def utcoffset(
    time: Any = _time, localtime: Callable[..., _time.struct_time] = _time.localtime
) -> float:
    """Return how many hours local time is behind UTC now; negative east of Greenwich."""
    seconds = time.altzone if localtime().tm_isdst else time.timezone
    return float(seconds / 3600)


def adjust_timestamp(ts: float, offset: float, here: Callable[[], float] = utcoffset) -> float:
    """Move a timestamp of a machine whose `utcoffset` is *offset* to ours."""
    return ts - (offset - here()) * 3600


def get_exponential_backoff_interval(
    factor: int, retries: int, maximum: int, full_jitter: bool = False
) -> int:
    """
    Return the seconds to wait before the next attempt: ``factor * 2 ** retries``, or *maximum*.

    Args:
        factor: Seconds before the first retry.
        retries: How many there were.
        maximum: The upper limit.
        full_jitter: Choose at random between 0 and that.
    """
    # Beyond 64 doublings every limit is passed; don't compute numbers of thousands of digits.
    interval: int = min(maximum, factor * 2 ** min(retries, 64))
    if full_jitter:
        import random  # few tasks have jitter

        interval = random.randrange(interval + 1)
    return max(0, interval)
