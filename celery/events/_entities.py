"""
What events tell of one worker, and of one task.

Events come late, twice and out of order; what was overtaken adds what it knows, but undoes nothing.
`celery.events.state` offers these classes, and keeps their objects.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery import states
from celery._protocol import events as wire
from celery.utils import log

if TYPE_CHECKING:
    from celery.events.state import State

# Of the module that users know.
_PUBLIC = "celery.events.state"

logger = log.get_logger(_PUBLIC)

#: Percent of a heartbeat interval after which a silent worker counts as lost.
HEARTBEAT_EXPIRE_WINDOW = 200

#: Seconds a worker's time may differ from ours before we speak about it.
HEARTBEAT_DRIFT_MAX = 16

#: Seconds between two such warnings about one worker.
_DRIFT_WARNING_INTERVAL = 60.0

DRIFT_WARNING = (
    "The clock of %s differs from ours by %s seconds (its event: %s, received: %s); "
    "are both hosts synchronized, and their time zones right?"
)

R_WORKER = "<Worker: {0.hostname} ({0.status_string} clock:{0.clock})>"
R_TASK = "<Task: {0.name}({0.uuid}) {0.state} clock:{0.clock}>"

TASK_EVENT_TO_STATE: dict[str, str] = dict(wire.STATE_AFTER)

#: States in which a repeated attempt is not news any more.
_FINAL = frozenset({states.SUCCESS, states.FAILURE, states.REVOKED})


def heartbeat_expires(
    timestamp: float,
    freq: float = 60,
    expire_window: float = HEARTBEAT_EXPIRE_WINDOW,
    Decimal: type = Decimal,
    float: Callable[[Any], float] = float,
    isinstance: Callable[..., bool] = isinstance,
) -> float:
    """
    Return the time at which a heartbeat of *timestamp* is too old.

    Args:
        timestamp: Seconds since the epoch.
        freq: Seconds between heartbeats.
        expire_window: Percent of *freq* to wait.
    """
    # Drivers that decode JSON numbers as decimals would mix two kinds of numbers here.
    moment = float(timestamp) if isinstance(timestamp, Decimal) else timestamp
    interval = float(freq) if isinstance(freq, Decimal) else freq
    return moment + interval * expire_window / 100.0


def with_unique_field(attr: str) -> Callable[[type], type]:
    """Return a class decorator: instances are equal, and hash, by their attribute *attr*."""

    def decorate(cls: type) -> type:
        def equal(self: Any, other: Any) -> Any:
            if isinstance(other, cls):
                return getattr(self, attr) == getattr(other, attr)
            return NotImplemented

        def key(self: Any) -> int:
            return hash(getattr(self, attr))

        cls.__eq__ = equal  # type: ignore[assignment]  # given to a class of any kind
        cls.__hash__ = key  # type: ignore[assignment]  # as above
        return cls

    return decorate


@with_unique_field("hostname")
class Worker:
    """What is known about one worker."""

    #: Number of heartbeats that are remembered.
    heartbeat_max = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    _fields = (
        "hostname",
        "pid",
        "freq",
        "heartbeats",
        "clock",
        "active",
        "processed",
        "loadavg",
        "sw_ident",
        "sw_ver",
        "sw_sys",
    )
    __slots__ = (*_fields, "__dict__", "__weakref__", "_warned_at")

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname, self.pid = hostname, pid
        self.clock, self.freq = clock or 0, freq
        self.heartbeats = [] if heartbeats is None else heartbeats
        # -- what heartbeats tell
        self.active, self.processed, self.loadavg = active, processed, loadavg
        self.sw_ident, self.sw_ver, self.sw_sys = sw_ident, sw_ver, sw_sys
        self._warned_at = float("-inf")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._fields)

    def __repr__(self) -> str:
        return R_WORKER.format(self)

    @property
    def event(self) -> Callable[..., None]:
        """Function that merges one event: ``(type_, timestamp, local_received, fields)``."""
        return self._on_event

    def _on_event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
        max_drift: float = HEARTBEAT_DRIFT_MAX,
    ) -> None:
        if fields:
            self.update(fields)
        if type_ == "offline":
            self.heartbeats.clear()
            return
        if not local_received or not timestamp:
            return
        if abs(local_received - timestamp) > max_drift:
            self._warn_of_drift(timestamp, local_received)
        beats = self.heartbeats
        if not beats or local_received > beats[-1]:
            beats.append(local_received)
        else:
            bisect.insort(beats, local_received)
        del beats[: -self.heartbeat_max]

    def _warn_of_drift(self, timestamp: float, local_received: float) -> None:
        now = time.monotonic()
        if now - self._warned_at >= _DRIFT_WARNING_INTERVAL:
            self._warned_at = now
            logger.warning(
                DRIFT_WARNING,
                self.hostname,
                round(abs(local_received - timestamp), 1),
                _clock_text(timestamp),
                _clock_text(local_received),
            )

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set attributes from fields of an event."""
        for name, value in {**f, **kw}.items():
            setattr(self, name, value)

    @property
    def status_string(self) -> str:
        """ONLINE or OFFLINE."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def heartbeat_expires(self) -> float:
        """Time at which the last heartbeat is too old."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Whether the worker was heard of lately."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def id(self) -> str:
        """Node name and process id."""
        return f"{self.hostname}.{self.pid}"


