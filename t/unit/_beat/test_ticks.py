"""How the scheduler that remembers claims ticks, and what it does when something is away."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from kombu.exceptions import OperationalError

from celery import Celery
from celery._beat import persistent as persistence
from celery._beat.store import Fenced
from celery.beat import BeatLazyFunc, PersistentScheduler
from t.harness.inline import take_messages

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def app(tmp_path):
    app = Celery("p", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.beat_schedule_filename = str(tmp_path / "schedule")
    app.conf.task_default_queue = f"q-{tmp_path.name}"
    app.conf.beat_schedule = {
        name: {"task": "p.t", "schedule": 3600, "args": [name]} for name in ("a", "b", "c")
    }
    return app


@pytest.fixture
def make(app):
    made = []

    def making(**conf):
        app.conf.update(conf)
        scheduler = PersistentScheduler(app)
        made.append(scheduler)
        return scheduler

    yield making
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def sent(app):
    """Return a function that takes all messages: (entry, task id)."""

    def take():
        return [(sent.payload[0][0], sent.headers["id"]) for sent in take_messages(app)]

    return take


def make_due(scheduler, *names):
    for name in names:
        scheduler.schedule[name].last_run_at = LONG_AGO
    scheduler._heap = None


def until_idle(scheduler):
    while scheduler.tick() == 0:
        pass


def test_each_due_entry_has_a_tick_and_an_id_of_its_own(make, sent):
    scheduler = make()
    make_due(scheduler, "a", "b", "c")
    until_idle(scheduler)

    found = sent()
    assert sorted(name for name, _ in found) == ["a", "b", "c"]
    assert len({task_id for _, task_id in found}) == 3
    assert all(run.tick is None for run in scheduler._leader.store.load().runs.values())


def test_an_id_that_an_entry_asks_for_is_used(make, sent, app):
    app.conf.beat_schedule["a"]["options"] = {"task_id": "mine"}
    scheduler = make()
    make_due(scheduler, "a")
    until_idle(scheduler)
    assert sent() == [("a", "mine")]


def test_where_a_message_may_be_repeated_all_that_is_due_is_claimed_at_once(
    make, sent, monkeypatch
):
    monkeypatch.setattr(PersistentScheduler, "_repeats_harmlessly", True)
    scheduler = make()
    make_due(scheduler, "a", "b")
    scheduler.tick()

    runs = scheduler._leader.store.load().runs
    assert len(sent()) == 1
    assert (runs["a"].count, runs["b"].count, runs["c"].count) == (1, 1, 0)
    assert abs(runs["a"].tick - runs["b"].tick) == 1
    until_idle(scheduler)
    assert len(sent()) == 1


def test_what_is_claimed_is_sent_before_the_end(make, sent, monkeypatch):
    monkeypatch.setattr(PersistentScheduler, "_repeats_harmlessly", True)
    scheduler = make()
    make_due(scheduler, "a", "b", "c")
    scheduler.tick()
    scheduler.close()

    assert sorted(name for name, _ in sent()) == ["a", "b", "c"]
    again = make()
    until_idle(again)
    assert sent() == []


class Away:
    """Makes the broker refuse messages."""

    def __init__(self, app, monkeypatch, error):
        self.calls = []
        self.error = error
        send_task = app.send_task

        def sending(name, args=None, kwargs=None, **options):
            self.calls.append((args[0], options["task_id"], options["retry"]))
            if self.error is not None:
                raise self.error
            return send_task(name, args, kwargs, **options)

        monkeypatch.setattr(app, "send_task", sending)


def test_a_message_that_the_broker_does_not_take_comes_later_with_its_id(
    make, sent, app, monkeypatch, caplog
):
    broker = Away(app, monkeypatch, OperationalError("away"))
    scheduler = make()
    make_due(scheduler, "a", "b")
    scheduler.tick()
    assert scheduler.tick() == persistence.RETRY_S
    # Nothing else is begun meanwhile.
    assert {name for name, _, _ in broker.calls} == {broker.calls[0][0]}
    assert "cannot send the task of entry" in caplog.text
    broker.error = None
    until_idle(scheduler)

    found = sent()
    assert sorted(name for name, _ in found) == ["a", "b"]
    assert found[0] == broker.calls[0][:2]
    assert all(retry is False for _, _, retry in broker.calls)


def test_it_is_given_up_after_ten_tries(make, sent, app, monkeypatch, caplog):
    broker = Away(app, monkeypatch, OperationalError("full"))
    scheduler = make()
    make_due(scheduler, "a")
    for _ in range(20):
        scheduler.tick()
    assert len(broker.calls) == persistence.TRIES + 1
    until_idle(scheduler)
    assert scheduler._leader.store.load().runs["a"].tick is None


@pytest.mark.parametrize(
    "fields", [{"args": [object()]}, {"args": BeatLazyFunc(os.stat, "/no/such/file")}]
)
def test_what_is_wrong_with_the_entry_is_not_tried_again(make, sent, app, fields, caplog):
    """B-BEAT-038: logged, and the others go on; even where the error looks like a lost broker."""
    app.conf.beat_schedule["a"].update(fields)
    scheduler = make()
    make_due(scheduler, "a", "b")
    until_idle(scheduler)

    assert [name for name, _ in sent()] == ["b"]
    assert caplog.text.count("cannot send the task of entry a") == 2  # message, and its cause
    assert scheduler.schedule["a"].total_run_count == 1


def test_who_was_replaced_leaves_what_it_claimed_to_the_other_one(make, sent, caplog):
    scheduler, other = make(), make()
    make_due(scheduler, "a")
    reserve = scheduler.reserve

    def replaced_meanwhile(entry):
        following = reserve(entry)
        store = other._leader.store
        other._leader.fence = store.take(store.lease(), "other")
        scheduler._leader._look_at = 0.0
        return following

    scheduler.reserve = replaced_meanwhile
    scheduler.tick()
    assert sent() == []
    assert "left to the beat that sends now" in caplog.text
    assert scheduler.tick() > 0
    tick = other._leader.store.load().runs["a"].tick

    until_idle(other)
    assert sent() == [("a", other.task_id(tick))]


def test_without_the_right_to_send_nothing_is_written(make):
    scheduler, other = make(), make()
    other.schedule["a"].total_run_count = 9
    other.sync()
    assert scheduler._leader.store.load().runs["a"].count == 0
    with pytest.raises(Fenced):
        other.reserve(other.schedule["a"])


def test_in_a_shared_store_runs_missed_just_now_are_made_up_for(
    make, sent, app, tmp_path, monkeypatch
):
    scheduler = make(
        beat_store_url=f"sqlite:///{tmp_path / 'shared.db'}",
        beat_schedule={"a": {"task": "p.t", "schedule": 1, "args": ["a"]}},
    )
    missed = 5
    began = datetime.now(UTC)
    now = began + timedelta(seconds=missed + 0.5)
    monkeypatch.setattr(app, "now", lambda: now)
    scheduler.schedule["a"].last_run_at = began
    until_idle(scheduler)

    assert len(sent()) == missed
    assert scheduler.schedule["a"].last_run_at == began + timedelta(seconds=missed)


def test_in_a_file_they_are_not(make, sent, app, monkeypatch):
    """B-BEAT-008: missed runs are not made up: one run only."""
    scheduler = make(beat_schedule={"a": {"task": "p.t", "schedule": 1, "args": ["a"]}})
    now = datetime.now(UTC)
    monkeypatch.setattr(app, "now", lambda: now)
    scheduler.schedule["a"].last_run_at = now - timedelta(seconds=5.5)
    until_idle(scheduler)
    assert len(sent()) == 1
