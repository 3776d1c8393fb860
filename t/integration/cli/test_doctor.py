"""``celery doctor`` on real workers: troubles are made, and have to be found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t.harness.servers import free_port
from t.harness.worker import WorkerProcess
from t.integration.cli.conftest import Program

pytestmark = pytest.mark.redis

PROJECT = """
    import os, time
    skew = float(os.environ.get("T_SKEW", 0))
    if skew:
        now = time.time
        time.time = lambda: now() + skew

    from celery import Celery

    app = Celery("proj", broker=os.environ["T_BROKER"], backend=os.environ["T_BACKEND"])
    app.conf.broker_transport = os.environ.get("T_TRANSPORT")
    app.conf.accept_content = os.environ.get("T_ACCEPT", "json").split(",")
    app.conf.result_expires = 600

    @app.task
    def add(x, y):
        return x + y

    @app.task
    def wait_for(path):
        while not os.path.exists(path):
            time.sleep(0.01)

    if not os.environ.get("T_OLD"):
        @app.task(serializer=os.environ.get("T_SERIALIZER"))
        def new():
            return "new"
"""


@pytest.fixture
def clinic(program: Program) -> Program:
    import textwrap

    (program.folder / "proj.py").write_text(textwrap.dedent(PROJECT))
    return program


def worker(clinic: Program, name: str, *options: str, **env: str) -> WorkerProcess:
    """Return a worker whose environment differs from ours by *env*."""
    return WorkerProcess(
        "-n", name, *options, conf={}, app="proj", cwd=clinic.folder, env={**clinic.env, **env}
    )


def examine(clinic: Program, *options: str, **env: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor; returns exit code and document."""
    before = dict(clinic.env)
    clinic.env.update(env)
    try:
        result = clinic.run("doctor", "--json", "-t", "3", *options)
    finally:
        clinic.env.clear()
        clinic.env.update(before)
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return result.returncode, json.loads(result.stdout)


def checks(document: dict[str, Any]) -> set[str]:
    # Tests may run as root, which is told.
    return {finding["check"] for finding in document["findings"]} - {"root"}


def test_a_healthy_cluster_is_told_so(clinic: Program) -> None:
    with worker(clinic, "w1@lab", "-c", "1"), worker(clinic, "w2@lab", "-P", "threads"):
        code, document = examine(clinic)
        text = clinic.output("doctor", "-t", "3")

    assert (code, checks(document), document["ok"]) == (0, set(), True)
    assert document["workers"] == ["w1@lab", "w2@lab"]
    assert 0 < document["probe_seconds"] < 5
    assert "workers   2: w1@lab, w2@lab" in text
    assert "a task came back in" in text


def test_a_broker_that_is_down_is_named_with_its_error(clinic: Program) -> None:
    port = free_port()
    code, document = examine(clinic, T_BROKER=f"redis://127.0.0.1:{port}/0")

    assert (code, checks(document)) == (1, {"broker-unreachable"})
    assert str(port) in document["findings"][0]["text"]
    assert "refused" in document["findings"][0]["text"]


def test_a_back_end_that_is_down_is_named_soon(clinic: Program) -> None:
    port = free_port()
    code, document = examine(clinic, T_BACKEND=f"redis://127.0.0.1:{port}/0")

    assert code == 1
    assert checks(document) == {"backend-unreachable", "no-worker"}


def test_a_back_end_that_is_no_good_is_named(clinic: Program) -> None:
    code, document = examine(clinic, T_BACKEND="nosuch://somewhere")

    assert code == 1
    assert "backend-unreachable" in checks(document)


def test_nobody_at_work_is_a_problem(clinic: Program) -> None:
    assert checks(examine(clinic)[1]) == {"no-worker"}


def test_workers_that_store_elsewhere_or_know_less_are_found(clinic: Program) -> None:
    (clinic.folder / "elsewhere").mkdir()
    elsewhere = f"file://{clinic.folder / 'elsewhere'}"
    with (
        worker(clinic, "good@lab", "-P", "solo"),
        worker(clinic, "old@lab", "-P", "solo", T_OLD="1", T_BACKEND=elsewhere),
    ):
        code, document = examine(clinic)

    texts = {each["check"]: each["text"] for each in document["findings"]}
    assert code == 1
    assert {"different-backends", "stale-worker"} <= texts.keys()
    assert texts["different-backends"].startswith("old@lab")
    assert "proj.new" in texts["stale-worker"]


def test_tasks_that_no_worker_knows_or_reads_are_found(clinic: Program) -> None:
    with worker(clinic, "old@lab", "-P", "solo", T_OLD="1"):
        _, document = examine(clinic, T_SERIALIZER="pickle", T_ACCEPT="json,pickle")

    assert checks(document) - {"root-with-pickle"} == {"task-not-registered", "serializer-refused"}


def test_a_queue_without_a_worker_is_found(clinic: Program) -> None:
    clinic.output("call", "proj.add", "-a", "[1, 2]")
    with worker(clinic, "mail@lab", "-P", "solo", "-Q", "mail"):
        _, document = examine(clinic)

    assert checks(document) == {"queue-without-worker"}
    assert "1 wait there now" in document["findings"][0]["text"]


def test_two_workers_of_one_name_are_found(clinic: Program) -> None:
    """B-BACK-036: both start, and neither knows of the other; the doctor does."""
    with worker(clinic, "w@lab", "-P", "solo"), worker(clinic, "w@lab", "-P", "solo"):
        _, document = examine(clinic)

    assert "same-name" in checks(document)


def test_a_clock_that_is_wrong_is_found(clinic: Program) -> None:
    with worker(clinic, "late@lab", "-P", "solo", T_SKEW="-90"):
        _, document = examine(clinic, "--probe-timeout", "30")

    assert checks(document) == {"clock-drift"}
    assert "90 seconds behind" in document["findings"][0]["text"]


def test_an_eta_beyond_the_visibility_timeout_is_found(clinic: Program) -> None:
    kombus = {"T_TRANSPORT": "kombu.transport.redis:Transport"}
    with worker(clinic, "w@lab", "-P", "solo", **kombus) as started:
        clinic.output("call", "proj.add", "-a", "[1, 2]", "--countdown", "9000")
        started.wait_for("Task proj.add.*received")
        assert checks(examine(clinic, **kombus)[1]) == {"visibility-timeout"}
        # Our own transport renews what it holds.
        assert checks(examine(clinic)[1]) == set()


def test_a_probe_that_has_to_wait_is_explained(clinic: Program, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with worker(clinic, "w@lab", "-P", "threads", "-c", "1", "--prefetch-multiplier", "1") as one:
        clinic.output("call", "proj.wait_for", "-a", json.dumps([str(gate)]))
        one.wait_for("wait_for.*received")
        _, document = examine(clinic, "--probe-timeout", "0.5")
        gate.touch()

    assert checks(document) == {"probe-lost"}
    assert "Busy with other tasks: w@lab" in document["findings"][0]["text"]


def test_files_that_cannot_be_written_are_found(clinic: Program, tmp_path: Path) -> None:
    stale = tmp_path / "stale.pid"
    stale.write_text("4194303\n")
    _, document = examine(clinic, "-f", f"{tmp_path}/no/%n.log", "--pidfile", str(stale))

    assert checks(document) == {"no-worker", "file-not-writable", "pidfile-stale"}
