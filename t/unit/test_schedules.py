from __future__ import annotations

import pickle
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings, strategies as st

from celery.exceptions import ImproperlyConfigured
from celery.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    crontab_parser,
    maybe_schedule,
    schedstate,
    schedule,
    solar,
)

UTC = UTC
LONDON = ZoneInfo("Europe/London")


class App:
    """What a schedule asks of an app: a clock that is set by hand, a zone, settings."""

    def __init__(self, zone=UTC, deadline=None):
        self.timezone = zone
        self.time = datetime(2024, 1, 1, tzinfo=UTC)
        self.conf = SimpleNamespace(enable_utc=True, beat_cron_starting_deadline=deadline)

    def now(self):
        return self.time


@pytest.fixture
def app():
    return App()


def at(hour, minute=0, second=0, day=1):
    return datetime(2024, 1, day, hour, minute, second, tzinfo=UTC)


def next_run(cron, last, zone=LONDON):
    """Return the run after *last*, which is also the present, in *zone*."""
    cron.app = App(zone)
    cron.app.time = last.astimezone(UTC)
    return (last.astimezone(UTC) + cron.remaining_estimate(last)).astimezone(zone)


# -- intervals ------------------------------------------------------------------------------------


def test_an_interval_counts_from_the_last_run(app):
    """B-BEAT-007, B-BEAT-008: 10 s schedule after 4 s → ``(False, 6.0)``."""
    every = schedule(10, app=app)
    app.time = at(0, 0, 4)

    assert every.is_due(at(0)) == (False, 6.0)
    assert isinstance(every.is_due(at(0)), schedstate)


def test_missed_runs_are_one_run(app):
    """B-BEAT-008: after 60 s → ``(True, 10.0)``."""
    app.time = at(0, 1)
    assert schedule(10, app=app).is_due(at(0)) == (True, 10.0)


def test_a_relative_interval_runs_on_the_hour(app):
    """B-BEAT-009: hourly with last run 00:10, at 00:20 → next in 2400 s."""
    app.time = at(0, 20)
    every = schedule(timedelta(hours=1), relative=True, app=app)

    assert every.is_due(at(0, 10)) == (False, 2400.0)


def test_an_interval_is_elapsed_time_over_a_clock_change():
    """B-BEAT-010: elapsed time counts over DST changes unless `relative`."""
    app = App(LONDON)
    app.time = last = datetime(2024, 3, 31, 0, 30, tzinfo=LONDON)

    assert schedule(7200, app=app).is_due(last) == (False, 7200.0)
    assert schedule(7200, relative=True, app=app).is_due(last) == (False, 1800.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (10, "<freq: 10.00 seconds>"),
        (86400, "<freq: 1.00 day>"),
        (90, "<freq: 1.50 minutes>"),
        (0, "<freq: now>"),
    ],
)
def test_an_interval_reads_well(seconds, text):
    """B-BEAT-011: repr."""
    assert repr(schedule(seconds)) == text


def test_numbers_become_schedules_and_others_pass(app):
    """B-BEAT-011: ``maybe_schedule(5)`` gives a schedule of 5 s; other objects pass through."""
    made = maybe_schedule(5, app=app)
    assert made == schedule(5)
    assert made.app is app
    assert maybe_schedule(timedelta(hours=1), relative=True).relative
    cron = crontab()
    assert maybe_schedule(cron, app=app) is cron
    assert cron.app is app
    assert maybe_schedule(None) is None


def test_intervals_equal_their_like():
    """B-BEAT-022: a `schedule` does not equal a plain number."""
    assert schedule(5) == schedule(timedelta(seconds=5))
    assert schedule(5) != schedule(6)
    assert schedule(5) != schedule(5, relative=True)
    assert schedule(5) != 5
    assert pickle.loads(pickle.dumps(schedule(5, relative=True))) == schedule(5, relative=True)
    with pytest.raises(TypeError):
        hash(schedule(5))


def test_a_naive_last_run_is_in_utc(app):
    app.time = at(0, 0, 4)
    assert schedule(10, app=app).is_due(datetime(2024, 1, 1)) == (False, 6.0)
    assert schedule(10, nowfun=lambda: at(0, 0, 4), app=app).now() == at(0, 0, 4)


