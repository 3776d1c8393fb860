"""Results and chords with real worker processes, on each kind of store."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from celery import chain, chord, group
from celery.exceptions import (
    ChordError,
    Reject,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from t.harness.servers import wait_until
from t.harness.worker import WorkerProcess, eventually
from t.integration.backends import proj

pytestmark = pytest.mark.redis

STORES = [
    pytest.param("redis"),
    # One of its tests is `test_a_worker_stores_and_counts_in_a_cluster`; here are all.
    pytest.param(
        "redis cluster",
        marks=pytest.mark.skipif(not os.environ.get("T_LONG"), reason="only with T_LONG=1"),
    ),
    pytest.param("sqlite"),
    pytest.param("memcached", marks=pytest.mark.memcached),
]
#: Seconds for anything to end, on a loaded machine.
PATIENCE_S = 60


@pytest.fixture(scope="module", params=STORES)
def store(request, tmp_path_factory, redis_server):
    """A worker with three processes, and the app of the client."""
    redis_server.flush()
    url = {"redis": lambda: redis_server.url, "sqlite": lambda: sqlite(tmp_path_factory)}
    url["redis cluster"] = lambda: request.getfixturevalue("redis_cluster").url
    url["memcached"] = lambda: request.getfixturevalue("memcached_server").url
    conf = {
        "broker_url": redis_server.url,
        "result_backend": url[request.param](),
        "task_track_started": True,
        "result_chord_retry_interval": 0.2,
    }
    proj.app.conf.update(conf)
    proj.app._local.__dict__.pop("backend", None)
    with WorkerProcess("-c", "3", conf=conf, app="t.integration.backends.proj"):
        yield request.param
    backend = proj.app.backend
    if hasattr(backend, "result_consumer"):
        backend.result_consumer.stop()
    proj.app._local.__dict__.pop("backend", None)
    proj.app.close()


def sqlite(tmp_path_factory):
    return f"db+sqlite:///{tmp_path_factory.mktemp('store')}/results.sqlite"


def stored_error(body_id):
    """Wait for the stored state of a body that fails, and return its error."""
    result = proj.app.AsyncResult(body_id)
    wait_until(result.ready, "the body", timeout_s=PATIENCE_S)
    assert result.state == "FAILURE"
    return result.result


def test_a_chord_ends_with_the_values_of_its_header(store):
    """B-CANV-050, B-CANV-051: all header tasks succeed."""
    result = chord([proj.add.s(i, i) for i in range(10)])(proj.total.s())

    assert result.get(timeout=PATIENCE_S) == 90
    assert [member.get(timeout=60) for member in result.parent] == [i + i for i in range(10)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda: proj.boom.s(), ValueError),
        (lambda: proj.boom_after_retry.s(), KeyError),
        (lambda: proj.refuse.s(), Reject),
        (lambda: proj.killed.s(), WorkerLostError),
        (lambda: proj.slow.s(), TimeLimitExceeded),
        (lambda: chain(proj.boom.s(), proj.add.s(1)), ValueError),
    ],
    ids=["raises", "fails after a retry", "rejects", "is killed", "is too slow", "chain fails"],
)
def test_a_header_task_that_fails_fails_the_body(store, bad, error):
    """B-CANV-051: the body is FAILURE with ChordError, get() raises the error of the task."""
    result = chord([proj.add.s(1, 1), bad(), proj.add.s(2, 2)])(proj.total.s())

    with pytest.raises(error):
        result.get(timeout=PATIENCE_S)
    found = stored_error(result.id)
    assert type(found) is ChordError
    assert error.__name__ in str(found) or "reject" in str(found)
    # The others run to their end.
    assert [result.parent[0].get(timeout=60), result.parent[2].get(timeout=60)] == [2, 4]


def test_a_revoked_header_task_fails_the_body(store):
    """B-CANV-051: ChordError with TaskRevokedError('revoked')."""
    late = proj.add.s(1, 1).set(countdown=2)
    result = chord([proj.add.s(1, 1), late])(proj.total.s())
    proj.app.control.revoke(result.parent[1].id)

    with pytest.raises(TaskRevokedError):
        result.get(timeout=PATIENCE_S)
    assert "TaskRevokedError('revoked')" in str(stored_error(result.id))


def test_a_body_that_fails_has_its_own_error(store):
    """B-CANV-051."""
    result = chord([proj.add.s(1, 1), proj.add.s(2, 2)])(proj.boom.s())

    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=PATIENCE_S)


def test_a_header_task_that_ignores_its_result_counts(store):
    """B-CANV-051: the value is included."""
    result = chord([proj.add.s(1, 1), proj.ignored.s(5)])(proj.same.s())

    assert result.get(timeout=PATIENCE_S) == [2, 5]


def test_a_header_task_that_ends_with_ignore_fails_the_body(store):
    """Nobody could ever complete that header: the body says so instead of waiting for ever."""
    result = chord([proj.add.s(1, 1), proj.silent.s()])(proj.total.s())

    error = stored_error(result.id)
    assert type(error) is ChordError
    assert "Ignore" in str(error)
    assert result.parent[0].get(timeout=PATIENCE_S) == 2
    assert result.parent[1].state != "SUCCESS"


def test_an_empty_header_starts_the_body_at_once(store):
    """B-CANV-051."""
    assert chord([])(proj.same.s()).get(timeout=PATIENCE_S) == []


def test_nested_workflows_end(store):
    """B-CANV-051, B-CANV-054: chord in chord, chain with group, group as body."""
    add, same, total = proj.add, proj.same, proj.total
    inner = chord([add.s(1, 1), add.s(2, 2)], total.s())
    grouped = chain(add.s(4, 5), group(add.s(0), add.s(0)))
    results = {
        "chord in chord": (chord([inner, add.s(3, 3)])(same.s()), [6, 6]),
        "chain with group": (chord([add.s(2, 2), grouped])(same.s()), [4, [9, 9]]),
        "group as body": (
            chord([add.s(1, 1), add.s(2, 2)])(group(total.s(), same.s())),
            [6, [2, 4]],
        ),
        "in a chain": (
            (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(100)).delay(),
            107,
        ),
    }

    found = {name: result.get(timeout=PATIENCE_S) for name, (result, _) in results.items()}
    assert found == {name: expected for name, (_, expected) in results.items()}


def test_a_large_header_ends(store):
    result = chord([proj.add.s(i, 1) for i in range(300)])(proj.total.s())

    assert result.get(timeout=60) == sum(range(301))


def test_a_header_grows_while_it_runs(store):
    """B-TASK-073: by several tasks at once, on any store; new values come behind the adder's."""
    result = chord([proj.add.s(1, 1), *[proj.grows.s()] * 6, proj.add.s(2, 2)])(proj.same.s())

    assert result.get(timeout=PATIENCE_S) == [2, *[1, 99] * 6, 4]


