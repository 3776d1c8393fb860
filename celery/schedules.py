"""
When something is to run again: ``(last run, now) -> (due?, seconds to wait)``.

A `schedule` counts elapsed time, a `crontab` looks at the wall clock in the app's time zone, and
`solar` at the sun.  They hold no state; the scheduler remembers the last run.

Around clock changes a `crontab` goes by the wall clock.  A time that is left out comes later, by
as much as the clock was put forward.  A time that comes twice counts once, at its first pass; but
where the minute or the hour is a star, or begins with one, each pass counts, as otherwise what runs
hourly would pause for an hour.
"""

from __future__ import annotations

import numbers
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from celery._state import get_current_app
from celery.exceptions import ImproperlyConfigured
from celery.utils.cronfields import ParseException, crontab_parser
from celery.utils.time import (
    add_seconds_to_datetime,
    ffwd,
    humanize_seconds,
    localize,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    subtract_datetimes,
    timezone,
)
from celery.utils.wallclock import moments, on_clock, spread, wall_time

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = (
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedule",
    "solar",
)

Cronspec = Union[int, str, Iterable[int]]  # noqa: UP007 - read as a typing construct

#: A leap year has them all.
CRON_DAYS_IN_MONTH = {month: monthrange(2000, month)[1] for month in range(1, 13)}

# How many values each field has, and the first of them.
_CRON_VALUES = {
    "minute": (60, 0),
    "hour": (24, 0),
    "day_of_week": (7, 0),
    "day_of_month": (31, 1),
    "month_of_year": (12, 1),
}

CRON_PATTERN_INVALID = "Invalid crontab pattern: {value!r} is not between {min} and {max}."
CRON_INVALID_TYPE = "A crontab field is a number, text, or an iterable of numbers, not {type!r}."
CRON_INVALID_DATE = "No month in {months} has a day in {days}, so this crontab would never run."
CRON_REPR = "<crontab: {0._orig_minute} {0._orig_hour} {0._orig_day_of_month} \
{0._orig_month_of_year} {0._orig_day_of_week} (m/h/dM/MY/d)>"

SOLAR_INVALID_LATITUDE = "Latitude {lat} is not between -90 and 90 degrees."
SOLAR_INVALID_LONGITUDE = "Longitude {lon} is not between -180 and 180 degrees."
SOLAR_INVALID_EVENT = "There is no solar event {event!r}; the events are: {all_events}."
SOLAR_EPHEM_NOT_INSTALLED = (
    "Solar schedules need the package ephem; install it with: pip install celery[solar]"
)

#: How late an interval may end without the next one starting later.
LITTLE_LATE = timedelta(seconds=10)
#: The same where runs that were missed are made up for.
CATCH_UP = timedelta(seconds=60)

_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


class schedstate(NamedTuple):
    """Whether a run is due, and in how many seconds to ask again."""

    is_due: bool
    next: float


def cronfield(s: Any) -> Any:
    """Return how to show a crontab field: None is a star."""
    return "*" if s is None else s


class BaseSchedule:
    """
    What all schedules have: a clock, an app, and its time zone.

    Args:
        nowfun: Returns the current time; by default that of the app.
        app: Its settings tell the time zone; by default the current app.
    """

    def __init__(
        self, nowfun: Callable[[], datetime] | None = None, app: Celery | None = None
    ) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """Return the current time."""
        return (self.nowfun or self.app.now)()

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the run after *last_run_at*; negative if that is overdue."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """
        Say whether to run now.

        Returns:
            That, and the seconds after which to ask again: until the next run after this one, or
            until this one.
        """
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Convert *dt* to our zone; a naive one is in UTC, or else in our zone."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Celery:
        """The app."""
        return self._app or get_current_app()

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app
        self.__dict__.pop("tz", None)
        self.__dict__.pop("utc_enabled", None)

    @cached_property
    def tz(self) -> tzinfo:
        """The time zone of the app."""
        zone: tzinfo = self.app.timezone
        return zone

    @cached_property
    def utc_enabled(self) -> bool:
        """Whether the app's times are in UTC."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """Convert *dt* to local time if the app's times are local."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


