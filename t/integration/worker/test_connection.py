"""Brokers that are not there, go away and come back."""

from __future__ import annotations

import re
from signal import SIGTERM

import pytest

from t.harness import servers
from t.harness.proxy import Proxy
from t.harness.worker import eventually


@pytest.fixture
def own_redis(make_project):
    """A project on a Redis server that may be stopped."""
    with servers.RedisServer() as server:
        project = make_project(server.url)
        project.server = server
        yield project


@pytest.fixture
def own_rabbitmq(make_project):
    """A project on a RabbitMQ node that may be stopped."""
    with servers.RabbitMQServer() as server:
        project = make_project(server.new_url())
        project.server = server
        yield project


class Impatient(servers.RabbitMQServer):
    """A node that lets a message be held for a second, and looks as often."""

    def prepare(self):
        """Write the configuration."""
        super().prepare()
        options = "{consumer_timeout, 1000}, {channel_tick_interval, 1000}"
        (self.folder / "advanced.config").write_text(f"[{{rabbit, [{options}]}}].\n")


@pytest.fixture(params=["redis", "rabbitmq"])
def project_with_server(request):
    return request.getfixturevalue(f"own_{request.param}")


def test_the_start_waits_for_the_broker(own_redis):
    """B-WORK-082, B-WORK-083, B-BACK-031: each failed attempt is logged; then it connects."""
    own_redis.server.stop()
    worker = own_redis.unstarted("-c1")
    worker.launch()
    try:
        worker.wait_for(r"ERROR/MainProcess\] consumer: Cannot connect to redis://.*: .*")
        worker.wait_for(r"Trying again in 2\.00 seconds\.\.\. \(1/100\)")
        worker.wait_for(r"Trying again in 4\.00 seconds\.\.\. \(2/100\)")
        own_redis.server.start()
        worker.wait_for(r" ready\.$")
        assert own_redis.send("add", 1, 1).get(timeout=60) == 2
    finally:
        worker.kill()


def test_the_start_can_be_told_not_to_wait(own_redis):
    """B-WORK-082, B-BACK-032: broker_connection_retry_on_startup=False."""
    own_redis.server.stop()
    worker = own_redis.unstarted("-c1", conf={"broker_connection_retry_on_startup": False})
    worker.launch()

    assert worker.wait() == 1
    assert worker.count("Trying again") == 0
    setting = re.escape("(app.conf.broker_connection_retry_on_startup=False)")
    assert worker.count(rf"CRITICAL/MainProcess\].* has been disabled {setting}") == 1


def test_the_number_of_attempts_is_limited(own_redis):
    """B-WORK-082: broker_connection_max_retries."""
    own_redis.server.stop()
    worker = own_redis.unstarted("-c1", conf={"broker_connection_max_retries": 1})
    worker.launch()

    assert worker.wait() == 1


def test_a_worker_that_waits_for_its_broker_can_be_stopped(own_redis):
    """B-BACK-031."""
    own_redis.server.stop()
    worker = own_redis.unstarted("-c1")
    worker.launch()
    worker.wait_for("Trying again")

    assert worker.stop(SIGTERM) == 0


def test_a_lost_connection_is_made_anew(project_with_server):
    """B-WORK-085, B-WORK-086: WARNING, attempts, connected; the running early acknowledged
    task finishes meanwhile; no second "ready" is needed for work."""
    project = project_with_server
    worker = project.worker("-c2")
    result = project.send("gated", str(project.journal), "a", str(project.gate()))
    project.journal.wait_for("begin a")

    project.server.kill()
    worker.wait_for(
        r"WARNING/MainProcess\] consumer: Connection to broker lost\. "
        r"Trying to re-establish the connection\.\.\. \("
    )
    worker.wait_for(r"consumer: Cannot connect to")
    project.gate().touch()
    eventually(lambda: result.state == "SUCCESS")
    project.server.start()
    worker.wait_for(r"Connected to ", times=2, timeout_s=60)
    project.reconnect()

    assert project.send("add", 1, 1).get(timeout=30) == 2
    assert worker.count(r" ready\.$") == 1
    assert worker.stop() == 0


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_closed_connection_loses_nothing(request, broker):
    """B-WORK-085: with the server up, every task of a batch runs."""
    project = request.getfixturevalue(f"on_{broker}")
    server = request.getfixturevalue(f"{broker}_server")
    worker = project.worker("-c2")
    labels = [str(number) for number in range(200)]
    for number, label in enumerate(labels):
        project.send("late_note", str(project.journal), label)
        if number == 100:
            server.disconnect_clients()
            worker.wait_for("Connection to broker lost")

    project.journal.wait_for(*labels, timeout_s=60)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_late_task_that_is_delivered_again_runs_once(on_rabbitmq, rabbitmq_server, pool):
    """B-WORK-086: it runs on; its worker knows it again and settles the new delivery."""
    project = on_rabbitmq
    worker = project.worker("-P", pool, "-c1")
    project.send("late_gated", str(project.journal), "a", str(project.gate()))
    project.journal.wait_for("begin a")

    for times in (1, 2):
        rabbitmq_server.disconnect_clients()
        worker.wait_for("Connection to broker lost", times=times)
        worker.wait_for(r"late_gated\[.*\] was delivered again .* still runs", times=times)
    project.reconnect()
    project.gate().touch()
    project.journal.wait_for("end a")
    project.send("late_note", str(project.journal), "next")
    project.journal.wait_for("next")

    assert project.journal.lines == ["begin a", "end a", "next"]
    assert worker.stop() == 0
    assert project.queue_length() == 0


