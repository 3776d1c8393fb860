from __future__ import annotations

import logging
import pickle
import signal
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import pytest

from celery import beat, group, signals
from celery._beat import scheduler as scheduling
from celery.beat import (
    BeatLazyFunc,
    BeatPidbox,
    EmbeddedService,
    ScheduleEntry,
    Scheduler,
    SchedulingError,
    Service,
    beat_nodename,
)
from celery.exceptions import ImproperlyConfigured
from celery.schedules import BaseSchedule, crontab, schedstate, schedule
from t.harness.inline import memory_app, take_messages


@pytest.fixture
def app():
    app = memory_app()

    @app.task(name="p.t", shared=False)
    def t(*args, **kwargs):
        return args, kwargs

    return app


@pytest.fixture
def sent(app):
    """Return a function that takes all messages from the queue."""
    return partial(take_messages, app)


class Always(BaseSchedule):
    """Due at every look; asks to be looked at again after *wait*."""

    def __init__(self, wait=60.0, due=True):
        super().__init__()
        self.wait, self.due = wait, due

    def now(self):
        return datetime(2024, 1, 1, tzinfo=UTC)

    def is_due(self, last_run_at):
        return schedstate(self.due, self.wait)


class Broken(Always):
    def is_due(self, last_run_at):
        raise RuntimeError("cannot tell")


def entries_of(*names, when=None):
    return {name: {"task": "p.t", "schedule": when or Always()} for name in names}


# -- entries --------------------------------------------------------------------------------------


def test_an_entry_runs_first_one_interval_after_it_was_made(app):
    """B-BEAT-007: last run = start time."""
    entry = ScheduleEntry(name="a", task="p.t", schedule=60, app=app)
    due, wait = entry.is_due()

    assert not due
    assert 59 < wait <= 60
    assert entry.last_run_at.tzinfo is not None


def test_the_entry_after_a_run_has_counted_it(app):
    """B-BEAT-048: ``next()``: copy with total_run_count + 1 and new last_run_at."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    entry = ScheduleEntry("a", "p.t", old, 4, 10, (1,), {"x": 2}, {"queue": "q"}, app=app)
    following = next(entry)

    assert following.total_run_count == 5
    assert following.last_run_at > old
    assert (following.args, following.kwargs, following.options) == (
        (1,),
        {"x": 2},
        {"queue": "q"},
    )
    assert entry.total_run_count == 4
    assert entry.next(last_run_at=old).last_run_at == old
    assert dict(entry)["task"] == "p.t"


def test_the_entry_after_a_run_keeps_its_app_and_so_its_time_zone(app):
    app.conf.timezone = "Asia/Kathmandu"
    entry = ScheduleEntry("a", "p.t", schedule=crontab(0, 4), app=app)
    following = next(entry)

    assert following.app is entry.app is app
    assert following.schedule.app is app
    assert str(following.schedule.tz) == "Asia/Kathmandu"


def test_updating_an_entry_keeps_its_runs(app):
    """B-BEAT-048: takes task, schedule, args, kwargs, options but keeps run data."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    entry = ScheduleEntry("a", "p.t", old, 4, 10, app=app)
    other = ScheduleEntry("a", "p.other", None, 0, 20, (1,), {"x": 1}, {"queue": "q"}, app=app)
    entry.update(other)

    assert (entry.task, entry.schedule) == ("p.other", schedule(20))
    assert (entry.args, entry.kwargs, entry.options) == ((1,), {"x": 1}, {"queue": "q"})
    assert (entry.last_run_at, entry.total_run_count) == (old, 4)


