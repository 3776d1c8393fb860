"""How fast workflows are sent and run, and how large their messages are.

Runs under any interpreter that has a ``celery``, ours or another, with its public API only::

    python t/benchmarks/bench_canvas.py [--against OTHER_PYTHON] [--rounds 3] [CASE…]

Each round starts a Redis server, a worker (prefork, two processes) and a client of each
interpreter in turn, so that both see the same machine; the best of the rounds counts. Three
sizes show how a figure grows. Beside the time on the clock stands the processor time of client
and worker, which says the same on a machine that has other work to do (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import celery

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379")
QUEUE = "bench"
TIMEOUT_S = 600
#: A figure is the best of so many runs, unless they take too long.
REPEATS, REPEAT_S = 5, 1.0

app = celery.Celery("bench_canvas", broker=f"{URL}/0", backend=f"{URL}/1")
app.conf.update(
    task_default_queue=QUEUE,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)


@app.task(name="bench.noop")
def noop(*args: Any) -> None:
    pass


@app.task(name="bench.size")
def size(values: Any) -> int:
    return len(values)


# -- Cases: each takes a size and returns seconds or bytes


Seconds = tuple[float, float]


def _cpu_of_tree(pid: int) -> float:
    """Return the processor seconds of a process and its descendants, the ended ones included."""
    base = Path(f"/proc/{pid}")
    fields = (base / "stat").read_text().rpartition(")")[2].split()
    used = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = (base / f"task/{pid}/children").read_text().split()
    return used + sum(_cpu_of_tree(int(child)) for child in children)


def _cpu() -> float:
    worker = os.environ.get("BENCH_WORKER")
    return time.process_time() + (_cpu_of_tree(int(worker)) if worker else 0)


def _timed(call: Callable[[], Any]) -> Seconds:
    """Return how long *call* takes on the clock, and on the processors."""
    used, started = _cpu(), time.perf_counter()
    call()
    return time.perf_counter() - started, _cpu() - used


def _largest_message() -> int:
    """Return the size in bytes of the largest waiting message, and delete all."""
    import redis

    client = redis.Redis.from_url(f"{URL}/0")
    largest = max(map(len, client.lrange(QUEUE, 0, -1)), default=0)
    client.delete(QUEUE)
    return largest


def _purge(seconds: Seconds) -> Seconds:
    _largest_message()
    return seconds


def send_group(n: int) -> Seconds:
    return _purge(_timed(lambda: celery.group(noop.si() for _ in range(n)).apply_async()))


def send_chord(n: int) -> Seconds:
    header = [noop.si() for _ in range(n)]
    return _purge(_timed(lambda: celery.chord(header)(size.s())))


def _send_chain(n: int) -> Seconds:
    return _timed(lambda: celery.chain(*[noop.si() for _ in range(n)]).apply_async())


def send_chain(n: int) -> Seconds:
    return _purge(_send_chain(n))


def bytes_of_chain(n: int) -> float:
    _send_chain(n)
    return _largest_message()


def bytes_of_groups(n: int) -> float:
    """A chain of *n* groups of *n* tasks."""
    celery.chain(*[celery.group(noop.si() for _ in range(n)) for _ in range(n)]).apply_async()
    return _largest_message()


def bytes_of_nested_chords(n: int) -> float:
    """Chords of two, each in the header of the next, *n* deep."""
    flow = noop.si()
    for _ in range(n):
        flow = celery.chord([flow, noop.si()], size.s())
    flow.apply_async()
    return _largest_message()


def bytes_of_body_chords(n: int) -> float:
    """Chords of two, each the body of the one before, *n* deep."""
    flow = size.s()
    for _ in range(n):
        flow = celery.chord([noop.s(), noop.s()], flow)
    flow.apply_async(args=())
    return _largest_message()


def run_chord(n: int) -> Seconds:
    def wait() -> None:
        result = celery.chord([noop.si() for _ in range(n)])(size.s())
        assert result.get(timeout=TIMEOUT_S) == n

    return _timed(wait)


def run_chain(n: int) -> Seconds:
    def wait() -> None:
        celery.chain(*[noop.si() for _ in range(n)]).apply_async().get(timeout=TIMEOUT_S)

    return _timed(wait)


SENT: dict[str, tuple[Callable[[int], Any], tuple[int, ...], str]] = {
    "send group": (send_group, (100, 1000, 10_000), "s"),
    "send chord": (send_chord, (100, 1000, 10_000), "s"),
    "send chain": (send_chain, (10, 100, 1000), "s"),
    "bytes chain": (bytes_of_chain, (10, 100, 1000), "B"),
    "bytes groups n x n": (bytes_of_groups, (5, 15, 50), "B"),
    "bytes chords in headers": (bytes_of_nested_chords, (2, 4, 8), "B"),
    "bytes chords in bodies": (bytes_of_body_chords, (2, 4, 8), "B"),
}
RUN: dict[str, tuple[Callable[[int], Any], tuple[int, ...], str]] = {
    "run chord": (run_chord, (100, 1000, 10_000), "s"),
    "run chain": (run_chain, (10, 100, 1000), "s"),
}


def measure(names: list[str], only: list[int]) -> None:
    """Print one JSON line for each figure; the worker, if needed, runs already."""
    for cases in (SENT, RUN):
        for name, (case, sizes, _) in cases.items():
            if name not in names:
                continue
            case(sizes[0])  # connects, and fills caches
            for n in only or sizes:
                figures: list[Any] = []
                until = time.monotonic() + REPEAT_S
                while not figures or (len(figures) < REPEATS and time.monotonic() < until):
                    try:
                        figures.append(case(n))
                    except Exception as exc:
                        figures.append(type(exc).__name__)
                        break
                print(json.dumps([name, n, _best(figures)]), flush=True)


# -- The parent: servers, workers, the table


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _redis() -> Any:
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    threading.Event().wait(0.02)
            yield f"redis://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


@contextmanager
def _worker(python: str, env: dict[str, str]) -> Any:
    process = subprocess.Popen(
        [python, "-m", "celery", "-A", "bench_canvas", "worker", "-l", "INFO", "-c", "2",
         "--without-gossip", "--without-mingle", "--without-heartbeat"],
        cwd=Path(__file__).parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = process.stdout
    for line in output:
        if " ready." in line:
            break
    drain = threading.Thread(target=lambda: all(True for _ in output), daemon=True)
    drain.start()
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _round(python: str, names: list[str], sizes: list[int]) -> list[Any]:
    found = []
    with _redis() as url:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        env = {**kept, "BENCH_URL": url, "C_FORCE_ROOT": "1"}
        for cases, worker in ((SENT, False), (RUN, True)):
            wanted = [name for name in names if name in cases]
            if not wanted:
                continue
            only = [f"--size={n}" for n in sizes]
            command = [python, Path(__file__).name, "--child", *only, *wanted]
            run = lambda command=command, **more: subprocess.run(  # noqa: E731
                command, cwd=Path(__file__).parent, env={**env, **more}, check=True, text=True,
                stdout=subprocess.PIPE,
            ).stdout  # fmt: skip
            if worker:
                with _worker(python, env) as pid:
                    printed = run(BENCH_WORKER=str(pid))
            else:
                printed = run()
            found += [json.loads(line) for line in printed.splitlines()]
    return found


def _best(figures: list[Any]) -> Any:
    """Return the least figure, or the least of each of several; else the error met."""
    found = [figure for figure in figures if not isinstance(figure, str)]
    if not found:
        return figures[0]
    return (
        [min(column) for column in zip(*found, strict=True)]
        if isinstance(found[0], (list, tuple))
        else min(found)
    )


def _columns(ours: Any, theirs: Any, unit: str) -> str:
    """Show figures side by side, with the factor between them."""
    shown = "".join(
        f"{one:>14}" if isinstance(one, str) else f"{one:>12,.0f} B" if unit == "B"
        else f"{one:>12.4f} {unit}"
        for one in (ours, theirs) if one is not None
    )  # fmt: skip
    if theirs is None or isinstance(ours, str) or isinstance(theirs, str) or not ours:
        return shown
    return f"{shown} {theirs / ours:>6.1f}x"


def _line(best: list[Any], unit: str) -> str:
    ours, theirs = (*best, None)[:2]
    if unit == "B":
        return _columns(ours, theirs, unit)
    pairs = [(side if isinstance(side, list) else [side, side]) for side in (ours, theirs)]
    return "  ".join(_columns(pairs[0][i], pairs[1][i], ("s", "s cpu")[i]) for i in range(2))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--against", help="interpreter with another implementation")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, action="append", default=[], help="only this one")
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args(arguments)
    names = given.cases or [*SENT, *RUN]
    if given.child:
        measure(names, given.size)
        sys.stdout.flush()
        # Results in their thousands are not worth an orderly end.
        os._exit(0)
    pythons = [sys.executable, *([given.against] if given.against else [])]
    figures: dict[tuple[str, int], dict[str, list[Any]]] = {}
    for case in names:
        for _ in range(given.rounds):
            for python in pythons:
                for name, n, figure in _round(python, [case], given.size):
                    figures.setdefault((name, n), {}).setdefault(python, []).append(figure)
        for (name, n), found in figures.items():
            unit = {**SENT, **RUN}[name][2]
            best = [_best(found.get(python, ["-"])) for python in pythons]
            print(f"{name:24} {n:>6}{_line(best, unit)}", flush=True)
        figures.clear()


if __name__ == "__main__":
    main(sys.argv[1:])
