"""The steps of the consumer, one by one."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
from kombu import Queue
from kombu.common import Broadcast
from kombu.message import Message

from celery.exceptions import ImproperlyConfigured
from celery.worker import state
from celery.worker.consumer import delayed_delivery
from celery.worker.consumer.agent import Agent
from celery.worker.consumer.connection import Connection
from celery.worker.consumer.control import Control
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from celery.worker.consumer.events import Events
from celery.worker.consumer.gossip import Gossip
from celery.worker.consumer.heart import Heart
from celery.worker.consumer.mingle import Mingle
from celery.worker.consumer.tasks import Tasks
from t.unit.worker.conftest import Eventer, Pool
from t.unit.worker.consumer.test_consumer import Timer


@pytest.fixture
def c(app):
    return SimpleNamespace(
        app=app,
        hub=None,
        timer=Timer(),
        hostname="w@test",
        pid=7,
        pool=Pool(),
        connection=None,
        conninfo=SimpleNamespace(supports_exchange_type=lambda kind: True),
        event_dispatcher=None,
        on_send_event_buffered=None,
        connection_for_write=lambda: SimpleNamespace(release=lambda: None),
        controller=SimpleNamespace(use_eventloop=False),
        call_soon=lambda call: call(),
    )


# -- Connection


@pytest.mark.parametrize(
    ("url", "told"), [("filesystem://", "keeps no messages of workers"), ("sqlite://", None)]
)
def test_what_the_broker_cannot_carry_is_said_once(c, caplog, url, told):
    """B-BROK-001."""
    c.connect = lambda: c.app.connection_for_read(url)
    step = Connection(c)
    step.start(c)
    step.start(c)

    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (0 if told is None else 1)
    assert all(told in line for line in warned)


def test_the_connection_is_announced_without_its_password(c, caplog):
    """B-WORK-002."""
    caplog.set_level(logging.INFO)
    c.connect = lambda: c.app.connection_for_read("redis://user:secret@127.0.0.1:1/3")
    step = Connection(c)
    step.start(c)

    assert caplog.messages == ["Connected to redis://user:**@127.0.0.1:1/3"]


def test_the_connection_tells_its_parameters_but_not_the_password(c):
    """The remote command stats shows them."""
    step = Connection(c)
    assert step.info(c) == {"broker": "N/A"}
    c.connection = c.app.connection_for_read("redis://user:secret@127.0.0.1:1/3")
    broker = step.info(c)["broker"]

    assert broker["hostname"] == "127.0.0.1"
    assert "password" not in broker


def test_a_dead_connection_may_be_closed(c):
    def fail(*args):
        raise OSError("gone")

    step = Connection(c)
    c.connection = SimpleNamespace(default_channel=None, maybe_close_channel=fail, close=fail)
    step.shutdown(c)
    step.shutdown(c)

    assert c.connection is None


# -- Agent


class MyAgent:
    def __init__(self, connection):
        self.connection, self.log = connection, []

    def start(self):
        self.log.append("start")

    def stop(self):
        self.log.append("stop")


def test_an_agent_runs_beside_the_consumer(c, app):
    assert not Agent(c).include_if(c)
    app.conf.worker_agent = f"{__name__}:MyAgent"
    c.steps = []
    step = Agent(c)
    assert step.include(c)
    step.start(c)
    step.stop(c)

    assert c.agent.log == ["start", "stop"]


# -- Events and Heart


@pytest.mark.parametrize(
    ("options", "enabled", "groups"),
    [
        ({"task_events": False}, True, {"worker"}),
        ({"task_events": True}, True, set()),
        ({"task_events": False, "without_gossip": True}, True, {"worker"}),
        (
            {"task_events": False, "without_gossip": True, "without_heartbeat": True},
            False,
            {"worker"},
        ),
    ],
)
def test_events_are_sent_as_far_as_somebody_wants_them(c, options, enabled, groups):
    """B-EVT-007."""
    made = []

    class Dispatcher(Eventer):
        def __init__(self, connection, **kwargs):
            made.append(kwargs)
            super().__init__(kwargs["enabled"], set(kwargs["groups"] or ()))

    c.app = SimpleNamespace(events=SimpleNamespace(Dispatcher=Dispatcher))
    step = Events(c, **options)
    assert step.include_if(c)
    step.start(c)

    assert (c.event_dispatcher.enabled, c.event_dispatcher.groups) == (enabled, groups)
    assert made[0]["hostname"] == "w@test"


@pytest.mark.parametrize("task_events", [True, False])
def test_events_stay_switched_as_remote_control_left_them(c, task_events):
    class Dispatcher(Eventer):
        connection = None

        def __init__(self, connection, **kwargs):
            super().__init__(kwargs["enabled"], set(kwargs["groups"] or ()))

        def extend_buffer(self, other):
            pass

        flush = close = lambda self: None

    c.app = SimpleNamespace(events=SimpleNamespace(Dispatcher=Dispatcher))
    step = Events(c, task_events=task_events)
    step.start(c)
    wanted = c.event_dispatcher.groups = {"worker"} if task_events else {"worker", "task"}
    step.start(c)
    assert c.event_dispatcher.groups == wanted
    assert c.event_dispatcher.enabled


def test_events_survive_a_lost_connection(c, make_request):
    """What could not be sent is sent on the next connection; running requests follow."""
    log = []

    class Dispatcher:
        enabled = True
        groups = ()
        connection = None

        def __init__(self, connection, **kwargs):
            pass

        def flush(self):
            log.append("flush")

        def close(self):
            log.append("close")

        def extend_buffer(self, other):
            log.append(("extend", other is first))

    c.app = SimpleNamespace(events=SimpleNamespace(Dispatcher=Dispatcher))
    step = Events(c)
    step.start(c)
    first = c.event_dispatcher
    request = make_request()
    request.eventer = first
    state.task_reserved(request)
    step.stop(c)
    step.start(c)

    assert log == ["flush", "close", ("extend", True), "flush"]
    assert request.eventer is c.event_dispatcher is not first
    step.shutdown(c)
    assert c.event_dispatcher is None


def test_the_heart_beats_while_connected(c):
    """B-EVT-006, B-SIG-012: worker-online at once, then every two seconds, then worker-offline."""
    c.event_dispatcher = Eventer()
    step = Heart(c)
    step.start(c)
    assert c.event_dispatcher.types == ["worker-online"]
    (entry,) = c.timer.entries
    assert entry.secs == 2.0
    entry.fun(*entry.args)
    c.timer.cancel = lambda tref: tref.cancel()
    step.stop(c)
    step.stop(c)

    assert c.event_dispatcher.types == ["worker-online", "worker-heartbeat", "worker-offline"]
    assert entry.cancelled
    fields = c.event_dispatcher.sent[1][1]
    assert {"freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys"} <= set(fields)
    assert (fields["freq"], fields["sw_ident"]) == (2.0, "py-celery")
    # Trying again would hold up the loop until the broker is back.
    assert not any(fields["retry"] for _, fields in c.event_dispatcher.sent)


def test_no_heartbeat_without_events(c):
    """B-EVT-007."""
    assert not Heart(c, without_heartbeat=True).include_if(c)
    c.event_dispatcher = Eventer(enabled=False)
    Heart(c, heartbeat_interval=9).start(c)

    assert c.event_dispatcher.sent == []
    assert c.event_dispatcher.on_enabled


# -- Control


@pytest.mark.parametrize(
    ("wanted", "can", "expected"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_remote_control_needs_a_broadcast(c, app, wanted, can, expected):
    """B-EVT-032, B-BROK-001."""
    app.conf.worker_enable_remote_control = wanted
    c.conninfo = SimpleNamespace(supports_exchange_type=lambda kind: can and kind == "fanout")

    assert Control(c).include_if(c) is expected


def test_events_are_not_sent_where_nobody_hears_them(c):
    """B-BROK-001."""
    c.conninfo = SimpleNamespace(supports_exchange_type=lambda kind: kind != "fanout")

    assert Events(c, task_events=True).send_events is False


# -- Mingle


@pytest.fixture
def mingle(c):
    return Mingle(c)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("memory://", False), ("redis://127.0.0.1:1/0", True), ("amqp://127.0.0.1:1//", True)],
)
def test_mingle_needs_a_broadcast(c, app, url, expected):
    app.conf.broker_url = url

    assert Mingle(c).include_if(c) is expected
    assert not Mingle(c, without_mingle=True).include_if(c)


def reply(step, c, body, ticket="t", **headers):
    step._on_reply(c, body, SimpleNamespace(headers={"ticket": ticket, **headers}))


def test_answers_of_neighbours_are_merged_when_they_come(c, mingle, caplog):
    """B-WORK-002, B-WORK-003, B-WORK-049."""
    caplog.set_level(logging.INFO)
    mingle._ticket = "t"
    before = c.app.clock.value
    reply(mingle, c, {"a@x": {"clock": 900, "revoked": ["one"]}})
    reply(mingle, c, {"b@x": {"clock": 5, "revoked": {"two": 3.0}}})
    reply(mingle, c, {"w@test": None})
    reply(mingle, c, {"c@x": {"clock": 9999, "revoked": ["no"]}}, ticket="another")
    reply(mingle, c, {"d@x": {"clock": 9999, "revoked": ["late"]}}, expires=1)
    mingle._finish()

    assert {"one", "two"} == set(state.revoked)
    assert before < 900 < c.app.clock.value < 9999
    assert caplog.messages == [
        "mingle: sync with neighbors",
        "mingle: sync with 2 nodes",
        "mingle: sync complete",
    ]


def test_a_worker_without_neighbours_says_so(mingle, caplog):
    """B-WORK-002."""
    caplog.set_level(logging.INFO)
    mingle._finish()

    assert caplog.messages == ["mingle: all alone"]


def test_a_broken_answer_does_no_harm(c, mingle, caplog):
    mingle._ticket = "t"
    reply(mingle, c, {"a@x": {"clock": "nonsense"}})

    assert "mingle: sync with a@x failed" in caplog.text


def test_asking_does_not_wait(c, mingle):
    """B-WORK-003: the window for answers is a timer, not a pause."""
    asked = []
    mingle.send_hello = asked.append
    mingle.start(c)

    assert asked == [c]
    (entry,) = c.timer.entries
    # By way of the loop: the timer may be a thread, and closing is for the loop's.
    assert (entry.secs, entry.fun, entry.args) == (1.0, c.call_soon, (mingle._finish,))
    mingle.stop(c)
    assert entry.cancelled


# -- Gossip


class Worker:
    def __init__(self, hostname, alive=True):
        self.hostname, self.alive = hostname, alive


@pytest.fixture
def gossip(c, app):
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    step = Gossip(c)
    step.dispatcher = Eventer()
    return step


def elect(hostname, clock, topic="task", action=None, pid=7):
    return {
        "id": "e1", "hostname": hostname, "pid": pid, "clock": clock, "topic": topic,
        "action": action, "cver": 1,
    }  # fmt: skip


def test_an_election_is_won_by_the_oldest_clock(gossip, caplog):
    """B-EVT-017: every worker answers; the leader acts."""
    caplog.set_level(logging.INFO)
    done = []
    gossip.election_handlers["topic"] = done.append
    gossip.state = SimpleNamespace(alive_workers=lambda: [Worker("w@test"), Worker("a@x")])
    gossip.election("e1", "topic", {"do": "it"})
    assert gossip.dispatcher.sent == [
        ("worker-elect", {"id": "e1", "topic": "topic", "action": {"do": "it"}, "cver": 1})
    ]
    gossip.on_elect(elect("w@test", 3, "topic", {"do": "it"}))
    gossip.on_elect(elect("a@x", 4, "topic", {"do": "it"}))
    gossip.on_elect_ack({"id": "e1", "hostname": "w@test"})
    assert done == []
    gossip.on_elect_ack({"id": "e1", "hostname": "a@x"})

    assert done == [{"do": "it"}]
    assert "I won the election 'e1'" in caplog.messages
    assert [kind for kind, _ in gossip.dispatcher.sent].count("worker-elect-ack") == 2
    assert not gossip.consensus_requests
    assert not gossip.consensus_replies


def test_another_workers_victory_is_only_logged(gossip, caplog):
    caplog.set_level(logging.INFO)
    gossip.state = SimpleNamespace(alive_workers=list)
    gossip.election("e1", "task")
    gossip.on_elect(elect("a@x", 1))
    gossip.on_elect(elect("w@test", 2))
    gossip.on_elect_ack({"id": "e1", "hostname": "w@test"})

    assert "node a@x.7 elected for 'e1'" in caplog.messages


def test_answers_in_elections_of_others_and_broken_ones_are_left_alone(gossip):
    gossip.on_elect_ack({"id": "unknown", "hostname": "a@x"})
    gossip.on_elect({"id": "e1"})

    assert gossip.dispatcher.sent == []


def test_an_election_needs_our_own_answer_too(gossip):
    """Whoever knows us only from our events does not count us, but has to wait for us."""
    done = []
    gossip.election_handlers["topic"] = done.append
    gossip.state = SimpleNamespace(alive_workers=lambda: [Worker("a@x")])
    gossip.election("e1", "topic")
    gossip.on_elect(elect("a@x", 4, "topic", "theirs", pid=9))
    gossip.on_elect_ack({"id": "e1", "hostname": "a@x"})
    gossip.on_elect_ack({"id": "e1", "hostname": "a@x"})
    assert "e1" in gossip.consensus_replies
    gossip.on_elect(elect("w@test", 3, "topic", "ours"))
    gossip.on_elect_ack({"id": "e1", "hostname": "w@test"})

    assert done == ["ours"]


def test_whoever_stands_after_an_answer_has_a_later_clock(gossip):
    gossip.on_elect(elect("a@x", 1000))

    assert gossip.clock.value > 1000


def test_an_election_goes_on_without_those_who_are_lost(gossip):
    done = []
    gossip.election_handlers["topic"] = done.append
    there = [Worker("a@x")]
    gossip.state = SimpleNamespace(
        workers={"a@x": Worker("a@x", alive=False)}, alive_workers=lambda: there
    )
    gossip.election("e1", "topic")
    gossip.on_elect(elect("w@test", 3, "topic", "ours"))
    gossip.on_elect_ack({"id": "e1", "hostname": "w@test"})
    assert done == []
    there.clear()
    gossip.periodic()

    assert done == ["ours"]


def test_a_handler_that_fails_or_lacks_does_not_end_the_worker(gossip, caplog):
    gossip.state = SimpleNamespace(alive_workers=list)
    gossip.election_handlers["broken"] = lambda action: 1 / 0
    for topic in ("broken", "unknown"):
        gossip.election("e1", topic)
        gossip.on_elect(elect("w@test", 3, topic))
        gossip.on_elect_ack({"id": "e1", "hostname": "w@test"})

    assert "the handler for elections about 'broken' failed" in caplog.text
    assert "no handler for elections about 'unknown'" in caplog.text


def test_elections_of_others_are_not_remembered_for_ever(gossip):
    for number in range(1500):
        gossip.on_elect({**elect("a@x", number), "id": f"e{number}"})

    assert len(gossip.consensus_requests) == 1000


def test_lost_workers_are_told_of(gossip, caplog):
    """B-EXT-012."""
    caplog.set_level(logging.INFO)
    lost = []
    gossip.on.node_lost.add(lost.append)
    gossip.on.node_lost.add(lambda worker: 1 / 0)
    gone, there = Worker("a@x", alive=False), Worker("b@x")
    gossip.state = SimpleNamespace(workers={"a@x": gone, "b@x": there})
    gossip.periodic()

    assert lost == [gone]
    assert gossip.state.workers == {"b@x": there}
    assert "missed heartbeat from a@x" in caplog.messages


def test_joining_and_leaving_is_told_of(gossip):
    """B-EXT-012."""
    told = []
    gossip.on.node_join.add(lambda worker: told.append(("join", worker.hostname)))
    gossip.on.node_leave.add(lambda worker: told.append(("leave", worker.hostname)))
    gossip.state.on_node_join(Worker("a@x"))
    gossip.state.on_node_leave(Worker("a@x"))

    assert told == [("join", "a@x"), ("leave", "a@x")]


def message(routing_key, fields, hostname="a@x"):
    return Message(
        body=json.dumps(fields),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"routing_key": routing_key},
        headers={"hostname": hostname},
        accept={"application/json"},
    )


def test_events_of_others_update_the_view_and_own_ones_only_the_clock(gossip):
    seen = []
    gossip.state = SimpleNamespace(event=seen.append)
    before = gossip.clock.value
    gossip.on_message(lambda body: ("t", body), message("worker.heartbeat", {"a": 1}))
    gossip.on_message(lambda body: ("t", body), message("worker.heartbeat", {"a": 2}, "w@test"))
    gossip.on_message(lambda body: body["missing"], message("worker.heartbeat", {"a": 3}))

    assert seen == [{"a": 1}]
    assert gossip.clock.value == before + 1


def test_what_cannot_be_read_is_no_reason_to_stop(gossip, caplog):
    seen = []
    gossip.state = SimpleNamespace(event=seen.append)
    broken, refused = (message("worker.heartbeat", {"a": 1}) for _ in range(2))
    broken.body, refused.content_type = "{", "application/x-python-serialize"
    for each in (broken, refused):
        gossip.on_message(lambda body: ("t", body), each)

    assert seen == []
    assert caplog.text.count("gossip: cannot read an event") == 2


def test_gossip_needs_a_broadcast(c, app):
    app.conf.broker_url = "redis://127.0.0.1:1/0"
    assert not Gossip(c, without_gossip=True).include_if(c)
    app.conf.broker_url = "memory://"
    assert not Gossip(c).include_if(c)


def test_lost_workers_are_looked_for_again_and_again(gossip):
    gossip.register_timer()
    (entry,) = gossip.timer.entries
    assert (entry.secs, entry.fun) == (5.0, gossip.periodic)
    gossip._cancel_timer()
    assert entry.cancelled


# -- Tasks


@pytest.mark.parametrize(
    ("queue_type", "matches_spec", "detect", "expected"),
    [
        ("classic", False, True, True),
        ("classic", True, True, False),
        ("quorum", False, True, False),
        ("quorum", False, False, True),
    ],
)
def test_the_scope_of_the_prefetch_count(c, app, queue_type, matches_spec, detect, expected):
    """B-WORK-090: quorum queues have no count for the whole channel."""
    app.conf.worker_detect_quorum_queues = detect
    app.conf.task_queues = [Queue("q", queue_arguments={"x-queue-type": queue_type})]
    c.connection = SimpleNamespace(
        transport=SimpleNamespace(driver_type="amqp"), qos_semantics_matches_spec=matches_spec
    )

    assert Tasks(c).qos_global(c) is expected


def test_the_prefetch_count_is_shown(c):
    step = Tasks(c)
    assert step.info(c) == {"prefetch_count": "N/A"}
    c.qos = SimpleNamespace(value=8)
    assert step.info(c) == {"prefetch_count": 8}


def test_a_message_is_fetched_only_while_a_process_is_free(c, app, make_request):
    """B-WORK-057."""
    step = Tasks(c)
    limiter = SimpleNamespace(can_consume=lambda: True)
    c.connection = SimpleNamespace(transport=SimpleNamespace(driver_type="redis"))
    c.task_consumer = SimpleNamespace(channel=SimpleNamespace(qos=limiter))
    step._fetch_only_when_free(c)
    assert limiter.can_consume()
    requests = [make_request(), make_request()]
    for request in requests:
        state.task_reserved(request)
    assert not limiter.can_consume()
    state.task_ready(requests[0])
    assert limiter.can_consume()


def test_other_transports_cannot(c, caplog):
    """B-WORK-057."""
    c.connection = SimpleNamespace(transport=SimpleNamespace(driver_type="amqp"))
    Tasks(c)._fetch_only_when_free(c)

    assert "worker_disable_prefetch has no effect" in caplog.text


# -- DelayedDelivery


@pytest.fixture
def delays(c, app, monkeypatch):
    calls = []
    monkeypatch.setattr(
        delayed_delivery,
        "declare_native_delayed_delivery_exchanges_and_queues",
        lambda connection, queue_type: calls.append(("declare", queue_type)),
    )
    monkeypatch.setattr(
        delayed_delivery,
        "bind_queue_to_native_delayed_delivery_exchange",
        lambda connection, queue: calls.append(("bind", queue.name)),
    )
    c.conninfo = app.connection_for_read()
    c.calls = calls
    return c


def test_delays_are_declared_and_queues_bound_to_them(delays, app):
    """B-WORK-091: broadcast queues are not bound."""
    app.conf.task_queues = [Queue("a"), Broadcast("b"), Queue("c")]
    DelayedDelivery(delays).start(delays)

    assert delays.calls == [("declare", "quorum"), ("bind", "a"), ("bind", "c")]


def test_every_broker_is_set_up(delays, app):
    app.conf.broker_url = "memory://a;memory://b"
    app.conf.broker_native_delayed_delivery_queue_type = "classic"
    DelayedDelivery(delays).start(delays)

    assert [call for call in delays.calls if call[0] == "declare"] == [("declare", "classic")] * 2


def test_an_unknown_queue_type_is_refused(delays, app):
    """B-WORK-091."""
    app.conf.broker_native_delayed_delivery_queue_type = "nonsense"
    with pytest.raises(ImproperlyConfigured, match="classic or quorum, not 'nonsense'"):
        DelayedDelivery(delays).start(delays)


@pytest.mark.parametrize(("kind", "expected"), [("quorum", True), ("classic", False)])
def test_only_quorum_queues_need_it(c, app, kind, expected):
    """B-WORK-090."""
    app.conf.broker_url = "amqp://127.0.0.1:1//"
    app.conf.task_queues = [Queue("q", queue_arguments={"x-queue-type": kind})]

    assert DelayedDelivery(c).include_if(c) is expected
