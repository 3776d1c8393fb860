"""The workloads: functions from a `Bed` and a number of tasks to figures.

Each figure's name ends with its unit. None means that the library has no such thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from t.benchmarks.bed import Bed, settle

__all__ = ("AT_ONCE", "STORING", "WORKLOADS")

Figures = dict[str, float]

#: Seconds without work; processor time is counted in hundredths of a second.
IDLE_S = 10.0

#: Some take a hundred times as long as they have to.
PAUSES_PATIENCE_S = 240.0

#: Tasks that run before a measurement begins.
WARM = 500


def enqueue(bed: Bed, number: int) -> Figures | None:
    """Send tasks one by one from one process; nobody consumes."""
    return _sent(bed, "send", number)


def enqueue_many(bed: Bed, number: int) -> Figures | None:
    """Send tasks by the shortest way that the library has."""
    return _sent(bed, "send_many", number)


def _sent(bed: Bed, verb: str, number: int) -> Figures | None:
    took = bed.client(verb, number)
    if took is None:
        return None
    return {"tasks/s": number / took["wall"], "client µs/task": 1e6 * took["cpu"] / number}


def drain(bed: Bed, number: int) -> Figures | None:
    """Empty a full queue with a worker of two processes."""
    bed.client("send_many", number + WARM)
    with bed.worker() as worker:
        bed.wait_for_runs(WARM)
        first, start, cpu = bed.runs, time.monotonic(), worker.cpu_s()
        bed.wait_for_runs(number + WARM)
        wall, cpu = time.monotonic() - start, worker.cpu_s() - cpu
    done = number + WARM - first
    if not done:
        raise ValueError(f"{number} tasks are too few: all were done before the clock began")
    return {"tasks/s": done / wall, "worker µs/task": 1e6 * cpu / done}


def pauses(bed: Bed, number: int) -> Figures | None:
    """Run tasks that wait for 100 ms, a thousand at once in one process.

    The clock runs from the first start to the last end; each task is counted at both.
    """
    number //= 2
    if bed.client("send_pauses", number) is None:
        return None
    with bed.worker(1) as worker:
        bed.wait_for_runs(1)
        start, cpu = time.monotonic(), worker.cpu_s()
        bed.wait_for_runs(2 * number, PAUSES_PATIENCE_S)
        wall, cpu = time.monotonic() - start, worker.cpu_s() - cpu
    return {"seconds": wall, "worker µs/task": 1e6 * cpu / number}


def latency(bed: Bed, number: int) -> Figures | None:
    """Call a task and wait for its result, over and over."""
    with bed.ready_worker():
        took = bed.client("call", min(number, 1000))
    return took and {"p50 ms": 1e3 * took["p50"], "p99 ms": 1e3 * took["p99"]}


def group(bed: Bed, number: int) -> Figures | None:
    """Send 1000 tasks and collect their results."""
    return _flow(bed, "group")


def chord(bed: Bed, number: int) -> Figures | None:
    """Send 1000 tasks and a callback, and wait for its result."""
    return _flow(bed, "chord")


def _flow(bed: Bed, verb: str) -> Figures | None:
    with bed.ready_worker() as worker:
        settle(worker)
        cpu = worker.cpu_s()
        took = bed.client(verb, 1000)
        cpu = worker.cpu_s() - cpu
    return took and {"seconds": took["wall"], "client cpu s": took["cpu"], "worker cpu s": cpu}


def large(bed: Bed, number: int) -> Figures | None:
    """Send and run tasks with an argument of 100 KB."""
    number //= 10
    with bed.ready_worker() as worker:
        settle(worker)
        start, cpu = time.monotonic(), worker.cpu_s()
        if bed.client("send_large", number) is None:
            return None
        bed.wait_for_runs(number + 1)
        wall, cpu = time.monotonic() - start, worker.cpu_s() - cpu
    return {"tasks/s": number / wall, "worker µs/task": 1e6 * cpu / number}


def start_up(bed: Bed, number: int) -> Figures | None:
    """Start a worker; its first task waits for it."""
    bed.client("send", 1)
    start = time.monotonic()
    with bed.worker() as worker:
        bed.wait_for_runs(1)
        return {"first task s": time.monotonic() - start, "worker cpu s": worker.cpu_s()}


def eta(bed: Bed, number: int) -> Figures | None:
    """Send tasks that are due in an hour, then a plain one."""
    with bed.ready_worker() as worker:
        settle(worker)
        memory, cpu = worker.memory_mib(), worker.cpu_s()
        if bed.client("send_later", number) is None:
            return None
        start = time.monotonic()
        bed.client("send", 1)
        bed.wait_for_runs(2)
        behind = time.monotonic() - start
        settle(worker)
        return {
            "plain task s": behind,
            "memory MiB": worker.memory_mib() - memory,
            "worker µs/task": 1e6 * (worker.cpu_s() - cpu) / number,
        }


def idle(bed: Bed, number: int) -> Figures | None:
    """Have a worker of four at once do nothing for ten seconds, after its first task."""
    with bed.ready_worker() as worker:
        settle(worker)
        start, cpu = time.monotonic(), worker.cpu_s()
        time.sleep(IDLE_S)
        used = (worker.cpu_s() - cpu) / (time.monotonic() - start)
        return {"memory MiB": worker.shared_memory_mib(), "ms of cpu a second": 1000 * used}


#: The workloads by the name that the command line knows.
WORKLOADS: dict[str, Callable[[Bed, int], Figures | None]] = {
    "drain": drain,
    "drain-results": drain,
    "enqueue": enqueue,
    "enqueue-many": enqueue_many,
    "pauses": pauses,
    "latency": latency,
    "group": group,
    "chord": chord,
    "large": large,
    "start-up": start_up,
    "eta": eta,
    "idle": idle,
}

#: Those for which results are stored.
STORING = {"drain-results", "latency", "group", "chord"}

#: How many tasks a worker runs at once in a workload, where that is not its number of processes.
AT_ONCE = {"pauses": 1000, "idle": 4}
