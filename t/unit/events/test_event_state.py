"""The picture of the cluster: what becomes of tasks and workers in it."""

from __future__ import annotations

import gc
import os
import pickle
import time
from typing import Any

import pytest

from celery import states
from celery.events.state import State, Task, Worker, heartbeat_expires
from t.unit.events.conftest import Cluster


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("sent", "PENDING"),
        ("received", "RECEIVED"),
        ("started", "STARTED"),
        ("succeeded", "SUCCESS"),
        ("failed", "FAILURE"),
        ("retried", "RETRY"),
        ("revoked", "REVOKED"),
        ("rejected", "REJECTED"),
        ("custom", "CUSTOM"),
    ],
)
def test_each_event_leads_to_its_state(cluster: Cluster, event: str, state: str) -> None:
    """B-EVT-012: received gives RECEIVED, ..., task-custom gives CUSTOM, sent leaves PENDING."""
    cluster.task(event, name="add")

    assert cluster.state.tasks["t1"].state == state


def test_a_late_received_event_fills_in_the_name_and_undoes_nothing(cluster: Cluster) -> None:
    """B-EVT-015: a task-received with an older clock adds name and args to a SUCCESS."""
    cluster.task("succeeded", clock=9, result="4")
    cluster.task("received", clock=3, name="add", args="(2, 2)", kwargs="{}")

    task = cluster.state.tasks["t1"]
    assert (task.state, task.name, task.args, task.result) == ("SUCCESS", "add", "(2, 2)", "4")


def test_an_overtaken_started_event_changes_only_its_time(cluster: Cluster) -> None:
    """B-EVT-013: STARTED has a lower precedence than SUCCESS."""
    cluster.task("succeeded", result="4")
    cluster.task("started", result="nonsense", timestamp=77.0)

    task = cluster.state.tasks["t1"]
    assert (task.state, task.result, task.started) == ("SUCCESS", "4", 77.0)


def test_a_late_sent_event_tells_where_the_task_was_sent(cluster: Cluster) -> None:
    """B-EVT-001: task-sent may arrive after task-received."""
    cluster.task("received", name="add")
    cluster.task("sent", node="client@h", exchange="ex", routing_key="rk", args="nonsense")

    task = cluster.state.tasks["t1"]
    assert (task.state, task.exchange, task.routing_key) == ("RECEIVED", "ex", "rk")
    assert (task.client, task.args) == ("client@h", None)


def test_states_compare_by_precedence() -> None:
    """B-EVT-013: SUCCESS, FAILURE, custom states, REVOKED, STARTED, RECEIVED, REJECTED, RETRY."""
    order = [
        "SUCCESS",
        "FAILURE",
        "CUSTOM",
        "REVOKED",
        "STARTED",
        "RECEIVED",
        "REJECTED",
        "RETRY",
        "PENDING",
    ]

    assert sorted(map(states.state, reversed(order)), reverse=True) == order


def test_a_retried_task_starts_again(cluster: Cluster) -> None:
    for event in ("received", "started", "retried", "received", "started"):
        cluster.task(event)
    assert cluster.state.tasks["t1"].state == "STARTED"

    cluster.task("retried")
    assert cluster.state.tasks["t1"].state == "RETRY"


def test_a_late_retried_event_does_not_reopen_a_failed_task(cluster: Cluster) -> None:
    cluster.task("failed", exception="ValueError()")
    cluster.task("retried")

    assert cluster.state.tasks["t1"].state == "FAILURE"


def test_a_worker_is_online_for_twice_its_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    """B-EVT-011: freq 2 gives 4 seconds, freq 60 gives 120."""
    assert heartbeat_expires(100.0, freq=2) == 104.0
    assert heartbeat_expires(100.0, freq=60) == 220.0
    worker = Worker("w@h", freq=2)
    worker.event("heartbeat", 100.0, 100.0, {})

    monkeypatch.setattr(time, "time", lambda: 103.9)
    assert worker.alive
    assert worker.status_string == "ONLINE"
    monkeypatch.setattr(time, "time", lambda: 104.1)
    assert not worker.alive
    assert worker.status_string == "OFFLINE"


def test_a_worker_that_says_good_bye_is_offline_at_once(cluster: Cluster) -> None:
    """B-EVT-011: ... or until worker-offline."""
    now = time.time()
    cluster.worker("online", timestamp=now, local_received=now)
    assert [w.hostname for w in cluster.state.alive_workers()] == ["w1@h"]

    cluster.worker("offline", timestamp=now, local_received=now)
    assert not list(cluster.state.alive_workers())


