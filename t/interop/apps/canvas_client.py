"""Apply workflows through whatever celery is installed; print the outcomes as one JSON object."""

import json
import os
import sys
import time

from client import outcome
from interop_app import add, app, echo, fail, failed, grow, replaced, total

from celery import chain, chord, group

TIMEOUT_S = 60
STORE = app.backend.client if hasattr(app.backend, "client") else None


def wait_for(condition):
    """Call *condition* until it is true, or time is up."""
    end = time.monotonic() + TIMEOUT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def failing_chord(header):
    key = f"interop-{os.urandom(8).hex()}"
    result = chord(header)(total.s().on_error(failed.s(key)))
    fresh = app.AsyncResult(result.id)
    wait_for(fresh.ready)
    wait_for(lambda: STORE.llen(key))
    return {
        "state": fresh.state,
        "error": type(fresh.result).__name__,
        "calls": STORE.llen(key),
    }


CASES = {
    "chain": lambda: outcome(chain(add.s(1, 1), add.s(2), add.s(3), add.s(4)).apply_async()),
    "long chain": lambda: outcome(chain(add.s(0, 1), *[add.s(1)] * 40).apply_async()),
    "group": lambda: outcome(group(add.s(n, n) for n in range(20)).apply_async()),
    "chord": lambda: outcome(chord([add.s(n, n) for n in range(60)])(total.s())),
    "chord of lists": lambda: outcome(chord([echo.s(n) for n in range(30)])(echo.s())),
    "group in a chain": lambda: outcome(
        chain(add.s(1, 1), group(add.s(n) for n in range(10)), total.s(), add.s(5)).apply_async()
    ),
    "groups in a chain": lambda: outcome(
        chain(
            add.s(1, 1), group(add.s(1), add.s(2)), total.s(), group(add.s(n) for n in range(5))
        ).apply_async()
    ),
    "chord in a header": lambda: outcome(
        chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)])(total.s())
    ),
    "chain in a header": lambda: outcome(
        chord([chain(add.s(1, 1), add.s(2)), chain(add.s(3, 3), add.s(4), add.s(5))])(total.s())
    ),
    "chord as a body": lambda: outcome(
        chord([add.s(1, 1), add.s(2, 2)])(chord([total.s(), total.s()], total.s()))
    ),
    "starmap": lambda: outcome(add.starmap([(1, 2), (3, 4)]).apply_async()),
    "map": lambda: outcome(echo.map([1, 2, 3]).apply_async()),
    "chunks": lambda: outcome(add.chunks([(n, n) for n in range(6)], 2).apply_async()),
    "replaced": lambda: outcome(chain(replaced.s(3), add.s(1)).apply_async()),
    "replaced in a header": lambda: outcome(chord([replaced.s(3), add.s(1, 1)])(total.s())),
    "growing": lambda: outcome(chord([grow.s(3), add.s(1, 1)])(total.s())),
    "stamped": lambda: outcome(add.s(1, 1).stamp(tenant="a").apply_async()),
    "failing header": lambda: failing_chord([add.s(1, 1), fail.si(), add.s(2, 2)]),
    "failing chain in a header": lambda: failing_chord(
        [chain(add.s(1, 1), fail.si(), echo.s()), add.s(2, 2)]
    ),
    "failing chord in a header": lambda: failing_chord(
        [chord([add.s(1, 1), fail.si()], total.s()), add.s(2, 2)]
    ),
}


if __name__ == "__main__":
    json.dump({name: CASES[name]() for name in sys.argv[1:] or CASES}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)
