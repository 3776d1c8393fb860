"""What health checks conclude from facts, and what is counted for metrics."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import SimpleNamespace

import pytest

from celery.concurrency.base import describe
from celery.exceptions import ImproperlyConfigured, Retry
from celery.utils.functional import noop
from celery.worker import WorkController, health, health_metrics, state, strategy
from celery.worker.health import Facts, parse_address, why_not_live, why_not_ready
from t.harness.calls import python_calls

WELL = {
    "silence_s": 0.5, "loop_runs_task": False, "stopping": False, "connected": True,
    "consuming": True, "pool_takes_tasks": True,
}  # fmt: skip


def test_a_worker_that_consumes_is_live_and_ready():
    facts = Facts(**WELL)

    assert why_not_live(facts) == []
    assert why_not_ready(facts) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"silence_s": 61.0}, "the loop has not turned for 61 seconds"),
        ({"stopping": True}, "the worker is stopping"),
        ({"connected": False, "consuming": False}, "there is no connection to the broker"),
        ({"consuming": False}, "no queue is consumed from"),
        ({"pool_takes_tasks": False}, "the pool takes no tasks"),
    ],
)
def test_whatever_keeps_a_worker_from_taking_tasks_is_named(change, reason):
    assert why_not_ready(Facts(**{**WELL, **change})) == [reason]


def test_only_a_loop_that_stands_still_is_a_reason_to_replace_the_worker():
    ill = {"stopping": True, "connected": False, "consuming": False, "pool_takes_tasks": False}

    assert why_not_live(Facts(**{**WELL, **ill})) == []
    assert why_not_live(Facts(**{**WELL, "silence_s": 61.0}))


def test_a_loop_that_runs_a_task_itself_may_be_silent_for_long():
    facts = Facts(**{**WELL, "silence_s": 3600.0, "loop_runs_task": True})

    assert why_not_live(facts) == []


def test_whoever_asks_may_have_less_patience():
    assert why_not_live(Facts(**{**WELL, "silence_s": 6.0}), 5.0)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8083", ("127.0.0.1", 8083)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:8083", ("::1", 8083)),
        (":8083", ("127.0.0.1", 8083)),
        ("8083", ("127.0.0.1", 8083)),
    ],
)
def test_an_address_is_a_host_and_a_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1:http", "127.0.0.1:70000", "x:"])
def test_what_is_no_address_is_refused_with_an_example(text):
    with pytest.raises(ImproperlyConfigured, match=r"like 127\.0\.0\.1:8083"):
        parse_address(text)


def test_a_worker_whose_address_is_taken_does_not_start(app):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ImproperlyConfigured, match=f"{address}.*a port of its own"):
            WorkController(app=app, pool="solo", health=address)


def test_the_option_comes_before_the_setting_and_both_before_nothing(app):
    app.conf.worker_health_address = "127.0.0.1:1"
    step = health.Health(WorkController(app=app, pool="solo", health="127.0.0.1:0"), health="x:2")
    assert step.address == "x:2"

    app.conf.worker_health_address = None
    worker = WorkController(app=app, pool="solo")
    assert worker.tally is None
    assert not any(isinstance(step, health.Health) for step in worker.steps)


# -- counts


@pytest.fixture
def counted(task, app, consumer, make_message):
    """Have a message handled by a strategy that counts; gives the request, and its counts."""
    consumer.tally = health_metrics.Tally()
    handle = strategy.default(task, app, consumer)

    def receive(**headers):
        handle(make_message(**headers), None, noop, noop, ())
        return (consumer.ran or [None])[-1], consumer.tally.tasks["add"]

    return receive


@pytest.mark.parametrize("has_events", [True, False])
def test_a_task_that_succeeds_is_counted_with_its_wait_and_its_runtime(
    counted, eventer, pool, has_events
):
    eventer.enabled = has_events
    request, counts = counted()
    request.execute_using_pool(pool)
    request.on_accepted(77, monotonic())
    request._on_pool_success((0, "4", 0.3))

    assert counts.states == {"started": 1, "succeeded": 1}
    assert dict(counts.runtimes.cumulated())["0.25"] == 0
    assert dict(counts.runtimes.cumulated())["0.5"] == 1
    assert counts.waits.cumulated()[-1] == ("+Inf", 1)
    assert ("task-succeeded" in eventer.types) is has_events


@pytest.mark.parametrize(
    ("error", "word"),
    [(KeyError("x"), "failed"), (Retry("again"), "retried")],
)
def test_the_other_ends_are_counted_too(counted, error, word):
    request, counts = counted()
    request.on_accepted(77, monotonic())
    request.on_failure(describe(error))

    assert counts.states == {"started": 1, word: 1}


def test_a_revoked_task_is_counted(counted):
    state.revoked.add("r1")
    _, counts = counted(id="r1")

    assert counts.states == {"revoked": 1}


def test_waiting_for_the_eta_is_no_wait_for_the_pool(counted, consumer):
    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    _, counts = counted(eta=soon)
    (request, _) = consumer.held[0]
    request.on_accepted(77, monotonic())

    assert counts.states == {"started": 1}
    assert counts.waits.total == [0.0]


def test_nothing_is_counted_unless_wanted(task, app, consumer, make_message):
    handle = strategy.default(task, app, consumer)
    handle(make_message(), None, noop, noop, ())

    assert not hasattr(consumer.ran[0], "waits_since")


NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "properties", "waited_s"),
    [
        ({}, {}, 0),
        ({"timestamp_in_ms": NOON.timestamp() * 1000 - 1500}, {}, 1.5),
        ({}, {"timestamp": int(NOON.timestamp()) - 7}, 7),
        ({}, {"timestamp": NOON - timedelta(seconds=9)}, 9),
        ({}, {"timestamp": (NOON - timedelta(seconds=9)).replace(tzinfo=None)}, 9),
        ({"timestamp_in_ms": NOON.timestamp() * 1000 - 1500}, {"timestamp": 1}, 1.5),
        # Another host's clock may be ahead, and a header may be anything.
        ({}, {"timestamp": NOON.timestamp() + 60}, 0),
        ({"timestamp_in_ms": "noon"}, {"timestamp": "noon"}, 0),
    ],
)
def test_waiting_begins_when_a_message_says_that_it_was_published(headers, properties, waited_s):
    message = SimpleNamespace(headers=headers, properties=properties)
    now = NOON.timestamp()

    assert now - health_metrics.waiting_since(message, now) == pytest.approx(waited_s)


def test_the_wait_before_the_receipt_is_counted_where_the_message_tells(counted):
    request, counts = counted(timestamp_in_ms=(datetime.now(UTC).timestamp() - 100) * 1000)
    request.on_accepted(77, monotonic())

    assert counts.waits.total[0] >= 100


def test_counts_appear_in_the_text_format_of_prometheus():
    parser = pytest.importorskip("prometheus_client.parser")
    tally = health_metrics.Tally()
    add = tally.of("proj.add")
    add.started[0] = 1
    add.runtimes.counts[2], add.runtimes.total[0] = 1, 0.02
    add.others["failed"] = 2
    gauges = health_metrics.Gauges(
        active=3, reserved=7, scheduled=1, waiting=4, pool_size=2, prefetch=8, ready=True,
        restarts=1,
    )  # fmt: skip

    body, content_type = health_metrics.exposition(tally, gauges, "w1@lab")

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert content_type.startswith("text/plain")
    assert samples["celery_tasks_total", "proj.add", "succeeded"] == 1
    assert samples["celery_task_runtime_seconds_count", "proj.add"] == 1
    assert samples["celery_task_runtime_seconds_sum", "proj.add"] == 0.02
    assert samples["celery_tasks_total", "proj.add", "failed"] == 2
    assert samples["celery_task_runtime_seconds_bucket", "0.01", "proj.add"] == 0
    assert samples["celery_task_runtime_seconds_bucket", "0.025", "proj.add"] == 1
    assert samples["celery_worker_active_tasks",] == 3
    assert samples["celery_worker_prefetch_count",] == 8
    assert samples["celery_worker_ready",] == 1
    assert samples["celery_worker_reconnects_total",] == 1
    assert samples["celery_worker_info", "w1@lab", "5.7.0"] == 1


def test_counting_costs_one_call_for_each_event(counted, eventer):
    """At full load this runs twice for each task, so what is dear would show."""
    eventer.enabled = False
    request, _ = counted()

    def run() -> None:
        request.on_accepted(77, monotonic())
        request._on_pool_success((0, "4", 0.3))

    assert (
        python_calls(run, within=health_metrics.__file__)
        == ["counted.<locals>.CountedRequest._note_event"] * 2
    )
