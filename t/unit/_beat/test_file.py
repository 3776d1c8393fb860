"""The schedule file: what is in it, what it was, and what may happen to it."""

from __future__ import annotations

import os
import pickle
import shelve
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from celery._beat.file import FileStore
from celery._beat.store import Fenced, Run, StoreError
from celery.beat import PersistentScheduler, ScheduleEntry
from celery.schedules import schedule
from t.harness.inline import memory_app, take_messages

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def app():
    app = memory_app()

    @app.task(name="p.t", shared=False)
    def t(*args, **kwargs):
        return args, kwargs

    app.conf.beat_schedule = {"a": {"task": "p.t", "schedule": 3600}}
    return app


@pytest.fixture
def sent(app):
    """Return a function that takes all messages from the queue."""
    return partial(take_messages, app)


@pytest.fixture
def filename(tmp_path):
    return str(tmp_path / "celerybeat-schedule")


def persistent(app, filename):
    return PersistentScheduler(app, schedule_filename=filename)


def contents_of(filename):
    store = FileStore(filename)
    store.open()
    try:
        return store.load()
    finally:
        store.close()


def test_the_file_holds_last_runs_version_and_zone(app, filename):
    """B-BEAT-033: entries, `__version__`, `tz`, `utc_enabled`."""
    persistent(app, filename).close()

    contents = contents_of(filename)
    assert set(contents.runs) == {"a"}
    assert set(contents.notes) == {"__version__", "tz", "utc_enabled"}
    assert contents.notes["tz"] is None
    assert contents.notes["utc_enabled"] is True


def test_last_runs_survive_a_restart(app, filename, sent):
    """B-BEAT-034, B-BEAT-035: kept; an entry whose time passed meanwhile is sent at once."""
    scheduler = persistent(app, filename)
    assert scheduler.tick() > 0
    overdue = datetime.now(UTC) - timedelta(hours=5)
    scheduler.schedule["a"].last_run_at = overdue
    scheduler.schedule["a"].total_run_count = 7
    scheduler.close()
    scheduler.close()

    scheduler = persistent(app, filename)
    assert scheduler.schedule["a"].last_run_at == overdue
    assert scheduler.tick() == 0
    assert len(sent()) == 1
    assert scheduler.schedule["a"].total_run_count == 8
    assert scheduler.tick() > 0
    assert sent() == []
    scheduler.close()


def test_the_first_run_of_a_new_entry_does_not_wait_anew_after_a_crash(app, filename):
    """B-BEAT-007: one interval after the entry is first seen."""
    abandoned = persistent(app, filename)
    first_seen = abandoned.schedule["a"].last_run_at

    assert contents_of(filename).runs["a"].at == first_seen
    abandoned.close()


def test_a_run_is_in_the_file_when_its_message_is_sent(app, filename):
    seen = []

    def apply_async(*args, **options):
        seen.append((contents_of(filename).runs["a"], options["task_id"]))

    app.tasks["p.t"].apply_async = apply_async
    scheduler = persistent(app, filename)
    scheduler.schedule["a"].last_run_at = LONG_AGO
    scheduler.tick()

    (run, task_id) = seen[0]
    assert run.count == 1
    assert task_id == scheduler.task_id(run.tick)
    scheduler.tick()
    assert contents_of(filename).runs["a"].tick is None
    scheduler.close()


def test_what_a_dead_beat_may_not_have_sent_is_sent_with_the_same_id(app, filename, sent):
    store = FileStore(filename)
    store.open()
    fence = store.take(store.lease(), f"{_ended_process()}@{os.uname().nodename}/x")
    store.save(fence, {}, set(), {"tz": None, "utc_enabled": True})
    now = datetime.now(UTC)
    tick = store.claim(fence, {"a": Run(now, 5)}, {})
    store.close()

    scheduler = persistent(app, filename)
    assert scheduler.tick() > 0

    (message,) = sent()
    assert message.headers["id"] == scheduler.task_id(tick)
    assert scheduler.schedule["a"].total_run_count == 5
    assert contents_of(filename).runs["a"] == Run(now, 5)
    scheduler.close()


def _ended_process():
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(pid, 0)
    return pid


