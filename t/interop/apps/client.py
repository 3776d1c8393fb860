"""Call tasks through whatever celery is installed, and print the outcomes as one JSON object."""

import datetime
import json
import sys
import time

from interop_app import add, app, echo, fail, missing, request, retry, started, total

from celery import chain, chord, group

TIMEOUT_S = 40


def outcome(result):
    try:
        return {"value": result.get(timeout=TIMEOUT_S), "state": getattr(result, "state", None)}
    except Exception as exc:  # the outcome is what is compared
        return {
            "error": type(exc).__name__,
            "args": [str(arg) for arg in exc.args],
            "state": getattr(result, "state", None),
            "traceback": bool(result.traceback and "Traceback" in result.traceback),
        }


def linked():
    result = add.apply_async((2, 2), link=add.s(8))
    result.get(timeout=TIMEOUT_S)
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        children = result.children
        if children:
            return outcome(children[0])
        time.sleep(0.05)
    return {"error": "no children"}


def eta():
    due = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    at = started.apply_async(eta=due).get(timeout=TIMEOUT_S)
    return {"late_enough": at >= due.timestamp() - 0.01, "late_s": at - due.timestamp() < 5}


CASES = {
    "plain": lambda: outcome(add.delay(2, 2)),
    "kwargs": lambda: outcome(add.delay(x=2, y=3)),
    "json": lambda: outcome(echo.apply_async(({"a": [1, None, "ü"]},), serializer="json")),
    "pickle": lambda: outcome(echo.apply_async(({"a": (1, None)},), serializer="pickle")),
    "yaml": lambda: outcome(echo.apply_async(({"a": [1, None]},), serializer="yaml")),
    "msgpack": lambda: outcome(echo.apply_async(({"a": [1, None]},), serializer="msgpack")),
    "compressed": lambda: outcome(echo.apply_async(("x" * 5000,), compression="zlib")),
    "exception": lambda: outcome(fail.delay()),
    "builtin_exception": lambda: outcome(missing.delay()),
    "retry": lambda: outcome(retry.delay(2)),
    "retries_exhausted": lambda: outcome(retry.apply_async((9,))),
    "eta": eta,
    "expires": lambda: outcome(add.apply_async((1, 1), countdown=1, expires=0.2)),
    "link": linked,
    "request": lambda: outcome(
        request.apply_async((1,), {"k": 2}, headers={"tenant": "a"}, time_limit=30)
    ),
    "protocol_1": lambda: outcome(protocol_1()),
    "chain": lambda: outcome(chain(add.s(1, 1), add.s(2), add.s(3))()),
    "group": lambda: outcome(group(add.s(n, n) for n in range(5))()),
    "chord": lambda: outcome(chord([add.s(n, n) for n in range(5)])(total.s())),
    "ignored": lambda: {"value": add.apply_async((1, 1), ignore_result=True).get(timeout=5)},
}


def protocol_1():
    # An app of its own: the protocol is read once.
    old = app.__class__("old", broker=app.conf.broker_url, backend=app.conf.result_backend)
    old.conf.update(task_protocol=1, task_default_queue=app.conf.task_default_queue)
    return old.send_task("interop.add", (3, 4))


def main(names):
    outcomes = {}
    for name in names or CASES:
        outcomes[name] = CASES[name]()
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
