"""A store at which pool processes stop, so that a test can act exactly then.

Where is said by the id of the task, in front of a dash: ``before`` it stores, while it is ``late``
(what it stores is on its way still), ``after`` it has stored, before it counts for its ``chord``.
"""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

from billiard.process import current_process

from celery.backends.redis import RedisBackend
from celery.states import READY_STATES, RETRY

#: Environment variable with the folder in which processes say where they are.
FOLDER_VARIABLE = "T_WORKER_GATES"


class GatedBackend(RedisBackend):
    """Keeps results in Redis."""

    def _store_result(
        self, task_id: str, result: Any, state: str, *args: Any, request: Any = None, **kwargs: Any
    ) -> Any:
        point, _, _ = task_id.partition("-")
        if state not in READY_STATES and state != RETRY:
            point = ""
        if point == "before":
            stop_at(task_id)
        if point == "late" and in_pool():
            path = folder() / f"{task_id}.late"
            path.write_bytes(pickle.dumps((task_id, result, state)))
            stop_at(task_id)
        stored = super()._store_result(task_id, result, state, *args, request=request, **kwargs)
        if point == "after":
            stop_at(task_id)
        return stored

    def on_chord_part_return(self, request: Any, *args: Any, **kwargs: Any) -> None:
        if request.id.startswith("chord-"):
            stop_at(request.id)
        super().on_chord_part_return(request, *args, **kwargs)


def folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])


def in_pool() -> bool:
    return current_process().name != "MainProcess"


def stop_at(task_id: str) -> None:
    """Stop here the first time that a pool process comes by with this task.

    Until it is killed, or there is a file that lets it go.
    """
    if not in_pool():
        return
    path = folder() / f"{task_id}.pid"
    if path.exists():
        return
    draft = path.with_suffix(".draft")
    draft.write_text(str(os.getpid()))
    draft.replace(path)
    while not path.with_suffix(".go").exists():
        time.sleep(0.005)