def test_entries_show_compare_and_pickle(app):
    """B-BEAT-048: repr ``<ScheduleEntry: NAME TASK(ARGS) <SCHEDULE>``."""
    entry = ScheduleEntry("a", "p.t", schedule=10, args=(1,), kwargs={"x": 2}, app=app)
    other = ScheduleEntry("b", "p.t", schedule=10, args=(1,), kwargs={"x": 2}, app=app)

    assert repr(entry) == "<ScheduleEntry: a p.t(1, x=2) <freq: 10.00 seconds>"
    assert entry == other
    assert entry.editable_fields_equal(other)
    assert entry != ScheduleEntry("a", "p.t", schedule=11, app=app)
    assert entry != 5
    assert entry < other
    assert other > entry
    assert entry <= other
    assert other >= entry
    lazy = ScheduleEntry("a", "p.t", schedule=10, args=BeatLazyFunc(dict), app=app)
    assert repr(lazy).startswith("<ScheduleEntry: a p.t(<celery.beat.BeatLazyFunc")
    copy = pickle.loads(pickle.dumps(entry))
    assert copy == entry
    assert copy.last_run_at == entry.last_run_at
    with pytest.raises(TypeError):
        assert entry < 5


def test_schedules_may_be_of_any_kind(app):
    """B-BEAT-001: seconds, timedelta, crontab, any object with the interface."""
    app.conf.beat_schedule = {
        "a": {"task": "p.t", "schedule": 5},
        "b": {"task": "p.t", "schedule": timedelta(minutes=1), "relative": True},
        "c": {"task": "p.t", "schedule": crontab(minute=0)},
        "d": {"task": "p.t", "schedule": Always()},
    }
    scheduler = Scheduler(app)

    assert scheduler.schedule["a"].schedule == schedule(5)
    assert scheduler.schedule["b"].schedule == schedule(60, relative=True)
    assert scheduler.schedule["c"].schedule == crontab(minute=0)
    assert scheduler.schedule["c"].schedule.app is app
    assert isinstance(scheduler.schedule["d"].schedule, Always)


def test_periodic_tasks_are_added_in_code(app):
    """B-BEAT-002: the repr names the entry; the second replaces the first; args come first."""
    task = app.tasks["p.t"]
    assert app.add_periodic_task(10, task.s("x")) == "p.t('x')"
    assert app.add_periodic_task(20, task.s("x")) == "p.t('x')"
    assert app.add_periodic_task(30, task.s(5), args=(4,), name="named") == "named"

    entries = Scheduler(app).schedule
    assert set(entries) == {"p.t('x')", "named"}
    assert entries["p.t('x')"].schedule == schedule(20)
    assert list(entries["named"].args) == [4, 5]


def test_options_of_a_periodic_task_are_those_of_its_messages(app, sent):
    """B-BEAT-002: `opts` go to `options`."""
    app.add_periodic_task(Always(), app.tasks["p.t"].s(x=1), priority=3, expires=60)
    scheduler = Scheduler(app)
    (entry,) = scheduler.schedule.values()
    assert (entry.options["priority"], entry.options["expires"]) == (3, 60)
    scheduler.tick()
    (message,) = sent()
    assert message.properties["priority"] == 3
    assert message.payload[1] == {"x": 1}


def test_a_workflow_becomes_an_entry_for_the_task_of_its_kind(app):
    """B-BEAT-003: stored as an entry for `celery.group` with the members in kwargs."""
    task = app.tasks["p.t"]
    name = app.add_periodic_task(10, group(task.s(1), task.s(2)))

    entry = Scheduler(app).schedule[name]
    assert entry.task == "celery.group"
    assert [member.task for member in entry.kwargs["tasks"]] == ["p.t", "p.t"]


# -- the scheduler --------------------------------------------------------------------------------