def test_every_schedule_has_a_zone_and_a_clock(app):
    base = BaseSchedule(app=app)
    assert base.now() == app.time
    assert base.tz is UTC
    assert base.utc_enabled
    assert base.to_local(at(3)) == at(3)
    base.app = App(LONDON)
    assert base.tz is LONDON
    assert base == BaseSchedule()
    assert base != 5
    with pytest.raises(NotImplementedError):
        base.is_due(at(0))
    with pytest.raises(NotImplementedError):
        base.remaining_estimate(at(0))
    local = App()
    local.conf.enable_utc = False
    assert BaseSchedule(app=local).to_local(at(3)) == at(3)


# -- the fields of a crontab ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "spec", "values"),
    [
        ((60, 0), "*", range(60)),
        ((60, 0), "5", [5]),
        ((60, 0), "1,2,30-32", [1, 2, 30, 31, 32]),
        ((60, 0), "0-10/5,59", [0, 5, 10, 59]),
    ],
)
def test_fields_are_lists_of_ranges(size, spec, values):
    """B-BEAT-013: comma list of ``*``, ``N``, ``A-B``, ranges with optional step."""
    assert crontab_parser(*size).parse(spec) == set(values)


@pytest.mark.parametrize(
    ("size", "spec", "values"),
    [
        ((60, 0), "10-3", [*range(10, 60), 0, 1, 2, 3]),
        ((24, 0), "22-4/2", [22, 0, 2, 4]),
        ((7, 0), "fri-mon", [5, 6, 0, 1]),
        ((12, 1), "nov-feb", [11, 12, 1, 2]),
        ((31, 1), "28-3", [28, 29, 30, 31, 1, 2, 3]),
    ],
)
def test_ranges_wrap_around(size, spec, values):
    """B-BEAT-014: ranges wrap."""
    assert crontab_parser(*size).parse(spec) == set(values)


@pytest.mark.parametrize(
    ("size", "spec", "values"),
    [
        ((60, 0), "*/7", range(0, 60, 7)),
        ((31, 1), "*/2", range(1, 32, 2)),
        ((12, 1), "*/3", [1, 4, 7, 10]),
        ((24, 0), "*/5", [0, 5, 10, 15, 20]),
    ],
)
def test_steps_start_at_the_lowest_value(size, spec, values):
    """B-BEAT-015: steps start at the field's lowest value."""
    assert crontab_parser(*size).parse(spec) == set(values)


def test_days_and_months_have_names():
    """B-BEAT-016: by their first three letters or full, any case; Sunday is 0."""
    for name in ("sun", "SUN", "sunday"):
        assert crontab_parser(7).parse(name) == {0}
    assert crontab_parser(12, 1).parse("february") == {2}
    with pytest.raises(ValueError, match="'Mo'"):
        crontab_parser(7).parse("Mo")
    with pytest.raises(ValueError, match=r"Invalid end range: 7 > 6\."):
        crontab_parser(7).parse("7")


def test_names_of_days_are_numbers_anywhere():
    """B-BEAT-017: ``mon-fri`` as minutes parses to 1-5."""
    assert crontab(minute="mon-fri").minute == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("60", ValueError, "Invalid end range: 60 > 59."),
        ("5/10", ValueError, "5/10"),
        ("*/0", ValueError, "step"),
        ("*/x", ValueError, "step"),
        ("1;2", ValueError, "1;2"),
        ("", ParseException, "empty"),
        ("1,,2", ParseException, "empty"),
        ("*/", ParseException, "empty filter"),
        ("-1", ParseException, "negative"),
        ("1--2", ParseException, "negative"),
    ],
)
def test_what_is_not_well_formed_is_refused(spec, error, text):
    """B-BEAT-013, B-BEAT-018: the kinds of errors."""
    with pytest.raises(error, match=text):
        crontab(minute=spec)


def test_a_day_zero_is_refused():
    """B-BEAT-018: "Invalid beginning range: 0 < 1."."""
    with pytest.raises(ValueError, match=r"Invalid beginning range: 0 < 1\."):
        crontab(day_of_month="0")


@pytest.mark.parametrize("value", [1.5, None, ["1"]])
def test_fields_of_other_types_are_refused(value):
    """B-BEAT-018: float or None is a TypeError."""
    with pytest.raises(TypeError):
        crontab(hour=value)


