"""The straight way of ordinary calls: who takes it, who must not, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Queue
from kombu.messaging import Producer
from kombu.transport import TRANSPORT_ALIASES, memory
from kombu.utils import json as kombu_json

from celery import Celery, Task, _state, group, signals
from celery._protocol.template import MARKS, JSONTemplate
from celery.app.amqp import AMQP
from celery.app.task import Context
from celery.exceptions import TasksNotSent
from t.harness.calls import python_calls
from t.harness.inline import memory_app


class Template:
    def __init__(self, queue: str, text: JSONTemplate) -> None:
        self.queue = queue
        self.text = text

    def fill(self, values: Any, body: str) -> tuple[str, str]:
        return self.queue, self.text.fill((*values, body), '"tag"')


class Outlet:
    """Puts finished messages into the queues of the memory transport."""

    key = "memory"
    is_open = True
    #: Sizes of what was sent together.
    sent: list[int] = []
    #: Errors of the next attempts.
    faults: list[Exception] = []

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def template(self, message: Any, exchange: str, routing_key: str) -> Template:
        self.channel._inplace_augment_message(message, exchange, routing_key)
        message["body"] = MARKS.body
        message["properties"].update(delivery_tag=MARKS.tag, body_encoding=None)
        return Template(routing_key, JSONTemplate(kombu_json.dumps(message)))

    def send(self, messages: Any, confirm_timeout: float | None = None) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.sent.append(len(messages))
        for queue, text in messages:
            self.channel._put(queue, json.loads(text))


class Channel(memory.Channel):
    def new_outlet(self) -> Outlet:
        return Outlet(self)


class Transport(memory.Transport):
    """The memory transport, with an outlet."""

    Channel = Channel
    connection_errors = (ConnectionResetError,)


@pytest.fixture
def app(monkeypatch) -> Iterator[Celery]:
    monkeypatch.setitem(TRANSPORT_ALIASES, "outlet", f"{__name__}:Transport")
    # Nobody listens, whatever packages other tests have loaded.
    for signal in (signals.before_task_publish, signals.after_task_publish, signals.task_sent):
        monkeypatch.setattr(signal, "receivers", [])
    Outlet.sent.clear()
    Outlet.faults.clear()
    app = memory_app(broker_url="outlet://", task_ignore_result=True)
    yield app
    app.close()


@pytest.fixture
def task(app) -> Any:
    @app.task(name="p.t", shared=False)
    def task(*args: Any, **kwargs: Any) -> None:
        pass

    return task


def warm(task: Any, **options: Any) -> None:
    """Make the calls from which the form of such calls is learned."""
    for _ in range(2):
        task.apply_async((0,), **options)
    Outlet.sent.clear()


def went_straight(send: Callable[[], Any]) -> bool:
    """Send the same several times, and say whether both went the straight way."""
    for _ in range(3):
        # A queue that is new makes all forms be learned again.
        send()
    Outlet.sent.clear()
    send()
    send()
    assert len(Outlet.sent) in (0, 2)
    return bool(Outlet.sent)


def waiting(app: Celery) -> list[Any]:
    """Take all messages."""
    found = []
    with app.connection_for_read() as connection:
        queue = app.conf.task_default_queue
        while (message := connection.default_channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message)
    return found


def test_the_first_call_declares_and_the_others_go_straight(app, task):
    for _ in range(4):
        task.delay(1)
    assert Outlet.sent == [1, 1, 1]
    assert len(waiting(app)) == 4


ORDINARY: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a queue": {"queue": "q"},
    "numbers": {"priority": 3, "time_limit": 5, "soft_time_limit": 2.5},
    "a time": {"countdown": 10},
    "a group": {"group_id": "g", "group_index": 1},
    "a callback": {"link": [{"task": "a", "args": (), "kwargs": {}, "options": {}}]},
}


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_calls_go_straight(task, case):
    assert went_straight(lambda: task.apply_async((1,), **ORDINARY[case]))


UNUSUAL: dict[str, dict[str, Any]] = {
    "headers": {"headers": {"x": 1}},
    "expiry": {"expires": 10},
    "retries": {"retries": 1},
    "compression": {"compression": "zlib"},
    "another serializer": {"serializer": "yaml"},
    "stamps": {"stamped_headers": ["x"], "x": "y"},
    "its own description": {"argsrepr": "(secret)"},
    "a queue object": {"queue": Queue("q")},
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_calls_go_the_general_way(task, case):
    assert not went_straight(lambda: task.apply_async((1,), **UNUSUAL[case]))


@pytest.mark.parametrize(
    "signal", [signals.before_task_publish, signals.after_task_publish, signals.task_sent]
)
def test_whoever_listens_hears_of_every_call(task, signal):
    seen: list[Any] = []

    def listen(**kwargs: Any) -> None:
        seen.append(kwargs)

    warm(task)
    signal.connect(listen)
    try:
        assert not went_straight(lambda: task.delay(1))
    finally:
        signal.disconnect(listen)
    assert len(seen) == 5
    assert went_straight(lambda: task.delay(1))


def keep_publish(monkeypatch: Any, app: Celery) -> None:
    publish = Producer.publish
    monkeypatch.setattr(Producer, "publish", lambda self, *a, **kw: publish(self, *a, **kw))


def keep_sending(monkeypatch: Any, app: Celery) -> None:
    send = app.amqp.send_task_message
    monkeypatch.setattr(app.amqp, "send_task_message", lambda *a, **kw: send(*a, **kw))


def other_json(monkeypatch: Any, app: Celery) -> None:
    from kombu.serialization import registry

    mine = registry._encoders["json"]._replace(encoder=lambda value: kombu_json.dumps(value))
    monkeypatch.setitem(registry._encoders, "json", mine)


def settings(**values: Any) -> Callable[[Any, Celery], None]:
    return lambda monkeypatch, app: app.conf.update(**values)


REPLACED: dict[str, Callable[[Any, Celery], None]] = {
    "kombu's publish": keep_publish,
    "the sending of messages": keep_sending,
    "the encoder": other_json,
    "the protocol": settings(task_protocol=1),
    "the compression": settings(task_compression="zlib"),
    "events": settings(task_send_sent_event=True),
    "a router": settings(task_routes=(lambda name, *args, **kwargs: None,)),
}


@pytest.mark.parametrize("what", REPLACED)
def test_what_others_put_in_place_of_a_part_is_used(monkeypatch, app, task, what):
    warm(task)
    REPLACED[what](monkeypatch, app)
    assert not went_straight(lambda: task.delay(1))


def test_a_subclass_of_the_app_s_part_is_asked(app, task):
    class Mine(AMQP):
        pass

    app.amqp_cls = Mine
    assert not went_straight(lambda: task.delay(1))


def test_a_change_of_routes_or_queues_is_seen_at_once(app, task):
    warm(task)
    app.conf.task_routes = {"p.t": {"queue": "elsewhere", "priority": 4}}
    task.delay(1)
    assert waiting(app)[2:] == []

    app.conf.task_routes = None
    warm(task)
    waiting(app)
    name = app.conf.task_default_queue
    app.amqp.queues.add(Queue(name, routing_key=name, queue_arguments={"x": 1}))
    task.delay(1)
    assert len(waiting(app)) == 1


def test_a_failed_send_is_repeated_the_general_way_under_the_same_id(app, task):
    """B-CALL-027: the retry policy begins anew; the message arrives once."""
    warm(task)
    waiting(app)
    Outlet.faults.append(ConnectionResetError())
    result = task.delay(1)
    assert [message.headers["id"] for message in waiting(app)] == [result.id]

    warm(task, retry=False)
    Outlet.faults.append(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        task.apply_async((1,), retry=False)


def test_a_batch_goes_out_together_in_the_order_of_its_calls(app, task):
    warm(task)
    waiting(app)
    sigs = [task.s(0), task.s(1), task.s(2).set(expires=100), task.s(3), task.s(4)]
    results = app.send_tasks(sigs)
    assert Outlet.sent == [2, 2]
    assert [message.headers["id"] for message in waiting(app)] == [r.id for r in results]


def test_a_batch_that_failed_is_sent_one_by_one_or_named(app, task):
    warm(task)
    waiting(app)
    Outlet.faults.append(ConnectionResetError())
    results = app.send_tasks(task.s(n) for n in range(3))
    assert [message.headers["id"] for message in waiting(app)] == [r.id for r in results]

    warm(task, retry=False)
    Outlet.faults.append(ConnectionResetError())
    with pytest.raises(TasksNotSent) as caught:
        app.send_tasks((task.s(n) for n in range(3)), retry=False)
    assert len(caught.value.task_ids) == 3


def test_what_json_cannot_carry_is_said_as_ever(task):
    warm(task)
    with pytest.raises(kombu_error()):
        task.delay(object())
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(kombu_error()):
        task.delay(circle)


def kombu_error() -> type[Exception]:
    from kombu.exceptions import EncodeError

    return EncodeError


# -- many calls, one after another


def sent_alike(app: Celery, task: Any, *signatures: Any, **options: Any) -> list[Any]:
    """Send signatures together and one by one, and return bodies and headers of both ways."""
    both = []
    for send in (
        lambda: app.send_tasks([sig.clone() for sig in signatures], **options),
        lambda: [sig.clone().apply_async(**options) for sig in signatures],
    ):
        waiting(app)
        send()
        both.append(
            [
                (
                    message.body,
                    message.headers,
                    message.delivery_info,
                    message.properties["reply_to"],
                )
                for message in waiting(app)
            ]
        )
    return both


@pytest.mark.parametrize("options", [{}, {"priority": 3}, {"shadow": "s"}, {"countdown": 90.0}])
def test_calls_that_are_sent_together_are_the_same_messages(app, task, options):
    warm(task, **options)
    signatures = [
        task.s(1, two="2").set(task_id="a"),
        task.si({"k": [1]}).set(task_id="b", root_id="r", parent_id="p", group_id="g"),
        task.s().set(task_id="c", time_limit=9),
    ]
    together, alone = sent_alike(app, task, *signatures, **options)
    for one, other in zip(together, alone, strict=True):
        for found in (one, other):
            # This is the moment of the call.
            assert bool(found[1].pop("eta")) == ("countdown" in options)
        assert one == other


def test_members_of_a_chord_say_which_one_they_belong_to(app, task):
    warm(task)
    (body, other) = (task.s(n).set(task_id=f"body {n}") for n in range(2))
    signatures = [
        task.s(n).set(task_id=str(n), chord=chord, group_id="g", group_index=n)
        for n, chord in enumerate((body, body, other, None))
    ]
    together, alone = sent_alike(app, task, *signatures)
    assert together == alone
    embedded = [json.loads(message[0])[2]["chord"] for message in together]
    found = [chord and chord["options"]["task_id"] for chord in embedded]
    assert found == ["body 0", "body 0", "body 1", None]


def test_a_function_in_the_place_of_apply_async_is_called_for_each(app, task, monkeypatch):
    warm(task)
    app.send_tasks([task.s(1)])
    seen = []
    genuine = Task.apply_async

    def noted(self, *args, **kwargs):
        seen.append(self.name)
        return genuine(self, *args, **kwargs)

    monkeypatch.setattr(Task, "apply_async", noted)
    app.send_tasks([task.s(1), task.s(2)])
    group([task.s(1), task.s(2)], app=app).apply_async()
    assert seen == ["p.t"] * 4


def test_a_function_in_the_place_of_send_task_is_called_for_each(app, task, monkeypatch):
    warm(task)
    seen = []
    genuine = app.send_task
    monkeypatch.setattr(
        app, "send_task", lambda name, *args, **kw: (seen.append(name), genuine(name, *args, **kw))
    )
    app.send_tasks([task.s(1), task.s(2)])
    assert seen == ["p.t"] * 2


def test_a_receiver_that_comes_while_calls_are_sent_hears_of_the_next(app, task):
    warm(task)
    seen = []

    def note(headers: Any, **_: Any) -> None:
        seen.append(headers["argsrepr"])

    def calls() -> Iterator[Any]:
        yield task.s(1)
        yield task.s(2)
        signals.before_task_publish.connect(note)
        yield task.s(3)
        signals.before_task_publish.disconnect(note)
        yield task.s(4)

    app.send_tasks(calls())
    assert seen == ["(3,)"]
    assert [json.loads(message.body)[0] for message in waiting(app)][-4:] == [[1], [2], [3], [4]]


def test_arguments_of_calls_that_are_sent_together_are_checked(app):
    @app.task(shared=False)
    def two(a: int, b: int) -> None:
        pass

    warm_up = [two.s(1, 2)] * 3
    app.send_tasks(warm_up)
    with pytest.raises(TypeError):
        app.send_tasks([two.s(1)])


def test_calls_of_a_running_task_know_their_parent(app, task):
    warm(task)

    @app.task(bind=True, shared=False)
    def outer(self: Any) -> Any:
        return app.send_tasks([task.s(1), task.s(2)], add_to_parent=True)

    waiting(app)
    outer.request_stack.push(
        Context(id="outer", root_id="root", called_directly=False, children=[])
    )
    _state.push_current_task(outer)
    try:
        results = outer.run()
    finally:
        children = outer.request_stack.pop().children
        _state.pop_current_task()
    sent = [(m.headers["root_id"], m.headers["parent_id"]) for m in waiting(app)]
    assert sent == [("root", "outer")] * 2
    assert [child.id for child in children] == [result.id for result in results]


# -- what it costs: calls of functions written in Python, which no load of the machine changes

#: For one call of a task, and for one of many; a few more than it takes. A dozen are the
#: memory transport's.
MOST_CALLS = 60
MOST_CALLS_IN_A_BATCH = 41
MOST_CALLS_IN_A_GROUP = 46


def test_a_call_takes_few_calls(task):
    warm(task)
    task.delay(1)
    assert len(python_calls(lambda: task.delay(1, two=2))) < MOST_CALLS


def test_a_call_in_a_batch_takes_fewer(app, task):
    warm(task)
    few, many = ([task.s(n) for n in range(size)] for size in (10, 110))
    app.send_tasks(few)
    difference = len(python_calls(lambda: app.send_tasks(many))) - len(
        python_calls(lambda: app.send_tasks(few))
    )
    assert difference / 100 < MOST_CALLS_IN_A_BATCH


def test_a_member_of_a_group_takes_few_calls(app, task):
    warm(task)
    few, many = (group([task.s(n) for n in range(size)], app=app) for size in (10, 110))
    few.apply_async()
    difference = len(python_calls(many.apply_async)) - len(python_calls(few.apply_async))
    assert difference / 100 < MOST_CALLS_IN_A_GROUP
