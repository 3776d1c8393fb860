"""The tasks of the quick start: one that adds, one that retries, one that fails."""

import os
from pathlib import Path

from celery import Celery

# Messages and results as files: no server is needed. `run.py` chooses the folder.
folder = Path(os.environ.get("QUICKSTART_FOLDER", "quickstart-data"))
for name in ("messages", "control", "results"):
    (folder / name).mkdir(parents=True, exist_ok=True)

app = Celery("tasks", broker="filesystem://", backend=f"file://{folder.resolve()}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "control"),
        "polling_interval": 0.05,  # seconds; files have nobody to wake a reader
    },
    broker_connection_retry_on_startup=True,
)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True, max_retries=3, default_retry_delay=0.2)
def flaky(self) -> str:
    if self.request.retries < 2:
        raise self.retry(exc=ConnectionError("the other side is not there yet"))
    return f"worked at attempt {self.request.retries + 1}"


@app.task
def divide(x: int, y: int) -> float:
    return x / y
