"""Workflows across implementations: each sends, each runs, and both work on one header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from t.interop.nodes import Site, Worker, run_client

VALUES: dict[str, Any] = {
    "chain": 11,
    "long chain": 41,
    "group": [2 * n for n in range(20)],
    "chord": sum(2 * n for n in range(60)),
    "chord of lists": list(range(30)),
    "group in a chain": 70,
    "groups in a chain": [7, 8, 9, 10, 11],
    "chord in a header": 12,
    "chain in a header": 19,
    "chord as a body": 12,
    "starmap": [3, 7],
    "map": [1, 2, 3],
    "chunks": [[0, 2], [4, 6], [8, 10]],
    "replaced": 8,
    "replaced in a header": 9,
    "growing": 11,
    "stamped": 2,
}
FAILURES = ("failing header", "failing chain in a header")
#: Whose end the reference does not tell; sent only where our workers run alone.
OUR_FAILURES = ("failing chord in a header",)

#: Who sends, and who runs.
DIRECTIONS = {
    "ours to theirs": ("ours", ["theirs"]),
    "theirs to ours": ("theirs", ["ours"]),
    "ours to both": ("ours", ["ours", "theirs"]),
    "theirs to both": ("theirs", ["ours", "theirs"]),
}


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def site(request: pytest.FixtureRequest) -> Site:
    redis = f"redis://127.0.0.1:{request.getfixturevalue('redis_server').port}"
    if request.param == "redis":
        return Site(f"{redis}/13", f"{redis}/14")
    return Site(request.getfixturevalue("rabbitmq_server").new_url(), f"{redis}/15")


@pytest.fixture(scope="module", params=DIRECTIONS)
def outcomes(
    request: pytest.FixtureRequest, site: Site, reference_python: str, our_python: str
) -> Iterator[dict[str, Any]]:
    pythons = {"ours": our_python, "theirs": reference_python}
    sender, runners = DIRECTIONS[request.param]
    number = list(DIRECTIONS).index(request.param)
    place = Site(site.broker, site.backend, f"canvas-{number}")
    with ExitStack() as stack:
        nodes = [Worker(pythons[who], place, f"{who}{number}") for who in runners]
        for node in nodes:
            stack.enter_context(node)
        cases = [*VALUES, *FAILURES, *(OUR_FAILURES if runners == ["ours"] else ())]
        results = run_client(pythons[sender], place, *cases, program="canvas_client.py")
        results["logs"] = ["".join(node.log) for node in nodes]
        yield results


@pytest.mark.parametrize("case", VALUES)
def test_a_workflow_has_the_same_value_everywhere(outcomes: dict[str, Any], case: str):
    """B-CANV-050, B-CANV-054, B-CANV-068, B-CANV-069, B-CANV-071, B-CANV-072."""
    assert outcomes[case].get("value") == VALUES[case], outcomes[case]


def test_a_failing_header_is_told_once_everywhere(outcomes: dict[str, Any]):
    """B-CANV-051, B-CANV-057: state, error, and calls of the body's errback."""
    sent = [case for case in (*FAILURES, *OUR_FAILURES) if case in outcomes]
    assert len(sent) >= len(FAILURES)
    told = {"state": "FAILURE", "error": "ChordError", "calls": 1}
    assert {case: outcomes[case] for case in sent} == dict.fromkeys(sent, told)


def test_both_implementations_work_on_a_shared_header(outcomes: dict[str, Any]):
    """Where two workers read the queue, each of them has run some tasks."""
    for log in outcomes["logs"]:
        assert "interop.add" in log
