"""How a worker program starts: order, log lines, banner, options."""

from __future__ import annotations

import gc
import os
import re
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from celery import Celery, chord
from celery.utils.nodenames import gethostname
from celery.worker.consumer.mingle import Mingle
from t.harness.proxy import Proxy
from t.harness.worker import PATIENCE_S, eventually


def positions(worker, *patterns):
    text = worker.text()
    return [re.search(pattern, text, re.MULTILINE).start() for pattern in patterns]


def test_the_log_tells_the_start_in_order(project):
    """B-WORK-002, B-WORK-004: banner, connected (no password), mingle, ready."""
    worker = project.worker("-c1", "-n", "w1@test")
    worker.wait_for("mingle: all alone")

    places = positions(
        worker,
        r"^ -------------- w1@test v5\.7\.0 \(\w+\)",
        r"INFO/MainProcess\] Connected to \w+://(guest:\*\*|:\*\*)?@?127\.0\.0\.1",
        r"mingle: searching for neighbors",
        r"w1@test ready\.$",
    )
    assert places == sorted(places)
    assert re.search(
        r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}: INFO/MainProcess\] w1@test ready\.$",
        worker.text(),
        re.MULTILINE,
    )


def test_a_worker_is_at_work_at_once(on_redis):
    """B-WORK-003: it does not wait for its neighbours' answers before it works."""
    result = on_redis.send("add", 1, 1)
    started_at = time.monotonic()
    worker = on_redis.worker("-c1")

    worker.wait_for(rf"Task add\[{result.id}\] succeeded")
    assert worker.count("mingle: all alone") == 0 or time.monotonic() - started_at > 1


def test_an_answer_that_comes_as_the_worker_leaves_is_for_nobody(redis_url, caplog):
    """The wait for it is under way, so it is read when that ends; nothing is wrong."""
    app = Celery("leaving", broker=redis_url, set_as_current=False)
    timer = SimpleNamespace(call_after=lambda *_: SimpleNamespace(cancel=lambda: None))
    with app.connection_for_read() as connection, app.connection_for_write() as other:
        c = SimpleNamespace(
            app=app, connection=connection, hostname="w@x", timer=timer, call_soon=None
        )
        mingle = Mingle(c)
        mingle.sync(c)
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.1)
        [queue] = mingle._consumer.queues
        other.Producer().publish(
            {"other@x": {"clock": 1}},
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            headers={"ticket": mingle._ticket},
        )
        mingle.stop(c)

    assert "ndeliverable" not in caplog.text


def connections_of_a_start(make_project, url):
    """Start a worker and let it run a task; return how many connections it has made."""
    at = urlsplit(url)
    with Proxy(at.port) as proxy:
        through = at._replace(netloc=at.netloc.replace(f":{at.port}", f":{proxy.port}"))
        project = make_project(through.geturl())
        result = project.send("add", 1, 1)
        before = proxy.accepted
        with project.unstarted("-c1") as worker:
            worker.wait_for(rf"Task add\[{result.id}\] succeeded")
            worker.wait_for("mingle: all alone")
            return proxy.accepted - before


def test_a_start_on_redis_needs_few_connections(make_project, redis_url):
    """One for the commands of each channel, and those that wait for messages."""
    # The channels, the lease, claims, two subscriptions, answers to mingle, and a wait for
    # each of four steps of priority.
    assert connections_of_a_start(make_project, redis_url) <= 14


def test_a_start_on_rabbitmq_needs_two_connections(make_project, amqp_url):
    """One to consume, and one for events."""
    assert connections_of_a_start(make_project, amqp_url) == 2


def test_garbage_is_collected_as_usual_once_a_worker_has_started(on_redis):
    on_redis.worker("-c1")

    told = on_redis.app.control.broadcast("garbage", reply=True, limit=1, timeout=PATIENCE_S)
    [threshold] = told[0].values()
    assert tuple(threshold) == gc.get_threshold()
    assert tuple(on_redis.send("garbage").get(timeout=PATIENCE_S)) == gc.get_threshold()