@pytest.mark.parametrize(
    ("pool", "seen"), [("prefork", "still runs"), ("threads", "has ended here meanwhile")]
)
def test_a_late_task_that_ends_without_a_connection_runs_once(
    make_project, amqp_url, rabbitmq_server, pool, seen
):
    """Its message is settled when it comes again.

    The main process hears of the end as soon as it is done with connecting.
    """
    with Proxy(rabbitmq_server.port) as proxy:
        project = make_project(amqp_url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/"))
        worker = project.worker("-P", pool, "-c1")
        project.send("late_gated", str(project.journal), "a", str(project.gate()))
        project.journal.wait_for("begin a")

        proxy.refuse()
        worker.wait_for("Cannot connect to")
        project.gate().touch()
        project.journal.wait_for("end a")
        proxy.restore()
        worker.wait_for(rf"late_gated\[.*\] was delivered again .*{seen}")
        project.reconnect()

        assert project.send("add", 1, 1).get(timeout=30) == 2
        assert project.journal.lines == ["begin a", "end a"]
        assert worker.stop() == 0
        assert project.queue_length() == 0


def test_a_late_task_may_take_longer_than_the_broker_waits(make_project):
    """B-BROK-012: RabbitMQ closes the channel of whoever holds a message for too long."""
    with Impatient() as server:
        project = make_project(server.new_url())
        worker = project.worker("-c1")
        project.send("late_gated", str(project.journal), "a", str(project.gate()))
        project.journal.wait_for("begin a")

        worker.wait_for(r"late_gated\[.*\] was delivered again .* still runs", times=2)
        project.gate().touch()
        project.journal.wait_for("end a")
        assert project.send("add", 1, 1).get(timeout=30) == 2

        assert project.journal.lines == ["begin a", "end a"]
        assert worker.stop() == 0
        assert project.queue_length() == 0


def test_a_late_task_can_be_cancelled_with_its_connection(on_rabbitmq, rabbitmq_server):
    """B-WORK-086: worker_cancel_long_running_tasks_on_connection_loss."""
    worker = on_rabbitmq.worker(
        "-c1", conf={"worker_cancel_long_running_tasks_on_connection_loss": True}
    )
    on_rabbitmq.send("late_gated", str(on_rabbitmq.journal), "a", str(on_rabbitmq.gate()))
    on_rabbitmq.journal.wait_for("begin a")

    rabbitmq_server.disconnect_clients()
    worker.wait_for("Connection to broker lost")
    on_rabbitmq.journal.wait_for("begin a", "begin a")
    on_rabbitmq.gate().touch()

    on_rabbitmq.journal.wait_for("end a")
    assert worker.stop() == 0
    assert on_rabbitmq.journal.lines.count("end a") == 1


def test_a_reconnected_worker_prefetches_less_while_it_is_busy(on_rabbitmq, rabbitmq_server):
    """B-WORK-058: reduced by running tasks times multiplier, and back as they end."""
    worker = on_rabbitmq.worker("-c2")
    on_rabbitmq.send("gated", str(on_rabbitmq.journal), "a", str(on_rabbitmq.gate()))
    on_rabbitmq.journal.wait_for("begin a")

    rabbitmq_server.disconnect_clients()
    worker.wait_for("Temporarily reducing the prefetch count to 4")
    worker.wait_for("Connected to ", times=2)
    on_rabbitmq.gate().touch()
    worker.wait_for("Resuming normal operations following a restart")
    on_rabbitmq.reconnect()

    assert eventually(lambda: prefetch_count(on_rabbitmq) == 8)


def test_redis_cannot_reduce_its_prefetch_count(on_redis, redis_server):
    """B-WORK-058: said at INFO."""
    worker = on_redis.worker("-c1")
    redis_server.disconnect_clients()

    worker.wait_for("Skipping prefetch count reduction after connection restart because")


def prefetch_count(project):
    replies = project.app.control.inspect(timeout=2, limit=1).stats()
    return next(iter(replies.values()))["prefetch_count"] if replies else None


def test_a_dead_broker_is_left_for_the_next_of_the_list(own_redis, redis_url):
    """B-WORK-084, B-BACK-033: broker_url is a list."""
    dead = own_redis.server.url
    own_redis.server.stop()
    own_redis.conf["broker_url"] = f"{dead};{redis_url}"
    worker = own_redis.worker("-c1")
    assert worker.count("Will retry using next failover") >= 1

    own_redis.conf["broker_url"] = redis_url
    own_redis.reconnect()
    assert own_redis.send("add", 1, 1).get(timeout=20) == 2


def test_several_losses_in_a_row_do_no_harm(on_redis, redis_server):
    """B-WORK-085."""
    worker = on_redis.worker("-c1")
    for number in range(3):
        assert on_redis.send("add", number, 1).get(timeout=20) == number + 1
        redis_server.disconnect_clients()
        worker.wait_for("Connection to broker lost", times=number + 1)

    assert on_redis.send("add", 1, 1).get(timeout=20) == 2


def test_steps_of_the_consumer_live_once_for_each_connection(on_redis, redis_server):
    """B-EXT-003, B-EXT-009: stopped and started again as a whole; built only once."""
    worker = on_redis.worker("-c1", env={"T_WORKER_STEPS": str(on_redis.journal)})
    assert on_redis.send("add", 1, 1).get(timeout=20) == 2
    redis_server.disconnect_clients()
    worker.wait_for("Connection to broker lost")
    lines = on_redis.journal.wait_for("consumer step started", "consumer step started")

    assert lines == [
        "consumer step built",
        "consumer step started",
        "consumer step stopped",
        "consumer step started",
    ]
    assert worker.stop() == 0
    assert on_redis.journal.lines[4:] == ["consumer step stopped", "consumer step shut down"]