def test_a_due_task_is_sent_and_the_next_look_is_at_once(app, sent, caplog):
    """B-BEAT-005, B-BEAT-031: header ``celery_beat_task``; what is logged."""
    app.conf.beat_schedule = {
        "a": {"task": "p.t", "schedule": Always(), "args": (1,), "kwargs": {"x": 2}}
    }
    scheduler = Scheduler(app)
    with caplog.at_level(logging.DEBUG, "celery.beat"):
        assert scheduler.tick() == 0

    (message,) = sent()
    assert message.headers["task"] == "p.t"
    assert message.headers["celery_beat_task"] is True
    assert message.headers["origin"].startswith("gen")
    assert message.payload[:2] == [[1], {"x": 2}]
    assert scheduler.schedule["a"].total_run_count == 1
    assert "Scheduler: Sending due task a (p.t)" in caplog.messages
    assert f"p.t sent. id->{message.headers['id']}" in caplog.messages


def test_a_task_that_is_not_registered_is_sent_by_name(app, sent):
    """B-BEAT-005: sent by name, with the options of the entry and the header."""
    app.conf.beat_schedule = {
        "a": {"task": "else.where", "schedule": Always(), "options": {"headers": {"h": 1}}}
    }
    Scheduler(app).tick()

    (message,) = sent()
    assert message.headers["task"] == "else.where"
    assert message.headers["celery_beat_task"] is True
    assert message.headers["h"] == 1


def test_arguments_may_be_computed_when_the_task_is_sent(app, sent):
    """B-BEAT-048: `args` may be a BeatLazyFunc, evaluated at sending."""
    values = iter([10, 20])
    app.conf.beat_schedule = {
        "a": {
            "task": "p.t",
            "schedule": Always(0),
            "args": (BeatLazyFunc(next, values),),
            "kwargs": {"x": BeatLazyFunc(lambda n, k: n + k, 1, k=2)},
        },
    }
    scheduler = Scheduler(app)
    scheduler.tick()
    scheduler.tick()
    assert [message.payload[:2] for message in sent()] == [[[10], {"x": 3}], [[20], {"x": 3}]]

    whole = ScheduleEntry("w", "p.t", schedule=1, args=BeatLazyFunc(lambda: [7]), app=app)
    scheduler.schedule["w"] = whole
    scheduler.apply_async(whole)
    assert sent()[0].payload[0] == [7]
    assert scheduler.schedule["w"].total_run_count == 1


def test_nothing_to_do_waits_the_longest(app):
    """B-BEAT-032: default loop limit 300 s; `beat_max_loop_interval` changes it."""
    assert Scheduler(app).tick() == 300
    assert Scheduler(app, max_interval=20).tick() == 20
    app.conf.beat_max_loop_interval = 7
    assert Scheduler(app).tick() == 7


def test_the_wait_is_that_of_the_first_entry(app, sent):
    app.conf.beat_schedule = {
        "later": {"task": "p.t", "schedule": Always(100, due=False)},
        "sooner": {"task": "p.t", "schedule": Always(30, due=False)},
        "much later": {"task": "p.t", "schedule": Always(1000, due=False)},
    }
    assert 29 < Scheduler(app).tick() <= 30
    assert sent() == []


def test_an_entry_that_asks_to_wait_lets_others_go_first(app, sent):
    early, late = Always(0.02, due=False), Always(0.02, due=False)
    app.conf.beat_schedule = {
        "early": {"task": "p.t", "schedule": early, "args": ["early"]},
        "late": {"task": "p.t", "schedule": late, "args": ["late"]},
    }
    scheduler = Scheduler(app)
    scheduler.tick()
    early.wait, late.due = 1000, True
    for _ in range(3):
        scheduler.tick()
    assert sent()[0].payload[0] == ["late"]


def test_each_entry_has_its_turn(app, sent):
    app.conf.beat_schedule = entries_of("a", "b", "c")
    scheduler = Scheduler(app)
    assert [scheduler.tick() for _ in range(3)] == [0, 0, 0]

    assert len(sent()) == 3
    assert {entry.total_run_count for entry in scheduler.schedule.values()} == {1}


