"""The app of the fault tests. It needs nothing but an installed celery, of any make."""

import json
import os

from fault_steps import run_step

from celery import Celery

app = Celery("faults")
app.conf.update(json.loads(os.environ["FAULT_CONF"]))


@app.task(name="faults.step", bind=True)
def step(self, pause_s, gate=None):
    """Take a step that the ledger sees."""
    run_step(self.request.id, pause_s, gate)
