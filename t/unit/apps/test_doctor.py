"""Every finding of the doctor, from facts; and how facts about files and URLs are read."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from celery.apps._examination import comparable_url, path_facts
from celery.apps.doctor import (
    CHECKS,
    Facts,
    Level,
    PathFacts,
    ProbeFacts,
    WorkerFacts,
    diagnose,
)

REDIS = "redis://127.0.0.1:6379/1"

WORKER = WorkerFacts(
    name="w1@lab",
    tasks=frozenset({"proj.add"}),
    queues=frozenset({"celery"}),
    backend=REDIS,
    accepts=frozenset({"json"}),
    result_serializer="json",
    active=0,
    pool_size=2,
    clock_offset_s=0.1,
)

WELL = Facts(
    broker="redis://127.0.0.1:6379/0",
    backend=REDIS,
    queue_of={"proj.add": "celery"},
    serializers={"json": frozenset({"proj.add"})},
    accepts=frozenset({"json"}),
    workers=(WORKER,),
    waiting={"celery": 0},
    probe=ProbeFacts(queue="celery", seconds=0.02, waited_s=5.0),
)
LOST = ProbeFacts(queue="celery", seconds=None, waited_s=5.0)


def found(facts: Facts) -> list[str]:
    return [finding.check for finding in diagnose(facts)]


def test_nothing_is_found_where_all_is_well() -> None:
    assert diagnose(WELL) == []


TROUBLES = {
    "broker-limits": replace(WELL, broker_limits="The broker (Pyro) carries no broadcasts."),
    "broker-unreachable": replace(WELL, broker_error="refused", workers=(), probe=None),
    "backend-unreachable": replace(WELL, backend_error="refused", probe=None),
    "results-disabled": replace(
        WELL,
        results_disabled=True,
        backend="",
        probe=None,
        workers=(replace(WORKER, backend=""),),
    ),
    "results-ignored": replace(WELL, results_ignored=True),
    "no-worker": replace(WELL, workers=(), probe=None),
    "same-name": replace(WELL, workers=(replace(WORKER, answers=2),)),
    "different-backends": replace(WELL, workers=(replace(WORKER, backend="rpc://"),)),
    "task-not-registered": replace(WELL, workers=(replace(WORKER, tasks=frozenset()),)),
    "stale-worker": replace(
        WELL, workers=(WORKER, replace(WORKER, name="old@lab", tasks=frozenset()))
    ),
    "queue-without-worker": replace(
        WELL,
        queue_of={"proj.add": "celery", "proj.mail": "mail"},
        waiting={"mail": 3},
        workers=(replace(WORKER, tasks=frozenset({"proj.add", "proj.mail"})),),
    ),
    "serializer-refused": replace(WELL, serializers={"yaml": frozenset({"proj.add"})}),
    "visibility-timeout": replace(
        WELL, visibility_timeout_s=3600.0, workers=(replace(WORKER, longest_eta_s=7200.0),)
    ),
    "clock-drift": replace(WELL, workers=(replace(WORKER, clock_offset_s=-61.0),)),
    "probe-lost": replace(WELL, probe=LOST),
    "probe-failed": replace(WELL, probe=replace(LOST, error="KeyError: 'x'")),
    "file-not-writable": replace(
        WELL, paths=(PathFacts(origin="the log file", path="/x/y", trouble="no folder /x"),)
    ),
    "pidfile-held": replace(
        WELL, paths=(PathFacts(origin="the pid file", path="/x/y", held_by=7),)
    ),
    "pidfile-stale": replace(
        WELL, paths=(PathFacts(origin="the pid file", path="/x/y", is_stale=True),)
    ),
    "root": replace(WELL, is_root=True),
    "root-with-pickle": replace(WELL, is_root=True, accepts_pickle=True),
}


@pytest.mark.parametrize("check", TROUBLES)
def test_each_trouble_is_found_alone_with_a_remedy(check: str) -> None:
    (finding,) = diagnose(TROUBLES[check])

    assert finding.check == check
    assert finding.text.endswith(".")
    assert finding.remedy.endswith(".")


def test_what_may_be_meant_so_is_only_a_warning() -> None:
    levels = {check: diagnose(facts)[0].level for check, facts in TROUBLES.items()}

    assert {check for check, level in levels.items() if level is Level.WARNING} == {
        "broker-limits", "results-disabled", "results-ignored", "pidfile-held",
        "pidfile-stale", "root",
    }  # fmt: skip


def test_every_check_is_provoked_above() -> None:
    provoking = {
        check for check in CHECKS if any(list(check(facts)) for facts in TROUBLES.values())
    }
    assert provoking == set(CHECKS)


def test_problems_come_first() -> None:
    facts = replace(TROUBLES["root"], workers=(), probe=None)

    assert found(facts) == ["no-worker", "root"]


def test_what_workers_did_not_tell_is_not_held_against_them() -> None:
    facts = replace(
        WELL, workers=(WorkerFacts(name="silent@lab"),), visibility_timeout_s=1.0, probe=None
    )

    assert diagnose(facts) == []


def test_without_remote_control_silence_means_nothing() -> None:
    assert diagnose(replace(WELL, workers=(), probe=None, has_remote_control=False)) == []


def test_a_lost_probe_is_explained_by_workers_that_are_busy() -> None:
    facts = replace(WELL, probe=LOST, workers=(replace(WORKER, active=2),))

    (finding,) = diagnose(facts)
    assert "Busy with other tasks: w1@lab" in finding.text


def test_a_lost_probe_is_explained_by_another_back_end() -> None:
    facts = replace(WELL, probe=LOST, workers=(replace(WORKER, backend="rpc://"),))

    backends, probe = diagnose(facts)
    assert backends.check == "different-backends"
    assert "another back-end" in probe.text


def test_results_that_we_would_refuse_are_found() -> None:
    facts = replace(WELL, workers=(replace(WORKER, result_serializer="pickle"),))

    (finding,) = diagnose(facts)
    assert finding.check == "serializer-refused"
    assert "result_accept_content" in finding.remedy


def test_a_worker_of_another_queue_need_not_know_the_task() -> None:
    other = replace(WORKER, name="mail@lab", queues=frozenset({"mail"}), tasks=frozenset())

    assert diagnose(replace(WELL, workers=(WORKER, other))) == []


def test_tasks_that_drop_their_results_are_named_but_not_all() -> None:
    names = frozenset(f"proj.t{n}" for n in range(9))

    (finding,) = diagnose(replace(WELL, tasks_ignoring=names))
    assert "proj.t0" in finding.text
    assert "and 4 more" in finding.text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://localhost", "redis://:secret@127.0.0.1:6379/0"),
        ("redis://h/2?ssl_cert_reqs=none", "redis://user:********@h:6379/2"),
        ("amqp://localhost//", "amqp://guest:**@127.0.0.1:5672//"),
        ("disabled", None),
        ("disabled://", ""),
        ("rpc://", "rpc://"),
    ],
)
def test_urls_of_the_same_place_are_equal(one: str, other: str | None) -> None:
    assert comparable_url(one) == comparable_url(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://localhost/0", "redis://localhost/1"),
        ("redis://localhost", "redis://elsewhere"),
        ("redis://h:6379", "redis://h:6380"),
        ("rpc://", ""),
        ("db+sqlite:///a.db", "db+sqlite:///b.db"),
        ("file:///tmp/a", "file:///tmp/b"),
    ],
)
def test_urls_of_different_places_are_not(one: str, other: str) -> None:
    assert comparable_url(one) != comparable_url(other)


def test_no_password_is_shown() -> None:
    assert "secret" not in comparable_url("redis://:secret@h/0?password=secret")


def test_a_file_that_can_be_written_is_no_trouble(tmp_path: Path) -> None:
    facts = path_facts("the log file", str(tmp_path / "w.log"))

    assert (facts.trouble, facts.held_by, facts.is_stale) == (None, None, False)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert path_facts("x", str(tmp_path / "no" / "w.log")).trouble == (
        f"there is no folder {tmp_path}/no"
    )
    assert path_facts("x", str(tmp_path)).trouble == "it is a folder"


def test_a_missing_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, and tests may run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    file = tmp_path / "w.log"

    assert path_facts("x", str(file)).trouble == f"no permission in {tmp_path}"
    file.touch()
    assert path_facts("x", str(file)).trouble == "permission denied"


def test_a_pid_file_says_whether_its_process_lives(tmp_path: Path) -> None:
    file = tmp_path / "w.pid"
    file.write_text(f"{os.getpid()}\n")
    assert path_facts("x", str(file), is_pidfile=True).held_by == os.getpid()

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    file.write_text(f"{gone.pid}\n")
    assert path_facts("x", str(file), is_pidfile=True).is_stale

    file.write_text("nonsense")
    facts = path_facts("x", str(file), is_pidfile=True)
    assert (facts.trouble, facts.held_by, facts.is_stale) == (None, None, False)