def test_an_entry_that_cannot_tell_is_asked_again_later(app, sent, caplog):
    """B-BEAT-037: logged and retried after `max_interval` while others go on."""
    app.conf.beat_schedule = {
        "broken": {"task": "p.t", "schedule": Broken()},
        **entries_of("good"),
    }
    scheduler = Scheduler(app, max_interval=50)
    assert scheduler.tick() == 0

    assert len(sent()) == 1
    assert "cannot tell whether broken is due" in caplog.text
    assert scheduler.tick() <= 50


def test_an_entry_without_schedule_is_an_error(app):
    """B-BEAT-004: AttributeError at the first tick."""
    app.conf.beat_schedule = {"a": {"task": "p.t"}}
    with pytest.raises(AttributeError, match="'a' of the beat schedule has no schedule"):
        Scheduler(app).tick()


def test_a_failed_publish_is_logged_and_beat_goes_on(app, sent, caplog):
    """B-BEAT-038: a failed publish is logged and does not stop beat."""
    app.conf.beat_schedule = entries_of("a", "b")

    class Failing(Scheduler):
        def apply_async(self, entry, producer=None, advance=True, **kwargs):
            if entry.name == "a":
                raise SchedulingError("no broker")
            return super().apply_async(entry, producer, advance, **kwargs)

    scheduler = Failing(app)
    assert [scheduler.tick(), scheduler.tick()] == [0, 0]

    assert len(sent()) == 1
    assert "cannot send the task of entry a" in caplog.text


def test_a_publish_error_names_the_entry(app):
    entry = ScheduleEntry("a", "p.t", schedule=1, args=BeatLazyFunc(lambda: 1 / 0), app=app)
    scheduler = Scheduler(app)
    scheduler.schedule["a"] = entry
    with pytest.raises(SchedulingError, match="entry a: division by zero"):
        scheduler.apply_async(entry)


def test_a_schedule_that_changes_is_seen(app, sent):
    app.conf.beat_schedule = entries_of("a", when=Always(1000, due=False))
    scheduler = Scheduler(app)
    scheduler.tick()
    scheduler.add(name="new", task="p.t", schedule=Always())
    assert scheduler.tick() == 0
    assert len(sent()) == 1
    del scheduler.schedule["new"]
    assert scheduler.tick() == 300


def test_a_clock_that_was_set_makes_all_entries_be_asked_again(app, monkeypatch):
    app.conf.beat_schedule = entries_of("a", "b", when=Always(1000, due=False))
    scheduler = Scheduler(app)
    scheduler.tick()
    heap = scheduler._heap
    scheduler.tick()
    assert scheduler._heap is heap
    monkeypatch.setattr(scheduling, "_wall_ahead_of_monotonic", lambda: 5e9)
    scheduler.tick()
    assert scheduler._heap is not heap


def test_the_settings_are_merged_into_what_there_is(app):
    """B-BEAT-034: kept entries retain their runs, vanished ones go, changed ones are updated."""
    old = datetime(2020, 1, 1, tzinfo=UTC)
    stored = {
        "kept": ScheduleEntry("kept", "p.t", old, 3, 10, app=app),
        "gone": ScheduleEntry("gone", "p.t", old, 3, 10, app=app),
    }
    app.conf.beat_schedule = {
        "kept": {"task": "p.t", "schedule": 20},
        "new": ScheduleEntry("new", "p.t", schedule=5, app=app),
    }
    scheduler = Scheduler(app, schedule=stored)

    assert set(scheduler.schedule) == {"kept", "new"}
    kept = scheduler.schedule["kept"]
    assert (kept.last_run_at, kept.total_run_count) == (old, 3)
    assert kept.schedule == schedule(20)
    assert scheduler.schedule["new"].app is app


