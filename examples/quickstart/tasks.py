"""The tasks of the quick start: one that adds, one that retries, one that fails."""

import os

from celery import Celery

# Messages and results in one file: no server is needed. `run.py` chooses the folder.
store = f"sqlite:///{os.environ.get('QUICKSTART_FOLDER', '.')}/quickstart.db"

app = Celery("tasks", broker=store, backend=store)


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
