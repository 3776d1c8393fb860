"""An app whose tasks write down that they ran; for both implementations, public API only."""

import os
import time

from celery import Celery

app = Celery("ledger_app", broker=os.environ["INTEROP_BROKER"])
app.conf.update(
    task_default_queue=os.environ.get("INTEROP_QUEUE", "celery"),
    task_ignore_result=True,
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 20,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "claim_lease": 3,
    },
)


@app.task(name="ledger.note")
def note(number):
    time.sleep(0.002)
    with open(os.environ["INTEROP_LEDGER"], "a") as ledger:
        ledger.write(f"{number}\n")


if __name__ == "__main__":
    import sys

    for n in range(int(sys.argv[1]), int(sys.argv[2])):
        note.delay(n)
