"""What the modules of all peers share: how tasks count their runs, and the client's program.

A module has functions in ``VERBS`` for what its library can do:

==============  ==============================================================================
``send``        sends one task, and nothing else
``send_many``   sends some, by the shortest way that the library offers
``send_large``  sends a task with a large argument
``send_later``  sends some that are due in an hour
``send_pauses`` sends some that wait for `PAUSE_S`
``call``        sends a task and waits for its result
``group``       sends some and collects their results
``chord``       sends some with a callback, and waits for its result
==============  ==============================================================================

``python client.py MODULE VERB NUMBER`` does it and prints seconds of the clock and of the
processor as JSON. Nothing here needs more than Python, so it runs under any interpreter.
"""

import importlib
import json
import os
import sys
import time

BROKER = os.environ["BENCH_BROKER"]
#: URL of the result store; empty where results are ignored.
RESULTS = os.environ.get("BENCH_RESULTS", "")
#: How many tasks a worker runs at once, where the workload says so.
AT_ONCE = int(os.environ.get("BENCH_AT_ONCE", "0"))
#: The pool of a Celery worker; empty for its default.
POOL = os.environ.get("BENCH_POOL", "")
#: Seconds that a task waits that does nothing else.
PAUSE_S = 0.1
#: A text that makes a message of about 100 KB.
LARGE = "x" * 100_000

_runs = os.open(os.environ["BENCH_RUNS"], os.O_WRONLY | os.O_APPEND)


def count_run():
    """Note that a task has run: a byte in a file, which costs each library the same."""
    os.write(_runs, b"+")


def _timed(act, number):
    wall, cpu = time.perf_counter(), time.process_time()
    act(number)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _latencies(call, number):
    took = []
    for _ in range(number):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    took.sort()
    return {"p50": took[number // 2], "p99": took[number * 99 // 100]}


def main():
    """Do what the command line asks for."""
    module, verb, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    act = importlib.import_module(module).VERBS.get(verb)
    if act is None:
        print("null")
    elif verb == "call":
        _latencies(act, 20)
        print(json.dumps(_latencies(act, number)))
    elif verb in ("send", "send_large"):
        # The first one connects.
        act()
        print(json.dumps(_timed(lambda count: [act() for _ in range(count - 1)], number)))
    else:
        print(json.dumps(_timed(act, number)))


if __name__ == "__main__":
    main()
