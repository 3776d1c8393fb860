"""The app that the tests of the scheduler run; it needs no server."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("proj", broker="memory://", backend="cache+memory://")


@app.task
def tick(n: int = 0) -> int:
    """Do nothing."""
    return n


app.conf.beat_schedule = {
    "often": {"task": "t.integration.beat.proj.tick", "schedule": 0.05, "args": (1,)},
}
if os.environ.get("T_BEAT_WITHOUT_SCHEDULE"):
    del app.conf.beat_schedule["often"]["schedule"]
