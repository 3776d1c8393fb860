"""Remote commands, called as the mailbox calls them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery import states
from celery.contrib.testing.app import TestApp, setup_default_app
from celery.contrib.testing.mocks import TaskMessage
from celery.exceptions import WorkerShutdown
from celery.worker import control, state as worker_state
from celery.worker.control import Panel, control_command, inspect_command
from celery.worker.pidbox import Pidbox
from celery.worker.request import Request


class Pool:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.size = 2
        self.busy = 0
        self.killed: list[tuple[int, int]] = []

    def grow(self, n: int) -> None:
        self.size += n

    def shrink(self, n: int) -> None:
        self.size -= min(n, self.size - self.busy)

    @property
    def num_processes(self) -> int:
        return self.size

    def terminate_job(self, pid: int, signum: int) -> None:
        self.killed.append((pid, signum))


class Dispatcher:
    def __init__(self, groups: tuple[str, ...] = ("worker",)) -> None:
        self.enabled = True
        self.groups = set(groups)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, type: str, **fields: Any) -> None:
        self.sent.append((type, fields))

    def enable(self) -> None:
        self.enabled = True


class Consumer:
    """As much of a consumer as commands touch."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.pool = Pool()
        self.event_dispatcher = Dispatcher()
        self.gossip: Any = None
        self.heart = None
        self.prefetch = 0
        self.rate_limits_reset = 0
        self.waiting: list[Request] = []
        self.calls: list[Any] = []
        self.task_consumer: Any = None
        self.controller = SimpleNamespace(
            autoscaler=None,
            use_eventloop=True,
            stats=lambda: {"pid": 1},
            reload=lambda *args, **kwargs: self.calls.append(("reload", args)),
        )

    def _update_prefetch_count(self, n: int) -> None:
        self.prefetch += n

    def reset_rate_limits(self) -> None:
        self.rate_limits_reset += 1

    def waiting_messages(self, task_ids: Any = None) -> list[Request]:
        return [request for request in self.waiting if task_ids is None or request.id in task_ids]

    def recall(self, task_ids: Any) -> None:
        self.calls.append(("recall", task_ids))

    def call_soon(self, fun: Any, *args: Any, **kwargs: Any) -> None:
        fun(*args, **kwargs)

    def add_task_queue(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("add", args, kwargs))

    def cancel_task_queue(self, queue: str) -> None:
        self.calls.append(("cancel", queue))


@pytest.fixture
def app() -> Iterator[Any]:
    app = TestApp()
    with setup_default_app(app):

        @app.task(name="proj.add", rate_limit="1/m", acks_late=True)
        def add(x: int, y: int) -> int:
            return x + y

        yield app


@pytest.fixture
def state(app: Any) -> Iterator[Any]:
    worker_state.reset_state()
    yield SimpleNamespace(app=app, hostname="w1@h", consumer=Consumer(app))
    worker_state.reset_state()


def held(app: Any, task_id: str, phase: str = "reserved", **headers: Any) -> Request:
    """Make a request, as if this worker had received it."""
    message = TaskMessage("proj.add", id=task_id, args=(1, 2), **headers)
    request = Request(message, app=app, hostname="w1@h", task=app.tasks["proj.add"])
    if phase == "scheduled":
        worker_state.task_scheduled(request)
    else:
        worker_state.task_reserved(request)
    if phase == "active":
        request.on_accepted(4321, 0.0)
    return request


def test_a_ping_is_answered(state: Any) -> None:
    assert control.ping(state) == {"ok": "pong"}
    assert control.clock(state) == {"clock": state.app.clock.value}
    assert control.stats(state) == {"pid": 1}
    assert "celery:" in control.report(state)["ok"]


def test_a_rate_limit_is_set_and_removed(state: Any) -> None:
    """B-WORK-067: set at run time, for a type of task."""
    assert control.rate_limit(state, "proj.add", "10/m")["ok"] == "new rate limit set successfully"
    assert state.app.tasks["proj.add"].rate_limit == "10/m"
    assert control.rate_limit(state, "proj.add", 0)["ok"] == "rate limit disabled successfully"
    assert state.consumer.rate_limits_reset == 2
    assert control.rate_limit(state, "nope", "1/m") == {"error": "unknown task"}
    assert "x/y" in control.rate_limit(state, "proj.add", "x/y")["error"]
    assert state.consumer.rate_limits_reset == 2


