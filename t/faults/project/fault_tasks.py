"""The app of the fault tests. It needs nothing but an installed celery, of any make."""

import json
import os
import time

from celery import Celery

#: Seconds after which a task no longer waits for its gate.
GATE_S = 60

app = Celery("faults")
app.conf.update(json.loads(os.environ["FAULT_CONF"]))
LEDGER = os.environ["FAULT_LEDGER"]


def write(kind, task_id):
    fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{kind} {task_id} {os.getpid()}\n".encode())
    finally:
        os.close(fd)


@app.task(name="faults.step", bind=True)
def step(self, pause_s, gate=None):
    """Note the start, take *pause_s* or as long as the file *gate* is missing, note the end."""
    write("start", self.request.id)
    if gate is None:
        time.sleep(pause_s)
    else:
        end = time.monotonic() + GATE_S
        while not os.path.exists(gate) and time.monotonic() < end:
            time.sleep(0.005)
    write("end", self.request.id)
