"""Entries as plain data."""

from __future__ import annotations

import json

import pytest

from celery._beat.definition import (
    InvalidDefinition,
    check,
    describe_schedule,
    overlaid,
    read_schedule,
)
from celery.schedules import BaseSchedule, crontab, schedule, solar


@pytest.mark.parametrize(
    "given",
    [
        schedule(30),
        schedule(0.5),
        schedule(3600, relative=True),
        crontab(),
        crontab("*/5", "3-6,22", "mon", "1-7", "jan,jul"),
        solar("sunset", 51.5, -0.1),
    ],
)
def test_schedules_can_be_written_and_read(given):
    described = json.loads(json.dumps(describe_schedule(given)))
    assert read_schedule(described) == given


def test_numbers_are_seconds_and_descriptions_stay():
    assert describe_schedule(5) == {"every": 5.0}
    assert describe_schedule({"crontab": "* * * * *"}) == {"crontab": "* * * * *"}


def test_other_schedules_are_refused():
    with pytest.raises(InvalidDefinition, match="neither an interval"):
        describe_schedule(BaseSchedule())


@pytest.mark.parametrize(
    ("described", "text"),
    [
        ({}, "has one of"),
        ({"every": 1, "crontab": "* * * * *"}, "has one of"),
        ({"every": 1, "odd": 2}, "has one of"),
        ({"every": 0}, "positive"),
        ({"every": "x"}, "every can't be 'x'"),
        ({"crontab": "* *"}, "five fields"),
        ({"crontab": "99 * * * *"}, "99 > 59"),
        ({"crontab": ", * * * *"}, "empty part"),
        ({"crontab": 5}, "crontab can't be 5"),
        ({"solar": ["nothing", 1, 2]}, "the events are"),
        ({"solar": ["sunset"]}, "solar can't be"),
    ],
)
def test_schedules_that_cannot_be_are_refused(described, text):
    with pytest.raises(InvalidDefinition, match=text):
        read_schedule(described)


@pytest.mark.parametrize(
    ("definition", "is_whole", "text"),
    [
        ({"colour": 1}, False, "no field 'colour'"),
        ({"args": "x"}, False, "'args' can't be 'x'"),
        ({"schedule": {"every": 1}}, True, "needs the field 'task'"),
        ({"task": "t"}, True, "needs the field 'schedule'"),
        ({"schedule": {"every": -1}}, False, "positive"),
    ],
)
def test_definitions_are_checked(definition, is_whole, text):
    with pytest.raises(InvalidDefinition, match=text):
        check(definition, is_whole)


def test_what_was_said_at_run_time_goes_before_the_settings():
    settings = {"task": "t", "schedule": schedule(60), "args": [1], "options": {"queue": "q"}}
    assert overlaid(settings, {"args": [2], "schedule": {"every": 5}}) == {
        "task": "t",
        "schedule": schedule(5),
        "args": [2],
        "options": {"queue": "q"},
    }
    assert overlaid(settings, {"enabled": False}) is None
    assert overlaid(settings, {"enabled": True}) == settings
    assert overlaid({}, {"args": [2]}) is None