def _clock_text(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp))


@with_unique_field("uuid")
class Task:
    """What is known about one task."""

    name: str | None = None
    received: float | None = None
    sent: float | None = None
    started: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    rejected: float | None = None
    args: str | None = None
    kwargs: str | None = None
    eta: str | None = None
    expires: str | None = None
    retries: int | None = None
    worker: Worker | None = None
    result: str | None = None
    exception: str | None = None
    timestamp: float | None = None
    runtime: float | None = None
    traceback: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    client: str | None = None
    state: str = states.PENDING
    clock: int = 0

    _fields = (
        "uuid",
        "name",
        "state",
        "received",
        "sent",
        "started",
        "rejected",
        "succeeded",
        "failed",
        "retried",
        "revoked",
        "args",
        "kwargs",
        "eta",
        "expires",
        "retries",
        "worker",
        "result",
        "exception",
        "timestamp",
        "runtime",
        "traceback",
        "exchange",
        "routing_key",
        "clock",
        "client",
        "root",
        "root_id",
        "parent",
        "parent_id",
        "children",
    )
    _info_fields = (
        "args",
        "kwargs",
        "retries",
        "result",
        "eta",
        "runtime",
        "expires",
        "exception",
        "exchange",
        "routing_key",
        "root_id",
        "parent_id",
    )

    #: What an overtaken event may still add, by the state it stands for.
    merge_rules: Mapping[str, tuple[str, ...]] = dict(wire.FIELDS_OF_OVERTAKEN)

    #: Fields that refer to other tasks, kept as ids where the task leaves the process.
    _relations = ("root", "parent", "children")

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(
            known[child] for child in children or () if child in known
        )
        for name, value in kwargs.items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return R_TASK.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_task, (type(self), self.as_dict())

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
        precedence: Callable[[str], int] = states.precedence,
        setattr: Callable[[Any, str, Any], None] = setattr,
        task_event_to_state: Callable[[str], str | None] = TASK_EVENT_TO_STATE.get,
        RETRY: str = states.RETRY,
    ) -> None:
        """
        Merge one event.

        Args:
            type_: Second part of the event type: ``sent``, ``received``, ….
            timestamp: When it happened.
            local_received: When we heard of it.
            fields: Its fields.
        """
        new_fields: Mapping[str, Any] = fields or {}
        known = task_event_to_state(type_)
        if known:
            setattr(self, type_, timestamp)
        state = known or type_.upper()
        if self._was_overtaken(state, precedence, RETRY):
            # Only clients know where a task was sent to, and they are often late.
            late = wire.FIELDS_OF_LATE_SENT if type_ == "sent" else ()
            kept = self.merge_rules.get(state, late)
            new_fields = {name: new_fields[name] for name in kept if name in new_fields}
        else:
            self.state = state
            self.timestamp = timestamp
        for name, value in new_fields.items():
            setattr(self, name, value)

    def _was_overtaken(self, state: str, precedence: Callable[[str], int], retry: str) -> bool:
        if state == retry:
            # Rank says little here: a retry follows "started", which ranks higher.
            return self.state in _FINAL
        if self.state == retry:
            return False
        return precedence(state) > precedence(self.state)

    def info(
        self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None
    ) -> dict[str, Any]:
        """Return the fields that are known; *fields* chooses, *extra* adds to the usual ones."""
        names = (*(self._info_fields if fields is None else fields), *(extra or ()))
        known = ((name, getattr(self, name, None)) for name in names)
        return {name: value for name, value in known if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, other tasks by their ids."""
        values = {name: getattr(self, name) for name in self._fields if name not in self._relations}
        values["root"] = self.root_id
        values["parent"] = self.parent_id
        values["children"] = [child.id for child in self.children]
        return values

    @property
    def id(self) -> str | None:
        """The task id."""
        return self.uuid

    @property
    def origin(self) -> str | None:
        """Node that spoke of this task: the worker, else the client."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Task | None:
        """The task that called this one, if it is known."""
        return self._related(self.parent_id)

    @property
    def root(self) -> Task | None:
        """The first task of this family, if it is known."""
        return self._related(self.root_id)

    def _related(self, task_id: str | None) -> Task | None:
        if not task_id or self.cluster_state is None:
            return None
        # Past the cache's own look-up: looking at a relative is no use of it.
        found: Task | None = self.cluster_state.tasks.data.get(task_id)
        return found


def _restore_task(cls: type[Task], fields: dict[str, Any]) -> Task:
    """Make a task of a pickled picture; its relatives are tied again by :class:`State`."""
    plain = {name: value for name, value in fields.items() if name not in Task._relations}
    return cls(**plain)


for _shown in (heartbeat_expires, with_unique_field, Worker, Task, _restore_task):
    _shown.__module__ = _PUBLIC