def test_time_limits_are_set(state: Any) -> None:
    assert control.time_limit(state, "proj.add", hard=20, soft=10) == {
        "ok": "time limits set successfully"
    }
    task = state.app.tasks["proj.add"]
    assert (task.time_limit, task.soft_time_limit) == (20, 10)
    assert control.time_limit(state, "nope", hard=1) == {"error": "unknown task"}


def test_tasks_are_listed_by_what_they_wait_for(app: Any, state: Any) -> None:
    """B-EVT-026: in the reserved list worker_pid and time_start are None."""
    running = held(app, "running", "active")
    waiting = held(app, "waiting")
    later = held(app, "later", "scheduled", eta="2030-01-02T03:04:05+00:00")

    assert [info["id"] for info in control.active(state)] == ["running"]
    (reserved,) = control.reserved(state)
    assert (reserved["id"], reserved["worker_pid"], reserved["time_start"]) == (
        "waiting",
        None,
        None,
    )
    (scheduled,) = control.scheduled(state)
    assert scheduled["request"]["id"] == "later"
    assert scheduled["eta"] == "2030-01-02T03:04:05+00:00"
    assert scheduled["priority"] == 6
    assert control.query_task(state, ["running", "waiting", "later", "unknown"]) == {
        "running": ("active", running.info()),
        "waiting": ("reserved", waiting.info()),
        "later": ("scheduled", later.info()),
    }
    # B-EVT-028: an unknown id gives an empty reply.
    assert control.query_task(state, "unknown") == {}


def test_tasks_that_wait_as_messages_are_listed_as_scheduled(app: Any, state: Any) -> None:
    message = TaskMessage("proj.add", id="m", args=(1, 2), eta="2030-01-02T03:04:05+00:00")
    request = Request(message, app=app, hostname="w1@h")
    state.consumer.waiting = [request]

    (scheduled,) = control.scheduled(state)
    assert scheduled["request"]["id"] == "m"
    assert scheduled["eta"] == "2030-01-02T03:04:05+00:00"
    assert control.query_task(state, ["m", "x"]) == {"m": ("scheduled", request.info())}


def test_a_revoked_task_that_waits_in_the_broker_is_delivered_now(state: Any) -> None:
    """B-WORK-041: it is discarded at once, while its id is known to be revoked."""
    control.revoke(state, ["a", "b"])
    assert state.consumer.calls == [("recall", {"a", "b"})]


def test_registered_tasks_are_listed_with_attributes(state: Any) -> None:
    """B-SEC-014: private and dunder attributes are refused."""
    assert control.registered(state) == ["proj.add [rate_limit=1/m]"]
    assert control.registered(state, ["serializer", "acks_late"]) == [
        "proj.add [serializer=json acks_late=True]"
    ]
    assert "celery.chord" in control.registered(state, builtins=True)
    assert "private" in control.registered(state, ["__doc__"])["error"]
    assert "private" in control.registered(state, ["_app"])["error"]


def test_revoking_marks_waiting_tasks_at_once(app: Any, state: Any) -> None:
    """B-WORK-041, B-WORK-043: unknown and waiting tasks are stored as REVOKED at once."""
    held(app, "waiting")

    reply = control.revoke(state, ["waiting", "never-seen"])

    assert "flagged as revoked" in reply["ok"]
    assert set(control.revoked(state)) == {"waiting", "never-seen"}
    assert app.AsyncResult("waiting").state == states.REVOKED
    assert app.AsyncResult("never-seen").state == states.REVOKED


def test_revoking_leaves_finished_and_running_tasks_alone(app: Any, state: Any) -> None:
    """B-WORK-042: a SUCCESS is left, as are tasks that run, here or STARTED elsewhere."""
    app.backend.mark_as_done("done", 4)
    app.backend.mark_as_started("elsewhere")
    held(app, "running", "active")

    control.revoke(state, ["done", "elsewhere", "running"])

    assert app.AsyncResult("done").state == states.SUCCESS
    assert app.AsyncResult("elsewhere").state == states.STARTED
    assert app.AsyncResult("running").state == states.PENDING


class TakenBack:
    """A job of a pool that gives it back, or does not."""

    def __init__(self, has_begun: bool) -> None:
        self.has_begun = has_begun

    def ready(self) -> bool:
        return False

    def withdraw(self) -> bool:
        return not self.has_begun