def test_a_failed_chain_is_stored_to_its_end(store):
    """B-CANV-047: later results are FAILURE with the same error."""
    result = chain(proj.add.s(1, 1), proj.boom.s(), proj.add.s(3), proj.add.s(4)).delay()

    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=PATIENCE_S)
    # The error of the one that failed is raised as soon as it is there; those after it come next.
    wait_until(result.ready, "the rest of the chain", timeout_s=PATIENCE_S)
    assert [result.state, result.parent.state] == ["FAILURE", "FAILURE"]
    assert result.parent.parent.parent.get(timeout=60) == 2


def test_an_attempt_that_is_overtaken_by_its_retry_does_not_hide_the_end(store):
    """The message of a retry is sent before RETRY is stored; its end may be stored in between."""
    result = proj.outrun.delay()

    with pytest.raises(KeyError, match="again"):
        result.get(timeout=PATIENCE_S)
    # Whatever the first attempt stores comes before its next task.
    for _ in range(6):
        proj.add.delay(1, 1).get(timeout=PATIENCE_S)
    assert proj.app.AsyncResult(result.id).state == "FAILURE"


def test_states_are_seen_on_the_way(store):
    """B-RES-004, B-RES-024: STARTED with pid and hostname, PROGRESS, SUCCESS."""
    if store != "redis":
        pytest.skip(f"{store} does not push, or tells nobody who listens")
    seen = []
    backend = proj.app.backend
    result = proj.app.AsyncResult(str(uuid.uuid4()))
    channel = backend.get_key_for_task(result.id)
    ends = []
    waiter = threading.Thread(
        target=lambda: ends.append(result.get(timeout=PATIENCE_S, on_message=seen.append))
    )
    waiter.start()
    eventually(lambda: backend.client.pubsub_numsub(channel)[0][1] == 1)
    proj.progress.apply_async(task_id=result.id)
    waiter.join(PATIENCE_S)

    assert ends == ["end"]
    assert [document["status"] for document in seen] == ["STARTED", "PROGRESS", "SUCCESS"]
    assert set(seen[0]["result"]) == {"pid", "hostname"}
