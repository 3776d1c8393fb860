"""What the consumer decides: rate limits, ETAs, broken messages, prefetch, connections."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest
from kombu.common import QoS
from kombu.exceptions import DecodeError
from kombu.message import Message

from celery import signals
from celery.exceptions import InvalidTaskError, NotRegistered, WorkerShutdown
from celery.worker import state
from celery.worker._slots import Slots
from celery.worker.consumer import _waiting as waiting, consumer as module
from celery.worker.consumer._prefetch import AHEAD_EACH, AHEAD_OF_HELD, messages_ahead
from celery.worker.consumer.consumer import Consumer, RateBucket, dump_body
from t.unit.worker.conftest import Eventer


class Timer:
    """Keeps what is scheduled, and runs it when told."""

    def __init__(self):
        self.entries = []

    def call_after(self, secs, fun, args=(), kwargs=None, priority=0):
        entry = SimpleNamespace(secs=secs, fun=fun, args=args, priority=priority, cancelled=False)
        entry.cancel = lambda: setattr(entry, "cancelled", True)
        self.entries.append(entry)
        return entry

    call_repeatedly = call_after

    def fire(self):
        due, self.entries = self.entries, []
        for entry in due:
            if not entry.cancelled:
                entry.fun(*entry.args)


@pytest.fixture
def ran():
    return []


@pytest.fixture
def c(app, task, pool, ran):
    """A consumer that is not connected."""
    controller = SimpleNamespace(semaphore=Slots(2), use_eventloop=False)
    consumer = Consumer(
        ran.append,
        app=app,
        pool=pool,
        timer=Timer(),
        hostname="w@test",
        controller=controller,
        initial_prefetch_count=8,
        prefetch_multiplier=4,
    )
    consumer.event_dispatcher = Eventer()
    consumer.counts = []
    consumer.qos = QoS(lambda prefetch_count: consumer.counts.append(prefetch_count), 8)
    return consumer


def test_a_bucket_is_made_from_the_rate_limit(c, task):
    """B-WORK-067, B-UTIL-001, B-EXT-007: capacity one; an integer means a second."""
    task.rate_limit = "2/s"
    bucket = c.bucket_for_task(task)
    assert (bucket.fill_rate, bucket.capacity) == (2.0, 1.0)
    task.rate_limit = "100/m"
    assert 1 / c.bucket_for_task(task).fill_rate == pytest.approx(0.6)
    task.rate_limit = 5
    assert c.bucket_for_task(task).fill_rate == 5.0
    for none in (None, 0, "0"):
        task.rate_limit = none
        assert c.bucket_for_task(task) is None


def test_a_bucket_can_be_asked(c):
    """B-EXT-007: consume(n) and expected_time(n)."""
    bucket = RateBucket(2, capacity=1)

    assert bucket.consume(1)
    assert not bucket.consume(1)
    assert 0 < bucket.expected_time(1) <= 0.5


def test_limited_requests_run_one_by_one(c, ran, make_request):
    """B-WORK-067."""
    bucket = RateBucket(2, capacity=1)
    requests = [make_request() for _ in range(3)]
    for request in requests:
        c.throttle(request, bucket)
    assert ran == requests[:1]
    (entry,) = c.timer.entries
    assert 0.4 < entry.secs <= 0.5

    bucket._tokens = 1
    c.timer.fire()
    assert ran == requests[:2]
    bucket._tokens = 1
    c.timer.fire()
    assert ran == requests
    assert c.timer.entries == []


def test_new_limits_take_over_those_who_wait(c, ran, task, make_request):
    """B-EXT-007: reset_rate_limits rebuilds the buckets."""
    task.rate_limit = "1/h"
    c.reset_rate_limits()
    first, second = make_request(), make_request()
    c.throttle(first, c.task_buckets["add"])
    c.throttle(second, c.task_buckets["add"])
    assert ran == [first]

    task.rate_limit = None
    c.reset_rate_limits()
    assert ran == [first, second]
    assert c.task_buckets["add"] is None


def test_rate_limits_can_be_off(c, task):
    task.rate_limit = "1/h"
    c.disable_rate_limits = True
    c.reset_rate_limits()

    assert c.task_buckets["add"] is None


def test_a_held_task_makes_room_for_one_more(c, ran, make_request):
    """B-WORK-055: the count rises while it waits and falls when it runs."""
    request = make_request(eta="2101-01-01T00:00:00+00:00")
    c.hold(request, request.eta.timestamp())
    assert c.qos.value == 9
    assert request in state.scheduled_requests

    c.timer.fire()
    assert c.qos.value == 8
    assert ran == [request]
    assert request in state.reserved_requests
    assert request not in state.scheduled_requests


class Stayer:
    """A message that may stay in the broker."""

    channel = None

    def __init__(self, stays):
        self.stays = stays
        self.asked = []

    def leave(self, delay_s, crowded):
        self.asked.append((delay_s, crowded))
        return self.stays


@pytest.mark.parametrize("stays", [True, False])
def test_a_task_waits_in_the_broker_where_that_is_possible(c, make_request, stays):
    request = make_request(eta="2101-01-01T00:00:00+00:00")
    request._message = message = Stayer(stays)
    c.hold(request, request.eta.timestamp())

    ((delay_s, crowded),) = message.asked
    assert delay_s > 1e9
    assert not crowded
    assert (request in state.scheduled_requests) is not stays
    assert c.qos.value == (8 if stays else 9)
    assert len(c.timer.entries) == (0 if stays else 1)


def test_many_held_tasks_are_kept_as_their_messages(c, ran, make_request, monkeypatch):
    """B-WORK-055: each raises the prefetch count, and each runs at its time, in their order."""
    monkeypatch.setattr(waiting, "MOST_HELD", 1)
    requests = [make_request(eta="2101-01-01T00:00:00+00:00") for _ in range(4)]
    for number, request in enumerate(requests):
        c.hold(request, 9e9 - number)
    ids = [request.id for request in requests]

    assert c.qos.value == 12
    assert set(state.scheduled_requests) == {requests[0]}
    assert [request.id for request in c.waiting_messages()] == [ids[3], ids[2], ids[1]]
    assert [request.id for request in c.waiting_messages([ids[2], "x"])] == [ids[2]]

    received = []
    c.on_task_received = received.append
    monkeypatch.setattr(waiting, "time", lambda: 9e9)
    c.timer.fire()
    c.perform_pending_operations()
    assert [message.headers["id"] for message in received] == [ids[3], ids[2], ids[1]]
    assert received[0].body == requests[3].message.body
    assert received[0].channel is requests[3].message.channel
    assert ran == requests[:1]
    assert c.qos.value == 8


def test_a_rate_limit_counts_after_the_eta(c, ran, make_request):
    """B-WORK-053."""
    bucket = c.task_buckets["add"] = RateBucket(1, capacity=1)
    bucket.consume(1)
    request = make_request()
    c.apply_eta_task(request)

    assert ran == []
    assert list(bucket.contents) == [request]


def test_what_waits_is_forgotten_with_the_connection(c, ran, make_request):
    """B-WORK-051: the broker delivers it again."""
    held, packed, limited, waiting, running = (make_request() for _ in range(5))
    c.hold(held, 9e9)
    assert c._packed.add(9e9, packed.id, packed.message)
    c._arm_packed()
    bucket = c.task_buckets["add"] = RateBucket(1, capacity=1)
    bucket.consume(1)
    for request in (limited, waiting, running):
        state.task_reserved(request)
    c.throttle(limited, bucket)
    c.controller.semaphore = Slots(0)
    c.controller.semaphore.acquire(ran.append, waiting)
    state.task_accepted(running)

    c.on_close()
    c.timer.fire()
    c.controller.semaphore.grow(5)

    assert ran == []
    assert set(state.reserved_requests) == {running}
    assert not state.scheduled_requests
    assert not c._packed
    assert set(state.requests) == {running.id}
    assert c.pool.flushed == 1


def handler(c):
    c.update_strategies()
    return c.create_task_handler()


def test_a_task_message_goes_to_its_strategy(c, ran, make_message):
    handler(c)(make_message(id="x"))

    assert [request.id for request in ran] == ["x"]


def test_an_unknown_task_is_dropped_and_fails(c, app, make_message, channel, caplog):
    """B-WORK-024, B-SIG-006, B-EVT table: rejected, signal, FAILURE, event."""
    told = []

    def receiver(sender, name, id, message, exc, **kwargs):
        told.append((sender, name, id))

    signals.task_unknown.connect(receiver)
    handler(c)(make_message(task="no.such", id="x"))

    assert channel.told == [("reject", "tag")]
    assert caplog.messages[0].startswith("Received unregistered task of type 'no.such'.\n")
    assert "(68b)" in caplog.messages[0] or "b)" in caplog.messages[0]
    assert told == [(c, "no.such", "x")]
    assert app.AsyncResult("x").state == "FAILURE"
    assert isinstance(app.AsyncResult("x").result, NotRegistered)
    assert c.event_dispatcher.sent == [
        ("task-failed", {"uuid": "x", "exception": "NotRegistered('no.such')"})
    ]


def test_a_message_that_is_no_task_is_dropped(c, channel, caplog):
    """B-WORK-026."""
    told = []

    def receiver(sender, message, exc, **kwargs):
        told.append((sender, exc))

    signals.task_rejected.connect(receiver)
    message = Message(
        body='{"hello": 1}', content_type="application/json", content_encoding="utf-8",
        delivery_tag="tag", channel=channel,
    )  # fmt: skip
    handler(c)(message)

    assert channel.told == [("reject", "tag")]
    assert caplog.messages[0].startswith("Received and deleted unknown message.  Wrong destin")
    assert told == [(c, None)]


def test_a_message_that_cannot_be_decoded_is_dropped(c, channel, caplog):
    """B-WORK-027."""
    message = Message(
        body="{nope", content_type="application/json", content_encoding="utf-8",
        delivery_tag="tag", channel=channel,
    )  # fmt: skip
    handler(c)(message)

    assert channel.told == [("reject", "tag")]
    assert caplog.records[0].levelno == logging.CRITICAL
    assert caplog.messages[0].startswith("Can't decode message body: ")


def test_an_invalid_task_is_dropped(c, channel, caplog, make_message):
    """B-WORK-028, B-WORK-029."""
    handler(c)(make_message(eta="garbage"))

    assert channel.told == [("reject", "tag")]
    assert "Received invalid task message: invalid ETA value 'garbage': " in caplog.messages[0]


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("id"), TypeError()])
def test_no_error_of_a_strategy_ends_the_loop(c, channel, make_message, error):
    """B-WORK-033, B-WORK-034."""

    def fail(*args):
        raise error

    call = handler(c)
    c.strategies["add"] = fail
    call(make_message())

    assert channel.told == [("reject", "tag")]


@pytest.mark.parametrize("error", [WorkerShutdown(0), OSError("gone")])
def test_what_ends_the_loop_is_let_through(c, channel, make_message, error):
    def fail(*args):
        raise error

    c.connection_errors = (OSError,)
    call = handler(c)
    c.strategies["add"] = fail

    with pytest.raises(type(error)):
        call(make_message())
    assert channel.told == []


def test_a_decode_error_of_a_strategy_is_reported_as_such(c, make_message, caplog, channel):
    def fail(*args):
        raise DecodeError("x")

    call = handler(c)
    c.strategies["add"] = fail
    call(make_message())

    assert caplog.messages[0].startswith("Can't decode message body")
    assert channel.told == [("reject", "tag")]


def test_calls_from_other_threads_wait_for_the_loop(c):
    c._loop_thread = threading.get_ident()
    called = []
    c.call_soon(called.append, "here")
    thread = threading.Thread(target=c.call_soon, args=(called.append, "there"))
    thread.start()
    thread.join()
    assert called == ["here"]

    c.perform_pending_operations()
    assert called == ["here", "there"]


def test_an_error_of_one_pending_call_does_not_stop_the_next(c, caplog):
    c._loop_thread = None
    called = []
    c.call_soon(called.index, "nothing there")
    c.call_soon(called.append, 1)
    c.perform_pending_operations()

    assert called == [1]
    assert "Error in pending operation" in caplog.text


def test_acks_of_other_threads_wait_for_the_loop(c, make_message, pool):
    """Connections belong to the loop: pools that answer in threads must not use them."""
    pool.uses_semaphore = False
    seen = []
    call = handler(c)
    c.strategies["add"] = lambda message, body, ack, reject, callbacks: seen.append((ack, reject))
    message = make_message()
    call(message)
    ack, _ = seen[0]
    ack(logging.getLogger("x"), ())
    assert not message.acknowledged

    c.perform_pending_operations()
    assert message.acknowledged


# -- prefetch


class Hub:
    """Notes what it is to call."""

    def __init__(self):
        self.calls = []

    def call_soon(self, call):
        self.calls.append(call)


def test_many_acks_of_other_threads_wake_the_loop_once(c):
    c.hub, c._loop_thread = Hub(), -1
    told = []
    for number in range(3):
        c.call_soon_ack(told.append, number)
    assert told == []
    assert len(c.hub.calls) == 1

    c.hub.calls.pop()()
    c.call_soon_ack(told.append, "later")

    assert told == [0, 1, 2]
    assert len(c.hub.calls) == 1
    c.hub.calls.pop()()
    assert told == [0, 1, 2, "later"]


def test_the_prefetch_count_follows_the_pool(c):
    """B-WORK-061."""
    c.qos_global = True
    assert c.update_prefetch_count(2) == 16
    assert c.update_prefetch_count(-1) == 12
    assert c.controller.semaphore.limit == 3


def test_more_is_asked_for_while_tasks_take_no_time_or_all_is_put_away():
    assert messages_ahead(is_brisk=False, processes=2, only_held=False) == 0
    assert messages_ahead(is_brisk=True, processes=2, only_held=False) == 2 * AHEAD_EACH
    assert messages_ahead(is_brisk=False, processes=2, only_held=True) == AHEAD_OF_HELD


def look(c):
    """Take a turn of the loop, as far as it is about prefetching; returns what is asked for."""
    c.look_ahead()
    while c.qos.prev != c.qos.value:
        c.qos.update()
    return c.ahead


@pytest.fixture
def ahead(c):
    """The same consumer, with tasks that take no time."""
    c.controller.semaphore = Slots(2, depth=2)
    for _ in range(60):
        c.controller.semaphore.release(0.00001)
    return c


def test_what_was_sent_ahead_is_given_back_when_tasks_take_long(ahead, make_request, channel):
    """The count is 8; of 2 that run and 38 that wait 8 stay, and the first of them."""
    slots = ahead.controller.semaphore
    assert look(ahead) == 32
    watch = ahead.timer.entries[-1].fun
    slots.extra = 0
    requests = [make_request(id=f"r{n}") for n in range(40)]
    for request in requests:
        state.task_reserved(request)
        slots.acquire(lambda request: state.task_accepted(request), request)
    for request in requests[:2]:
        request.acknowledge()
    watch()
    assert len(slots) == 38

    watch()

    assert look(ahead) == 0
    assert [request for request in requests if request in state.reserved_requests] == requests[:10]
    assert channel.told[2:] == [("requeue", "tag")] * 30
    assert len(slots) == 8
    watch()
    assert ahead._ahead_timer is None


def test_while_tasks_begin_nothing_is_given_back(ahead, make_request):
    look(ahead)
    watch = ahead.timer.entries[-1].fun
    for n in range(30):
        state.task_reserved(make_request(id=f"r{n}"))
        state.task_accepted(make_request(id=f"x{n}"))
        watch()

    assert look(ahead) == 32
    assert len(state.reserved_requests) == 30


def test_many_that_are_put_away_are_received_many_at_a_time(ahead):
    ahead.controller.semaphore.slow_down()
    assert look(ahead) == 0
    ahead._held["one"] = None
    assert look(ahead) == AHEAD_OF_HELD
    watch = ahead.timer.entries[-1].fun
    watch()
    assert ahead.ahead == AHEAD_OF_HELD

    # No more of them came.
    watch()
    assert look(ahead) == 0


def test_a_task_that_can_run_ends_the_receiving_of_many(ahead, make_request):
    ahead.controller.semaphore.slow_down()
    ahead._held["one"] = None
    assert look(ahead) == AHEAD_OF_HELD
    state.task_reserved(make_request())

    assert look(ahead) == 0


def test_tasks_with_a_rate_limit_are_not_hoarded(ahead, app, task):
    task.rate_limit = "2/s"
    app.tasks[task.name] = task
    ahead.reset_rate_limits()
    assert look(ahead) == 0
    task.rate_limit = None
    ahead.reset_rate_limits()
    assert look(ahead) == 32


def test_a_fixed_prefetch_count_stays(c):
    """B-WORK-090: with quorum queues only the slots change."""
    c.qos_global = False
    assert c.update_prefetch_count(2) is None
    assert c.qos.value == 8
    assert c.controller.semaphore.limit == 4


def test_after_a_lost_connection_running_tasks_are_subtracted(c, make_request):
    """B-WORK-058: reduced by running tasks times multiplier, back as they end."""
    c.qos_global = True
    running = make_request()
    state.task_reserved(running)
    state.task_accepted(running)
    c._reduce_prefetch()
    assert c.initial_prefetch_count == 4

    c.qos = QoS(lambda prefetch_count: None, c.initial_prefetch_count)
    c.restore_prefetch()
    assert c.qos.value == 4
    state.task_ready(running)
    c.restore_prefetch()
    assert c.qos.value == 8
    assert c.initial_prefetch_count == 8


def test_the_reduction_can_be_off_or_impossible(c, app, make_request, caplog):
    """B-WORK-058."""
    caplog.set_level(logging.INFO)
    running = make_request()
    state.task_reserved(running)
    state.task_accepted(running)
    c.qos_global = False
    c._reduce_prefetch()
    assert c.initial_prefetch_count == 8
    assert caplog.messages[0].startswith(
        "Skipping prefetch count reduction after connection restart because per-consumer QoS "
        "(apply_global=False) is in effect"
    )
    c.qos_global, app.conf.worker_enable_prefetch_count_reduction = True, False
    c._reduce_prefetch()
    assert c.initial_prefetch_count == 8


# -- connections


class Broken:
    """A connection that can't be made."""

    alt = ()

    def __init__(self, errors):
        self.errors = errors
        self.connects = 0

    def as_uri(self):
        return "redis://h:1/"

    def connect(self):
        self.connects += 1

    def ensure_connection(self, errback, max_retries, callback=None):
        for number in range(self.errors):
            errback(ConnectionError("no"), 2.0 * (number + 1))
        self.max_retries = max_retries
        return self