def test_stores_that_do_not_clean_themselves_are_cleaned(app, monkeypatch):
    """B-BEAT-006, B-RES-016: crontab 0 4 * * *, when the back-end needs it and results expire."""
    app.conf.beat_schedule = {}
    assert "celery.backend_cleanup" not in _lazy_scheduler(app)
    monkeypatch.setattr(type(app.backend), "supports_autoexpire", False)
    entry = _lazy_scheduler(app)["celery.backend_cleanup"]
    assert entry.schedule == crontab(0, 4)
    assert entry.options == {"expires": 12 * 3600}
    app.conf.result_expires = None
    assert "celery.backend_cleanup" not in _lazy_scheduler(app)


def _lazy_scheduler(app):
    scheduler = Scheduler(app, lazy=True)
    scheduler.install_default_entries(scheduler.schedule)
    return scheduler.schedule


def test_saving_is_due_at_first_then_by_time_or_number(app, monkeypatch):
    """B-BEAT-036: every 180 s, or after `beat_sync_every` sends, and before the first send."""
    now = [1000.0]
    monkeypatch.setattr(scheduling.time, "monotonic", lambda: now[0])
    scheduler = Scheduler(app, sync_every_tasks=2)
    assert scheduler.should_sync()
    scheduler._do_sync()
    assert not scheduler.should_sync()
    now[0] += 181
    assert scheduler.should_sync()
    scheduler._do_sync()
    scheduler._tasks_since_sync = 2
    assert scheduler.should_sync()
    app.conf.beat_sync_every = 9
    assert Scheduler(app).sync_every_tasks == 9


def test_sends_are_counted_and_saved(app):
    saves = []

    class Saving(Scheduler):
        def sync(self):
            saves.append(1)

    app.conf.beat_schedule = entries_of("a")
    scheduler = Saving(app, sync_every_tasks=1)
    scheduler.tick()
    assert saves == [1]
    scheduler.close()
    assert saves == [1, 1]
    assert scheduler.info == ""


def test_packages_that_invalidate_the_heap_are_heard(app):
    class Database(Scheduler):
        changed = False

        def schedules_equal(self, *args, **kwargs):
            if self.changed:
                self.changed = False
                return False
            return super().schedules_equal(*args, **kwargs)

    app.conf.beat_schedule = entries_of("a", when=Always(1000, due=False))
    scheduler = Database(app)
    scheduler.tick()
    heap = scheduler._heap
    scheduler.changed = True
    scheduler.tick()
    assert scheduler._heap is not heap
    scheduler._heap = None
    scheduler.tick()
    assert scheduler._heap


# -- the service ----------------------------------------------------------------------------------


class Ticking(Scheduler):
    """Tells when it ticked, and when it was closed."""

    def __init__(self, *args, **kwargs):
        self.ticked, self.closed = threading.Event(), 0
        self.ticks = 0
        super().__init__(*args, **kwargs)

    def tick(self, *args, **kwargs):
        self.ticks += 1
        self.ticked.set()
        return super().tick(*args, **kwargs)

    def close(self):
        self.closed += 1
        super().close()


@pytest.fixture
def service(app):
    return Service(app, scheduler_cls=Ticking)


def run_in_thread(service, **kwargs):
    thread = threading.Thread(target=lambda: service.start(**kwargs))
    thread.start()
    assert service.scheduler.ticked.wait(10)
    return thread


def test_a_service_ticks_until_it_is_stopped(service, caplog):
    """B-BEAT-031: what is logged; B-BEAT-036: saved at exit."""
    with caplog.at_level(logging.DEBUG, "celery.beat"):
        thread = run_in_thread(service)
        service.stop(wait=True)
        thread.join(10)

    assert not thread.is_alive()
    assert service.scheduler.closed == 1
    assert "beat: Starting..." in caplog.messages
    assert "beat: Ticking with max interval->5.00 minutes" in caplog.messages
    assert "beat: Waking up in 5.00 minutes." in caplog.messages


def test_a_stopped_service_does_not_sleep_on(service):
    thread = run_in_thread(service)
    service.stop()
    thread.join(10)
    assert not thread.is_alive()
    service.stop(wait=True)