def test_the_banner_shows_the_configuration(on_redis):
    """B-WORK-005: app, transport, results, concurrency, events, queues, tasks."""
    worker = on_redis.worker("-c2", "-Q", "celery,other", "-n", "w1@test")
    text = worker.text()

    assert re.search(r"\[config\]", text)
    assert re.search(r"\.> app: +proj:0x", text)
    assert re.search(r"\.> transport: +redis://", text)
    assert re.search(r"\.> results: +file:///", text)
    assert re.search(r"\.> concurrency: +2 \(prefork\)", text)
    assert "OFF (enable -E to monitor tasks in this worker)" in text
    assert re.search(r"\.> celery +exchange=celery\(direct\) key=celery", text)
    assert re.search(r"\.> other +exchange=other\(direct\) key=other", text)


def test_the_banner_says_that_events_are_on_and_hides_tasks_above_info(on_redis):
    """B-WORK-005."""
    worker = on_redis.unstarted("-c1", "-E", level="WARNING")
    worker.launch()
    try:
        worker.wait_for(r"task events: +ON")
        assert worker.count(r"\[tasks\]") == 0
    finally:
        worker.kill()


def test_without_a_result_store_the_banner_says_so(on_redis):
    """B-WORK-007."""
    worker = on_redis.worker("-c1", conf={"result_backend": None})

    assert worker.count(r"results: +disabled://") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="the warning is for the user root")
def test_root_is_warned(on_redis):
    """B-WORK-006."""
    worker = on_redis.worker("-c1")

    assert worker.count("SecurityWarning") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="the refusal is for the user root")
def test_root_may_not_accept_pickle(on_redis):
    """B-WORK-006: unless C_FORCE_ROOT is set."""
    conf = {"accept_content": ["json", "pickle"]}
    refused = on_redis.unstarted("-c1", conf=conf)
    refused.launch()
    assert refused.wait() != 0
    assert refused.count(r" ready\.$") == 0

    allowed = on_redis.worker("-c1", conf=conf, env={"C_FORCE_ROOT": "1"})
    assert allowed.count(r" ready\.$") == 1


def test_automatic_concurrency_is_explained(on_redis):
    """B-WORK-009, B-WORK-011."""
    worker = on_redis.worker("--concurrency=auto")

    worker.wait_for(
        r"worker_concurrency='auto' resolved to \d+ \(pool=prefork, .*available cpus=\d+\)\."
    )


def test_a_concurrency_of_zero_means_the_number_of_processors(on_redis):
    """B-WORK-010, B-WORK-011."""
    worker = on_redis.worker("-c", "0")

    assert worker.count(rf"concurrency: +{os.cpu_count()} \(prefork\)") == 1


def test_an_unknown_queue_is_refused_where_none_may_be_made(on_redis):
    worker = on_redis.unstarted("-c1", "-Q", "nosuch", conf={"task_create_missing_queues": False})
    worker.launch()

    assert worker.wait() != 0
    assert worker.count("nosuch") >= 1


def test_messages_can_be_purged_at_the_start(on_redis):
    """B-CLI-037."""
    for _ in range(3):
        on_redis.send("note", str(on_redis.journal), "old")
    worker = on_redis.worker("-c1", "--purge")
    on_redis.send("note", str(on_redis.journal), "new")

    on_redis.journal.wait_for("new")
    assert "old" not in on_redis.journal.lines
    assert worker.count("purge: Erased 3 messages") == 1


def test_a_purge_leaves_what_a_worker_has_taken(on_redis):
    """B-LEG-024."""
    worker = on_redis.worker("-c1", "--prefetch-multiplier=4")
    gate = on_redis.gate()
    on_redis.send("gated", str(on_redis.journal), "a", str(gate))
    on_redis.journal.wait_for("begin a")
    taken = [on_redis.send("add", number, 1) for number in range(3)]
    worker.wait_for(r"Task add\[.*received", times=3)

    assert on_redis.app.control.purge() == 0

    gate.touch()
    assert [result.get(timeout=PATIENCE_S) for result in taken] == [1, 2, 3]
    on_redis.journal.wait_for("end a")


def test_a_task_knows_its_node_and_the_process_that_sent_it(on_redis):
    """B-TASK-008: also of what a pool process has sent."""
    on_redis.worker("-c2", "-n", "w1@test")
    here = f"gen{os.getpid()}@{gethostname()}"
    assert on_redis.send("who").get(timeout=PATIENCE_S) == ["w1@test", here]

    pid, task_id = on_redis.send("relay").get(timeout=PATIENCE_S)

    assert pid != os.getpid()
    sent = on_redis.app.AsyncResult(task_id).get(timeout=PATIENCE_S)
    assert sent == ["w1@test", f"gen{pid}@{gethostname()}"]