def test_failed_attempts_are_logged_with_growing_intervals(c, caplog):
    """B-WORK-083."""
    c.ensure_connected(Broken(3))

    assert [message.split("\n")[0] for message in caplog.messages] == [
        "consumer: Cannot connect to redis://h:1/: no."
    ] * 3
    assert [message.split("\n")[1] for message in caplog.messages] == [
        "Trying again in 2.00 seconds... (1/100)",
        "Trying again in 4.00 seconds... (2/100)",
        "Trying again in 6.00 seconds... (3/100)",
    ]


@pytest.mark.parametrize(
    ("first", "on_startup", "always", "retries"),
    [
        (True, True, False, True),
        (True, False, True, False),
        (False, False, True, True),
        (False, True, False, False),
    ],
)
def test_settings_decide_about_retries(c, app, first, on_startup, always, retries):
    """B-WORK-082."""
    app.conf.broker_connection_retry_on_startup = on_startup
    app.conf.broker_connection_retry = always
    c.first_connection_attempt = first
    connection = Broken(0)
    c.ensure_connected(connection)

    assert (connection.connects == 0) is retries
    assert c.first_connection_attempt is False


def test_without_a_choice_about_startup_the_other_setting_decides(c, app):
    """B-WORK-082: with a warning."""
    app.conf.broker_connection_retry_on_startup = None
    with pytest.warns(PendingDeprecationWarning, match="broker_connection_retry_on_startup"):
        c.ensure_connected(Broken(0))


