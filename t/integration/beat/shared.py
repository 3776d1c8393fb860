"""The app of beats that share a store; the environment says where everything is."""

from __future__ import annotations

import json
import os
import time

from celery import Celery
from celery.signals import after_task_publish

app = Celery("shared", broker=os.environ["T_BEAT_BROKER"], backend="disabled://")
app.conf.beat_store_url = os.environ["T_BEAT_STORE"]
app.conf.beat_store_name = os.environ["T_BEAT_NAME"]
app.conf.task_default_queue = os.environ["T_BEAT_NAME"]
app.conf.result_expires = None
app.conf.broker_transport_options = json.loads(os.environ.get("T_BEAT_TRANSPORT", "{}"))

#: Number of entries, and seconds between two runs of each.
ENTRIES, EVERY = json.loads(os.environ.get("T_BEAT_ENTRIES", "[0, 1]"))

app.conf.beat_schedule = {
    f"entry-{n}": {"task": "t.tick", "schedule": EVERY, "args": [n]} for n in range(ENTRIES)
}

if "T_BEAT_TIMES" in os.environ:
    times = open(os.environ["T_BEAT_TIMES"], "a", buffering=1)  # noqa: SIM115 - until the end

    @after_task_publish.connect
    def note_time(sender=None, body=None, **kwargs) -> None:
        """Write which entry was sent, and when."""
        times.write(f"{body[0][0]} {time.time()}\n")
