"""The benchmarks run, and say what they have measured."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from t.benchmarks.__main__ import render
from t.benchmarks.bed import ROOT, Peer

pytestmark = pytest.mark.redis


def test_the_command_measures_this_library() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "t.benchmarks", "--peer", "mine", "--rounds", "1",
            "--count", "2000", "--workload", "drain,enqueue,eta",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    found = re.findall(r"^(\S+) +(.+?) +mine (\S+)$", done.stdout, re.MULTILINE)
    assert [(workload, figure) for workload, figure, _ in found] == [
        ("drain", "tasks/s"), ("drain", "worker µs/task"),
        ("enqueue", "tasks/s"), ("enqueue", "client µs/task"),
        ("eta", "plain task s"), ("eta", "memory MiB"), ("eta", "worker µs/task"),
    ]  # fmt: skip
    assert all(float(value.replace(",", "")) >= 0 for _, _, value in found)


def test_figures_are_medians_with_ratios_to_the_first_peer() -> None:
    table = {("drain", "tasks/s"): {"mine": [30.0, 10.0, 20.0], "other": [5.0], "third": []}}
    assert render(table, ["mine", "other", "third"]).split("mine")[1] == (
        " 20   other 5 (x 0.25)   third -"
    )


def test_a_peer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no peer: 'celery=/nowhere'"):
        Peer.parse("celery=/nowhere")
    assert Peer.parse("mine").python == sys.executable