def test_a_chord_needs_no_call_of_the_base_in_after_return(on_redis, redis_url):
    """B-TASK-045: header tasks count, whatever their handlers do or leave out."""
    on_redis.conf["result_backend"] = redis_url
    on_redis.worker("-c2")
    header = [on_redis.app.signature("quiet", args=(number,)) for number in range(4)]
    body = on_redis.app.signature("total")

    assert chord(header, app=on_redis.app)(body).get(timeout=PATIENCE_S) == 6


def test_a_pid_file_is_there_while_the_worker_is(on_redis, tmp_path):
    """B-CLI-047."""
    path = tmp_path / "w.pid"
    worker = on_redis.worker("-c1", f"--pidfile={path}")
    assert int(path.read_text()) == worker.pid

    assert worker.stop() == 0
    assert not path.exists()


def test_a_second_worker_with_the_same_pid_file_gives_up(on_redis, tmp_path):
    """B-CLI-055."""
    path = tmp_path / "w.pid"
    on_redis.worker("-c1", f"--pidfile={path}")
    second = on_redis.unstarted("-c1", f"--pidfile={path}")
    second.launch()

    assert second.wait() != 0
    assert path.exists()


def test_custom_steps_live_with_the_consumer(on_redis):
    """B-EXT-002, B-EXT-003: built with it, stopped and shut down with it.

    B-EXT-004: not within a signal handler here, so they may log and take locks.
    """
    worker = on_redis.worker("-c1", env={"T_WORKER_STEPS": str(on_redis.journal)})
    assert on_redis.journal.lines == ["consumer step built", "consumer step started"]

    assert worker.stop() == 0
    assert on_redis.journal.lines[2:] == ["consumer step stopped", "consumer step shut down"]


def test_the_boot_order_is_logged_at_debug(on_redis):
    """B-EXT-001, B-EXT-008: both orders, and a line for each part that starts."""
    worker = on_redis.worker("-c1", level="DEBUG")
    worker.stop()
    text = worker.text()

    order = re.search(r"\| Worker: New boot order: \{(.*)\}", text).group(1).split(", ")
    assert set(order) == {
        "Beat", "Timer", "Hub", "Pool", "Autoscaler", "StateDB", "Health", "Consumer",
    }  # fmt: skip
    assert order.index("Timer") < order.index("Hub") < order.index("Pool") < order.index("Consumer")
    assert order[-1] == "Consumer"
    order = re.search(r"\| Consumer: New boot order: \{(.*)\}", text).group(1).split(", ")
    assert set(order) == {
        "Connection", "Events", "Heart", "Mingle", "Tasks", "DelayedDelivery", "Control",
        "Gossip", "Agent", "event loop",
    }  # fmt: skip
    assert order[-1] == "event loop"
    for line in ("| Worker: Starting Pool", "| Consumer: Starting Heart", "^-- substep ok"):
        assert line in text
    assert "| Worker: Closing Pool" in text
    assert "| Worker: Stopping Pool" in text


def test_signals_are_sent_in_order(on_redis):
    """B-WORK-001, B-WORK-080, B-SIG-010, B-SIG-011: from the first to the last."""
    worker = on_redis.worker(
        "-c1", "-n", "w1@test", env={"T_WORKER_SIGNALS": str(on_redis.journal)}
    )
    assert worker.stop() == 0

    seen = on_redis.journal.lines
    in_main = [line for line in seen if not line.startswith("worker_process")]
    assert in_main == [
        "celeryd_init w1@test conf,instance,options",
        "worker_init",
        "after_setup_logger",
        "after_setup_task_logger",
        "celeryd_after_setup w1@test conf,instance",
        "worker_before_create_process",
        "heartbeat_sent",
        "worker_ready",
        "worker_shutting_down SIGTERM Warm 0",
        "heartbeat_sent",
        "worker_shutdown",
    ]
    assert "worker_process_init" in seen
    assert eventually(lambda: "worker_process_shutdown" in on_redis.journal.lines)


def test_the_node_name_is_made_from_the_host(on_redis):
    """B-UTIL-002."""
    worker = on_redis.worker("-c1")

    assert worker.count(rf"\] celery@{re.escape(gethostname())} ready\.$") == 1
