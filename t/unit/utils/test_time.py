from __future__ import annotations

import copy
import pickle
import time as stdlib_time
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from celery.utils import time as celery_time
from celery.utils.iso8601 import parse_iso8601
from celery.utils.time import (
    LocalTimezone,
    add_seconds_to_datetime,
    adjust_timestamp,
    delta_resolution,
    ffwd,
    get_exponential_backoff_interval,
    humanize_seconds,
    is_naive,
    localize,
    make_aware,
    maybe_iso8601,
    maybe_make_aware,
    maybe_timedelta,
    rate,
    remaining,
    subtract_datetimes,
    timezone,
    to_utc,
    utcoffset,
    weekday,
)

UTC = UTC
LONDON = ZoneInfo("Europe/London")


@pytest.mark.parametrize(
    ("written", "a_second"),
    [
        ("10/m", 10 / 60),
        ("5", 5.0),
        ("2.5/s", 2.5),
        ("3600/h", 1.0),
        (10, 10.0),
        (None, 0.0),
        (0, 0.0),
        ("0/m", 0.0),
    ],
)
def test_rates_are_calls_a_second(written, a_second):
    """B-UTIL-001: ``N``, ``N/s``, ``N/m``, ``N/h``; None and 0 are unlimited."""
    assert rate(written) == pytest.approx(a_second)


def test_other_units_of_a_rate_are_unknown():
    """B-UTIL-001: other units raise KeyError."""
    with pytest.raises(KeyError):
        rate("10/d")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1.00 second"),
        (90, "1.50 minutes"),
        (3600, "1.00 hour"),
        (86400, "1.00 day"),
        (0, "now"),
        (0.5, "now"),
    ],
)
def test_durations_read_well(seconds, words):
    """B-UTIL-004: humanize_seconds."""
    assert humanize_seconds(seconds) == words


def test_durations_may_have_a_prefix_and_fractions():
    assert humanize_seconds(10, prefix="in", sep=" ") == "in 10.00 seconds"
    assert humanize_seconds(0.25, microseconds=True) == "0.25 seconds"
    assert humanize_seconds(0, now="at once") == "at once"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2010-10-31T11:32:10Z", datetime(2010, 10, 31, 11, 32, 10, tzinfo=UTC)),
        ("2010-10-31 11:32", datetime(2010, 10, 31, 11, 32)),
        ("2010-10-31", datetime(2010, 10, 31)),
        ("2010-10", datetime(2010, 10, 1)),
        ("2010-1-5 1:02:03", datetime(2010, 1, 5, 1, 2, 3)),
    ],
)
def test_iso_times_are_parsed(text, moment):
    """B-UTIL-005: ISO times accept a trailing ``Z``."""
    assert parse_iso8601(text) == moment


def test_iso_offsets_are_kept():
    parsed = parse_iso8601("2010-1-31T11:32:10.1234567-01:30")
    assert parsed.utcoffset() == timedelta(hours=-1, minutes=-30)
    assert parsed.microsecond == 123456
    assert parse_iso8601("2010-1-31T11:32z").utcoffset() == timedelta(0)
    assert pickle.loads(pickle.dumps(parsed)) == parsed


@pytest.mark.parametrize("text", ["", "no", "2010", "2010-13-01", "2010-01-01T25:00"])
def test_what_is_no_iso_time_is_refused(text):
    with pytest.raises(ValueError):
        parse_iso8601(text)


@given(st.datetimes(timezones=st.none() | st.just(UTC)))
def test_iso_times_come_back(moment):
    assert maybe_iso8601(moment.isoformat()) == moment


def test_only_text_is_parsed():
    moment = datetime(2020, 1, 1)
    assert maybe_iso8601(moment) is moment
    assert maybe_iso8601(None) is None


def test_utc_is_a_zone_with_a_name():
    assert timezone.utc.key == "UTC"
    assert timezone.utc is timezone.utc
    assert datetime(2020, 7, 1, tzinfo=timezone.utc) == datetime(2020, 7, 1, tzinfo=UTC)