@pytest.mark.parametrize("value", [[1, 60], 60, -1, []])
def test_numbers_out_of_range_are_refused(value):
    """B-BEAT-018: out-of-range iterable → ValueError "Invalid crontab pattern…"."""
    with pytest.raises(ValueError, match="Invalid crontab pattern"):
        crontab(minute=value)


def test_fields_are_numbers_text_or_iterables():
    """B-BEAT-012: each int, string or iterable of ints; positional order."""
    cron = crontab(1, "2", {3, 4}, (5,), range(6, 8))

    assert (cron.minute, cron.hour) == ({1}, {2})
    assert (cron.day_of_week, cron.day_of_month, cron.month_of_year) == ({3, 4}, {5}, {6, 7})
    assert crontab().minute == set(range(60))
    assert crontab().month_of_year == set(range(1, 13))


def test_a_day_that_never_comes_is_refused():
    """B-BEAT-020: ValueError at construction; 29 February is fine."""
    with pytest.raises(ValueError, match="never run"):
        crontab(day_of_month=30, month_of_year=2)
    with pytest.raises(ValueError, match="never run"):
        crontab(day_of_month=31, month_of_year="4,6,9,11")
    crontab(day_of_month=29, month_of_year=2)
    crontab(day_of_month="30,1", month_of_year=2)


def test_a_line_of_a_crontab_file_is_read():
    """B-BEAT-021: five fields in cron order."""
    assert crontab.from_string("*/5 3 * * mon") == crontab("*/5", 3, day_of_week="mon")
    with pytest.raises(ValueError, match="five fields"):
        crontab.from_string("* * * *")


def test_crontabs_show_compare_and_pickle():
    """B-BEAT-022: repr in cron order; equal by parsed fields; unhashable."""
    cron = crontab.from_string("*/5 3 1 2 mon")
    assert repr(cron) == "<crontab: */5 3 1 2 mon (m/h/dM/MY/d)>"
    assert cron._orig_minute == "*/5"
    assert crontab(minute=1) == crontab(minute="1")
    assert crontab(minute=1) != crontab(minute=2)
    assert crontab() != schedule(60)
    assert pickle.loads(pickle.dumps(cron)) == cron
    with pytest.raises(TypeError):
        hash(cron)


# -- when a crontab is due ------------------------------------------------------------------------


def test_the_minute_of_the_last_run_is_over(app):
    """B-BEAT-023: next is the following slot."""
    app.time = at(0, 30, 40)
    assert crontab(minute=30, app=app).is_due(at(0, 30, 5)) == (False, 3600 - 40.0)


def test_overdue_runs_fire_once(app):
    """B-BEAT-024: last run 00:30, now 05:10, hourly → due, next 3000 s."""
    app.time = at(5, 10)
    assert crontab(minute=0, app=app).is_due(at(0, 30)) == (True, 3000.0)


def test_both_day_fields_must_match(app):
    """B-BEAT-019: 13th and Friday."""
    cron = crontab(0, 0, day_of_month=13, day_of_week="fri")
    found = next_run(cron, datetime(2024, 1, 1, tzinfo=UTC), UTC)
    assert found == datetime(2024, 9, 13, tzinfo=UTC)


def test_the_29th_of_february_on_a_monday_comes(app):
    cron = crontab(0, 0, day_of_month=29, month_of_year=2, day_of_week="mon")
    found = next_run(cron, datetime(2024, 3, 1, tzinfo=UTC), UTC)
    assert found == datetime(2044, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("deadline", "due"), [(None, True), (600, True), (599, False), (0, False), (601, True)]
)
def test_a_slot_missed_for_too_long_is_left_out(deadline, due):
    """B-BEAT-025: only if the most recent missed slot is at most N seconds ago."""
    app = App(deadline=deadline)
    app.time = at(5, 10)
    assert crontab(minute=0, app=app).is_due(at(0, 30)) == (due, 3000.0)


def test_the_deadline_looks_back_over_days_and_years():
    app = App(deadline=3600)
    app.time = datetime(2024, 1, 1, 0, 30, tzinfo=UTC)
    late = crontab(0, 0, day_of_month=1, month_of_year=1, app=app)
    assert late.is_due(datetime(2022, 5, 1, tzinfo=UTC)).is_due is True
    missed = crontab(0, 23, day_of_month=31, month_of_year=12, app=app)
    assert missed.is_due(datetime(2022, 5, 1, tzinfo=UTC)).is_due is False


