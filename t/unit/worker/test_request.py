"""The life of a request: what each call of the pool does to message, state and events."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta
from time import monotonic, time

import pytest
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError

from celery import signals
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry, TaskRevokedError
from celery.worker import state
from celery.worker.request import Request, create_request_cls


def einfo(exc):
    try:
        raise exc
    except BaseException:
        return ExceptionInfo()


def accept(request, pid=77):
    state.task_reserved(request)
    request.on_accepted(pid, monotonic())
    return request


def collect(signal):
    got = []

    def receiver(sender=None, **fields):
        got.append((sender, fields))

    signal.connect(receiver, weak=False)
    collect.undo.append((signal, receiver))
    return got


collect.undo = []


@pytest.fixture(autouse=True)
def disconnect():
    yield
    while collect.undo:
        signal, receiver = collect.undo.pop()
        signal.disconnect(receiver)


def test_an_early_message_is_acknowledged_on_acceptance(make_request, channel, eventer):
    """B-WORK-012: just before the body runs."""
    request = make_request()
    assert channel.told == []
    before = time()
    accept(request)

    assert channel.told == [("ack", "tag")]
    assert request.acknowledged
    assert request.worker_pid == 77
    assert before - 1 < request.time_start < time() + 1
    assert request in state.active_requests
    assert eventer.types == ["task-started"]


def test_a_late_message_is_acknowledged_after_success(make_request, channel, task, eventer):
    """B-WORK-012: with acks_late after it returned."""
    task.acks_late = True
    request = accept(make_request())
    assert channel.told == []
    request.on_success((0, "4", 0.1))

    assert channel.told == [("ack", "tag")]
    assert eventer.sent[-1] == (
        "task-succeeded", {"uuid": request.id, "result": "4", "runtime": 0.1},
    )  # fmt: skip
    assert not state.active_requests
    assert not state.reserved_requests


def test_it_is_settled_only_once(make_request, channel, task):
    task.acks_late = True
    request = accept(make_request())
    request.on_success((0, "4", 0.1))
    request.on_failure(einfo(KeyError("late")))
    request.on_timeout(False, 3)
    request.acknowledge()
    request.reject(requeue=True)

    assert channel.told == [("ack", "tag")]


@pytest.mark.parametrize("late", [False, True])
def test_a_connection_that_broke_before_the_ack_leaves_nothing_active(
    make_request, channel, task, monkeypatch, late
):
    """kombu raises a broken pipe; the loop sees the loss itself, and the task is over."""

    def broken(*args, **kwargs):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(channel, "basic_ack", broken)
    task.acks_late = late
    request = accept(make_request())
    request.on_success((0, "4", 0.1))

    assert not state.active_requests
    assert not state.reserved_requests


def test_an_exception_of_the_body_was_stored_by_the_child(make_request, channel, backend, eventer):
    request = accept(make_request())
    request.on_success((1, einfo(KeyError("x")), 0.1))

    assert backend.marked == []
    event, fields = eventer.sent[-1]
    assert event == "task-failed"
    assert fields["exception"] == "KeyError('x')"
    assert "KeyError" in fields["traceback"]


def test_a_wrapped_exception_is_unwrapped(make_request, eventer):
    request = accept(make_request())
    info = einfo(KeyError("x"))
    info.exception = ExceptionWithTraceback(KeyError("x"), "tb")
    request.on_success((1, info, 0.1))

    assert eventer.sent[-1][1]["exception"] == "KeyError('x')"


def test_a_retry_is_acknowledged_and_told(make_request, channel, task, eventer):
    task.acks_late = True
    request = accept(make_request())
    request.on_success((1, einfo(Retry(exc=ValueError("again"), when=3)), 0.1))

    assert channel.told == [("ack", "tag")]
    assert eventer.sent[-1][0] == "task-retried"
    assert eventer.sent[-1][1]["exception"] == "ValueError('again')"


def test_an_ignored_task_is_acknowledged_without_an_event(make_request, channel, task, eventer):
    """B-WORK-023."""
    task.acks_late = True
    request = accept(make_request())
    request.on_success((1, einfo(Ignore()), 0.1))

    assert channel.told == [("ack", "tag")]
    assert eventer.types == ["task-started"]


@pytest.mark.parametrize("late", [True, False])
def test_a_rejected_task_fails_in_the_main_process(
    make_request, channel, task, backend, eventer, late
):
    """B-TASK-048, B-SIG-008: FAILURE with the Reject, signal, and reject only with acks_late."""
    failures = collect(signals.task_failure)
    task.acks_late = late
    request = accept(make_request())
    request.on_success((1, einfo(Reject("why", requeue=False)), 0.1))

    assert channel.told == [("reject" if late else "ack", "tag")]
    (status, error) = backend.marked[0]
    assert (status, str(error)) == ("FAILURE", "reject requeue=False: why")
    assert [fields["exception"] for _, fields in failures] == [error]
    assert isinstance(failures[0][1]["traceback"], str)
    assert eventer.sent[-1][1]["exception"] == "reject requeue=False: why"
    assert ("task-rejected" in eventer.types) is late


def test_a_task_rejected_to_be_requeued_has_no_result_yet(make_request, channel, task, backend):
    """B-TASK-049."""
    task.acks_late = True
    request = accept(make_request())
    request.on_success((1, einfo(Reject("why", requeue=True)), 0.1))

    assert channel.told == [("requeue", "tag")]
    assert backend.marked == []


def test_a_rejection_is_told_to_monitors(make_request, task, eventer):
    """B-EVT-002."""
    task.acks_late = True
    request = accept(make_request())
    request.reject(requeue=True)

    assert eventer.sent[-1] == ("task-rejected", {"uuid": request.id, "requeue": True})


def test_the_soft_limit_is_only_logged(make_request, caplog, backend):
    """B-WORK-065."""
    request = accept(make_request())
    request.on_timeout(True, 3.0)

    assert caplog.records[-1].levelno == logging.WARNING
    assert caplog.messages[-1] == f"Soft time limit (3.0s) exceeded for add[{request.id}]"
    assert backend.marked == []
    assert request in state.active_requests


def test_the_hard_limit_fails_the_task_once(make_request, caplog, backend, task, eventer):
    """B-TASK-036, B-WORK-065: stored, signalled, hooks called in this process; once."""
    called = []
    task.on_failure = lambda exc, *args: called.append(("on_failure", type(exc)))
    task.after_return = lambda status, exc, *args: called.append(("after_return", status))
    failures = collect(signals.task_failure)
    request = accept(make_request())
    request.on_timeout(False, 3.0)
    request.on_failure(einfo(TimeLimitExceeded(3.0)))

    assert caplog.messages[-1] == f"Hard time limit (3.0s) exceeded for add[{request.id}]"
    assert [status for status, _ in backend.marked] == ["FAILURE"]
    assert len(failures) == 1
    assert called == [("on_failure", TimeLimitExceeded), ("after_return", "FAILURE")]
    assert eventer.types == ["task-started", "task-failed"]


def test_a_hard_limit_may_requeue(make_request, channel, backend, task):
    """B-WORK-019: the state is FAILURE while the message comes again."""
    task.acks_late, task.acks_on_timeout = True, False
    request = accept(make_request())
    request.on_timeout(False, 3.0)

    assert channel.told == [("requeue", "tag")]
    assert [status for status, _ in backend.marked] == ["FAILURE"]


def test_a_lost_process_fails_the_task(make_request, channel, backend, eventer):
    """B-TASK-036: stored and signalled by the main process, no hook of the task runs."""
    failures = collect(signals.task_failure)
    request = accept(make_request())
    request.on_failure(einfo(WorkerLostError("gone")))

    assert [status for status, _ in backend.marked] == ["FAILURE"]
    assert len(failures) == 1
    assert eventer.types[-1] == "task-failed"


def test_a_lost_process_may_requeue_without_a_result(make_request, channel, backend, task, eventer):
    """B-WORK-013: R+ [PENDING]."""
    task.acks_late = task.reject_on_worker_lost = True
    request = accept(make_request())
    request.on_failure(einfo(WorkerLostError("gone")))

    assert channel.told == [("requeue", "tag")]
    assert backend.marked == []
    assert "task-failed" not in eventer.types


def test_a_lost_process_requeues_once_for_a_delivery(make_request, channel, task):
    """B-WORK-020."""
    task.acks_late = task.reject_on_worker_lost = True
    request = accept(make_request())
    for _ in range(2):
        request.on_failure(einfo(WorkerLostError("gone")))

    assert channel.told == [("requeue", "tag")]


def test_a_result_is_stored_before_the_message_is_settled(make_request, task, channel):
    """Should the worker die in between, the message comes again; the result is not lost."""
    order = []

    class Store:
        def mark_as_failure(self, *args, **kwargs):
            order.append("stored")

    type(task).backend = Store()
    task.acks_late = True
    channel.basic_ack = lambda *args, **kwargs: order.append("acknowledged")
    request = accept(make_request())
    request.on_failure(einfo(WorkerLostError("gone")))

    assert order == ["stored", "acknowledged"]


def test_a_store_that_is_down_does_not_keep_the_message(make_request, task, channel, caplog):
    class Store:
        def mark_as_failure(self, *args, **kwargs):
            raise ConnectionError("down")

    type(task).backend = Store()
    task.acks_late = True
    request = accept(make_request())
    request.on_failure(einfo(WorkerLostError("gone")))

    assert channel.told == [("ack", "tag")]
    assert f"Cannot store the failure of task {request.id}" in caplog.text


def test_a_revoked_request_is_discarded(make_request, channel, backend, eventer, caplog, pool):
    """B-WORK-041, B-WORK-023, B-SIG-006."""
    caplog.set_level(logging.INFO)
    revoked = collect(signals.task_revoked)
    request = make_request()
    state.task_reserved(request)
    state.revoked.add(request.id)

    with pytest.raises(TaskRevokedError):
        request.execute_using_pool(pool)

    assert pool.calls == []
    assert channel.told == [("ack", "tag")]
    assert backend.marked == [("REVOKED", "revoked")]
    assert caplog.messages[-1] == f"Discarding revoked task: add[{request.id}]"
    assert eventer.sent[-1] == (
        "task-revoked",
        {"uuid": request.id, "terminated": False, "signum": None, "expired": False},
    )
    (sender, fields) = revoked[0]
    assert sender.name == "add"
    assert (fields["terminated"], fields["signum"], fields["expired"]) == (False, None, False)
    assert fields["request"].id == request.id
    assert not state.reserved_requests


def test_an_expired_request_is_discarded(make_request, backend, channel):
    """B-WORK-037: REVOKED with 'expired', signal with expired=True."""
    revoked = collect(signals.task_revoked)
    request = make_request(expires="2001-01-01T00:00:00")

    assert request.revoked()
    assert request.revoked()
    assert backend.marked == [("REVOKED", "expired")]
    assert channel.told == [("ack", "tag")]
    assert revoked[0][1]["expired"] is True
    assert request.id not in state.revoked


def test_a_request_that_has_not_expired_may_run(make_request, pool):
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    request = make_request(expires=ahead)

    request.execute_using_pool(pool)
    assert len(pool.calls) == 1


@pytest.mark.parametrize("unwanted", ["v", ["v", "w"]])
def test_a_request_can_be_revoked_by_stamp(make_request, caplog, unwanted):
    """B-WORK-045, B-WORK-050."""
    caplog.set_level(logging.INFO)
    state.revoked_stamps["k"] = unwanted
    stamped = make_request(stamped_headers=["k"], stamps={"k": ["v"]})
    other = make_request(stamped_headers=["k"], stamps={"k": ["x"]})

    assert stamped.revoked()
    assert not other.revoked()
    assert caplog.messages[0].endswith("(revoked by header: {'k': 'v'})")


def test_terminating_ends_the_process_and_announces_it(make_request, pool, backend, task, channel):
    """B-WORK-046, B-WORK-013."""
    revoked = collect(signals.task_revoked)
    task.acks_late = True
    request = accept(make_request())
    request.terminate(pool, signal="TERM")

    assert pool.terminated == [(77, 15)]
    assert backend.marked == [("REVOKED", "terminated")]
    assert channel.told == [("ack", "tag")]
    assert (revoked[0][1]["terminated"], revoked[0][1]["signum"]) == (True, 15)

    request.on_failure(einfo(WorkerLostError("ended by us")))
    assert backend.marked == [("REVOKED", "terminated")]


def test_a_pool_that_tells_of_the_end_has_the_last_word(make_request, pool, backend, task):
    """A task that succeeds while it is being terminated has succeeded: one final state."""
    pool.reports_terminated = True
    fast, slow = accept(make_request()), accept(make_request())
    for request in (fast, slow):
        request.terminate(pool, signal="TERM")
    assert backend.marked == []

    fast.on_success((0, "value", 0.1))
    slow.on_failure(einfo(Terminated(15)))

    assert backend.marked == [("REVOKED", "terminated")]
    assert not fast.is_revoked()


def test_terminating_waits_for_acceptance(make_request, pool):
    request = make_request()
    request.terminate(pool)
    assert pool.terminated == []

    accept(request)
    assert pool.terminated == [(77, 15)]


def test_a_finished_task_is_not_terminated(make_request, pool, backend):
    request = accept(make_request())
    request.on_success((0, "4", 0.1))
    request.terminate(pool)

    assert pool.terminated == []
    assert backend.marked == []


def test_cancelling_leaves_a_late_message_to_the_broker(make_request, pool, task, backend, channel):
    """B-WORK-072: its state stays as before."""
    task.acks_late = True
    request = accept(make_request())
    request.cancel(pool)

    assert pool.terminated == [(77, 15)]
    assert channel.told == []
    assert backend.marked == []
    assert request.eventer.types[-2:] == ["task-cancelled", "task-retried"]


def test_cancelling_fails_an_early_acknowledged_task(make_request, pool, backend):
    """B-WORK-073: the message is gone, so the task has failed, rather than vanished."""
    request = accept(make_request())
    request.cancel(pool)

    assert [status for status, _ in backend.marked] == ["FAILURE"]


def test_a_cancelled_task_ends_as_the_pool_says(make_request, pool, backend, eventer):
    """One that succeeds while the worker stops it must not fail as well."""
    pool.reports_terminated = True
    fast, slow, silent = (accept(make_request()) for _ in range(3))
    for request in (fast, slow, silent):
        request.cancel(pool)
        request.cancel(pool)
    assert pool.terminated == [(77, 15)] * 3
    assert backend.marked == []

    fast.on_success((0, "value", 0.1))
    assert eventer.types[-1] == "task-succeeded"
    slow.on_failure(einfo(Terminated(15)))
    assert eventer.types[-2:] == ["task-cancelled", "task-failed"]
    assert [request.is_being_cancelled() for request in (fast, slow, silent)] == [0, 0, 1]
    for request in (fast, slow, silent):
        # The pool is gone.
        request.conclude_cancelled()

    assert [status for status, _ in backend.marked] == ["FAILURE"] * 2
    assert not state.active_requests


class Job:
    """What a pool of threads gives; `abandon` succeeds while the body runs."""

    def __init__(self, runs: bool) -> None:
        self.abandon = lambda: runs


def test_an_abandoned_task_has_failed_once_its_message_is_gone(make_request, backend, eventer):
    """B-WORK-073, where nothing can end the body."""
    request = accept(make_request())
    assert not request.abandon()
    request._job = Job(runs=True)

    assert request.abandon()
    assert [status for status, _ in backend.marked] == ["FAILURE"]
    assert eventer.types[-2:] == ["task-cancelled", "task-failed"]
    assert request not in state.active_requests
    assert not request.abandon()


def test_an_abandoned_late_task_is_left_to_the_broker(make_request, task, backend, channel):
    """B-WORK-072, where nothing can end the body."""
    task.acks_late = True
    request = accept(make_request())
    request._job = Job(runs=True)

    assert request.abandon()
    assert (channel.told, backend.marked) == ([], [])


def test_a_task_whose_body_has_ended_is_waited_for_and_not_abandoned(make_request, backend):
    request = accept(make_request())
    request._job = Job(runs=False)

    assert not request.abandon()
    assert request.is_being_cancelled()
    request.on_success((0, "value", 0.1))
    assert not request.is_being_cancelled()
    assert backend.marked == []


def test_cancelling_a_late_task_waits_for_nobody(make_request, pool, task, backend):
    """Its state stays, so there is nothing to contradict; and the broker gives it back."""
    pool.reports_terminated = task.acks_late = True
    request = accept(make_request())
    request.cancel(pool)

    assert not request.is_being_cancelled()
    assert request not in state.active_requests


def test_a_slot_is_given_back_however_it_ends(make_request):
    for end in (
        lambda request: request._on_pool_success((0, "4", 0.1)),
        lambda request: request._on_pool_success((1, einfo(KeyError("x")), 0.1)),
        lambda request: request._on_pool_failure(einfo(WorkerLostError("x"))),
        lambda request: request._on_pool_timeout(False, 1.0),
    ):
        released = []
        request = accept(make_request())
        request._slot = lambda runtime=None, released=released: released.append(1)
        end(request)
        request._on_pool_failure(einfo(WorkerLostError("again")))

        assert released == [1]


def test_a_soft_limit_keeps_the_slot(make_request):
    released = []
    request = accept(make_request())
    request._slot = lambda runtime=None: released.append(1)
    request._on_pool_timeout(True, 1.0)

    assert released == []


def test_the_pool_is_given_what_it_needs(make_request, pool, task):
    """B-WORK-066: limits of the call, else of the task."""
    task.time_limit, task.soft_time_limit = 50, 40
    request = make_request(timelimit=[9, None])
    request.execute_using_pool(pool)

    (call,) = pool.calls
    name, task_id, fields, body, content_type, encoding = call.args
    assert (name, task_id, content_type, encoding) == (
        "add",
        request.id,
        "application/json",
        "utf-8",
    )
    assert body == request.message.body
    assert (call.timeout, call.soft_timeout) == (9, 40)
    assert call.correlation_id == request.id
    assert fields is request.request_dict


def test_fields_of_the_request_context(make_request):
    """B-TASK-007, B-TASK-011, B-TASK-014: delivery info, properties, and only custom headers."""
    fields = make_request(mine="x").request_dict

    assert fields["delivery_info"] == {
        "exchange": "ex", "routing_key": "rk", "priority": 3, "redelivered": False,
    }  # fmt: skip
    assert fields["headers"] == {"mine": "x"}
    assert fields["reply_to"] == "me"
    assert fields["hostname"] == "w@test"
    assert fields["properties"]["priority"] == 3
    assert make_request().request_dict["headers"] is None


def test_information_for_inspection(make_request):
    """B-EVT-026."""
    request = make_request(id="the-id")

    assert request.info() == {
        "id": "the-id", "name": "add", "args": [2, 2], "kwargs": {}, "type": "add",
        "hostname": "w@test", "time_start": None, "acknowledged": False,
        "delivery_info": request.delivery_info, "worker_pid": None,
    }  # fmt: skip
    assert request.info(safe=True)["args"] == "(2, 2)"
    assert request.humaninfo() == "add[the-id]"


def test_the_shadow_is_the_name_and_the_task_is_the_type(make_request):
    """B-TASK-052."""
    request = make_request(shadow="shown")

    assert (request.name, request.type, request.task_name) == ("shown", "add", "shown")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("eta", "garbage"),
        ("expires", "garbage"),
        ("eta", {"a": 1}),
        ("expires", [1]),
        ("timelimit", [1]),
        ("timelimit", ["a", 1]),
        ("timelimit", 7),
        ("id", ...),
        ("task", ...),
    ],
)
def test_a_header_of_no_use_is_an_error_of_the_message(make_request, header, value):
    """B-WORK-029, B-WORK-034."""
    with pytest.raises(InvalidTaskError):
        make_request(**{header: value})


@pytest.mark.parametrize(
    ("utc", "zone", "expected"),
    [(True, "Europe/Oslo", 12), (False, "Europe/Oslo", 10)],
)
def test_a_naive_eta_is_in_utc_or_else_in_the_zone_of_the_app(
    app, task, make_message, utc, zone, expected
):
    app.conf.timezone = zone
    request = Request(make_message(eta="2030-07-01T12:00:00"), app=app, task=task, utc=utc)

    assert request.eta.astimezone(UTC).hour == expected


def test_stamps_are_lists(make_request):
    request = make_request(stamped_headers=["a", "b"], stamps={"a": "x", "b": ["y"]})

    assert request.stamps == {"a": ["x"], "b": ["y"]}


def test_events_are_sent_only_where_they_are_wanted(make_request, eventer, task):
    request = make_request()
    eventer.groups = {"worker"}
    request.send_event("task-started")
    eventer.groups, task.send_events = set(), False
    request.send_event("task-started")
    eventer.enabled, task.send_events = False, True
    request.send_event("task-started")

    assert eventer.sent == []


def test_a_request_class_that_sends_events_its_own_way_sends_all(make_request, task, pool, eventer):
    seen = []

    class Mine(Request):
        def send_event(self, type, **fields):
            seen.append((type, fields))

    cls = create_request_cls(Mine, task, pool, "w1@h", eventer)
    request = make_request(cls=cls)
    request.announce()
    request.on_accepted(77, monotonic())
    request._on_pool_success((0, "4", 0.3))

    assert [type for type, _ in seen] == ["task-received", "task-started", "task-succeeded"]
    assert seen[0][1]["args"] == request.argsrepr
    assert seen[2][1] == {"uuid": request.id, "result": "4", "runtime": 0.3}


def test_a_custom_request_class_sees_what_happens(make_request):
    """B-TASK-077."""
    seen = []

    class Mine(Request):
        def on_timeout(self, soft, timeout):
            super().on_timeout(soft, timeout)
            seen.append(("timeout", soft))

        def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
            super().on_failure(exc_info, send_failed_event, return_ok)
            seen.append("failure")

    request = accept(make_request(cls=Mine))
    request._on_pool_timeout(True, 1.0)
    request._on_pool_success((1, einfo(KeyError("x")), 0.1))

    assert seen == [("timeout", True), "failure"]


def test_a_lost_task_can_be_tried_again(app, make_request, task, backend, channel):
    """B-WORK-017: published anew, RETRY stored, the old message acknowledged."""
    task.acks_late = task.reject_on_worker_lost = task.retry_on_worker_lost = True
    published = collect(signals.before_task_publish)
    request = accept(make_request())
    request.on_failure(einfo(WorkerLostError("gone")))

    assert [status for status, _ in backend.marked] == ["RETRY"]
    assert isinstance(backend.marked[0][1], WorkerLostError)
    assert channel.told == [("ack", "tag")]
    (_, fields) = published[0]
    assert fields["headers"]["id"] == request.id
    assert fields["headers"]["retries"] == 1
    assert fields["headers"]["eta"]


def test_a_lost_task_is_not_tried_for_ever(make_request, task, backend):
    """B-WORK-017: it counts towards max_retries."""
    task.retry_on_worker_lost = True
    request = accept(make_request(retries=3))
    request.on_failure(einfo(WorkerLostError("gone")))

    assert [status for status, _ in backend.marked] == ["FAILURE"]


def test_running_without_a_pool(make_request, channel, eventer):
    request = make_request()

    assert request.execute() == 4
    assert channel.told == [("ack", "tag")]
    assert eventer.types[-1] == "task-succeeded"


def test_a_request_holds_no_dictionary_of_its_own(make_request):
    """One object for each message has to be small."""
    assert not hasattr(make_request(), "__dict__")
    assert sys.getsizeof(make_request()) < 400