def test_naive_times_get_a_zone():
    naive = datetime(2020, 7, 1, 12)
    assert is_naive(naive)
    aware = make_aware(naive, LONDON)
    assert not is_naive(aware)
    assert to_utc(aware) == datetime(2020, 7, 1, 11, tzinfo=UTC)
    assert to_utc(naive) == datetime(2020, 7, 1, 12, tzinfo=UTC)
    assert make_aware(aware, UTC).hour == 11
    assert localize(naive, LONDON).hour == 13
    assert maybe_make_aware(naive).tzinfo is UTC
    assert maybe_make_aware(naive, LONDON).hour == 13
    assert maybe_make_aware(naive, "Europe/London", naive_as_utc=False).hour == 12
    assert maybe_make_aware(aware, LONDON) == aware


def test_zones_are_found_by_name():
    assert timezone.get_timezone("Europe/London") == LONDON
    assert timezone.get_timezone(UTC) is UTC
    assert timezone.tz_or_local("UTC").utcoffset(None) == timedelta(0)
    assert timezone.tz_or_local() is timezone.local
    assert timezone.to_local(datetime(2020, 7, 1, 12), LONDON).hour == 13
    assert timezone.to_local(datetime(2020, 7, 1, 12), UTC, LONDON).hour == 11


@pytest.fixture
def in_london(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/London")
    stdlib_time.tzset()
    yield
    monkeypatch.undo()
    stdlib_time.tzset()


def test_the_zone_of_the_machine_follows_its_clock_changes(in_london):
    local = LocalTimezone()
    summer, winter = datetime(2020, 7, 1, 12, tzinfo=UTC), datetime(2020, 1, 1, 12, tzinfo=UTC)

    assert summer.astimezone(local).hour == 13
    assert winter.astimezone(local).hour == 12
    assert summer.astimezone(local) == summer
    assert summer.astimezone(local).tzname() == "BST"
    assert summer.astimezone(local).dst() == timedelta(hours=1)
    assert winter.astimezone(local).dst() == timedelta(0)
    assert timezone.to_system(summer).hour == 13
    assert timezone.to_local_fallback(datetime(2020, 7, 1, 12)).hour == 12
    assert copy.deepcopy(local) == local
    assert pickle.loads(pickle.dumps(local)) == local
    assert hash(local) == hash(LocalTimezone())
    assert local.utcoffset(None) in (timedelta(0), timedelta(hours=1))


def test_the_repeated_hour_of_the_machine_is_told_apart(in_london):
    local = LocalTimezone()
    first = datetime(2024, 10, 27, 0, 30, tzinfo=UTC).astimezone(local)
    second = datetime(2024, 10, 27, 1, 30, tzinfo=UTC).astimezone(local)

    assert (first.hour, second.hour) == (1, 1)
    assert (first.fold, second.fold) == (0, 1)
    assert second.astimezone(UTC) - first.astimezone(UTC) == timedelta(hours=1)


def test_seconds_are_elapsed_time_over_a_clock_change():
    """B-CALL-015: numeric values are elapsed seconds across DST changes."""
    before = datetime(2024, 3, 31, 0, 30, tzinfo=LONDON)
    after = add_seconds_to_datetime(before, 3600)

    assert after.hour == 2
    assert subtract_datetimes(after, before) == timedelta(hours=1)
    assert add_seconds_to_datetime(datetime(2020, 1, 1), 60) == datetime(2020, 1, 1, 0, 1)


def test_a_naive_time_is_in_the_zone_of_the_other():
    aware = datetime(2020, 7, 1, 12, tzinfo=LONDON)
    naive = datetime(2020, 7, 1, 11)
    assert subtract_datetimes(aware, naive) == timedelta(hours=1)
    assert subtract_datetimes(naive, aware) == -timedelta(hours=1)
    assert subtract_datetimes(naive, naive) == timedelta(0)


def test_remaining_counts_elapsed_time():
    """B-BEAT-010: elapsed time counts over DST changes unless relative."""
    start = datetime(2024, 3, 31, 0, 30, tzinfo=LONDON)
    left = remaining(start, timedelta(hours=2), now=start)
    assert left == timedelta(hours=2)
    wall = remaining(start, timedelta(hours=2), now=start, relative=True)
    assert wall == timedelta(minutes=30)
    assert remaining(start, ffwd(hour=3, minute=0), now=start) == timedelta(minutes=90)


def test_remaining_asks_the_clock_if_not_told():
    assert remaining(datetime.now(UTC), timedelta(hours=1)) <= timedelta(hours=1)
    assert remaining(datetime(2020, 1, 1), timedelta(hours=1)) < timedelta(0)


@pytest.mark.parametrize(
    ("delta", "rounded"),
    [
        (timedelta(days=2), datetime(2020, 5, 6)),
        (timedelta(hours=2), datetime(2020, 5, 6, 7)),
        (timedelta(minutes=2), datetime(2020, 5, 6, 7, 8)),
        (timedelta(seconds=2), datetime(2020, 5, 6, 7, 8, 9)),
    ],
)
def test_times_are_rounded_to_the_unit_of_a_span(delta, rounded):
    """B-BEAT-009: rounds to second, minute, hour, day."""
    assert delta_resolution(datetime(2020, 5, 6, 7, 8, 9, 10), delta) == rounded


def test_numbers_become_spans():
    assert maybe_timedelta(5) == timedelta(seconds=5)
    assert maybe_timedelta(1.5) == timedelta(seconds=1.5)
    assert maybe_timedelta(None) is None
    assert maybe_timedelta(timedelta(1)) == timedelta(1)


def test_days_and_months_have_numbers():
    assert weekday("sun") == weekday("Sunday") == weekday("SUN") == 0
    assert celery_time.yearmonth("february") == 2
    with pytest.raises(KeyError):
        weekday("Mo")


def test_going_forward_on_the_wall_clock():
    moment = datetime(2020, 1, 31, 10, 20, 30)
    assert moment + ffwd(month=2, hour=4, minute=0, second=0) == datetime(2020, 2, 29, 4)
    assert moment + ffwd(weeks=1) == datetime(2020, 2, 7, 10, 20, 30)
    assert (moment + ffwd(weekday=0)).isoweekday() == 7
    assert (moment + ffwd(weekday=5)) == moment
    assert date(2020, 1, 1) + ffwd(day=13) == date(2020, 1, 13)
    assert repr(ffwd(hour=3)) == "ffwd(hour=3)"
    with pytest.raises(TypeError):
        5 + ffwd(hour=1)


def test_timestamps_move_between_machines():
    assert adjust_timestamp(1000.0, 2, here=lambda: 2) == 1000.0
    assert adjust_timestamp(10_000.0, 3, here=lambda: 1) == 10_000 - 7200
    assert isinstance(utcoffset(), float)


def test_offsets_of_half_hours_are_exact():
    class India:
        timezone = altzone = -19800

        class tm:
            tm_isdst = 0

    assert utcoffset(time=India, localtime=lambda: India.tm) == -5.5


@given(st.integers(1, 100), st.integers(0, 10_000), st.integers(0, 10_000))
def test_waiting_times_double_up_to_a_limit(factor, retries, maximum):
    interval = get_exponential_backoff_interval(factor, retries, maximum)
    assert interval == min(maximum, factor * 2**retries)
    assert 0 <= get_exponential_backoff_interval(factor, retries, maximum, True) <= interval


def test_retry_delays_are_those_of_the_documentation():
    """B-TASK-031: factor 3: 3, 6, 12, …; factor 10 and max 50: 10, 20, 40, 50, 50."""
    assert [get_exponential_backoff_interval(3, n, 600) for n in range(3)] == [3, 6, 12]
    assert [get_exponential_backoff_interval(10, n, 50) for n in range(5)] == [10, 20, 40, 50, 50]


def test_a_debug_switch_shows_the_sums(monkeypatch, capsys):
    monkeypatch.setattr(celery_time, "C_REMDEBUG", True)
    remaining(datetime(2020, 1, 1), timedelta(1), now=datetime(2020, 1, 1))
    assert "ends_in" in capsys.readouterr().err