def test_stopping_before_the_start_ends_it_at_once(app):
    service = Service(app, scheduler_cls=Ticking)
    service.stop()
    service.start()
    assert service.scheduler.ticks == 0
    assert service.scheduler.closed == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_signal_ends_a_service_with_its_schedule_saved(app, error):
    """B-BEAT-039: TERM and INT end beat."""

    class Interrupted(Ticking):
        def tick(self, *args, **kwargs):
            raise error

    service = Service(app, scheduler_cls=Interrupted)
    service.start()
    assert service.scheduler.closed == 1


@pytest.fixture
def alarm():
    """Put back what the test run itself does with alarms."""
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    yield
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.parametrize("name", ["nowhere.at:All", "celery.beat:Missing"])
def test_a_scheduler_that_is_not_there_is_named(app, name):
    with pytest.raises(ImproperlyConfigured, match=rf"^Cannot load the scheduler '{name}': "):
        _ = Service(app, scheduler_cls=name).scheduler


def test_a_tick_that_has_begun_is_ended_before_the_service(app, alarm):
    class Busy(Ticking):
        def tick(self, *args, **kwargs):
            service.end()
            self.finished = True
            return 0

    service = Service(app, scheduler_cls=Busy)
    service.start()
    assert service.scheduler.finished
    assert service.scheduler.closed == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_tick_that_takes_long_is_cut_off(app, alarm, monkeypatch):
    monkeypatch.setattr(beat, "LAST_TICK_S", 0.01)

    class Stuck(Ticking):
        def tick(self, *args, **kwargs):
            service.end()
            threading.Event().wait(30)
            raise AssertionError("it went on")

    service = Service(app, scheduler_cls=Stuck)
    service.start()
    assert service.scheduler.closed == 1


def test_a_second_signal_ends_it_at_once(app, alarm):
    class Stuck(Ticking):
        def tick(self, *args, **kwargs):
            service.end()
            service.end()
            raise AssertionError("it went on")

    service = Service(app, scheduler_cls=Stuck)
    service.start()
    assert service.scheduler.closed == 1


def test_an_error_of_the_scheduler_is_raised_after_saving(app):
    class Failing(Ticking):
        def tick(self, *args, **kwargs):
            raise ValueError("broken")

    service = Service(app, scheduler_cls=Failing)
    with pytest.raises(ValueError, match="broken"):
        service.start()
    assert service.scheduler.closed == 1


def test_the_start_is_signalled(service):
    """B-BEAT-046: `beat_init` and, embedded, `beat_embedded_init` with the service as sender."""
    got = []

    def receiver(signal, sender, **kwargs):
        got.append((signal.name, sender))

    signals.beat_init.connect(receiver)
    signals.beat_embedded_init.connect(receiver)
    service.stop()
    service.start()
    assert got == [("beat_init", service)]
    service.start(embedded_process=True)
    assert got[1:] == [("beat_init", service), ("beat_embedded_init", service)]


def test_the_scheduler_is_a_class_a_name_or_an_installed_one(app, monkeypatch):
    """B-BEAT-047: custom scheduler by class or `beat_scheduler`."""
    monkeypatch.setattr(
        beat, "load_extension_class_names", lambda namespace: [("mine", "celery.beat:Scheduler")]
    )
    assert type(Service(app, scheduler_cls="mine").scheduler) is Scheduler
    assert type(Service(app, scheduler_cls="celery.beat:Scheduler").scheduler) is Scheduler
    app.conf.beat_scheduler = "celery.beat.Scheduler"
    assert type(Service(app).scheduler) is Scheduler
    assert Service(app, max_interval=3).scheduler.max_interval == 3


def test_a_service_can_be_sent_to_another_process(app):
    service = Service(app, max_interval=3, schedule_filename="f", hostname="x@y")
    function, args = service.__reduce__()
    copy = function(*args)
    assert (copy.max_interval, copy.schedule_filename, copy.hostname) == (3, "f", "x@y")


