"""However badly a body ends, its task gets one clear final state, and the worker goes on."""

from __future__ import annotations

import pytest

POOLS = ["prefork", "threads", "solo"]

#: Task of the project, and what its stored error is called. Both are the same in every pool.
ENDINGS = {
    "exits": "WorkerLostError",
    "interrupts": ("KeyboardInterrupt", "WorkerLostError"),
    "runs_out_of_memory": "MemoryError",
    "recurses": "RecursionError",
    "returns_what_no_serializer_takes": "EncodeError",
    "raises_a_local_class": ("Local", "UnpickleableExceptionWrapper"),
    "raises_a_base_exception": "Odd",
}


@pytest.mark.parametrize("pool", POOLS)
def test_a_body_that_ends_badly_fails_its_task_alone(on_redis, pool):
    """B-POOL-002, B-TASK-054, B-TASK-055, B-TASK-061, B-TASK-062: upstream's worker may die."""
    project = on_redis
    worker = project.worker("-P", pool, "-c", "2")

    for name, kinds in ENDINGS.items():
        result = project.send(name)
        error = result.get(timeout=30, propagate=False)
        assert result.state == "FAILURE", (name, worker.text())
        assert type(error).__name__ in ((kinds,) if isinstance(kinds, str) else kinds), name

    assert project.send("add", 2, 2).get(timeout=30) == 4
    assert worker.process.poll() is None


def test_a_body_that_ends_its_process_fails_its_task_alone(on_redis):
    """B-TASK-054: ``os._exit`` in a pool process; no other pool can survive that."""
    project = on_redis
    worker = project.worker("-P", "prefork", "-c", "2")

    error = project.send("ends_its_process").get(timeout=30, propagate=False)

    assert type(error).__name__ == "WorkerLostError"
    assert project.send("add", 2, 2).get(timeout=30) == 4
    assert worker.process.poll() is None
