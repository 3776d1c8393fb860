"""Tasks of the example; a worker runs them: ``celery -A tasks worker -P asyncio -c 100``."""

import asyncio
import os

from celery import Celery

app = Celery(
    "tasks",
    broker=os.environ.get("BROKER_URL", "redis://localhost/0"),
    backend=os.environ.get("RESULT_BACKEND", "redis://localhost/1"),
)


@app.task
async def greet(name: str) -> str:
    """Wait for something elsewhere, as most web tasks do."""
    await asyncio.sleep(0.05)
    return f"Hello, {name}!"