def test_embedded_beat_may_be_a_thread(app):
    app.conf.beat_scheduler = Ticking
    embedded = EmbeddedService(app, thread=True)
    embedded.start()
    assert embedded.service.scheduler.ticked.wait(10)
    embedded.stop()
    embedded.join(10)
    assert not embedded.is_alive()
    assert embedded.name == "Beat"
    EmbeddedService(app, thread=True).stop()


def test_embedded_beat_is_a_child_named_beat_without_remote_control(app):
    """B-BEAT-042, B-BEAT-045: a child process named `Beat`; never a control node."""
    app.conf.beat_enable_remote_control = True
    embedded = EmbeddedService(app, schedule_filename="f")
    assert embedded.name == "Beat"
    assert embedded.daemon
    assert embedded.service.remote_control is False
    assert embedded.service.schedule_filename == "f"
    embedded.stop()


# -- remote control -------------------------------------------------------------------------------


def test_beat_has_a_node_name():
    """B-BEAT-043: node ``celerybeat@<host>``."""
    assert beat_nodename("x@h") == "x@h"
    assert beat_nodename("h") == "celerybeat@h"
    assert beat_nodename().startswith("celerybeat@")


@pytest.fixture
def pidbox(app):
    box = BeatPidbox(Service(app, hostname="b@h", scheduler_cls=Scheduler))
    box.replies = []
    box.node.reply = lambda data, **kwargs: box.replies.append(data)
    return box


REPLY_TO = {"exchange": "reply", "routing_key": "key"}


def ask(pidbox, method, **kwargs):
    body = {"method": method, "arguments": {}, "reply_to": REPLY_TO, "ticket": "t", **kwargs}
    pidbox.on_message(body, SimpleNamespace(headers={"clock": 5}))
    return pidbox.replies


def test_only_ping_is_answered(pidbox):
    """B-BEAT-043: answers only `ping` with ``{'ok': 'pong'}``."""
    assert ask(pidbox, "stats") == []
    assert ask(pidbox, "shutdown") == []
    assert ask(pidbox, "ping") == [{"b@h": {"ok": "pong"}}]
    pidbox.on_message("garbage", None)


def test_a_ping_for_others_is_not_answered(pidbox):
    assert ask(pidbox, "ping", destination=["w@h"]) == []
    assert len(ask(pidbox, "ping", destination=["b@h"])) == 1


def test_a_beat_that_hangs_is_silent(pidbox, caplog):
    """B-BEAT-044: silent when the scheduler has not ticked, with a warning per refused ping."""
    pidbox.service.last_tick_at -= 601
    assert pidbox.max_tick_age == 600
    assert pidbox.is_stale()
    assert ask(pidbox, "ping") == []
    assert "not answering ping" in caplog.text
    pidbox.app.conf.beat_remote_control_max_tick_age = 0
    assert not pidbox.is_stale()
    pidbox.app.conf.beat_remote_control_max_tick_age = 1000
    assert not pidbox.is_stale()


def test_a_tick_may_take_a_minute_in_any_case(pidbox):
    """B-BEAT-044: default twice the loop interval, at least 60 s."""
    pidbox.service.effective_max_interval = 5
    assert pidbox.max_tick_age == 60


def test_beat_answers_over_the_broker(app):
    """B-BEAT-043: it appears among those that answer a ping."""
    connected = threading.Event()

    class Box(BeatPidbox):
        def _listen(self):
            node = self.node
            listen = node.listen

            def listening(**kwargs):
                consumer = listen(**kwargs)
                connected.set()
                return consumer

            node.listen = listening
            super()._listen()

    box = Box(Service(app, hostname="b@h", scheduler_cls=Scheduler))
    box.start()
    box.start()
    try:
        assert connected.wait(10)
        assert app.control.ping(timeout=5, limit=1) == [{"b@h": {"ok": "pong"}}]
    finally:
        box.stop()
        box.stop()