def test_a_time_that_is_left_out_happens_an_hour_later():
    """B-BEAT-026: spring gap: a daily 01:30 runs at 02:30 BST; hourly :30 goes 00:30 → 02:30."""
    daily = next_run(crontab(30, 1), datetime(2024, 3, 30, 1, 30, tzinfo=LONDON))
    hourly = next_run(crontab(30), datetime(2024, 3, 31, 0, 30, tzinfo=LONDON))

    assert str(daily) == str(hourly) == "2024-03-31 02:30:00+01:00"


def test_a_time_that_comes_twice_counts_once():
    """B-BEAT-026: autumn: daily 01:30 runs once (first occurrence)."""
    last = datetime(2024, 10, 26, 1, 30, tzinfo=LONDON)
    first = next_run(crontab(30, 1), last)
    assert str(first) == "2024-10-27 01:30:00+01:00"
    assert str(next_run(crontab(30, 1), first)) == "2024-10-28 01:30:00+00:00"


def test_what_runs_hourly_does_not_pause_for_the_repeated_hour():
    """Other than B-BEAT-026, where the repeated hour is skipped."""
    first = datetime(2024, 10, 27, 1, 30, tzinfo=LONDON)
    second = next_run(crontab(30), first)
    assert str(second) == "2024-10-27 01:30:00+00:00"
    assert str(next_run(crontab(30), second)) == "2024-10-27 02:30:00+00:00"


def test_what_runs_several_times_an_hour_does_not_pause_for_the_repeated_one():
    moment = datetime(2024, 10, 27, 1, 40, tzinfo=LONDON)
    runs = []
    for _ in range(6):
        moment = next_run(crontab("*/20"), moment)
        runs.append(moment.strftime("%H:%M %Z"))

    assert runs == ["01:00 GMT", "01:20 GMT", "01:40 GMT", "02:00 GMT", "02:20 GMT", "02:40 GMT"]


def test_a_start_in_the_second_pass_goes_on_from_there():
    second_pass = datetime(2024, 10, 27, 1, 10, tzinfo=LONDON, fold=1)
    assert str(next_run(crontab(30), second_pass)) == "2024-10-27 01:30:00+00:00"


def test_crontabs_are_evaluated_in_the_zone_of_the_app():
    """B-BEAT-027: in `timezone`."""
    last = datetime(2024, 7, 1, 0, 0, tzinfo=UTC)
    assert next_run(crontab(0, 12), last) == datetime(2024, 7, 1, 11, tzinfo=UTC)
    assert next_run(crontab(0, 12), last, UTC) == datetime(2024, 7, 1, 12, tzinfo=UTC)


field = st.lists(st.integers(0, 59), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 59), min_size=1, max_size=4),
    st.lists(st.integers(0, 23), min_size=1, max_size=4),
    st.lists(st.integers(1, 31), min_size=1, max_size=4),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.datetimes(datetime(1999, 1, 1), datetime(2040, 1, 1)),
    st.sampled_from([UTC, LONDON, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")]),
)
def test_the_next_run_lies_ahead_and_matches(minute, hour, day, weekday, month, naive, zone):
    try:
        cron = crontab(minute, hour, weekday, day, month)
    except ValueError:
        assume(False)
    last = naive.replace(tzinfo=UTC).astimezone(zone)

    found = next_run(cron, last, zone)

    assert found > last
    on_the_wall = cron._slot_after(last.replace(tzinfo=None))
    assert on_the_wall.minute in cron.minute
    assert on_the_wall.hour in cron.hour
    assert on_the_wall.day in cron.day_of_month
    assert on_the_wall.month in cron.month_of_year
    assert on_the_wall.isoweekday() % 7 in cron.day_of_week
    assert cron._slot_before(on_the_wall) == on_the_wall
    before = cron._slot_before(on_the_wall - timedelta(minutes=1))
    assert before is None or before <= last.replace(tzinfo=None)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 59), min_size=1, max_size=3),
    st.lists(st.integers(0, 23), min_size=1, max_size=3),
    st.datetimes(datetime(2020, 1, 1), datetime(2024, 1, 1)),
)
def test_no_slot_is_skipped(minute, hour, naive):
    cron = crontab(minute, hour)
    wall = naive.replace(second=0, microsecond=0)
    found = cron._slot_after(wall)
    step = wall + timedelta(minutes=1)
    while not (step.minute in cron.minute and step.hour in cron.hour):
        step += timedelta(minutes=1)
    assert found == step


