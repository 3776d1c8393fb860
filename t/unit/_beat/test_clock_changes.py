"""Crontabs beside a walker that looks at every minute, in zones with odd rules.

The walker knows nothing of how crontabs find their runs: it looks at what a clock on the wall
shows, minute by minute. ``T_LONG=1`` walks through three years; otherwise only through the days
around clock changes.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from celery.schedules import crontab
from celery.utils.time import LocalTimezone

IS_LONG = bool(os.environ.get("T_LONG"))
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

#: Where clocks change by half an hour, by two hours, at midnight, at noon of the prophet's month,
#: at a minute past midnight, the other way round, and where a day was left out.
ZONES = {
    "Australia/Lord_Howe": 2022,
    "Antarctica/Troll": 2022,
    "Africa/Cairo": 2023,
    "America/Havana": 2022,
    "Africa/Casablanca": 2022,
    "Asia/Gaza": 2022,
    "America/St_Johns": 2008,
    "Pacific/Apia": 2010,
}

CRONTABS = (
    "* * * * *",
    "*/20 * * * *",
    "30 * * * *",
    "0 */2 * * *",
    "15 2 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "1 0 * * sat,sun",
    "0,30 1-3 * * *",
    "45,0 23,0,1,2,3 * * *",
    "59 23 31 12 *",
    "0 12 29 2 *",
)


class Walker:
    """What a clock in a zone shows at each minute of some years."""

    def __init__(self, zone, first, last):
        self.minutes = []  # (minute in UTC, what the clock shows, whether it has shown it before)
        self.skipped = {}  # minute in UTC: what the clock would show, had it not been changed
        latest = None
        shown = {}
        before = None
        moment = first - 2 * DAY
        while moment < last:
            here = moment.astimezone(zone).replace(tzinfo=None)
            if before is not None and here - before > MINUTE:
                number = (here - before) // MINUTE - 1
                for n in range(number):
                    self.skipped[moment + n * MINUTE] = before + (n + 1) * MINUTE
            again = latest is not None and here <= latest and here in shown
            if latest is None or here > latest - 3 * DAY:
                shown[here] = True
            latest = here if latest is None else max(latest, here)
            self.minutes.append((moment, here, again))
            before = here
            moment += MINUTE
        self.first = first

    def runs(self, cron, each_pass):
        found = []
        for moment, here, again in self.minutes:
            if moment < self.first:
                continue
            left_out = self.skipped.get(moment)
            if (matches(cron, here) and (each_pass or not again)) or (
                left_out is not None and matches(cron, left_out)
            ):
                found.append(moment)
        return found


def matches(cron, here):
    return (
        here.minute in cron.minute
        and here.hour in cron.hour
        and here.day in cron.day_of_month
        and here.month in cron.month_of_year
        and here.isoweekday() % 7 in cron.day_of_week
    )


def changes(zone, first, last):
    """Return the days on which clocks change, in UTC."""
    days = [first + n * DAY for n in range((last - first).days + 1)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [
        earlier
        for (earlier, _), (before, after) in zip(pairwise(days), pairwise(offsets), strict=True)
        if before != after
    ]


class Now(SimpleNamespace):
    """An app, as far as crontabs go."""

    def now(self):
        return self.time


def crontab_in(zone, text):
    cron = crontab.from_string(text)
    conf = SimpleNamespace(enable_utc=True, beat_cron_starting_deadline=None)
    cron.app = Now(timezone=zone, conf=conf, time=datetime(2024, 1, 1, tzinfo=UTC))
    return cron


def next_run(cron, last):
    cron.app.time = last
    return last + cron.remaining_estimate(last)


def compare(zone, first, last, texts, samples, chained=20_000):
    walker = Walker(zone, first, last)
    rng = random.Random(f"{zone}{first}")
    checked = 0
    for text in texts:
        cron = crontab_in(zone, text)
        minute, hour = text.split()[:2]
        runs = walker.runs(cron, minute.startswith("*") or hour.startswith("*"))
        for earlier, later in list(pairwise(runs))[:chained]:
            assert next_run(cron, earlier) == later, (text, earlier)
            assert cron._run_until(later - MINUTE / 2, zone) == earlier, (text, later)
            checked += 1
        if not runs:
            continue
        for _ in range(samples):
            moment = first + rng.random() * (runs[-1] - first - 2 * MINUTE)
            # A run in the same minute on the wall is not repeated.
            after = moment.replace(second=59, microsecond=999999)
            place = bisect_right(runs, after)
            if place < len(runs):
                assert next_run(cron, moment) == runs[place], (text, moment)
                checked += 1
    return checked


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ZONES)
def test_runs_are_those_that_a_walker_finds(name):
    """The next run lies ahead, matches, and nothing between was skipped; so does the last one."""
    zone = ZoneInfo(name)
    first = datetime(ZONES[name], 1, 1, tzinfo=UTC)
    last = first.replace(year=first.year + 3)
    if IS_LONG:
        assert compare(zone, first, last, CRONTABS, 2000) > 10_000
        return
    days = changes(zone, first, last)
    assert len(days) >= 2
    for day in days[:3]:
        assert compare(zone, day - DAY, day + 3 * DAY, CRONTABS, 10, chained=60) > 100


def test_random_crontabs_around_clock_changes():
    """Fields of any kind, at each change of two years in one zone of each sort."""
    rng = random.Random(6)

    def field(first, last):
        return rng.choice(
            [
                "*",
                f"*/{rng.randint(2, 9)}",
                str(rng.randint(first, last)),
                f"{rng.randint(first, last)}-{rng.randint(first, last)}",
                ",".join(str(rng.randint(first, last)) for _ in range(3)),
            ]
        )

    for name in ("Australia/Lord_Howe", "Antarctica/Troll", "Europe/Dublin", "America/Havana"):
        zone = ZoneInfo(name)
        first = datetime(2023, 1, 1, tzinfo=UTC)
        days = changes(zone, first, first.replace(year=2025))
        for day in days if IS_LONG else days[:2]:
            texts = [
                f"{field(0, 59)} {rng.choice([field(0, 4), field(0, 23)])} * * {field(0, 6)}"
                for _ in range(60 if IS_LONG else 8)
            ]
            compare(zone, day - DAY, day + 3 * DAY, texts, 10, chained=60)


def test_the_zone_of_the_machine_follows_the_same_rules(monkeypatch):
    """It has no rules to look at, only what the C library says about a moment."""
    import time

    monkeypatch.setenv("TZ", "Europe/London")
    time.tzset()
    try:
        zone, same = LocalTimezone(), ZoneInfo("Europe/London")
        for day in changes(
            same, datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
        ):
            walker = Walker(same, day - DAY, day + 2 * DAY)
            for text in ("30 * * * *", "30 1 * * *", "*/20 * * * *"):
                runs = walker.runs(crontab.from_string(text), "*" in text[:5])
                cron = crontab_in(zone, text)
                for earlier, later in pairwise(runs):
                    assert next_run(cron, earlier) == later, (text, earlier)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_how_stars_are_told():
    """A star, one with a step, or all values: each pass counts."""
    for cron in (
        crontab(),
        crontab(30),
        crontab("*/5", 3),
        crontab(0, "*/2"),
        crontab(range(60), 3),
    ):
        assert cron._counts_each_pass
    for cron in (crontab(30, 1), crontab("0,30", "0-6"), crontab({0, 5}, [1, 2])):
        assert not cron._counts_each_pass
