"""What the task of a fault test does, whatever library runs it."""

import os
import time

#: Seconds after which a task no longer waits for its gate.
GATE_S = 60


def write(kind, task_id):
    """Add a line to the ledger."""
    fd = os.open(os.environ["FAULT_LEDGER"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{kind} {task_id} {os.getpid()}\n".encode())
    finally:
        os.close(fd)


def run_step(task_id, pause_s, gate=None):
    """Note the start, take *pause_s* or as long as the file *gate* is missing, note the end."""
    write("start", task_id)
    if gate is None:
        time.sleep(pause_s)
    else:
        end = time.monotonic() + GATE_S
        while not os.path.exists(gate) and time.monotonic() < end:
            time.sleep(0.005)
    write("end", task_id)