class schedule(BaseSchedule):
    """
    Runs at an interval, counted from the last run.

    Args:
        run_every: Seconds or a timedelta.
        relative: Round the time of the next run down to the unit of the interval: an hourly entry
            runs on the hour.
        nowfun: See `BaseSchedule`.
        app: See `BaseSchedule`.
    """

    relative: bool = False

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Celery | None = None,
    ) -> None:
        super().__init__(nowfun=nowfun, app=app)
        self.run_every: timedelta = maybe_timedelta(run_every)
        self.relative = relative

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the run after *last_run_at*."""
        return remaining(
            self.maybe_make_aware(last_run_at),
            self.run_every,
            self.maybe_make_aware(self.now()),
            self.relative,
        )

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Say whether to run, and when to ask again; runs that were missed are not made up for."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=self.seconds)

    def due_at(self, last_run_at: datetime, now: datetime, catch_up: bool = False) -> datetime:
        """
        Return the moment from which the interval after a run at *now* counts.

        A run that is less than an interval late, and a few seconds, does not put the following
        ones off: it counts as having come when it was due.  After a longer pause the interval
        starts afresh.

        Args:
            last_run_at: The run before.
            now: When it is run.
            catch_up: Runs that were missed within the last minute come one after the other.
        """
        end = self.maybe_make_aware(now)
        late = subtract_datetimes(end, self.maybe_make_aware(last_run_at)) - self.run_every
        limit = CATCH_UP if catch_up else min(LITTLE_LATE, self.run_every)
        if self.relative or not timedelta(0) <= late < limit:
            return now
        return add_seconds_to_datetime(end, -late.total_seconds())

    @property
    def seconds(self) -> float:
        """The interval."""
        return max(self.run_every.total_seconds(), 0)

    @property
    def human_seconds(self) -> str:
        """The interval, for people."""
        return humanize_seconds(self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, schedule):
            return (self.run_every, self.relative) == (other.run_every, other.relative)
        return NotImplemented

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)


# -- crontab --------------------------------------------------------------------------------------


class crontab(BaseSchedule):
    """
    Runs at places on the wall clock, as cron does, except that *both* day fields must match.

    Args:
        minute: 0-59; each field is a number, an iterable of numbers, or text for `crontab_parser`.
        hour: 0-23.
        day_of_week: 0-6, Sunday being 0, or names.
        day_of_month: 1-31.
        month_of_year: 1-12, or names.
        kwargs: See `BaseSchedule`.

    Raises:
        ValueError: A value is out of range, or no such day exists.
        ParseException: A text is not well formed.
        TypeError: A field is something else.
    """

    #: The values of the fields.
    minute: set[int]
    hour: set[int]
    day_of_week: set[int]
    day_of_month: set[int]
    month_of_year: set[int]
    # The fields as they were given.
    _orig_minute: Any
    _orig_hour: Any
    _orig_day_of_week: Any
    _orig_day_of_month: Any
    _orig_month_of_year: Any

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        for (name, values), spec in zip(_CRON_VALUES.items(), given, strict=True):
            setattr(self, f"_orig_{name}", cronfield(spec))
            setattr(self, name, self._expand_cronspec(spec, *values))
        if min(self.day_of_month) > max(CRON_DAYS_IN_MONTH[m] for m in self.month_of_year):
            raise ValueError(
                CRON_INVALID_DATE.format(
                    months=sorted(self.month_of_year), days=sorted(self.day_of_month)
                )
            )
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> Any:
        """
        Make one of the five fields of a crontab file, in their order there.

        Raises:
            ValueError: There are not five.
        """
        fields = crontab.split()
        if len(fields) != 5:
            raise ValueError(f"a crontab has five fields, not {len(fields)}: {crontab!r}")
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Any, max_: int, min_: int = 0) -> set[int]:
        """Return the values of a field: *max_* of them, from *min_*."""
        if isinstance(cronspec, str):
            return crontab_parser(max_, min_).parse(cronspec)
        if isinstance(cronspec, numbers.Integral):
            values = {int(cronspec)}
        elif isinstance(cronspec, Iterable):
            values = set(cronspec)
        else:
            raise TypeError(CRON_INVALID_TYPE.format(type=type(cronspec).__name__))
        for value in values:
            if not isinstance(value, int):
                raise TypeError(CRON_INVALID_TYPE.format(type=f"one with {value!r}"))
            if not min_ <= value < min_ + max_:
                raise ValueError(
                    CRON_PATTERN_INVALID.format(value=value, min=min_, max=min_ + max_ - 1)
                )
        if not values:
            raise ValueError("Invalid crontab pattern: an empty field would never match.")
        return values

    # Looking for a slot is arithmetic on naive datetimes, which are places on the wall clock.

    @cached_property
    def _times_of_day(self) -> list[int]:
        """The slots of a day, in minutes since midnight, in order."""
        return [60 * hour + minute for hour in sorted(self.hour) for minute in sorted(self.minute)]

    def _matches(self, day: date) -> bool:
        return day.isoweekday() % 7 in self.day_of_week

    def _days_from(self, day: date) -> Iterator[date]:
        """Yield the days that match, from *day* on, in order."""
        for year in range(day.year, 10000):
            for month in sorted(self.month_of_year):
                if (year, month) < (day.year, day.month):
                    continue
                _, length = monthrange(year, month)
                days = (date(year, month, d) for d in sorted(self.day_of_month) if d <= length)
                yield from (found for found in days if found >= day and self._matches(found))

    def _days_until(self, day: date) -> Iterator[date]:
        """Yield the days that match, from *day* backwards."""
        for year in range(day.year, 0, -1):
            for month in sorted(self.month_of_year, reverse=True):
                if (year, month) > (day.year, day.month):
                    continue
                _, length = monthrange(year, month)
                backwards = sorted(self.day_of_month, reverse=True)
                days = (date(year, month, d) for d in backwards if d <= length)
                yield from (found for found in days if found <= day and self._matches(found))

    def _slot_after(self, wall: datetime) -> datetime:
        """Return the first slot later than the minute of *wall*."""
        times = self._times_of_day
        now = 60 * wall.hour + wall.minute
        for day in self._days_from(wall.date()):
            first = bisect_right(times, now) if day == wall.date() else 0
            if first < len(times):
                return on_clock(day, times[first])
        raise ValueError(f"{self!r} has no run after {wall}")

    def _slot_before(self, wall: datetime) -> datetime | None:
        """Return the last slot not later than *wall*; None if it would be before year 1."""
        times = self._times_of_day
        now = 60 * wall.hour + wall.minute
        for day in self._days_until(wall.date()):
            last = bisect_left(times, now + 1) if day == wall.date() else len(times)
            if last:
                return on_clock(day, times[last - 1])
        return None

    @cached_property
    def _counts_each_pass(self) -> bool:
        """Whether a time that comes twice counts twice."""
        given = (self._orig_minute, self.minute, 60), (self._orig_hour, self.hour, 24)
        return any(
            len(values) == size or (isinstance(text, str) and text.startswith("*"))
            for text, values, size in given
        )

    def _run_after(self, moment: datetime, zone: tzinfo) -> datetime:
        """Return the first run later than the minute of *moment*, in UTC."""
        here = moment.astimezone(zone)
        begun = timedelta(seconds=here.second, microseconds=here.microsecond)
        first = here.astimezone(UTC) - begun + _MINUTE
        wall = wall_time(first, zone)
        # Places on the wall clock come in another order than moments where it was changed.
        slot = self._slot_after(wall - spread(first, zone) - _MINUTE)
        best: datetime | None = None
        until = wall
        while best is None or slot < until:
            for found in moments(slot, zone, self._counts_each_pass):
                if found >= first and (best is None or found < best):
                    best = found
                    until = wall_time(best, zone) + spread(best, zone)
            if best is None or slot < until:
                slot = self._slot_after(slot)
        return best

    def _run_until(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """Return the last run not later than *moment*, in UTC; None if there is none."""
        last = moment.astimezone(UTC)
        wall = wall_time(last, zone)
        slot = self._slot_before(wall + spread(last, zone))
        best: datetime | None = None
        until = wall
        while slot is not None and (best is None or slot > until):
            for found in moments(slot, zone, self._counts_each_pass):
                if found <= last and (best is None or found > best):
                    best = found
                    until = wall_time(best, zone) - spread(best, zone)
            if best is None or slot > until:
                slot = self._slot_before(slot - _MINUTE)
        return best

    def remaining_delta(
        self,
        last_run_at: datetime,
        tz: tzinfo | None = None,
        ffwd: type[ffwd] = ffwd,
    ) -> tuple[datetime, Any, datetime]:
        """Return the last run, the place on the wall clock of the run after it, and now."""
        zone = tz or self.tz
        start = localize(self.maybe_make_aware(last_run_at), zone)
        now = localize(self.maybe_make_aware(self.now()), zone)
        slot = self._run_after(start, zone).astimezone(zone)
        delta = ffwd(
            year=slot.year,
            month=slot.month,
            day=slot.day,
            hour=slot.hour,
            minute=slot.minute,
            second=0,
            microsecond=0,
        )
        return start.replace(fold=slot.fold), delta, now

    def remaining_estimate(self, last_run_at: datetime, ffwd: type[ffwd] = ffwd) -> timedelta:
        """Return the time until the run after *last_run_at*."""
        return remaining(*self.remaining_delta(last_run_at, ffwd=ffwd))

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """
        Say whether to run, and when to ask again.

        However many slots went by, it is one run.  With the setting
        ``beat_cron_starting_deadline`` it only is due if the latest of them went by no more than so
        many seconds ago.
        """
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        now = self.now()
        until_next = max(self.remaining_estimate(now).total_seconds(), 0)
        deadline = self.app.conf.beat_cron_starting_deadline
        due = deadline is None or self._seconds_late(now) <= deadline
        return schedstate(is_due=due, next=until_next)

    def _seconds_late(self, now: datetime) -> float:
        """Return how long ago the latest slot was."""
        here = self.maybe_make_aware(now)
        latest = self._run_until(here, self.tz)
        return float("inf") if latest is None else subtract_datetimes(here, latest).total_seconds()

    def __repr__(self) -> str:
        return CRON_REPR.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute,
            self._orig_hour,
            self._orig_day_of_week,
            self._orig_day_of_month,
            self._orig_month_of_year,
        )
        # The app stays here; its place is with whoever loads the schedule.
        return type(self), fields

    def _parsed(self) -> tuple[set[int], ...]:
        return self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year

    def __eq__(self, other: object) -> bool:
        if isinstance(other, crontab):
            return self._parsed() == other._parsed() and super().__eq__(other)
        return NotImplemented

    __hash__ = None


# -- the sun --------------------------------------------------------------------------------------

#: For each event: the method of ephem, the height of the sun, and whether its centre counts.
_SOLAR_EVENTS: dict[str, tuple[str, str, bool]] = {
    "dawn_astronomical": ("next_rising", "-18", True),
    "dawn_nautical": ("next_rising", "-12", True),
    "dawn_civil": ("next_rising", "-6", True),
    "sunrise": ("next_rising", "-0:34", False),
    "solar_noon": ("next_transit", "0", False),
    "sunset": ("next_setting", "-0:34", False),
    "dusk_civil": ("next_setting", "-6", True),
    "dusk_nautical": ("next_setting", "-12", True),
    "dusk_astronomical": ("next_setting", "-18", True),
}


class solar(BaseSchedule):
    """
    Runs when the sun reaches a certain height over a place.

    Args:
        event: One of ``dawn_astronomical``, ``dawn_nautical``, ``dawn_civil``, ``sunrise``,
            ``solar_noon``, ``sunset``, ``dusk_civil``, ``dusk_nautical``, ``dusk_astronomical``.
        lat: Latitude in degrees, north being positive.
        lon: Longitude in degrees, east being positive.
        kwargs: See `BaseSchedule`.

    Raises:
        ValueError: There is no such event, or no such place.
        ImproperlyConfigured: The package ephem is not installed.
    """

    _all_events = frozenset(_SOLAR_EVENTS)
    #: Days to look ahead for an event that does not happen every day.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        try:
            import ephem
        except ImportError:
            raise ImproperlyConfigured(SOLAR_EPHEM_NOT_INSTALLED) from None
        super().__init__(**kwargs)
        if event not in _SOLAR_EVENTS:
            raise ValueError(
                SOLAR_INVALID_EVENT.format(event=event, all_events=", ".join(_SOLAR_EVENTS))
            )
        if not -90 <= lat <= 90:
            raise ValueError(SOLAR_INVALID_LATITUDE.format(lat=lat))
        if not -180 <= lon <= 180:
            raise ValueError(SOLAR_INVALID_LONGITUDE.format(lon=lon))
        self.ephem: Any = ephem
        self.event = event
        self.lat = lat
        self.lon = lon
        self.method, horizon, self.use_center = _SOLAR_EVENTS[event]
        self.cal: Any = ephem.Observer()
        self.cal.lat = str(lat)
        self.cal.lon = str(lon)
        self.cal.elev = 0
        self.cal.horizon = horizon
        self.cal.pressure = 0  # the horizon includes refraction

    def _next_event(self, after: datetime) -> datetime:
        """Return the first event later than *after*, in UTC."""
        options = {} if self.method == "next_transit" else {"use_center": self.use_center}
        start = localize(after, UTC).replace(tzinfo=None)
        for days in range(self.max_search_days + 1):
            try:
                found = getattr(self.cal, self.method)(
                    self.ephem.Sun(), start=start + days * _DAY, **options
                )
            except self.ephem.CircumpolarError:  # the sun stays up, or down, all that day
                continue
            moment: datetime = found.datetime().replace(tzinfo=UTC)
            return moment
        raise RuntimeError(
            f"no {self.event} at latitude {self.lat} within {self.max_search_days} days"
        )

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the event after *last_run_at*."""
        upcoming = self._next_event(self.maybe_make_aware(last_run_at))
        return subtract_datetimes(upcoming, self.maybe_make_aware(self.now()))

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        """Say whether to run, and when to ask again."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        until_next = self.remaining_estimate(self.now()).total_seconds()
        return schedstate(is_due=True, next=max(until_next, 0))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, solar):
            return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)
        return NotImplemented

    __hash__ = None

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)


def maybe_schedule(s: Any, relative: bool = False, app: Celery | None = None) -> Any:
    """Make a `schedule` of seconds or a timedelta; a schedule is given the app and returned."""
    s = maybe_timedelta(s)
    if isinstance(s, timedelta):
        return schedule(s, relative, app=app)
    if s is not None:
        s.app = app
    return s
