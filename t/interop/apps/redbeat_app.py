"""An app for celery-redbeat, and what its users do with entries."""

from __future__ import annotations

import os
import sys

from redbeat import RedBeatSchedulerEntry

from celery import Celery
from celery.schedules import schedule

app = Celery("plugged", broker=os.environ["PLUGIN_BROKER"], backend="disabled://")
app.conf.task_default_queue = os.environ["PLUGIN_QUEUE"]
app.conf.redbeat_key_prefix = os.environ["PLUGIN_QUEUE"]
app.conf.beat_max_loop_interval = 1
app.conf.beat_schedule = {"given": {"task": "t.given", "schedule": 0.5}}

if __name__ == "__main__":
    name, task, every = sys.argv[1:]
    entry = RedBeatSchedulerEntry(name, task, schedule(float(every)), args=[name], app=app)
    if float(every):
        entry.save()
    else:
        entry.delete()
