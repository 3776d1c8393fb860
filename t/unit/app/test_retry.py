"""`Task.retry`: what is sent again, when, and when not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celery import group
from celery.exceptions import Ignore, MaxRetriesExceededError, Retry
from t.harness.inline import InlineWorker, Sent, memory_app


def eta_in_seconds(message: Sent) -> float:
    return (datetime.fromisoformat(message.headers["eta"]) - datetime.now(UTC)).total_seconds()


def first_and_second(worker: InlineWorker) -> tuple[Sent, Sent]:
    """Run the one waiting message; return it and the message of its retry."""
    before = len(worker.seen)
    with pytest.raises(AssertionError, match="more than 1"):
        worker.run(limit=1)
    (first,) = worker.seen[before:]
    (second,) = worker.sent()
    return first, second


def retrying(app: Any, body: Any = None, **options: Any) -> Any:
    def default(self, *args, **kwargs):
        raise self.retry()

    return app.task(name="p.retrying", shared=False, bind=True, **options)(body or default)


def test_a_retry_is_a_message_with_the_same_ids(app, worker):
    """B-TASK-018: id, root, parent and group, and one retry more."""
    task = retrying(app)

    result = group([task.s(1)]).apply_async()
    first, second = first_and_second(worker)

    same = ("id", "task", "root_id", "parent_id", "group", "group_index", "origin")
    assert {name: second.headers[name] for name in same} == {
        name: first.headers[name] for name in same
    }
    assert second.headers["parent_id"] is None
    assert second.id == result.results[0].id
    assert (first.headers["retries"], second.headers["retries"]) == (0, 1)
    assert second.body[0] == [1]


def test_a_retry_goes_to_the_queue_it_came_from(app, worker):
    """B-TASK-018: taken from the delivery, whatever the routes say by then."""
    task = retrying(app)
    task.delay()
    app.conf.task_routes = {"p.*": "elsewhere"}

    first, second = first_and_second(worker)

    assert second.id == first.id


def test_a_retry_goes_to_the_exchange_it_came_from(app, monkeypatch):
    """B-TASK-018: with the routing key of the delivery."""
    task = retrying(app)
    sent = capture(app, monkeypatch)
    run(task, delivery_info={"exchange": "ex", "routing_key": "rk", "priority": None})

    ((_, options),) = sent
    assert (options["exchange"], options["routing_key"]) == ("ex", "rk")
    assert options.get("queue") is None


def test_a_retry_keeps_the_priority_it_was_received_with(app, worker):
    """B-ROUT-030, B-TASK-018."""
    task = retrying(app)
    task.apply_async(priority=6)
    first, second = first_and_second(worker)

    assert first.properties["priority"] == 6
    assert second.properties["priority"] == 6


def capture(app, monkeypatch):
    """Collect messages instead of publishing them: (message, options) each."""
    sent: list[Any] = []
    monkeypatch.setattr(
        app.amqp,
        "send_task_message",
        lambda producer, name, message, **options: sent.append((message, options)),
    )
    return sent


def run(task: Any, *args: Any, **request: Any) -> Any:
    from celery.app import trace

    tracer = trace.build_tracer(task.name, task)
    return tracer("id-1", args, {}, {"id": "id-1", "delivery_info": {}, **request})


def test_throw_false_returns_the_exception(app, worker):
    """B-TASK-018: the message is sent all the same."""

    def body(self):
        return str(self.retry(throw=False, countdown=3))

    task = retrying(app, body)
    result = task.delay()
    first, second = first_and_second(worker)

    assert second.id == first.id
    assert result.result == "Retry in 3s"


@pytest.mark.parametrize(
    ("options", "expected_s"),
    [
        ({}, 180),
        ({"countdown": 7}, 7),
        ({"countdown": 0}, 0),
        ({"eta": 500}, 500),
        ({"eta": 500, "countdown": 7}, 500),
    ],
)
def test_when_a_retry_is_due(app, worker, options, expected_s):
    """B-TASK-019: the default delay, or countdown or eta instead of it."""
    if "eta" in options:
        # Not when tests are collected, which may be minutes ago.
        options = {**options, "eta": datetime.now(UTC) + timedelta(seconds=options["eta"])}
    task = retrying(app, lambda self: self.retry(**options))
    task.delay()
    _, second = first_and_second(worker)

    assert eta_in_seconds(second) == pytest.approx(expected_s, abs=60)


def test_the_default_delay_is_an_attribute(app, worker):
    """B-TASK-019."""
    task = retrying(app, default_retry_delay=20)
    task.delay()
    _, second = first_and_second(worker)

    assert eta_in_seconds(second) == pytest.approx(20, abs=10)


def test_options_override_the_call(app, worker):
    """B-TASK-020: arguments, priority, and whatever else."""

    def body(self, x, y=0):
        raise self.retry(args=(8,), kwargs={"y": 9}, priority=2, shadow="other", expires=50)

    task = retrying(app, body)
    task.apply_async((1,), {"y": 2}, priority=7)
    _, second = first_and_second(worker)

    assert second.body[:2] == [[8], {"y": 9}]
    assert second.properties["priority"] == 2
    assert second.headers["shadow"] == "other"
    assert second.headers["expires"] is not None


def test_a_retry_may_go_to_another_queue(app, monkeypatch):
    """B-TASK-020."""
    task = retrying(app, lambda self: self.retry(queue="other"))
    sent = capture(app, monkeypatch)
    run(task, delivery_info={"exchange": "", "routing_key": "celery"})

    assert sent[0][1]["queue"].name == "other"


def test_a_limit_of_the_call_overrides_that_of_the_task(app, worker):
    """B-TASK-020: for that call."""
    runs = []

    def body(self):
        runs.append(self.request.retries)
        raise self.retry(countdown=0, max_retries=1)

    task = retrying(app, body, max_retries=5)
    result = task.delay()
    worker.run()

    assert runs == [0, 1]
    assert isinstance(result.result, MaxRetriesExceededError)


@pytest.mark.parametrize("throw", [True, False])
def test_after_the_last_retry_nothing_is_sent(app, worker, throw):
    """B-TASK-021: the error names the task, its id and its arguments; also without throw."""

    def body(self, x):
        try:
            raise KeyError("active")
        except KeyError:
            self.retry(throw=throw, countdown=0)

    task = retrying(app, body, max_retries=0)
    result = task.delay(5)
    worker.run()

    assert len(worker.seen) == 1
    error = result.result
    assert isinstance(error, MaxRetriesExceededError)
    assert str(error) == f"Can't retry p.retrying[{result.id}] args:(5,) kwargs:{{}}"


@pytest.mark.parametrize("throw", [True, False])
def test_after_the_last_retry_the_given_error_is_raised(app, worker, throw):
    """B-TASK-021: `exc` rather than the active exception."""

    def body(self):
        try:
            raise KeyError("active")
        except KeyError:
            self.retry(exc=ValueError("given"), throw=throw, countdown=0)

    task = retrying(app, body, max_retries=0)
    result = task.delay()
    worker.run()

    assert type(result.result) is ValueError


def test_without_a_limit_it_is_retried_for_ever(app, monkeypatch):
    """B-TASK-022: max_retries=None."""
    task = retrying(app, max_retries=None)
    sent = capture(app, monkeypatch)

    end = run(task, retries=10_000)

    assert end.info.state == "RETRY"
    assert sent[0][0].headers["retries"] == 10_001


def test_there_is_one_run_more_than_retries(app, worker):
    """B-TASK-022: four by default."""
    runs = []

    def body(self):
        runs.append(self.request.retries)
        raise self.retry(countdown=0)

    retrying(app, body).delay()
    worker.run()

    assert runs == [0, 1, 2, 3]


def test_called_directly_there_is_nothing_to_send_again(app):
    """B-TASK-023: the given error is raised, or a Retry that says so."""
    cause = KeyError("x")
    with_cause = retrying(app, lambda self: self.retry(exc=cause))
    with pytest.raises(KeyError) as caught:
        with_cause()
    assert caught.value is cause

    without = app.task(name="p.without", shared=False, bind=True)(lambda self: self.retry())
    with pytest.raises(Retry, match="Task can be retried"):
        without()


def test_how_a_retry_reads():
    """B-TASK-024."""
    moment = datetime(2030, 1, 1)

    assert str(Retry(when=5)) == "Retry in 5s"
    assert str(Retry(exc=ValueError("x"), when=5)) == "Retry in 5s: ValueError('x')"
    assert str(Retry(when=moment)) == "Retry at 2030-01-01 00:00:00"
    assert str(Retry("because", ValueError("x"), 5)) == "because"
    assert Retry(when=5).humanize() == "in 5s"
    assert Retry(when=moment).humanize() == "at 2030-01-01 00:00:00"


def test_the_state_in_between_is_retry(app, worker):
    """B-TASK-025: with the cause, else the Retry object, and a traceback."""

    def body(self, cause):
        raise self.retry(exc=ValueError("cause") if cause else None, countdown=0)

    task = retrying(app, body)
    for cause, expected in ((True, ValueError), (False, Retry)):
        result = task.delay(cause)
        first_and_second(worker)

        assert result.state == "RETRY"
        assert type(result.result) is expected
        assert "Traceback" in result.traceback


def test_a_retry_keeps_the_choice_about_its_result(app, worker):
    """B-TASK-026: the call's, not the task's."""
    task = retrying(app, ignore_result=True)
    task.apply_async(ignore_result=False)
    _, second = first_and_second(worker)

    assert second.headers["ignore_result"] is False


def test_a_retry_is_sent_before_its_state_is_stored(app, worker):
    """B-TASK-027."""
    from celery import signals

    seen = []

    def receiver(sender, **kwargs):
        seen.append(app.backend.get_state(result_id))

    task = retrying(app)
    result_id = task.delay().id
    signals.after_task_publish.connect(receiver, weak=False)
    try:
        first_and_second(worker)
    finally:
        signals.after_task_publish.disconnect(receiver)

    assert seen == ["PENDING"]
    assert app.backend.get_state(result_id) == "RETRY"


def test_what_a_retry_keeps_of_the_call(app, worker):
    """B-TASK-028: everything that is about the call and not about the attempt."""
    task = retrying(app, ignore_result=False)
    sig = task.s(1).set(
        link=app.signature("p.next"),
        link_error=app.signature("p.err"),
        expires=datetime(2099, 1, 1, tzinfo=UTC),
        time_limit=30,
        soft_time_limit=20,
        headers={"tenant": "a"},
        reply_to="my-replies",
        shadow="seen.as",
        root_id="root",
        parent_id="parent",
        group_id="group",
        group_index=4,
        replaced_task_nesting=2,
        origin="gen1@somewhere",
        ignore_result=True,
    )
    sig.stamp(customer="c1")
    (sig | app.signature("p.later")).apply_async()
    first, second = first_and_second(worker)

    kept = (
        "root_id", "parent_id", "group", "group_index", "expires", "timelimit", "tenant",
        "shadow", "replaced_task_nesting", "origin", "ignore_result", "stamped_headers",
        "stamps",
    )  # fmt: skip
    assert {name: second.headers[name] for name in kept} == {
        name: first.headers[name] for name in kept
    }
    assert second.headers["tenant"] == "a"
    assert second.headers["stamps"] == {"customer": first.headers["stamps"]["customer"]}
    assert second.properties["reply_to"] == "my-replies"
    assert second.embed == first.embed
    assert first.embed["callbacks"]
    assert first.embed["errbacks"]
    assert first.embed["chain"]


def test_a_retry_keeps_its_place_in_a_chord(app, worker):
    """B-TASK-028: chord."""
    from celery import chord

    task = retrying(app)
    chord([task.s(1)], app.signature("p.body"))()
    first, second = first_and_second(worker)

    assert first.embed["chord"]
    assert second.embed["chord"] == first.embed["chord"]


def test_a_retry_is_no_child_of_itself(app, worker):
    """B-TASK-018: its own result would make the tree of results endless."""
    task = retrying(app)
    result = task.delay()
    first_and_second(worker)

    assert result.state == "RETRY"
    assert result.children == []


def test_traces_of_dead_lettering_are_not_repeated(app, monkeypatch):
    """B-TASK-028: custom headers are, those of the broker are not."""
    task = retrying(app)
    sent = capture(app, monkeypatch)
    run(task, headers={"x-death": [1], "x-first-death-queue": "q", "tenant": "a"})

    assert sent[0][1]["headers"] == {"tenant": "a"}


def test_a_retry_that_cannot_be_sent_fails_the_task(app, monkeypatch):
    """The error of the broker reaches the body, and the task fails with it: nothing is lost."""
    task = retrying(app)

    def refuse(*args, **kwargs):
        raise OperationalError("down")

    monkeypatch.setattr(app.amqp, "send_task_message", refuse)
    end = run(task)

    assert end.info.state == "FAILURE"
    assert isinstance(app.AsyncResult("id-1").result, OperationalError)


def test_ignore_and_retry_pass_through_automatic_retries(app, worker):
    """B-TASK-029: with any exception retried."""

    def body(self, exc):
        raise self.retry(countdown=0) if exc else Ignore

    task = retrying(app, body, autoretry_for=(Exception,))
    result = task.delay(False)
    worker.run()
    assert (result.state, len(worker.seen)) == ("PENDING", 1)

    result = task.delay(True)
    worker.run()
    assert len(worker.seen) == 1 + 4
    assert isinstance(result.result, MaxRetriesExceededError)


def test_automatic_retries_end_with_the_original_error(app, worker):
    """B-TASK-034: after the message went round max_retries times."""

    @app.task(
        name="p.auto",
        shared=False,
        autoretry_for=(ValueError,),
        retry_kwargs={"max_retries": 2, "countdown": 0},
    )
    def auto():
        raise ValueError("still")

    result = auto.delay()
    worker.run()

    assert len(worker.seen) == 3
    assert type(result.result) is ValueError


def test_the_options_of_automatic_retries_work_as_class_attributes():
    """B-TASK-035: also for tasks that are registered by hand."""
    from celery.app.task import Task

    app = memory_app()
    runs = []

    class Auto(Task):
        name = "p.auto"
        autoretry_for = (ValueError,)
        retry_kwargs = {"max_retries": 1}

        def run(self):
            runs.append(1)
            raise ValueError

    task = app.register_task(Auto)
    assert task.apply().state == "FAILURE"
    assert len(runs) == 2
    assert Auto.retry_kwargs == {"max_retries": 1}
