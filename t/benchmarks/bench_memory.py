"""
Watch the memory of one worker through many tasks that do nothing.

Run as ``python -m t.benchmarks.bench_memory [TASKS [STEP]]``: a prefork worker with two processes
on a Redis of its own. A tenth of the results is stored, for a minute each. After each STEP tasks
the queue is empty for a moment, and the resident memory of each process is printed, in MiB.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery
from t.benchmarks.bed import Worker as ProcessTree
from t.harness.servers import RedisServer, ask, wait_until
from t.harness.worker import ROOT, WorkerProcess

MODULE = """
import os
from celery import Celery

app = Celery("memory", broker=os.environ["MEMORY_REDIS"], backend=os.environ["MEMORY_REDIS"])
app.conf.update(result_expires=60, task_ignore_result=True)


@app.task(name="memory.nothing")
def nothing():
    pass


@app.task(name="memory.stored", ignore_result=False)
def stored():
    return 1
"""

#: Messages sent at a time, and how many may wait in the queue.
AT_ONCE, BACKLOG = 500, 2_000
#: Of so many results one is stored.
STORED_OF = 10
#: Tasks before the first line: a worker that has done nothing has not loaded all of its code.
FIRST = 2_000
#: Seconds for what is in the queue.
PATIENCE_S = 300.0


def waiting(redis: RedisServer) -> int:
    """Return the length of the queue."""
    return int(ask(redis.port, b"LLEN celery\r\n").removeprefix(b":"))


def send(app: Celery, count: int) -> None:
    """Publish *count* tasks, some hundreds with one round trip."""
    with app.producer_or_acquire() as producer, app.amqp.batch(producer) as batch:
        for number in range(count):
            name = "memory.nothing" if number % STORED_OF else "memory.stored"
            app.send_task(name, producer=batch, ignore_result=bool(number % STORED_OF))


def row(done: int, rate: float, worker: WorkerProcess, redis: RedisServer) -> str:
    """Return a line of the table."""
    parent, *children = (ProcessTree(pid).memory_mib() for pid in [worker.pid, *worker.children()])
    keys = int(ask(redis.port, b"DBSIZE\r\n").removeprefix(b":"))
    of_children = " ".join(f"{each:6.1f}" for each in children)
    return f"{done:9} {rate:9.0f} {parent:7.1f} {of_children:>15} {keys:7}"


def main(tasks: int = 1_000_000, step: int = 50_000) -> None:
    """Run a worker, and print a line for each step."""
    with tempfile.TemporaryDirectory() as folder, RedisServer() as redis:
        (Path(folder) / "memory_app.py").write_text(MODULE)
        python_path = os.pathsep.join([folder, str(ROOT)])
        worker = WorkerProcess(
            "-P", "prefork", "-c", "2",
            conf={}, level="WARNING", app="memory_app", cwd=Path(folder),
            env={"MEMORY_REDIS": redis.url, "PYTHONPATH": python_path},
        )  # fmt: skip
        app = Celery("client", broker=redis.url, backend=redis.url, set_as_current=False)
        with worker.quietly():
            print(f"{'tasks':>9} {'a second':>9} {'parent':>7} {'children':>15} {'keys':>7}")
            done = 0
            while done < tasks:
                count = step if done else FIRST
                start = time.monotonic()
                for _ in range(0, count, AT_ONCE):
                    wait_until(lambda: waiting(redis) < BACKLOG, "the queue", PATIENCE_S)
                    send(app, AT_ONCE)
                wait_until(lambda: not waiting(redis), "the end of a step", PATIENCE_S)
                done += count
                rate = count / (time.monotonic() - start)
                print(row(done, rate, worker, redis), flush=True)
            if worker.stop():
                raise SystemExit(worker.text())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
