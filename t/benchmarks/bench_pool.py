"""
Measure the prefork pool: jobs a second and processor time of the main process for each job.

Run as ``python -m t.benchmarks.bench_pool [JOBS [CHILDREN]]``.
"""

from __future__ import annotations

import resource
import sys
import time

from kombu.asynchronous import Hub

from celery.concurrency.asynpool import AsynPool

REQUEST = {
    "id": "0f7b6d1e-1c5b-4a7e-b7ad-6f7ac2b0d6a1", "task": "proj.tasks.add", "lang": "py",
    "root_id": "0f7b6d1e-1c5b-4a7e-b7ad-6f7ac2b0d6a1", "parent_id": None, "group": None,
    "retries": 0, "timelimit": [None, None], "argsrepr": "(2, 2)", "kwargsrepr": "{}",
    "origin": "gen1@host", "expires": None, "eta": None, "ignore_result": False,
    "stamped_headers": None, "stamps": {}, "replaced_task_nesting": 0, "shadow": None,
    "reply_to": "", "correlation_id": "0f7b6d1e-1c5b-4a7e-b7ad-6f7ac2b0d6a1",
    "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": None},
}  # fmt: skip
ARGUMENTS = (
    "proj.tasks.add", REQUEST["id"], REQUEST, b'[[2, 2], {}, {"callbacks": null, "chain": null}]',
    "application/json", "utf-8",
)  # fmt: skip


def no_op(*args: object) -> tuple[int, str, float]:
    return 0, "None", 0.0


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(jobs: int, children: int, window: int, *, evented: bool) -> str:
    """Keep *window* jobs for each child with the pool until *jobs* have ended."""
    pool = AsynPool(children, threads=not evented)
    hub = Hub() if evented else None
    state = {"left": jobs, "open": 0}

    def send() -> None:
        state["open"] += 1
        state["left"] -= 1
        pool.apply_async(
            no_op, ARGUMENTS, accept_callback=on_accept, callback=on_success, error_callback=print
        )

    def on_accept(pid: int, when: float) -> None:
        pass

    def on_success(result: object) -> None:
        state["open"] -= 1
        if state["left"] > 0:
            send()

    if hub is not None:
        pool.register_with_event_loop(hub)
    pool.apply_async(no_op, ARGUMENTS, callback=lambda _: None)
    started, used = time.perf_counter(), cpu()
    for _ in range(window * children):
        send()
    while state["left"] > 0 or state["open"]:
        if hub is not None:
            hub.run_once()
        else:
            time.sleep(0.01)
    seconds, used = time.perf_counter() - started, cpu() - used
    pool.close()
    pool.join()
    how = "hub" if evented else "thread"
    return (
        f"{how:6} {children} children, {window:2} jobs each: {jobs / seconds:7.0f} jobs/s, "
        f"{used / jobs * 1e6:5.1f} us of the main process a job"
    )


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    for evented in (True, False):
        for window in (1, 2, 4, 64):
            print(measure(count, size, window, evented=evented))