def test_a_lost_connection_is_logged(c, caplog, monkeypatch):
    """B-WORK-085."""
    c.connection = SimpleNamespace(collect=lambda socket_timeout: None)
    with pytest.warns(PendingDeprecationWarning, match="late acknowledgement"):
        c.on_connection_error_after_connected(ConnectionError("gone"))

    assert caplog.messages[0] == (
        "consumer: Connection to broker lost. Trying to re-establish the connection... "
        "(ConnectionError('gone'))"
    )


@pytest.mark.parametrize("late", [True, False])
def test_late_tasks_can_be_cancelled_with_their_connection(c, app, task, make_request, pool, late):
    """B-WORK-086: early acknowledged ones finish normally."""
    app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    task.acks_late = late
    request = make_request()
    state.task_reserved(request)
    request.on_accepted(7, 0.0)
    c.connection = SimpleNamespace(collect=lambda socket_timeout: None)
    c.on_connection_error_after_connected(ConnectionError("gone"))

    assert pool.terminated == ([(7, 15)] if late else [])


def test_too_many_losses_are_braked(c, caplog, monkeypatch):
    """B-WORK-034: a pause of one second."""
    naps = []
    monkeypatch.setattr(module, "sleep", naps.append)
    c.restart_count = 0
    for _ in range(7):
        c._brake()

    assert naps == [1]
    assert "Frequent restarts detected: RestartFreqExceeded('5 in 1s')" in caplog.messages


