"""One worker on each broker, end to end: what Celery asks of a broker, and what it says it lacks.

Tests share the worker of a broker; the last one kills it.
"""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from celery import Celery, chain, group
from celery._transport.capabilities import Redelivery, driver_needed
from t.harness.servers import missing
from t.harness.worker import PATIENCE_S, WorkerProcess, eventually
from t.integration.brokers.table import CASES, Case
from t.integration.worker.conftest import Project


class Site:
    """A project on one broker, with a worker of two processes."""

    def __init__(self, case: Case, project: Project) -> None:
        self.case = case
        self.project = project
        self.worker = self.start_worker("first")

    def start_worker(self, name: str) -> WorkerProcess:
        """Start a worker that sends events and takes two messages at a time."""
        return self.project.worker("-c2", "--prefetch-multiplier=1", "-E", f"-n{name}@%h")

    def add(self, x: int, y: int, **options: Any) -> Any:
        return self.project.send("add", x, y, **options)

    def signature(self, *args: int) -> Any:
        return self.project.app.signature("add", args=args)


def _params() -> list[Any]:
    short = pytest.mark.skipif(not os.environ.get("T_LONG"), reason="runs with 'make brokers'")
    return [pytest.param(case, id=case.id, marks=short if case.long else ()) for case in CASES]


@pytest.fixture(scope="module", params=_params())
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A running worker on each of the brokers."""
    case: Case = request.param
    needed = driver_needed(case.broker.schemes[0])
    if needed is not None:
        missing(needed)
    folder = tmp_path_factory.mktemp(case.id)
    project = Project("", folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in case.environment(request).items():
            patch.setenv(name, value)
        try:
            project.conf.update(case.settings(request, folder))
            yield Site(case, project)
        finally:
            project.close()


def test_tasks_return_their_values(site: Site) -> None:
    results = [site.add(number, number) for number in range(20)]
    assert [result.get(timeout=PATIENCE_S) for result in results] == list(range(0, 40, 2))


def test_a_failure_is_told(site: Site) -> None:
    with pytest.raises(KeyError):
        site.project.send("boom").get(timeout=PATIENCE_S)


def test_a_countdown_ends(site: Site) -> None:
    """B-BROK-009: on Kafka too."""
    assert site.add(1, 2, countdown=1).get(timeout=PATIENCE_S) == 3


def test_workflows_run(site: Site) -> None:
    steps = chain(site.signature(1, 2), site.signature(3), site.signature(4))
    assert steps.apply_async(app=site.project.app).get(timeout=PATIENCE_S) == 10
    members = group([site.signature(n, n) for n in range(4)], app=site.project.app)
    assert members.apply_async().get(timeout=PATIENCE_S) == [0, 2, 4, 6]


def test_remote_control_works_or_is_said_not_to(site: Site) -> None:
    """B-BROK-001: nobody waits for answers that cannot come."""
    control = site.project.app.control
    told = site.worker.count(r"The broker .* carries no broadcasts")
    if not site.case.carries_broadcasts:
        assert told == 1
        assert control.ping() == []
        return
    assert told == 0
    # Without a limit: some transports count a turn in which nothing came as one of the replies.
    [reply] = eventually(lambda: control.ping(timeout=1))
    assert list(reply.values()) == [{"ok": "pong"}]


def test_events_arrive_or_are_said_not_to(site: Site) -> None:
    if not site.case.carries_broadcasts:
        assert site.worker.count("no remote control, events") == 1
        return
    seen: list[str] = []
    app = site.project.app
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(
            connection, handlers={"*": lambda event: seen.append(event["type"])}
        )
        events = receiver.itercapture(timeout=PATIENCE_S, wakeup=False)
        # The consumer is there once something came.
        next(events)
        site.add(1, 1)
        while "task-succeeded" not in seen:
            next(events)


def test_it_says_what_would_be_lost(site: Site) -> None:
    """B-BROK-001."""
    loses = site.case.broker.redelivery is Redelivery.NEVER
    assert site.worker.count("keeps no messages of workers that are killed") == int(loses)


def test_another_worker_goes_on_after_one_was_killed(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """B-BROK-006: no more is taken than may be held, and no more than that is at stake."""
    project = site.project
    gate = project.gate()
    labels = ["a", "b", "c", "d"]
    for label in labels:
        project.send("late_gated", str(project.journal), label, str(gate))
    begun = eventually(
        lambda: (lines := [line[6:] for line in project.journal.lines])[1:] and lines
    )
    if site.case.broker.length:
        eventually(lambda: project.queue_length() == 2)
    os.killpg(site.worker.pid, signal.SIGKILL)
    site.worker.wait()
    site.case.after_kill(request)
    gate.touch()

    second = site.start_worker("second")
    loses = site.case.broker.redelivery is Redelivery.NEVER
    rest = [label for label in labels if not (loses and label in begun)]
    project.journal.wait_for(*(f"end {label}" for label in rest))
    assert site.add(2, 2).get(timeout=PATIENCE_S) == 4
    assert second.stop() == 0


def _connect(url: str, use_ssl: Any = None) -> None:
    app = Celery("tls", broker=url, set_as_current=False)
    app.conf.broker_use_ssl = use_ssl
    with app.connection_for_write() as connection:
        connection.connect()


@pytest.mark.rabbitmq
@pytest.mark.redis
def test_the_certificate_of_a_server_is_checked_unless_told_otherwise(
    rabbitmq_tls_server: Any, redis_tls_server: Any, tls_files: Any
) -> None:
    """B-SEC-011: broker_use_ssl is true or a dictionary on AMQP, a dictionary on Redis.

    And redis_backend_use_ssl for results.
    """
    ca = str(tls_files[0])
    amqp = f"amqp://guest:guest@127.0.0.1:{rabbitmq_tls_server.tls_port}//"
    with pytest.raises(OSError, match="certificate verify failed"):
        _connect(amqp, use_ssl=True)
    _connect(amqp, use_ssl={"ca_certs": ca})

    redis = f"redis://:secret@127.0.0.1:{redis_tls_server.port}/0"
    required = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    with pytest.raises(Exception, match="certificate verify failed"):
        _connect(redis, use_ssl=required)
    _connect(redis, use_ssl={**required, "ssl_ca_certs": ca})

    app = Celery("tls", broker="memory://", backend=redis.replace("redis", "rediss", 1))
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
    app.conf.redis_backend_use_ssl = required
    with pytest.raises(Exception, match="certificate verify failed"):
        app.backend.get_state("a")
    app = Celery("tls", broker="memory://", backend=redis.replace("redis", "rediss", 1))
    app.conf.redis_backend_use_ssl = {**required, "ssl_ca_certs": ca}
    app.backend.mark_as_done("a", 4)
    assert app.backend.get_result("a") == 4
