"""Registers of one worker process: what it holds, what it ran, what it must not run.

A request is *scheduled* while it waits for its ETA, *reserved* from the moment it may
run until it ended, and *active* from when a pool process accepted it. Remote commands,
statistics and shutdown read these; the strategy and the request write them. All of it
belongs to the main process and is changed by one thread at a time per request.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import shelve
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery.app._tracer import (
    SUCCESSFUL_EXPIRES as SUCCESSFUL_EXPIRES,
    SUCCESSFUL_MAX as SUCCESSFUL_MAX,
)
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils.collections import LimitedSet

if TYPE_CHECKING:
    from celery.worker.request import Request

__all__ = (
    "SOFTWARE_INFO",
    "Persistent",
    "active_requests",
    "maybe_shutdown",
    "merge_revoked",
    "reserved_requests",
    "revoked",
    "scheduled_requests",
    "task_accepted",
    "task_ready",
    "task_reserved",
    "task_scheduled",
    "total_count",
)

#: Version string placed in worker events. Kept literal: monitors compare it.
SOFTWARE_INFO: dict[str, str] = {
    "sw_ident": "py-celery",
    "sw_ver": "5.7.0",
    "sw_sys": platform.system(),
}

#: Most revoked ids remembered (environment ``CELERY_WORKER_REVOKES_MAX``).
REVOKES_MAX = int(os.environ.get("CELERY_WORKER_REVOKES_MAX") or 50000)

#: Seconds for which a revoked id counts (``CELERY_WORKER_REVOKE_EXPIRES``).
REVOKE_EXPIRES = float(os.environ.get("CELERY_WORKER_REVOKE_EXPIRES") or 10800)

#: Log the rate of finished tasks when set (``CELERY_BENCH``); kept for compatibility.
C_BENCH = os.environ.get("C_BENCH") or os.environ.get("CELERY_BENCH")
C_BENCH_EVERY = int(os.environ.get("C_BENCH_EVERY") or os.environ.get("CELERY_BENCH_EVERY") or 1000)

#: Requests by id, from the time they are scheduled or reserved until they ended.
requests: dict[str, Request] = {}

# Plain sets: a weak one costs a call in Python for each look, and `requests` holds them anyway.
reserved_requests: set[Request] = set()
scheduled_requests: set[Request] = set()
active_requests: set[Request] = set()

#: Accepted requests by task name, over the life of the process.
total_count: Counter[str] = Counter()

#: One number: accepted requests of all names. A list, so that all readers see one object.
all_total_count: list[int] = [0]

#: Ids that must not run.
revoked = LimitedSet(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)

#: Stamps that must not run: header name to values.
revoked_stamps: dict[str, Any] = {}

#: Ids that ended well; see ``worker_deduplicate_successful_tasks``.
successful_requests = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)

#: Set to an exit code (or True for 0) to have the loop stop the worker: warm, and cold.
should_stop: int | bool | None = None
should_terminate: int | bool | None = None


def reset_state() -> None:
    """Forget everything; for tests and for a worker that starts again in this process."""
    for register in (
        requests,
        reserved_requests,
        scheduled_requests,
        active_requests,
        total_count,
        revoked,
        revoked_stamps,
        successful_requests,
    ):
        register.clear()
    all_total_count[0] = 0


def merge_revoked(task_ids: Any) -> None:
    """Count *task_ids* as revoked from now on.

    Args:
        task_ids: A `LimitedSet`, a mapping with ids as keys, or any iterable of ids; times
            in it are another clock's and are not looked at.
    """
    add = revoked.add
    for task_id in list(task_ids):
        add(task_id)


def maybe_shutdown() -> None:
    """Raise what ends the worker, when somebody asked for that.

    Raises:
        WorkerTerminate: `should_terminate` is set; wins over the other.
        WorkerShutdown: `should_stop` is set.
    """
    if is_terminating():
        raise WorkerTerminate(_exit_code(should_terminate))
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(_exit_code(should_stop))


def is_terminating() -> bool:
    """Say whether somebody asked for a cold shutdown; 0 is an exit code, not a no."""
    return should_terminate is not None and should_terminate is not False


def _exit_code(wanted: int | bool | None) -> int:
    return 0 if wanted is True or wanted is None else wanted


def task_reserved(
    request: Request,
    add_request: Callable[[str, Request], Any] = requests.__setitem__,
    add_reserved_request: Callable[[Request], Any] = reserved_requests.add,
    discard_scheduled_request: Callable[[Request], Any] = scheduled_requests.discard,
) -> None:
    """Note that *request* may run now."""
    add_request(request.id, request)
    add_reserved_request(request)
    if scheduled_requests:
        discard_scheduled_request(request)


def task_scheduled(
    request: Request,
    add_request: Callable[[str, Request], Any] = requests.__setitem__,
    add_scheduled_request: Callable[[Request], Any] = scheduled_requests.add,
    all_reserved_requests: set[Request] = reserved_requests,
    all_active_requests: set[Request] = active_requests,
) -> None:
    """Note that *request* waits for its ETA; no effect once it is reserved or active."""
    if request not in all_reserved_requests and request not in all_active_requests:
        add_request(request.id, request)
        add_scheduled_request(request)


def task_accepted(
    request: Request,
    _all_total_count: list[int] | None = None,
    add_request: Callable[[str, Request], Any] = requests.__setitem__,
    add_active_request: Callable[[Request], Any] = active_requests.add,
    add_to_total_count: Counter[str] = total_count,
) -> None:
    """Note that a pool process took *request*, and count it."""
    add_request(request.id, request)
    add_active_request(request)
    add_to_total_count[request.name] += 1
    (_all_total_count or all_total_count)[0] += 1


def task_ready(
    request: Request,
    successful: bool = False,
    remove_request: Callable[[str, Any], Any] = requests.pop,
    discard_active_request: Callable[[Request], Any] = active_requests.discard,
    discard_reserved_request: Callable[[Request], Any] = reserved_requests.discard,
    discard_scheduled_request: Callable[[Request], Any] = scheduled_requests.discard,
) -> None:
    """Note that *request* ended, whichever way."""
    if successful:
        successful_requests.add(request.id)
    # A second delivery of the same id may have taken its place meanwhile.
    if requests.get(request.id) is request:
        remove_request(request.id, None)
    discard_active_request(request)
    discard_reserved_request(request)
    if scheduled_requests:
        discard_scheduled_request(request)


def task_forgotten(request: Request) -> None:
    """Note that *request* won't run here: its message went back to the broker."""
    if requests.get(request.id) is request:
        del requests[request.id]
    reserved_requests.discard(request)
    scheduled_requests.discard(request)