def test_a_channel_error_ends_the_worker_unless_told_otherwise(c, app, monkeypatch):
    """B-WORK-087."""

    class Refused(Exception):
        pass

    class Steps:
        state = None
        starts = 0

        def start(self, parent):
            parent.connection = SimpleNamespace(collect=lambda socket_timeout: None)
            self.starts += 1
            if self.starts == 3:
                self.state = module.CLOSE
            raise Refused

        def restart(self, parent):
            pass

    c.channel_errors, c.connection_errors = (Refused,), (OSError,)
    app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    c.blueprint = Steps()
    with pytest.raises(Refused):
        c.start()
    app.conf.broker_channel_error_retry = True
    c.start()
    assert c.blueprint.starts == 3


# -- queues


class TaskConsumer:
    def __init__(self):
        self.queues, self.consumed, self.cancelled = [], 0, []

    def consuming_from(self, queue):
        return queue in [added.name for added in self.queues]

    def add_queue(self, queue):
        self.queues.append(queue)

    def consume(self):
        self.consumed += 1

    def cancel_by_queue(self, queue):
        self.cancelled.append(queue)


def test_queues_added_and_cancelled_are_remembered(c, app, caplog):
    """B-EXT-007: they persist over lost connections."""
    caplog.set_level(logging.INFO)
    c.task_consumer = TaskConsumer()
    app.amqp.queues.select(["celery"])
    c.add_task_queue("extra", exchange="ex", exchange_type="topic", routing_key="a.#")
    c.add_task_queue("extra")

    (queue,) = c.task_consumer.queues
    assert (queue.exchange.name, queue.exchange.type, queue.routing_key) == ("ex", "topic", "a.#")
    assert "extra" in app.amqp.queues.consume_from
    assert c.task_consumer.consumed == 1
    assert "Started consuming from extra" in caplog.messages

    c.cancel_task_queue("extra")
    assert c.task_consumer.cancelled == ["extra"]
    assert "extra" not in app.amqp.queues.consume_from


