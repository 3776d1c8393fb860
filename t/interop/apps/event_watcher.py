"""Print what a receiver hears while tasks run; says ``listening`` when it hears the first."""

import contextlib
import json
import sys

from interop_app import app

wanted = int(sys.argv[1])
state = app.events.State()
kinds = {}


def note(event):
    state.event(event)
    if not kinds:
        print("listening", flush=True)
    kinds.setdefault(event["type"], []).append(event["hostname"])
    if (
        len(kinds.get("task-succeeded", ())) >= wanted
        and len(set(kinds.get("worker-heartbeat", ()))) >= 2
    ):
        raise SystemExit


with app.connection_for_read() as connection:
    receiver = app.events.Receiver(connection, handlers={"*": note})
    with contextlib.suppress(SystemExit):
        receiver.capture(timeout=60, wakeup=True)
tasks = [task for _, task in state.tasks_by_time() if task.state == "SUCCESS"]
print(
    json.dumps(
        {
            "kinds": {kind: sorted(set(nodes)) for kind, nodes in kinds.items()},
            "alive": sorted(worker.hostname for worker in state.alive_workers()),
            "tasks": sorted([task.name, task.args, task.result] for task in tasks),
        }
    )
)
