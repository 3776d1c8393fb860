"""Clients and workers of both implementations call each other, on both brokers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from t.interop.nodes import Site, Worker, run_client

EXPECTED: dict[str, dict[str, Any]] = {
    "plain": {"value": 4, "state": "SUCCESS"},
    "kwargs": {"value": 5, "state": "SUCCESS"},
    "json": {"value": {"a": [1, None, "ü"]}, "state": "SUCCESS"},
    "pickle": {"value": {"a": [1, None]}, "state": "SUCCESS"},
    "yaml": {"value": {"a": [1, None]}, "state": "SUCCESS"},
    "msgpack": {"value": {"a": [1, None]}, "state": "SUCCESS"},
    "compressed": {"value": "x" * 5000, "state": "SUCCESS"},
    "exception": {
        "error": "Refused",
        "args": ["42", "no"],
        "state": "FAILURE",
        "traceback": True,
    },
    "builtin_exception": {
        "error": "KeyError",
        "args": ["nothing"],
        "state": "FAILURE",
        "traceback": True,
    },
    "retry": {"value": 2, "state": "SUCCESS"},
    "eta": {"late_enough": True, "late_s": True},
    "expires": {"error": "TaskRevokedError", "args": ["expired"], "state": "REVOKED"},
    "link": {"value": 12, "state": "SUCCESS"},
    "request": {"state": "SUCCESS"},
    "protocol_1": {"value": 7, "state": "SUCCESS"},
    "chain": {"value": 7, "state": "SUCCESS"},
    "chord": {"value": 20, "state": "SUCCESS"},
    "group": {"value": [0, 2, 4, 6, 8]},
    "retries_exhausted": {"error": "MaxRetriesExceededError", "state": "FAILURE"},
    "ignored": {"value": None},
}

DIRECTIONS = ("our client, their worker", "their client, our worker", "ours alone")


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def site(request: pytest.FixtureRequest) -> Site:
    redis = f"redis://127.0.0.1:{request.getfixturevalue('redis_server').port}"
    if request.param == "redis":
        return Site(f"{redis}/5", f"{redis}/6")
    return Site(request.getfixturevalue("rabbitmq_server").new_url(), f"{redis}/7")


@pytest.fixture(scope="module", params=DIRECTIONS)
def outcomes(
    request: pytest.FixtureRequest, site: Site, reference_python: str, our_python: str
) -> Iterator[dict[str, Any]]:
    client, worker = {
        DIRECTIONS[0]: (our_python, reference_python),
        DIRECTIONS[1]: (reference_python, our_python),
        DIRECTIONS[2]: (our_python, our_python),
    }[request.param]
    queue = f"interop-{DIRECTIONS.index(request.param)}"
    place = Site(site.broker, site.backend, queue)
    with Worker(worker, place, f"interop{DIRECTIONS.index(request.param)}") as node:
        results = run_client(client, place)
        results["log"] = "".join(node.log)
        yield results


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_a_call_ends_as_it_would_among_equals(outcomes: dict[str, Any], case: str):
    found = outcomes[case]
    for key, value in EXPECTED[case].items():
        assert found.get(key) == value, (found, outcomes["log"][-3000:])


def test_the_request_reads_the_same(outcomes: dict[str, Any]):
    """B-TASK-006, B-TASK-007, B-TASK-009, B-TASK-012, B-TASK-014: fields of ``self.request``."""
    assert outcomes["request"]["value"] == {
        "args": [1],
        "kwargs": {"k": 2},
        "argsrepr": "(1,)",
        "retries": 0,
        "timelimit": [30, None],
        "headers": {"tenant": "a"},
        "root_is_own": True,
        "parent_id": None,
        "stamps": {},
        "delivery": ["exchange", "priority", "redelivered", "routing_key"],
    }


def test_neither_side_complains(outcomes: dict[str, Any]):
    """The worker's log has no error but those of the tasks that fail on purpose."""
    errors = [
        line
        for line in outcomes["log"].splitlines()
        if "ERROR/" in line or "CRITICAL/" in line or "RuntimeWarning" in line
    ]
    unexpected = [
        line
        for line in errors
        if not any(name in line for name in ("interop.fail", "interop.missing", "interop.retry"))
    ]
    assert unexpected == []