def test_the_name_of_a_task_is_known_only_from_sent_or_received(cluster: Cluster) -> None:
    """B-EVT-011: state.tasks[uuid].name is known only after sent/received."""
    cluster.task("started")
    assert cluster.state.tasks["t1"].name is None

    cluster.task("received", name="add")
    assert cluster.state.tasks["t1"].name == "add"


def test_tasks_are_found_by_type_and_by_worker(cluster: Cluster) -> None:
    """B-EVT-014: tasks_by_type(name), tasks_by_worker(host), task_types() and the counts."""
    cluster.task("received", "a", "w1@h", name="add")
    cluster.task("received", "b", "w2@h", name="mul")
    cluster.task("received", "c", "w2@h", name="add")
    state = cluster.state

    assert [uuid for uuid, _ in state.tasks_by_type("add")] == ["c", "a"]
    assert {task.uuid for task in state.tasks_by_type["mul"]} == {"b"}
    assert [uuid for uuid, _ in state.tasks_by_worker("w2@h", reverse=False)] == ["b", "c"]
    assert {task.uuid for task in state.tasks_by_worker["w1@h"]} == {"a"}
    assert state.task_types() == ["add", "mul"]
    assert (state.event_count, state.task_count) == (3, 3)


def test_info_gives_the_fields_known_so_far(cluster: Cluster) -> None:
    """B-EVT-014: task.info() gives the fields known so far."""
    cluster.task("received", name="add", args="(1,)", kwargs="{}", retries=0)
    task = cluster.state.tasks["t1"]

    assert task.info() == {"args": "(1,)", "kwargs": "{}", "retries": 0}
    assert task.info(["name"], extra=["state"]) == {"name": "add", "state": "RECEIVED"}


def test_tasks_by_time_gives_each_task_once_latest_first(cluster: Cluster) -> None:
    for event, uuid in (("received", "a"), ("received", "b"), ("started", "a")):
        cluster.task(event, uuid)

    assert [uuid for uuid, _ in cluster.state.tasks_by_time()] == ["a", "b"]
    assert [uuid for uuid, _ in cluster.state.tasks_by_time(reverse=False)] == ["a", "b"]
    assert [uuid for uuid, _ in cluster.state.tasks_by_time(limit=1)] == ["a"]


def test_late_events_are_sorted_by_their_clock(cluster: Cluster) -> None:
    cluster.task("received", "new", clock=50)
    cluster.task("received", "old", clock=10)

    assert [uuid for uuid, _ in cluster.state.tasks_by_time()] == ["new", "old"]


def test_families_are_tied_in_whichever_order_they_come(cluster: Cluster) -> None:
    cluster.task("received", "child", parent_id="parent", root_id="parent")
    cluster.task("received", "parent", root_id="parent")
    cluster.task("received", "second", parent_id="parent", root_id="parent")
    tasks = cluster.state.tasks

    assert {task.uuid for task in tasks["parent"].children} == {"child", "second"}
    assert tasks["child"].parent is tasks["parent"]
    assert tasks["second"].root is tasks["parent"]
    assert tasks["parent"].as_dict()["children"]


def test_the_registers_are_bounded() -> None:
    cluster = Cluster(max_tasks_in_memory=10, max_workers_in_memory=3)

    for i in range(200):
        cluster.task("received", f"t{i}", f"w{i}@h", parent_id=f"unknown{i}")

    assert len(cluster.state.tasks) == 10
    assert len(cluster.state.workers) == 3
    assert len(cluster.state._taskheap) <= 40
    assert len(cluster.state._orphans) <= 10


def held(state: State) -> dict[str, int]:
    """Return the sizes of all registers of a state."""
    return {
        "tasks": len(state.tasks),
        "workers": len(state.workers),
        "order": len(state._taskheap),
        "orphans": len(state._orphans),
        "names": len(state.task_types()),
        "by name": len(state.tasks_by_type),
        "by worker": len(state.tasks_by_worker),
    }