@pytest.mark.parametrize("has_begun", [False, True])
def test_what_the_pool_has_is_revoked_only_if_it_gives_it_back(
    app: Any, state: Any, has_begun: bool
) -> None:
    """It may have begun, though the process has not been heard of; then its own end counts."""
    task_id = f"begun-{has_begun}"
    request = held(app, task_id)
    request._job = TakenBack(has_begun)

    control.revoke(state, [task_id])

    expected = states.PENDING if has_begun else states.REVOKED
    assert app.AsyncResult(task_id).state == expected
    assert request.has_ended() is not has_begun


def test_a_task_that_has_ended_is_not_revoked(app: Any, state: Any) -> None:
    request = held(app, "failed")
    app.backend.mark_as_failure("failed", KeyError("x"))
    request._ended = True

    control.revoke(state, ["failed"])

    assert app.AsyncResult("failed").state == states.FAILURE


def test_a_store_that_is_away_does_not_stop_a_revocation(
    app: Any, state: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(app.backend, "get_state", away)

    assert "ok" in control.revoke(state, "some-id")
    assert "some-id" in worker_state.revoked
    assert "Cannot store that task some-id is revoked" in caplog.text


def test_terminating_kills_the_process_of_a_running_task(
    app: Any, state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """B-WORK-046: the child is killed with the signal; logs Terminating ID (15)."""
    caplog.set_level("INFO")
    held(app, "running", "active")

    assert control.revoke(state, "running", terminate=True) == {"ok": "terminate: running"}

    assert state.consumer.pool.killed == [(4321, signal.SIGTERM)]
    assert "Terminating running (15)" in caplog.text
    assert app.AsyncResult("running").state == states.REVOKED


def test_terminating_what_runs_nowhere_remembers_it(state: Any) -> None:
    """B-WORK-047: the id is remembered; the reply is terminate: tasks unknown."""
    assert control.terminate(state, "SIGKILL", "x") == {"ok": "terminate: tasks unknown"}
    assert "x" in worker_state.revoked


def test_what_the_pool_cannot_end_is_told_without_a_traceback(
    app: Any, state: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate_job(pid: int, signal: Any = None) -> None:
        raise NotImplementedError("threads cannot be ended")

    monkeypatch.setattr(state.consumer.pool, "terminate_job", terminate_job)
    held(app, "running", "active", stamped_headers=["mark"], stamps={"mark": ["m1"]})

    by_id = control.revoke(state, "running", terminate=True)
    by_stamp = control.revoke_by_stamped_headers(state, {"mark": "m1"}, terminate=True)

    told = "flagged as revoked, but not terminated: running (threads cannot be ended)"
    assert by_id == by_stamp == {"error": told}
    assert "running" in worker_state.revoked
    assert "Cannot terminate running: threads cannot be ended" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_unknown_signal_changes_nothing(state: Any) -> None:
    """B-EVT-029: an AttributeError."""
    with pytest.raises(AttributeError, match="there is no signal 'SIGFOO'"):
        control.revoke(state, "x", terminate=True, signal="SIGFOO")
    assert "x" not in worker_state.revoked


def test_tasks_are_revoked_by_stamp(app: Any, state: Any) -> None:
    """B-WORK-050: revoke_by_stamped_headers({k: v or [v…]}) revokes by stamp."""
    reply = control.revoke_by_stamped_headers(state, {"a": "1", "b": ["2", "3"]})

    assert reply["ok"].endswith("flagged as revoked, but not terminated")
    assert worker_state.revoked_stamps == {"a": ["1"], "b": ["2", "3"]}
    # From the command line they come as words.
    control.revoke_by_stamped_headers(state, ["a=4", "a=1"])
    assert worker_state.revoked_stamps["a"] == ["1", "4"]
    with pytest.raises(ValueError, match="name=value"):
        control.revoke_by_stamped_headers(state, ["nonsense"])


def test_running_tasks_are_terminated_by_stamp(app: Any, state: Any) -> None:
    held(app, "marked", "active", stamped_headers=["mark"], stamps={"mark": ["m1"]})
    held(app, "other", "active", stamped_headers=["mark"], stamps={"mark": ["m2"]})

    control.revoke_by_stamped_headers(state, {"mark": "m1"}, terminate=True)

    assert len(state.consumer.pool.killed) == 1
    assert app.AsyncResult("marked").state == states.REVOKED
    assert app.AsyncResult("other").state == states.PENDING


def test_task_events_are_switched(state: Any) -> None:
    """B-EVT-027: enabled, already enabled, disabled (on a worker started without -E)."""
    dispatcher = state.consumer.event_dispatcher

    assert control.disable_events(state) == {"ok": "task events already disabled"}
    assert control.enable_events(state) == {"ok": "task events enabled"}
    assert control.enable_events(state) == {"ok": "task events already enabled"}
    assert dispatcher.groups == {"worker", "task"}
    assert control.disable_events(state) == {"ok": "task events disabled"}
    assert dispatcher.groups == {"worker"}


def test_task_events_of_a_worker_with_all_groups_can_be_switched_off(state: Any) -> None:
    dispatcher = state.consumer.event_dispatcher = Dispatcher(groups=())

    assert control.enable_events(state) == {"ok": "task events already enabled"}
    assert control.disable_events(state) == {"ok": "task events disabled"}
    assert "task" not in dispatcher.groups
    assert dispatcher.groups


def test_a_heartbeat_is_sent_on_request(state: Any) -> None:
    """B-EVT-017: app.control.heartbeat; the fields of B-EVT-006."""
    assert control.heartbeat(state) is None

    ((kind, fields),) = state.consumer.event_dispatcher.sent
    assert kind == "worker-heartbeat"
    assert set(fields) == {
        "freq",
        "active",
        "processed",
        "loadavg",
        "sw_ident",
        "sw_ver",
        "sw_sys",
    }


def test_the_pool_grows_and_shrinks_and_the_prefetch_with_it(state: Any) -> None:
    assert control.pool_grow(state, 3) == {"ok": "pool will grow"}
    assert (state.consumer.pool.size, state.consumer.prefetch) == (5, 3)
    assert control.pool_shrink(state) == {"ok": "pool will shrink"}
    assert (state.consumer.pool.size, state.consumer.prefetch) == (4, 2)

    # Only idle processes leave, and the prefetch count follows those.
    state.consumer.pool.busy = 3
    assert control.pool_shrink(state, 3) == {"ok": "pool will shrink"}
    assert (state.consumer.pool.size, state.consumer.prefetch) == (3, 1)
    assert control.pool_grow(state) == {"ok": "pool will grow"}

    state.consumer.controller.autoscaler = SimpleNamespace(update=lambda most, least: (most, least))
    assert "autoscale" in control.pool_grow(state)["error"]
    assert state.consumer.pool.size == 4


def test_autoscaling_is_bounded_anew(state: Any) -> None:
    """B-WORK-063: a remote autoscale(max, min) changes the bounds."""
    with pytest.raises(ValueError, match="Autoscale not enabled"):
        control.autoscale(state, 6, 2)

    state.consumer.controller.autoscaler = SimpleNamespace(update=lambda most, least: (most, least))
    assert control.autoscale(state, 6, 2) == {"ok": "autoscale now max=6 min=2"}


def test_the_pool_is_restarted_only_where_that_is_allowed(state: Any) -> None:
    """B-EVT-030: pool_restart needs worker_pool_restarts."""
    with pytest.raises(ValueError, match="worker_pool_restarts"):
        control.pool_restart(state)

    state.app.conf.worker_pool_restarts = True
    assert control.pool_restart(state, ["mod"]) == {"ok": "reload started"}
    assert state.consumer.calls == [("reload", (["mod"], False))]


def test_queues_are_added_and_left(state: Any) -> None:
    assert control.add_consumer(state, "q", routing_key="a.#") == {"ok": "add consumer q"}
    assert control.cancel_consumer(state, "q") == {"ok": "no longer consuming from q"}
    assert state.consumer.calls == [("add", ("q", None, "direct", "a.#"), {}), ("cancel", "q")]
    assert control.active_queues(state) == []


def test_a_new_node_hears_what_is_revoked(state: Any) -> None:
    """B-EVT-017: mingle exchanges revoked ids and clocks."""
    worker_state.revoked.add("here")

    reply = control.hello(state, "w2@h", revoked=["there"])

    assert set(reply["revoked"]) >= {"here"}
    assert isinstance(reply["clock"], int)
    assert "there" in worker_state.revoked
    assert control.hello(state, "w1@h") is None


def test_shutdown_ends_the_worker_warmly(state: Any, caplog: pytest.LogCaptureFixture) -> None:
    """B-EVT-025, B-WORK-081: logged as WARNING; a warm shutdown."""
    with pytest.raises(WorkerShutdown):
        control.shutdown(state)
    assert ("WARNING", "Got shutdown from remote") in [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


def test_settings_are_told_without_secrets(state: Any) -> None:
    """B-SEC-012: passwords are masked in inspect conf."""
    state.app.conf.broker_url = "amqp://user:hidden@host//"
    state.app.conf.security_key_password = b"hidden"

    told = control.conf(state)

    assert "hidden" not in repr(told)
    assert len(control.conf(state, with_defaults=True)) > 150


def test_an_election_is_left_to_gossip(state: Any) -> None:
    control.election(state, "id", "topic")  # without gossip nothing happens
    seen: list[Any] = []
    state.consumer.gossip = SimpleNamespace(election=lambda *args: seen.append(args))

    control.election(state, "id", "topic", "action")

    assert seen == [("id", "topic", "action")]


@pytest.fixture
def own_commands() -> Iterator[None]:
    data, meta = dict(Panel.data), dict(Panel.meta)
    yield
    Panel.data.clear()
    Panel.data.update(data)
    Panel.meta.clear()
    Panel.meta.update(meta)


@pytest.mark.usefixtures("own_commands")
def test_commands_may_be_added() -> None:
    """B-EVT-031: control_command(args=[(name, type)], signature=…) and inspect_command()."""

    @control_command(args=[("n", int)], signature="[N=1]", alias="more")
    def increase(state: Any, n: int = 1) -> Any:
        """Increase something."""
        return n

    @inspect_command()
    def current(state: Any) -> Any:
        """Tell something."""

    assert Panel.data["increase"] is Panel.data["more"] is increase
    assert Panel.meta["increase"].type == "control"
    assert Panel.meta["increase"].help == "Increase something."
    assert Panel.meta["current"].type == "inspect"
    assert Panel()["current"] is current


@pytest.fixture
def mailbox(app: Any) -> Iterator[Any]:
    app.conf.broker_transport_options = {"polling_interval": 0.001}
    consumer = Consumer(app)
    with app.connection_for_read() as connection:
        consumer.hostname = "w1@h"
        consumer.connection = connection
        consumer.on_decode_error = lambda message, exc: None
        box = Pidbox(consumer)
        box.start(consumer)
        yield box, connection
        box.shutdown(consumer)
        box.stop(consumer)


def test_the_mailbox_answers_commands(app: Any, mailbox: Any) -> None:
    """B-EVT-024: an unknown command and wrong arguments are answered with an error repr."""
    box, _ = mailbox
    replies: list[Any] = []
    box.node.reply = lambda data, **how: replies.append(data["w1@h"])
    reply_to = {"exchange": "x", "routing_key": "y"}

    for method, arguments in (("ping", {}), ("nosuch", {}), ("rate_limit", {})):
        box.on_message({"method": method, "arguments": arguments, "reply_to": reply_to}, None)

    pong, unknown, wrong = replies
    assert pong == {"ok": "pong"}
    assert unknown == {"error": "KeyError('nosuch')"}
    assert wrong["error"].startswith("TypeError(")


def test_a_command_reaches_the_mailbox_over_the_broker(app: Any, mailbox: Any) -> None:
    """B-EVT-019: the queue <node>.celery.pidbox of the exchange celery.pidbox."""
    box, connection = mailbox
    seen: list[Any] = []
    box.node.handlers = {"note": lambda state, **kwargs: seen.append((state.hostname, kwargs))}

    app.control.broadcast("note", {"x": 1})
    app.control.broadcast("note", {"x": 2}, destination=["other@h"])
    app.control.broadcast("note", {"x": 3}, pattern="w1*", matcher="glob")
    for _ in range(3):
        connection.drain_events(timeout=1)

    assert seen == [("w1@h", {"x": 1}), ("w1@h", {"x": 3})]


def test_a_shutdown_leaves_the_mailbox(mailbox: Any) -> None:
    box, _ = mailbox
    with pytest.raises(WorkerShutdown):
        box.on_message({"method": "shutdown", "arguments": {}}, None)


def test_nonsense_makes_the_mailbox_listen_anew(
    mailbox: Any, caplog: pytest.LogCaptureFixture
) -> None:
    box, _ = mailbox
    channel = box.node.channel

    box.on_message("nonsense", None)

    assert box.node.channel is not channel
    assert "Control command error" in caplog.text