def test_bodies_are_shown_in_part(make_message):
    message = make_message(raw="x" * 5000)
    shown = dump_body(message, None)

    assert len(shown) < 1100
    assert shown.endswith("(5000b)")


def test_steps_of_the_app_are_added(app, pool):
    """B-EXT-002."""
    from celery import bootsteps

    class Mine(bootsteps.Step):
        def __init__(self, parent, **options):
            parent.mine = options.get("color")

    app.steps["consumer"].add(Mine)
    consumer = Consumer(
        print, app=app, pool=pool, timer=Timer(), worker_options={"color": "blue"},
        controller=SimpleNamespace(use_eventloop=False),
    )  # fmt: skip

    assert consumer.mine == "blue"


def test_what_users_reach_for(c):
    """B-EXT-011."""
    for name in (
        "app", "hub", "connection", "event_dispatcher", "gossip", "pool", "timer", "heart",
        "task_consumer", "strategies", "qos", "task_buckets",
    ):  # fmt: skip
        assert hasattr(c, name), name


def test_ready_is_told_once(app, pool):
    told = []
    consumer = Consumer(
        print, told.append, app=app, pool=pool, timer=Timer(),
        controller=SimpleNamespace(use_eventloop=False),
    )  # fmt: skip
    consumer.on_ready()
    consumer.on_ready()

    assert told == [consumer]