def test_a_state_does_not_grow_with_the_number_of_events() -> None:
    """New tasks, names, workers and families all the time, as on a cluster of containers.

    ``T_LONG=1`` merges a million events.
    """
    cluster = Cluster(max_tasks_in_memory=1000, max_workers_in_memory=100)
    rounds = 250_000 if os.environ.get("T_LONG") else 10_000
    objects = []
    for i in range(rounds):
        told = {"uuid": f"t{i}", "node": f"w{i // 20}@h", "name": f"name{i // 10}"}
        cluster.task("received", **told, parent_id=f"t{i - i % 50}")
        cluster.task("started", **told)
        cluster.task("succeeded", **told, result="1", runtime=0.1)
        cluster.worker("heartbeat", told["node"])
        if i in (rounds // 2, rounds - 1):
            # Else the order holds one to four entries a task, as chance has it.
            cluster.state.rebuild_taskheap()
            gc.collect()
            objects.append(len(gc.get_objects()))

    assert cluster.state.event_count == 4 * rounds
    limits = {
        "tasks": 1000, "workers": 100, "order": 4000, "orphans": 1000, "names": 1000,
        "by name": 1000, "by worker": 100,
    }  # fmt: skip
    sizes = held(cluster.state)
    assert {name: size for name, size in sizes.items() if size > limits[name]} == {}
    half, full = objects
    assert full < half * 1.05


def test_nodes_are_announced_when_they_join_and_leave() -> None:
    seen: list[Any] = []
    cluster = Cluster(
        on_node_join=lambda worker: seen.append(("join", worker.hostname)),
        on_node_leave=lambda worker: seen.append(("leave", worker.hostname)),
    )

    cluster.worker("online")
    cluster.worker("heartbeat")
    cluster.worker("offline")

    assert seen == [("join", "w1@h"), ("leave", "w1@h")]
    assert "w1@h" not in cluster.state.workers


def test_the_callback_sees_each_event_before_it_is_merged() -> None:
    seen = []
    cluster = Cluster(callback=lambda state, event: seen.append((event["type"], len(state.tasks))))

    cluster.task("received")

    assert seen == [("task-received", 0)]


def test_clearing_keeps_the_tasks_under_way(cluster: Cluster) -> None:
    cluster.task("received", "done")
    cluster.task("succeeded", "done")
    cluster.task("received", "running")

    cluster.state.clear_tasks()
    assert list(cluster.state.tasks) == ["running"]
    assert [uuid for uuid, _ in cluster.state.tasks_by_time()] == ["running"]

    cluster.state.clear(ready=False)
    assert not cluster.state.tasks
    assert not cluster.state.workers
    assert cluster.state.event_count == 0


def test_no_event_is_merged_while_the_state_is_frozen(cluster: Cluster) -> None:
    cluster.task("succeeded")

    def look() -> bool:
        return cluster.state._mutex.locked()

    assert cluster.state.freeze_while(look)
    assert not cluster.state._mutex.locked()
    cluster.state.freeze_while(lambda: None, clear_after=True)
    assert not cluster.state.tasks


def test_a_state_survives_a_pickle_with_its_indexes(cluster: Cluster) -> None:
    cluster.worker("online")
    cluster.task("received", "parent", name="add")
    cluster.task("received", "child", name="add", parent_id="parent")

    again: State = pickle.loads(pickle.dumps(cluster.state))

    assert [uuid for uuid, _ in again.tasks_by_type("add")] == ["child", "parent"]
    assert {task.uuid for task in again.tasks_by_worker["w1@h"]} == {"parent", "child"}
    assert {task.uuid for task in again.tasks["parent"].children} == {"child"}
    assert again.workers["w1@h"].hostname == "w1@h"
    assert again.event_count == 3
    assert again.task_types() == ["add"]


def test_events_of_other_groups_go_to_their_handler(cluster: Cluster) -> None:
    seen = []
    cluster.state.handlers["weather"] = seen.append

    cluster._event("weather-rain", "w1@h", {})
    cluster._event("unheard-of", "w1@h", {})

    assert [event["type"] for event in seen] == ["weather-rain"]


def test_a_clock_that_differs_is_warned_about_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        cluster.worker("heartbeat", timestamp=1000.0, local_received=1060.0)

    warnings = [r for r in caplog.records if "differs from ours" in r.getMessage()]
    assert len(warnings) == 1


def test_workers_and_tasks_are_equal_by_name_and_id() -> None:
    assert Worker("a@h", pid=1) == Worker("a@h", pid=2) != Worker("b@h")
    assert len({Task("x"), Task("x"), Task("y")}) == 2
    assert Task("x") != "x"
