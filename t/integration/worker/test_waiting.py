"""Tasks that wait, expire, or are revoked, on real brokers."""

from __future__ import annotations

import time
from itertools import pairwise
from signal import SIGTERM

import pytest

from t.harness.worker import eventually


def hold_the_only_process(project):
    """Keep the pool busy until the gate opens."""
    project.send("gated", str(project.journal), "holder", str(project.gate()))
    project.journal.wait_for("begin holder")


def test_an_expired_task_is_revoked_on_arrival(project):
    """B-WORK-037, B-WORK-038: logged as received, discarded, REVOKED with 'expired'."""
    past = "2001-01-01T00:00:00+00:00"
    worker = project.worker("-c1")
    result = project.send("note", str(project.journal), "never", headers={}, expires=past)

    worker.wait_for(rf"Task note\[{result.id}\] received")
    worker.wait_for(rf"Discarding revoked task: note\[{result.id}\]")
    eventually(lambda: result.state == "REVOKED")
    assert str(result.result) == "expired"
    assert "never" not in project.journal.lines


def test_a_task_that_expires_behind_a_busy_process_is_revoked_at_its_turn(on_redis):
    """B-WORK-038: expiry is checked again when the task is about to start."""
    worker = on_redis.worker("-c1")
    hold_the_only_process(on_redis)
    result = on_redis.send("note", str(on_redis.journal), "never", expires=0.5)
    worker.wait_for(rf"Task note\[{result.id}\] received")
    expired_at = time.time() + 0.6
    assert result.state == "PENDING"
    eventually(lambda: time.time() > expired_at)
    on_redis.gate().touch()

    worker.wait_for(rf"Discarding revoked task: note\[{result.id}\]")
    eventually(lambda: result.state == "REVOKED")
    assert "never" not in on_redis.journal.lines


def test_a_task_may_expire_while_it_waits_for_its_eta(on_redis):
    """B-WORK-038: countdown 1, expires 0.5: pending until the ETA, then revoked."""
    worker = on_redis.worker("-c1")
    result = on_redis.send("note", str(on_redis.journal), "never", countdown=1, expires=0.5)
    worker.wait_for(rf"Task note\[{result.id}\] received")

    worker.wait_for(rf"Discarding revoked task: note\[{result.id}\]")
    eventually(lambda: result.state == "REVOKED")
    assert "never" not in on_redis.journal.lines


def test_an_eta_in_the_past_runs_at_once_and_one_ahead_on_time(project):
    """B-WORK-039, B-WORK-052: countdown 1.3 starts 1.3 s after publishing, give or take."""
    project.worker("-c1")
    project.send("note", str(project.journal), "past", eta="2001-01-01T00:00:00+00:00")
    project.journal.wait_for("past")

    sent_at = time.monotonic()
    result = project.send("note", str(project.journal), "later", countdown=1.3)
    project.journal.wait_for("later")
    waited = time.monotonic() - sent_at

    assert 1.25 <= waited < 10
    eventually(lambda: result.state == "SUCCESS")


def test_a_rate_limit_spaces_tasks_after_their_eta(on_redis):
    """B-WORK-039, B-WORK-053, B-WORK-067: two a second: half a second between any two."""
    on_redis.worker("-c2")
    for number in range(3):
        on_redis.send("limited", str(on_redis.journal), f"l{number}", countdown=0.5)

    starts = eventually(lambda: len(on_redis.journal.lines) == 3 and on_redis.journal.lines)
    times = sorted(float(line.split()[1]) for line in starts)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.45 < gap < 5 for gap in gaps), gaps


def test_a_rate_limit_has_no_burst(on_redis):
    """B-WORK-067: the first runs immediately, each other half a second after the last."""
    on_redis.worker("-c4")
    before = time.time()
    for number in range(4):
        on_redis.send("limited", str(on_redis.journal), f"l{number}")

    starts = eventually(lambda: len(on_redis.journal.lines) == 4 and on_redis.journal.lines)
    times = sorted(float(line.split()[1]) for line in starts)
    assert times[0] - before < 5
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(0.45 < gap < 5 for gap in gaps), gaps


def test_rate_limits_can_be_disabled(on_redis):
    """B-WORK-067: with worker_disable_rate_limits nobody waits."""
    on_redis.worker("-c2", conf={"worker_disable_rate_limits": True})
    before = time.time()
    for number in range(6):
        on_redis.send("limited", str(on_redis.journal), f"l{number}")

    starts = eventually(lambda: len(on_redis.journal.lines) == 6 and on_redis.journal.lines)
    assert max(float(line.split()[1]) for line in starts) - before < 10


def test_a_revoked_task_is_discarded_when_its_turn_comes(project):
    """B-WORK-041: all workers remember the id; it is discarded and acknowledged."""
    worker = project.worker("-c1")
    hold_the_only_process(project)
    result = project.send("note", str(project.journal), "never")
    worker.wait_for(rf"Task note\[{result.id}\] received")

    result.revoke()
    worker.wait_for(f"Tasks flagged as revoked: {result.id}")
    project.gate().touch()

    worker.wait_for(rf"Discarding revoked task: note\[{result.id}\]")
    eventually(lambda: result.state == "REVOKED")
    assert str(result.result) == "revoked"
    project.send("add", 1, 1).get(timeout=20)
    assert "never" not in project.journal.lines
    assert worker.stop() == 0
    assert project.queue_length() == 0