def test_an_invalid_message_is_told_of(c, make_message):
    """B-SIG-006."""
    told = []

    def receiver(sender, message, exc, **kwargs):
        told.append(exc)

    signals.task_rejected.connect(receiver)
    error = InvalidTaskError("no")
    c.on_invalid_task(None, make_message(), error)

    assert told == [error]


def test_a_broker_that_stays_away_ends_the_worker(c):
    """B-WORK-082: also after a connection was lost, the attempts are limited."""

    class Steps:
        state = None

        def start(self, parent):
            if parent.connection is None:
                raise OSError("cannot connect")
            raise ConnectionError("lost")

        def restart(self, parent):
            pass

    c.connection_errors = (OSError,)
    c.app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    c.connection = SimpleNamespace(collect=lambda socket_timeout: None)
    c.blueprint = Steps()

    with pytest.raises(OSError, match="cannot connect"):
        c.start()


def test_what_is_revoked_is_taken_back_from_the_pool_unless_it_began(c, make_request, pool):
    """B-WORK-041: tasks that the pool was given ahead."""
    waiting, begun, other = make_request(), make_request(), make_request()
    freed = []
    for request in (waiting, begun, other):
        state.task_reserved(request)
        request.execute_using_pool(pool)
        request._slot = lambda request=request: freed.append(request)
    begun.on_accepted(7, 0.0)
    waiting._job.withdraw = other._job.withdraw = begun._job.withdraw = lambda: True
    c.controller.semaphore.taken = 3
    c.recall_revoked()
    state.revoked.add(waiting.id)
    state.revoked.add(begun.id)
    c.recall_revoked()
    c.recall_revoked()

    assert freed == [waiting]
    assert waiting.acknowledged
    assert waiting not in state.reserved_requests
    assert begun in state.active_requests


def test_revoked_stamps_count_too(c, make_request, pool):
    """B-WORK-045."""
    request = make_request(stamped_headers=["k"], stamps={"k": ["v"]})
    state.task_reserved(request)
    request.execute_using_pool(pool)
    request._job.withdraw = lambda: True
    c.controller.semaphore.taken = 3
    state.revoked_stamps["k"] = ["v"]
    c.recall_revoked()

    assert request.acknowledged