def test_of_two_with_one_file_one_sends(app, filename, sent):
    """Neither harms the file; the second goes on when the first has closed it."""
    first, second = persistent(app, filename), persistent(app, filename)
    for scheduler in (first, second):
        scheduler.schedule["a"].last_run_at = LONG_AGO

    assert second.tick() > 0
    assert sent() == []
    assert first.tick() == 0
    assert len(sent()) == 1
    first.close()
    second._leader._look_at = 0.0
    second.tick()
    assert second._leader.leads
    assert second.schedule["a"].total_run_count == 1
    assert sent() == []
    second.close()


def test_who_is_gone_is_known_on_the_same_machine_only(filename):
    store, here = FileStore(filename), os.uname().nodename
    assert store.is_gone(f"{_ended_process()}@{here}/x")
    assert not store.is_gone(f"{os.getppid()}@{here}/x")
    assert not store.is_gone(f"{_ended_process()}@elsewhere/x")
    # One with our number was here before us, as happens in containers.
    assert store.is_gone(f"{os.getpid()}@{here}/x")


def test_writers_wait_for_each_other(filename):
    stores = [FileStore(filename) for _ in range(4)]
    for store in stores:
        store.open()

    def define(number, store):
        for n in range(25):
            store.put(f"{number}-{n}", {"task": "p.t"})

    threads = [threading.Thread(target=define, args=each) for each in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(stores[0].load().definitions) == 100
    assert stores[0].lease().revision == 100
    for store in stores:
        store.close()


def test_a_replaced_sender_cannot_write(filename):
    old, new = FileStore(filename), FileStore(filename)
    for store in (old, new):
        store.open()
    fence = old.take(old.lease(), "old")
    assert new.take(new.lease(), "new") == fence + 1

    with pytest.raises(Fenced):
        old.claim(fence, {"a": Run(LONG_AGO, 1)}, {})
    assert new.load().runs == {}
    for store in (old, new):
        store.close()


@pytest.mark.parametrize("setting", [{"timezone": "Europe/London"}, {"enable_utc": False}])
def test_a_change_of_zone_forgets_the_last_runs(app, filename, setting, caplog):
    """B-BEAT-033: when `tz` or `utc_enabled` differ the file is reset."""
    scheduler = persistent(app, filename)
    scheduler.schedule["a"].total_run_count = 7
    scheduler.close()
    app.conf.update(setting)

    scheduler = persistent(app, filename)

    assert scheduler.schedule["a"].total_run_count == 0
    assert "Reset" in caplog.text
    scheduler.close()


def test_entries_that_left_the_settings_leave_the_file(app, filename):
    """B-BEAT-034: vanished ones are removed."""
    persistent(app, filename).close()
    app.conf.beat_schedule = {"b": {"task": "p.t", "schedule": 5}}
    persistent(app, filename).close()

    assert set(contents_of(filename).runs) == {"b"}


# -- files of earlier versions --------------------------------------------------------------------


def old_file(app, filename, **entries):
    with shelve.open(filename, writeback=True) as store:
        store["entries"] = {
            name: ScheduleEntry(name, "p.t", LONG_AGO, count, schedule(3600), app=app)
            for name, count in entries.items()
        }
        store.update(tz=None, utc_enabled=True, __version__="5.3.0")


def old_files(filename):
    suffixes = ("", ".db", ".dat", ".bak", ".dir")
    return [filename + each for each in suffixes if os.path.exists(filename + each)]


def test_an_old_file_is_converted_once(app, filename, sent):
    """The last runs of a shelf go on; it is kept beside the new file."""
    old_file(app, filename, a=7, gone=3)
    before = old_files(filename)

    scheduler = persistent(app, filename)

    entry = scheduler.schedule["a"]
    assert (entry.last_run_at, entry.total_run_count) == (LONG_AGO, 7)
    assert set(scheduler.schedule) == {"a"}
    assert all(os.path.exists(each + ".old") for each in before)
    scheduler.tick()
    assert len(sent()) == 1
    scheduler.close()
    assert old_files(filename) == [filename]
    scheduler = persistent(app, filename)
    assert scheduler.schedule["a"].total_run_count == 8
    scheduler.close()


def test_an_old_file_in_several_parts_is_converted(app, filename, monkeypatch):
    import dbm.dumb

    monkeypatch.setattr(dbm, "_defaultmod", dbm.dumb)
    old_file(app, filename, a=7)
    assert len(old_files(filename)) > 1

    scheduler = persistent(app, filename)

    assert scheduler.schedule["a"].total_run_count == 7
    scheduler.close()
    assert old_files(filename) == [filename]


def test_a_conversion_that_was_cut_off_is_done_again(app, filename, monkeypatch):
    old_file(app, filename, a=7)

    def cut_off(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("celery._beat.file.os.replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            persistent(app, filename)

    scheduler = persistent(app, filename)
    assert scheduler.schedule["a"].total_run_count == 7
    scheduler.close()


def test_many_that_convert_at_once_find_the_same(app, filename):
    old_file(app, filename, a=7)
    found = []

    def open_it():
        store = FileStore(filename)
        store.open()
        found.append(store.load().runs["a"].count)
        store.close()

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 6


def test_a_damaged_old_file_is_put_aside_with_an_error(app, filename, caplog):
    """B-BEAT-037: recreated, and all last run times are lost."""
    with shelve.open(filename) as store:
        store.dict[b"entries"] = b"\x80\x05no pickle at all"
        store.dict[b"tz"] = pickle.dumps(None)

    scheduler = persistent(app, filename)

    assert set(scheduler.schedule) == {"a"}
    assert "made anew" in caplog.text
    scheduler.close()


def test_an_entry_of_a_class_that_is_gone_is_no_obstacle(app, filename, caplog):
    """B-BEAT-037: unloadable stored entries are recreated."""
    with shelve.open(filename) as store:
        store.dict[b"entries"] = b"cno_such_module\nThing\n."

    scheduler = persistent(app, filename)

    assert set(scheduler.schedule) == {"a"}
    assert "made anew" in caplog.text
    scheduler.close()


def test_a_file_that_is_no_database_is_put_aside(app, tmp_path, caplog):
    filename = tmp_path / "celerybeat-schedule"
    for suffix in ("", ".db", ".dat", ".dir"):
        (tmp_path / f"celerybeat-schedule{suffix}").write_text("garbage, all of it\n" * 50)

    scheduler = persistent(app, str(filename))

    assert set(scheduler.schedule) == {"a"}
    assert scheduler.info == f"    . db -> {filename}"
    assert (tmp_path / "celerybeat-schedule.damaged").read_text().startswith("garbage")
    scheduler.schedule = {}
    assert scheduler.schedule == {}
    scheduler.close()


def test_a_damaged_new_file_is_put_aside(app, filename, caplog):
    persistent(app, filename).close()
    with open(filename, "r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 4000)

    scheduler = persistent(app, filename)

    assert set(scheduler.schedule) == {"a"}
    assert "made anew" in caplog.text
    scheduler.close()


def test_an_empty_file_is_a_new_one(app, filename):
    open(filename, "w").close()
    scheduler = persistent(app, filename)
    assert set(scheduler.schedule) == {"a"}
    scheduler.close()


def test_a_directory_that_does_not_exist_is_an_error(app, tmp_path):
    """B-BEAT-041: FileNotFoundError."""
    with pytest.raises(FileNotFoundError, match="directory of the schedule file"):
        persistent(app, str(tmp_path / "no" / "schedule"))


def test_a_store_that_fails_is_tried_again(app, filename, sent, caplog):
    scheduler = persistent(app, filename)
    scheduler.schedule["a"].last_run_at = LONG_AGO
    transaction, failures = scheduler._leader.store.transaction, [1, 2]

    def failing():
        if failures:
            failures.pop()
            raise StoreError("disk full")
        return transaction()

    scheduler._leader.store.transaction = failing
    assert scheduler.tick() == 1.0
    assert "disk full. Trying again" in caplog.text
    assert sent() == []
    scheduler.tick()
    scheduler.tick()
    assert len(sent()) == 1
    scheduler.close()


def test_the_open_schedule_can_be_read_as_the_shelf_was(app, filename):
    """The attribute ``_store`` maps names to what the file had under them."""
    scheduler = persistent(app, filename)
    assert scheduler._store["entries"] is scheduler.schedule
    assert scheduler._store["tz"] is None
    scheduler._store["entries"]["a"].total_run_count = 4
    scheduler._store.sync()
    assert contents_of(filename).runs["a"].count == 4
    scheduler._store.close()
    assert scheduler._store is None


def test_shelves_of_newer_pythons_are_not_taken_for_ours(filename):
    connection = sqlite3.connect(filename)
    connection.execute("CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
    connection.commit()
    connection.close()
    assert not FileStore(filename)._is_ours()