# -- the sun --------------------------------------------------------------------------------------


def test_the_sun_sets_in_the_evening(app):
    """B-BEAT-029: times are computed in UTC."""
    app.time = datetime(2024, 6, 21, 12, tzinfo=UTC)
    sunset = solar("sunset", 51.5, 0, app=app)

    assert timedelta(hours=8) < sunset.remaining_estimate(app.time) < timedelta(hours=8.5)
    due, wait = sunset.is_due(app.time)
    assert (due, wait) == (False, sunset.remaining_estimate(app.time).total_seconds())


def test_an_event_that_has_come_is_due(app):
    app.time = datetime(2024, 6, 21, 22, tzinfo=UTC)
    due, wait = solar("sunset", 51.5, 0, app=app).is_due(datetime(2024, 6, 21, 12, tzinfo=UTC))
    assert due
    assert 22 * 3600 < wait < 23 * 3600


def test_events_of_a_day_come_in_order(app):
    app.time = datetime(2024, 3, 20, 0, 30, tzinfo=UTC)
    events = [
        "dawn_astronomical",
        "dawn_nautical",
        "dawn_civil",
        "sunrise",
        "solar_noon",
        "sunset",
        "dusk_civil",
        "dusk_nautical",
        "dusk_astronomical",
    ]
    waits = [solar(name, 45, 0, app=app).remaining_estimate(app.time) for name in events]
    assert waits == sorted(waits)
    assert waits[-1] < timedelta(days=1)


def test_a_polar_day_is_waited_out(app):
    """B-BEAT-029: 89° N, sunset asked in June → 113 days ahead."""
    app.time = datetime(2024, 6, 1, tzinfo=UTC)
    assert solar("sunset", 89, 0, app=app).remaining_estimate(app.time).days == 113


def test_an_event_that_never_comes_is_an_error(app):
    never = solar("sunset", 89, 0, app=app)
    never.max_search_days = 3
    with pytest.raises(RuntimeError, match="no sunset"):
        never.remaining_estimate(datetime(2024, 6, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("asteroid", 0, 0), "the events are: dawn_astronomical"),
        (("sunset", 91, 0), "between -90 and 90"),
        (("sunset", 0, -181), "between -180 and 180"),
    ],
)
def test_no_such_event_or_place(args, text):
    """B-BEAT-028: ValueError with the valid set or range."""
    with pytest.raises(ValueError, match=text):
        solar(*args)


def test_solar_needs_its_package(monkeypatch):
    """B-BEAT-028: needs `ephem`, else ImproperlyConfigured with an install hint."""
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match="pip install"):
        solar("sunset", 0, 0)


def test_solars_compare_by_their_arguments():
    """B-BEAT-022: `solar` compares by its arguments."""
    one = solar("sunset", 1, 2)
    assert one == solar("sunset", 1, 2)
    assert one != solar("sunset", 1, 3)
    assert one != 5
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "<solar: sunset at latitude 1, longitude: 2>"


# -- where the next interval begins ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "catch_up", "counts_as_due"),
    [
        *((0, False, True), (0.4, False, True), (9.9, False, True), (10, False, False)),
        *((9.9, True, True), (59.9, True, True), (60, True, False), (-1, True, False)),
    ],
)
def test_a_run_that_is_a_little_late_does_not_put_the_next_ones_off(
    app, late, catch_up, counts_as_due
):
    """Otherwise an entry that is due each second would lose some runs in an hour."""
    due = at(0, 0, 20)
    now = due + timedelta(seconds=late)
    found = schedule(20, app=app).due_at(at(0), now, catch_up)
    assert found == (due if counts_as_due else now)


def test_runs_missed_just_now_come_one_by_one_where_asked(app):
    now = at(0, 0, 5)
    every_second = schedule(1, app=app)
    assert every_second.due_at(at(0), now) == now
    assert every_second.due_at(at(0), now, catch_up=True) == at(0, 0, 1)


def test_an_interval_that_is_rounded_or_empty_counts_from_now(app):
    assert schedule(20, relative=True, app=app).due_at(at(0), at(0, 0, 21)) == at(0, 0, 21)
    assert schedule(0, app=app).due_at(at(0), at(0, 0, 1)) == at(0, 0, 1)
