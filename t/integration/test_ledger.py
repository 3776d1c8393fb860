"""Ten thousand tasks that succeed, fail, retry and wait: exactly the right states at the end."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from celery import Celery, states
from t.harness.worker import WorkerProcess

APP = """
import os
from celery import Celery

app = Celery("ledger_app", broker=os.environ["LEDGER_BROKER"], backend=os.environ["LEDGER_RESULTS"])
app.conf.worker_prefetch_multiplier = 16


class Broken(Exception):
    pass


@app.task(name="ledger.succeed")
def succeed(n):
    return n


@app.task(name="ledger.fail")
def fail(n):
    raise Broken(n)


@app.task(name="ledger.retry", bind=True, max_retries=5, default_retry_delay=0)
def retry(self, n, times):
    if self.request.retries < times:
        raise self.retry(exc=Broken(n))
    return n


@app.task(name="ledger.give_up", bind=True, max_retries=2, default_retry_delay=0)
def give_up(self, n):
    raise self.retry(exc=Broken(n))


@app.task(name="ledger.limited", rate_limit="200/s")
def limited(n):
    return n


@app.task(name="ledger.late", acks_late=True)
def late(n):
    return n
"""

TASKS = 10_000
ALL_DONE_S = 240.0


def plan(seed: int) -> list[tuple[str, tuple[int, ...], str]]:
    """Draw the tasks: name, arguments, and the state each has to end in."""
    draw = random.Random(seed)
    kinds = {
        "ledger.succeed": (60, states.SUCCESS),
        "ledger.fail": (12, states.FAILURE),
        "ledger.retry": (10, states.SUCCESS),
        "ledger.give_up": (4, states.FAILURE),
        "ledger.limited": (4, states.SUCCESS),
        "ledger.late": (10, states.SUCCESS),
    }
    chosen = draw.choices(list(kinds), [weight for weight, _ in kinds.values()], k=TASKS)
    return [
        (name, (n, draw.randint(1, 4)) if name == "ledger.retry" else (n,), kinds[name][1])
        for n, name in enumerate(chosen)
    ]


@pytest.fixture(params=["redis", "rabbitmq", "embedded"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if request.param == "embedded":
        return f"sqlite:///{tmp_path}/ledger.db", f"sqlite:///{tmp_path}/ledger.db"
    redis_url = request.getfixturevalue("redis_url")
    if request.param == "redis":
        return redis_url, redis_url
    return request.getfixturevalue("amqp_url"), redis_url


@pytest.mark.timeout(360)
def test_every_task_ends_in_exactly_its_state(urls: tuple[str, str], tmp_path: Path):
    broker, results = urls
    (tmp_path / "ledger_app.py").write_text(APP)
    env = {"LEDGER_BROKER": broker, "LEDGER_RESULTS": results}
    client = Celery("client", broker=broker, backend=results, set_as_current=False)
    expected = {}
    with WorkerProcess(
        "-c", "2", conf={}, env=env, app="ledger_app", cwd=tmp_path, level="CRITICAL"
    ).quietly() as worker:
        with client.producer_or_acquire() as producer:
            for name, args, state in plan(seed=1):
                result = client.send_task(name, args, producer=producer)
                expected[result.id] = (state, args[0])
        metas = wait_for_all(client, list(expected), worker)

    wrong = {
        task_id: (metas[task_id], wanted)
        for task_id, wanted in expected.items()
        if not ended_as(metas[task_id], *wanted)
    }
    assert wrong == {}


def ended_as(meta: dict, state: str, n: int) -> bool:
    """Say whether a stored document is what task *n* has to leave behind."""
    if meta["status"] != state:
        return False
    if state == states.SUCCESS:
        return bool(meta["result"] == n)
    return type(meta["result"]).__name__ == "Broken" and meta["result"].args == (n,)


def wait_for_all(client: Celery, ids: list[str], worker: WorkerProcess) -> dict[str, dict]:
    """Read the documents of all tasks until each is final."""
    backend = client.backend
    metas: dict[str, dict] = {}
    end = time.monotonic() + ALL_DONE_S
    missing = ids
    while missing:
        assert time.monotonic() < end, f"{len(missing)} of {len(ids)} not done\n{worker.text()}"
        for start in range(0, len(missing), 500):
            some = missing[start : start + 500]
            found = backend.mget([backend.get_key_for_task(task_id) for task_id in some])
            for task_id, payload in zip(some, found, strict=True):
                if payload:
                    meta = backend.decode_result(payload)
                    if meta["status"] in states.READY_STATES:
                        metas[task_id] = meta
        missing = [task_id for task_id in missing if task_id not in metas]
    return metas
