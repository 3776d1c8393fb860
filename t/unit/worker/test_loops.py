"""The loops: when they end, what they do in each turn, how they finish."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from celery import bootsteps
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import loops, state


class Timer:
    def __init__(self):
        self.entries = []

    def call_repeatedly(self, secs, fun):
        entry = SimpleNamespace(secs=secs, fun=fun, cancelled=False)
        entry.cancel = lambda: setattr(entry, "cancelled", True)
        self.entries.append(entry)
        return entry


class Connection:
    supports_heartbeats = True
    transport = SimpleNamespace(polling_interval=None)

    def __init__(self, turns):
        self.turns = list(turns)
        self.checks = []

    def drain_events(self, timeout):
        if not self.turns:
            state.should_stop = 0
            raise TimeoutError
        turn = self.turns.pop(0)
        if isinstance(turn, BaseException):
            raise turn
        turn()

    def heartbeat_check(self, rate):
        self.checks.append(rate)


class TaskConsumer:
    def __init__(self):
        self.log = []
        self.on_message = None

    def consume(self):
        self.log.append("consume")

    def cancel(self):
        self.log.append("cancel")


@pytest.fixture
def obj():
    obj = SimpleNamespace(
        restart_count=0,
        connection=True,
        connection_errors=(ConnectionError,),
        channel_errors=(),
        timer=Timer(),
        carried=set(),
        turn=None,
        log=[],
    )
    obj.recall_revoked = lambda: None
    obj.call_locked = lambda call, *args: call(*args)
    obj.create_task_handler = lambda: "handler"
    obj.on_ready = lambda: obj.log.append("ready")
    obj.on_close = lambda: obj.log.append("closed")
    obj.perform_pending_operations = lambda: obj.log.append("pending")
    obj.is_busy = lambda: False
    obj.take_turn = lambda timeout: obj.turn(timeout)
    obj.cancel_active_requests = lambda: obj.log.append("cancelled")
    obj.await_cancelled = lambda timeout: obj.log.append("awaited")
    obj.controller = SimpleNamespace(wait_for_soft_shutdown=lambda: obj.log.append("soft"))
    return obj


class QoS:
    prev, value = 8, 8

    def __init__(self):
        self.updates = []

    def update(self):
        self.updates.append(self.value)
        self.prev = self.value


def run(obj, connection, consumer=None, qos=None, heartbeat=None, rate=3.0):
    consumer = consumer or TaskConsumer()
    blueprint = SimpleNamespace(state=bootsteps.RUN)
    loops.synloop(
        obj, connection, consumer, blueprint, None, qos or QoS(), heartbeat, None, hbrate=rate
    )


def test_it_consumes_until_asked_to_stop(obj):
    consumer = TaskConsumer()
    with pytest.raises(WorkerShutdown):
        run(obj, Connection([lambda: obj.log.append("message")]), consumer)

    assert consumer.on_message == "handler"
    assert consumer.log == ["consume", "cancel"]
    assert obj.log[0] == "ready"
    assert "message" in obj.log
    assert obj.turn is None


def test_a_changed_prefetch_count_is_sent(obj):
    """B-WORK-055."""
    qos = QoS()

    def change():
        qos.value = 9

    with pytest.raises(WorkerShutdown):
        run(obj, Connection([change]), qos=qos)

    assert qos.updates == [9]


def test_a_lost_connection_is_raised(obj):
    with pytest.raises(ConnectionError):
        run(obj, Connection([ConnectionError("gone")]))


def test_a_warm_stop_waits_for_what_runs(obj):
    """B-WORK-070, B-WORK-051: what waits goes back first."""
    busy = [True, True, False]
    obj.is_busy = lambda: busy.pop(0)
    with pytest.raises(WorkerShutdown):
        run(obj, Connection([]))

    assert obj.log.count("closed") == 1
    assert busy == []


def test_a_cold_stop_may_cut_a_warm_one_short(obj):
    """B-WORK-070: TERM, QUIT."""
    turns = []

    def busy():
        turns.append(1)
        if len(turns) == 2:
            state.should_terminate = 0
        return True

    obj.is_busy = busy
    with pytest.raises(WorkerTerminate) as stopped:
        run(obj, Connection([]))

    assert stopped.value.code == 0
    assert obj.log[-3:] == ["cancelled", "awaited", "pending"]


def test_a_cold_stop_waits_the_soft_period_and_cancels(obj):
    """B-WORK-074."""

    def ask():
        state.should_terminate = True

    with pytest.raises(WorkerTerminate):
        run(obj, Connection([ask]))

    assert [entry for entry in obj.log if entry != "ready"][-5:] == [
        "soft", "closed", "cancelled", "awaited", "pending",
    ]  # fmt: skip


def test_heartbeats_of_the_broker_are_watched(obj):
    """B-WORK-088: broker_heartbeat_checkrate times an interval."""
    connection = Connection([])
    connection.turns = [lambda: obj.timer.entries[0].fun()]
    with pytest.raises(WorkerShutdown):
        run(obj, connection, heartbeat=120, rate=3.0)

    (entry,) = obj.timer.entries
    assert entry.secs == 40
    assert connection.checks == [3.0]
    assert entry.cancelled


def test_a_missed_heartbeat_is_a_lost_connection(obj):
    """B-WORK-088."""
    connection = Connection([])

    def missed(rate):
        raise ConnectionError("too many heartbeats missed")

    connection.heartbeat_check = missed
    connection.turns = [lambda: obj.timer.entries[0].fun()]
    with pytest.raises(ConnectionError, match="heartbeats missed"):
        run(obj, connection, heartbeat=120)


@pytest.mark.parametrize(("heartbeat", "supported"), [(None, True), (0, True), (120, False)])
def test_without_heartbeats_nothing_is_watched(obj, heartbeat, supported):
    connection = Connection([])
    connection.supports_heartbeats = supported
    with pytest.raises(WorkerShutdown):
        run(obj, connection, heartbeat=heartbeat)

    assert obj.timer.entries == []


def test_an_unreadable_message_does_not_end_the_loop(obj, caplog):
    """Some transports raise on what they can't read themselves."""
    with pytest.raises(WorkerShutdown):
        run(obj, Connection([ValueError("garbage"), lambda: obj.log.append("next")]))

    assert "next" in obj.log
    assert "Error in the loop of the consumer: ValueError('garbage')" in caplog.messages


def test_a_loop_that_fails_all_the_time_ends(obj, monkeypatch):
    # Logging fifty errors may take a busy machine more than the second that is looked at.
    clock = itertools.count(step=0.001)
    monkeypatch.setattr(loops, "monotonic", lambda: next(clock))

    with pytest.raises(ValueError, match="broken"):
        run(obj, Connection([ValueError("broken")] * 1000))