class Persistent:
    """Keeps the revoked ids and the logical clock in a file over restarts (``--statedb``).

    The file is a shelf with the keys ``clock``, ``zrevoked`` (compressed, pickled) and
    ``__proto__``; older layouts are read too.

    Args:
        state: The module (or an object like it) whose ``revoked`` is kept.
        filename: Path; the dbm in use may add a suffix.
        clock: A Lamport clock, or None.
    """

    storage = shelve
    protocol = pickle.DEFAULT_PROTOCOL
    compress = staticmethod(zlib.compress)
    decompress = staticmethod(zlib.decompress)

    _db: Any = None

    #: Layout of the shelf that is written, beside the pickle protocol.
    _LAYOUT = 3

    def __init__(self, state: Any, filename: str, clock: Any = None) -> None:
        self.state = state
        self.filename = filename
        self.clock = clock
        self.merge()

    def open(self) -> Any:
        """Open the shelf; it is made when missing."""
        return self.storage.open(self.filename, protocol=self.protocol, writeback=True)

    def merge(self) -> None:
        """Read the file into the registers."""
        db = self.db
        known = self.state.revoked
        packed = db.get("zrevoked")
        if packed:
            merge_into(known, pickle.loads(self.decompress(packed)))
        else:
            merge_into(known, db.get("revoked") or ())
        if self.clock:
            db["clock"] = self.clock.adjust(db.get("clock") or 0)

    def sync(self) -> None:
        """Put the registers into the shelf."""
        db, known = self.db, self.state.revoked
        known.purge()
        db["__proto__"] = self._LAYOUT
        db["zrevoked"] = self.compress(pickle.dumps(known, protocol=self.protocol))
        db.pop("revoked", None)
        if self.clock:
            db["clock"] = self.clock.forward()

    def close(self) -> None:
        """Close the shelf; it is opened again when needed."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def save(self) -> None:
        """Write the registers to the file and close it."""
        self.sync()
        self.close()

    @property
    def db(self) -> Any:
        """The open shelf."""
        if self._db is None:
            self._db = self.open()
        return self._db


def merge_into(known: LimitedSet, saved: Iterable[Any] | Mapping[Any, Any]) -> None:
    """Add the ids of *saved* to *known*, counting from now; what isn't iterable is skipped."""
    with contextlib.suppress(TypeError):
        for task_id in list(saved):
            known.add(task_id)
