"""The app of beats that share a store; the environment says where everything is."""

from __future__ import annotations

import json
import os

from celery import Celery

app = Celery("shared", broker=os.environ["T_BEAT_BROKER"], backend="disabled://")
app.conf.beat_store_url = os.environ["T_BEAT_STORE"]
app.conf.beat_store_name = os.environ["T_BEAT_NAME"]
app.conf.task_default_queue = os.environ["T_BEAT_NAME"]
app.conf.result_expires = None

#: Number of entries, and seconds between two runs of each.
ENTRIES, EVERY = json.loads(os.environ.get("T_BEAT_ENTRIES", "[0, 1]"))

app.conf.beat_schedule = {
    f"entry-{n}": {"task": "t.tick", "schedule": EVERY, "args": [n]} for n in range(ENTRIES)
}