def test_a_revoked_task_is_discarded_when_its_eta_comes(on_redis):
    """B-WORK-041."""
    worker = on_redis.worker("-c1")
    result = on_redis.send("note", str(on_redis.journal), "never", countdown=1)
    worker.wait_for(rf"Task note\[{result.id}\] received")
    result.revoke()

    worker.wait_for(rf"Discarding revoked task: note\[{result.id}\]")
    assert "never" not in on_redis.journal.lines


def test_an_id_revoked_before_it_is_sent_never_runs(on_redis):
    """B-WORK-043."""
    worker = on_redis.worker("-c1")
    on_redis.app.control.revoke("never-ever")
    worker.wait_for("Tasks flagged as revoked: never-ever")

    result = on_redis.send("note", str(on_redis.journal), "never", task_id="never-ever")

    worker.wait_for(r"Discarding revoked task: note\[never-ever\]")
    eventually(lambda: result.state == "REVOKED")


def test_terminating_ends_the_process_of_the_task(project):
    """B-WORK-046: log line, REVOKED with 'terminated', and a new child."""
    worker = project.worker("-c1")
    child = project.send("pid").get(timeout=20)
    result = project.send("gated", str(project.journal), "a", str(project.gate()))
    project.journal.wait_for("begin a")

    result.revoke(terminate=True)

    worker.wait_for(rf"Terminating {result.id} \((15|Signals.SIGTERM)\)")
    eventually(lambda: result.state == "REVOKED")
    assert str(result.result) == "terminated"
    assert project.send("pid").get(timeout=20) != child
    assert "end a" not in project.journal.lines


def test_a_task_terminated_before_it_starts_is_ended_as_it_is_accepted(on_redis):
    """B-WORK-047: an id that runs nowhere is remembered as revoked."""
    worker = on_redis.worker("-c1")
    replies = on_redis.app.control.revoke("nowhere", terminate=True, reply=True)

    assert list(replies[0].values()) == [{"ok": "terminate: tasks unknown"}]
    on_redis.send("note", str(on_redis.journal), "never", task_id="nowhere")
    worker.wait_for(r"Discarding revoked task: note\[nowhere\]")


def test_revoking_by_stamp(on_redis):
    """B-WORK-045, B-WORK-050: discarded with the stamp in the log line."""
    worker = on_redis.worker("-c1")
    on_redis.app.control.revoke_by_stamped_headers({"k": "v"}, reply=True)

    on_redis.send(
        "note", str(on_redis.journal), "never",
        task_id="stamped", stamped_headers=["k"], k="v",
    )  # fmt: skip

    worker.wait_for(r"Discarding revoked task: note\[stamped\] \(revoked by header: \{'k': 'v'\}\)")
    assert "never" not in on_redis.journal.lines


def test_revoked_ids_survive_a_restart_in_the_state_file(on_redis, tmp_path):
    """B-WORK-049: after a restart inspect lists the id, and its task is discarded."""
    options = ("-c1", f"--statedb={tmp_path / 'state'}")
    first = on_redis.worker(*options)
    on_redis.app.control.revoke("kept")
    first.wait_for("Tasks flagged as revoked: kept")
    assert first.stop(SIGTERM) == 0

    second = on_redis.worker(*options)
    assert list(on_redis.app.control.inspect().revoked().values()) == [["kept"]]
    on_redis.send("note", str(on_redis.journal), "never", task_id="kept")
    second.wait_for(r"Discarding revoked task: note\[kept\]")


def test_a_new_worker_hears_of_revoked_ids_from_its_neighbour(project):
    """B-WORK-002, B-WORK-049: by mingle."""
    first = project.worker("-c1", "-n", "one@test")
    first.wait_for("mingle: all alone")
    project.app.control.revoke("heard")
    first.wait_for("Tasks flagged as revoked: heard")

    second = project.worker("-c1", "-n", "two@test")
    second.wait_for("mingle: sync with 1 nodes")
    second.wait_for("mingle: sync complete")

    replies = project.app.control.inspect(destination=["two@test"]).revoked()
    assert replies == {"two@test": ["heard"]}


def test_a_finished_task_is_not_marked_as_revoked(on_redis):
    """B-WORK-042: revoking a SUCCESS leaves it."""
    worker = on_redis.worker("-c1")
    result = on_redis.send("add", 1, 1)
    assert result.get(timeout=20) == 2

    result.revoke()
    worker.wait_for("Tasks flagged as revoked")

    assert on_redis.app.AsyncResult(result.id).state == "SUCCESS"


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_the_worker_runs_on_after_terminating(on_redis, signal):
    """B-WORK-046: any signal may be asked for."""
    on_redis.worker("-c1")
    result = on_redis.send("gated", str(on_redis.journal), "a", str(on_redis.gate()))
    on_redis.journal.wait_for("begin a")
    result.revoke(terminate=True, signal=signal)

    eventually(lambda: result.state == "REVOKED")
    assert on_redis.send("add", 1, 1).get(timeout=20) == 2
