"""A year of a clock that is moved by hand, and every firing of it.

The scheduler runs as it does in earnest; only the time is ours. What it has to send is worked out
minute by minute from what clocks show, see `test_clock_changes`.
"""

from __future__ import annotations

import math
import os
import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from celery import Celery
from celery._beat import scheduler as scheduling
from celery._beat.scheduler import Scheduler
from celery.schedules import crontab, schedule
from t.unit._beat.test_clock_changes import Walker

IS_LONG = bool(os.environ.get("T_LONG"))
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
END = datetime(2025, 1, 1, tzinfo=UTC)

#: Zones, and how many of the 200 entries each has.
ZONES = {
    "Australia/Lord_Howe": 34,
    "Africa/Cairo": 34,
    "America/New_York": 33,
    "Asia/Kathmandu": 33,
    "Antarctica/Troll": 33,
    "Europe/London": 33,
}


class Clock:
    """Time in microseconds since the beginning of the year."""

    now_us = 0

    def monotonic(self):
        return self.now_us / 1e6

    def time(self):
        return BEGIN.timestamp() + self.now_us / 1e6

    def now(self):
        return BEGIN + timedelta(microseconds=self.now_us)

    def sleep(self, seconds):
        self.now_us += max(math.ceil(seconds * 1e6), 1)


class Recording(Scheduler):
    def apply_entry(self, entry, producer=None):
        self.fired.append((entry.name, self.clock.now()))

    producer = None


def entries(name, number):
    """Make a mixture: some hourly, more daily, weekly, monthly and rare ones, some intervals."""
    rng = random.Random(name)
    made = {
        "hourly": f"{rng.randrange(60)} * * * *",
        "two-hourly": f"{rng.randrange(60)} */2 * * *",
    }
    for n in range(number - 6):
        minute, hour = rng.randrange(60), rng.randrange(24)
        kind = n % 5
        if kind == 0:
            made[f"night-{n}"] = f"{minute} {n % 4} * * *"
        elif kind == 1:
            made[f"weekly-{n}"] = f"{minute} {hour} * * {rng.randrange(7)}"
        elif kind == 2:
            made[f"monthly-{n}"] = f"{minute} {hour} {rng.randint(1, 31)} * *"
        elif kind == 3:
            made[f"weekdays-{n}"] = f"{minute} {hour} * * mon-fri"
        else:
            made[f"rare-{n}"] = f"{minute} {hour} {rng.randint(1, 28)} {rng.randint(1, 12)} *"
    found = {key: crontab.from_string(text) for key, text in made.items()}
    for n, seconds in enumerate((3600.5, 86400, 5000, 604800)):
        found[f"every-{n}"] = schedule(seconds)
    return made, found


def expected(zone, made, found, walker):
    firings = []
    for key, when in found.items():
        if isinstance(when, schedule):
            moment = BEGIN + when.run_every
            while moment < END:
                firings.append((key, moment))
                moment += when.run_every
        else:
            minute, hour = made[key].split()[:2]
            runs = walker.runs(when, minute.startswith("*") or hour.startswith("*"))
            # The minute in which beat started is over.
            firings += [(key, run) for run in runs if BEGIN < run < END]
    return sorted(firings, key=lambda firing: (firing[1], firing[0]))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ZONES if IS_LONG else ["Africa/Cairo"])
def test_a_year_has_the_firings_it_should_have_and_no_others(name, monkeypatch):
    zone, clock = ZoneInfo(name), Clock()
    number = ZONES[name] if IS_LONG else 14
    made, found = entries(name, number)
    assert len(found) == number
    app = Celery("year", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.timezone = name
    app.conf.result_expires = None
    app.now = lambda: clock.now().astimezone(zone)
    app.conf.beat_schedule = {key: {"task": "t", "schedule": when} for key, when in found.items()}
    fake = SimpleNamespace(monotonic=clock.monotonic, time=clock.time)
    monkeypatch.setattr(scheduling, "time", fake)
    scheduler = Recording(app, max_interval=1e9)
    scheduler.clock, scheduler.fired = clock, []

    while True:
        wait = scheduler.tick()
        if wait > 0:
            clock.sleep(wait)
        if clock.now() >= END:
            break

    # The clock stands while messages are sent, so all of one moment are sent at that moment.
    late = timedelta(milliseconds=1)
    firings = sorted(
        (
            (key, moment.replace(microsecond=moment.microsecond // 1000 * 1000))
            for key, moment in scheduler.fired
        ),
        key=lambda firing: (firing[1], firing[0]),
    )
    wanted = expected(zone, made, found, Walker(zone, BEGIN, END))
    assert [key for key, _ in firings] == [key for key, _ in wanted]
    assert all(
        timedelta(0) <= moment - due < late
        for (_, moment), (_, due) in zip(firings, wanted, strict=True)
    )
    assert len(firings) > 200 * number
