"""``celery schedule`` and ``app.control.schedule``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celery import Celery
from celery.beat import PersistentScheduler
from celery.schedules import crontab, schedule
from t.unit.bin.conftest import Run

PROJECT = """
from celery import Celery
app = Celery("sched", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.beat_schedule = {
    "given": {"task": "t.given", "schedule": 60, "args": [1]},
}
"""


@pytest.fixture
def invoke(run: Run, tmp_path: Path):
    (tmp_path / "sched.py").write_text(PROJECT)

    def invoking(*args: str, code: int = 0) -> str:
        result = run("-A", "sched", "schedule", *args)
        assert result.exit_code == code, result.output
        return result.output

    return invoking


def listed(invoke):
    return json.loads(invoke("list", "--json"))


def test_entries_of_the_settings_are_listed(invoke):
    assert "given: t.given <freq: 1.00 minute> (settings)" in invoke("list")
    assert listed(invoke)["given"]["total_run_count"] == 0


def test_an_entry_is_added_changed_and_removed(invoke):
    invoke("add", "new", "t.new", "--every", "30", "--args", "[1, 2]", "--kwargs", '{"x": 3}')
    assert "new: t.new <freq: 30.00 seconds> (run time)" in invoke("list")
    assert listed(invoke)["new"]["args"] == "(1, 2)"

    invoke("change", "new", "--crontab", "*/5 * * * mon")
    assert "crontab: 0,5,10" in listed(invoke)["new"]["schedule"] or (
        "crontab: */5" in listed(invoke)["new"]["schedule"]
    )
    assert listed(invoke)["new"]["args"] == "(1, 2)"
    invoke("remove", "new")
    assert set(listed(invoke)) == {"given"}


def test_an_entry_of_the_settings_is_changed_disabled_and_restored(invoke):
    invoke("change", "given", "--task", "t.other", "--solar", "sunset", "51.5", "0")
    assert "given: t.other <solar: sunset" in invoke("list")
    assert "(settings, changed)" in invoke("list")
    invoke("disable", "given")
    assert "disabled" in invoke("list")
    invoke("enable", "given")
    assert listed(invoke)["given"]["enabled"] is True
    invoke("remove", "given")
    assert listed(invoke)["given"]["task"] == "t.given"


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("add", "given", "t.x", "--every", "5"), 1, "there is an entry 'given'"),
        (("add", "x", "t.x"), 2, "Say when"),
        (("add", "x", "t.x", "--every", "5", "--crontab", "* * * * *"), 2, "one of --every"),
        (("add", "x", "t.x", "--every", "-5"), 1, "positive"),
        (("add", "x", "t.x", "--crontab", "* *"), 1, "five fields"),
        (("change", "given"), 2, "Say what to change"),
        (("change", "unknown", "--every", "5"), 1, "there is no entry 'unknown'"),
        (("remove", "unknown"), 1, "there is no entry 'unknown'"),
        (("remove", "given"), 1, "can be disabled"),
        (("--store", "ftp://x", "list"), 1, "can't keep its schedule"),
        (("--store", "/no/such/folder/file", "list"), 1, "does not exist"),
    ],
)
def test_mistakes_are_told_without_a_traceback(invoke, args, code, text):
    output = invoke(*args, code=code)
    assert text in output
    assert "Traceback" not in output


def test_another_store_may_be_named(invoke, tmp_path):
    assert set(listed(invoke)) == {"given"}
    invoke("--store", str(tmp_path / "elsewhere"), "add", "new", "t.new", "--every", "5")
    assert "new" in invoke("--store", str(tmp_path / "elsewhere"), "list")
    assert "new" not in invoke("--store", str(tmp_path / "celerybeat-schedule"), "list")


# -- what beat makes of it ------------------------------------------------------------------------


@pytest.fixture
def app(tmp_path):
    app = Celery("p", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.beat_schedule_filename = str(tmp_path / "schedule")
    app.conf.beat_schedule = {"given": {"task": "t.given", "schedule": 3600, "args": [1]}}
    return app


@pytest.fixture
def beat(app):
    scheduler = PersistentScheduler(app)

    def looking():
        scheduler._leader._look_at = 0.0
        scheduler.tick()
        return scheduler.schedule

    yield looking
    scheduler.close()


def test_beat_follows_while_it_runs(app, beat):
    entries = app.control.schedule
    first_seen = beat()["given"].last_run_at

    entries.add("new", "t.new", crontab(minute=5), args=(2,))
    assert beat()["new"].schedule == crontab(minute=5)
    entries.change("given", schedule=schedule(7200), kwargs={"x": 1})
    given = beat()["given"]
    assert (given.schedule, given.args, given.kwargs) == (schedule(7200), [1], {"x": 1})
    assert given.last_run_at == first_seen
    entries.disable("given")
    assert set(beat()) == {"new"}
    entries.remove("new")
    entries.remove("given")
    assert set(beat()) == {"given"}
    assert beat()["given"].schedule == schedule(3600)


def test_what_was_added_is_there_after_a_restart(app, beat):
    app.control.schedule.add("new", "t.new", 30)
    other = PersistentScheduler(app)
    assert set(other.schedule) == {"given", "new"}
    other.close()


def test_an_entry_that_cannot_be_used_is_logged_and_left_out(app, beat, caplog):
    with app.control.schedule._opened() as store:
        store.put("odd", {"task": "t", "schedule": {"phase of the moon": "full"}})
    assert set(beat()) == {"given"}
    assert "The entry odd can't be used" in caplog.text
