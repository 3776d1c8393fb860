"""
A picture of the cluster, drawn from events.

:class:`State` keeps workers and tasks in bounded registers and merges each event into them.
Events come late, twice and out of order, from many nodes; three ideas make sense of that:

- the state of a task moves only to states of higher precedence (:mod:`celery.states`), so an event
  that was overtaken adds what it knows about the task, but undoes nothing;
- tasks are ordered by logical clock, then by time (``State.tasks_by_time``);
- a worker is alive while its last heartbeat is younger than twice its frequency.
"""

from __future__ import annotations

import bisect
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Any, TypeAlias
from weakref import WeakSet, ref

from kombu.clocks import timetuple
from kombu.utils.functional import LRUCache

from celery import states
from celery._protocol import events as wire
from celery.utils import log

__all__ = ("State", "Task", "Worker", "heartbeat_expires")

logger = log.get_logger(__name__)

PYPY = hasattr(sys, "pypy_version_info")

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

R_STATE = "<State: events={0.event_count} tasks={0.task_count}>"
R_WORKER = "<Worker: {0.hostname} ({0.status_string} clock:{0.clock})>"
R_TASK = "<Task: {0.name}({0.uuid}) {0.state} clock:{0.clock}>"

TASK_EVENT_TO_STATE: dict[str, str] = dict(wire.STATE_AFTER)

#: States in which a repeated attempt is not news any more.
_FINAL = frozenset({states.SUCCESS, states.FAILURE, states.REVOKED})


class CallableDefaultdict(defaultdict[Any, Any]):
    """A defaultdict that may be called as well; keeps old method calls working."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fun = fun
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)


def _new_task_set(tasks: Iterable[Any] = ()) -> WeakSet[Any]:
    return WeakSet(tasks)


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


# Names for annotations where the class below has attributes of the same names.
_Worker: TypeAlias = Worker
_Task: TypeAlias = Task


class State:
    """
    The registers of workers and tasks.

    Args:
        callback: Called with state and event before each event is merged.
        workers: Register of workers to start with.
        tasks: Register of tasks to start with.
        taskheap: Tasks in order, as an earlier state left them.
        max_workers_in_memory: Workers beyond which the least used one is forgotten.
        max_tasks_in_memory: Tasks beyond which the least used one is forgotten.
        on_node_join: Called with a worker heard of for the first time.
        on_node_leave: Called with a worker that says good-bye, which is then forgotten.
        tasks_by_type: Index to start with.
        tasks_by_worker: Index to start with.
    """

    Worker: type[_Worker] = _Worker
    Task: type[_Task] = _Task

    event_count = 0
    task_count = 0
    #: The order remembers this many entries for each task.
    heap_multiplier = 4

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: list[Any] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[_Worker], Any] | None = None,
        on_node_leave: Callable[[_Worker], Any] | None = None,
        tasks_by_type: Mapping[str, Iterable[Any]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[Any]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.on_node_join, self.on_node_leave = on_node_join, on_node_leave
        self.workers = LRUCache(max_workers_in_memory) if workers is None else workers
        self.tasks = LRUCache(max_tasks_in_memory) if tasks is None else tasks
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self.max_tasks_in_memory, self.max_workers_in_memory = (
            max_tasks_in_memory,
            max_workers_in_memory,
        )
        self.handlers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self._mutex = threading.Lock()
        self._seen_types: set[str] = set()
        # Children of tasks not heard of (yet), by the id of the parent.
        self._orphans = LRUCache(max_tasks_in_memory)
        self.tasks_by_type = CallableDefaultdict(self._tasks_by_type, _new_task_set)
        self.tasks_by_worker = CallableDefaultdict(self._tasks_by_worker, _new_task_set)
        self._fill_index(self.tasks_by_type, tasks_by_type)
        self._fill_index(self.tasks_by_worker, tasks_by_worker)
        for task in self.tasks.data.values():
            task.cluster_state = self
            if task.name:
                self._seen_types.add(task.name)
        for task in self.tasks.data.values():
            if task.parent is not None:
                task.parent.children.add(task)
        if taskheap is None and self.tasks:
            self.rebuild_taskheap()

    def _fill_index(self, index: CallableDefaultdict, given: Any) -> None:
        for key, members in (given or {}).items():
            tasks = (self.tasks.data.get(m) if isinstance(m, str) else m for m in members)
            index[key] = _new_task_set(task for task in tasks if task is not None)

    def __repr__(self) -> str:
        return R_STATE.format(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            type(self),
            (
                self.event_callback,
                self.workers,
                self.tasks,
                None,
                self.max_workers_in_memory,
                self.max_tasks_in_memory,
                self.on_node_join,
                self.on_node_leave,
                _as_ids(self.tasks_by_type),
                _as_ids(self.tasks_by_worker),
            ),
            {"event_count": self.event_count, "task_count": self.task_count},
        )

    # -- registers

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Call *fun* while no event is merged.

        Args:
            fun: What to call with the other arguments.
            clear_after: Forget all finished tasks and all workers at the end.
        """
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended, or all of them when *ready* is false."""
        with self._mutex:
            self._clear_tasks(ready)

    def clear(self, ready: bool = True) -> None:
        """Forget workers, counts and tasks; tasks under way are kept if *ready* is true."""
        with self._mutex:
            self._clear(ready)

    def _clear_tasks(self, ready: bool = True) -> None:
        kept = {}
        if ready:
            kept = {uuid: t for uuid, t in self.itertasks() if t.state not in states.READY_STATES}
        self.tasks.clear()
        self._orphans.clear()
        self.tasks.update(kept)
        self._taskheap[:] = []
        if kept:
            self.rebuild_taskheap()

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = 0
        self.task_count = 0

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[_Worker, bool]:
        """Return the worker of that node name, with *kwargs* set, and whether it is new."""
        worker = self.workers.get(hostname)
        if worker is not None:
            if kwargs:
                worker.update(kwargs)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[_Task, bool]:
        """Return the task of that id and whether it is new."""
        known = self.tasks.get(uuid)
        if known is None:
            self.tasks[uuid] = heard_of = self.Task(uuid, cluster_state=self)
            return heard_of, True
        return known, False

    # -- events

    def event(self, event: dict[str, Any]) -> Any:
        """Merge one event, as a receiver gives it."""
        with self._mutex:
            return self._event(event)

    def task_event(self, type_: str, fields: Mapping[str, Any]) -> Any:
        """Merge an event of the group task, given without its type."""
        return self._event({**fields, "type": f"{wire.TASK_GROUP}-{type_}"})[0]

    def worker_event(self, type_: str, fields: Mapping[str, Any]) -> Any:
        """Merge an event of the group worker, given without its type."""
        return self._event({**fields, "type": f"{wire.WORKER_GROUP}-{type_}"})[0]

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        kind = event["type"]
        group, subject = wire.group_of(kind), wire.subject_of(kind)
        handler = self.handlers.get(group)
        if handler is not None:
            return handler(event), subject
        fields = {name: value for name, value in event.items() if name != "type"}
        if group == wire.TASK_GROUP:
            return self._merge_task(subject, fields), subject
        if group == wire.WORKER_GROUP:
            return self._merge_worker(subject, fields), subject
        return None

    def _merge_worker(self, subject: str, fields: dict[str, Any]) -> tuple[_Worker, bool]:
        hostname = fields.pop("hostname")
        timestamp = fields.pop("timestamp", None)
        local_received = fields.pop("local_received", None)
        is_leaving = subject == "offline"
        worker, created = self.workers.get(hostname), False
        if worker is None:
            worker, created = self.Worker(hostname), True
            if not (is_leaving and self.on_node_leave):
                self.workers[hostname] = worker
        worker.event(subject, timestamp, local_received, fields)
        if self.on_node_join is not None and (created or subject == "online") and not is_leaving:
            self.on_node_join(worker)
        if self.on_node_leave is not None and is_leaving:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return worker, created

    def _merge_task(self, subject: str, fields: dict[str, Any]) -> tuple[_Task, bool]:
        hostname = fields.pop("hostname")
        timestamp = fields.pop("timestamp", None)
        local_received = fields.pop("local_received", None)
        task, created = self.get_or_create_task(fields.pop("uuid"))
        if subject == "sent":
            task.client = hostname
        else:
            self._note_worker(task, hostname, fields, timestamp, local_received)
        self._put_in_order(task, fields.get("clock"), timestamp)
        if subject == "received":
            self.task_count += 1
        task.event(subject, timestamp, local_received, fields)
        if task.name is not None:
            if task.name not in self._seen_types:
                self._note_type(task.name)
            self.tasks_by_type[task.name].add(task)
        self._tie_family(task, created)
        return task, created

    def _note_type(self, name: str) -> None:
        if len(self._seen_types) >= self.max_tasks_in_memory:
            _forget_empty(self.tasks_by_type, self.max_tasks_in_memory)
            self._seen_types = set(self.tasks_by_type)
        self._seen_types.add(name)

    def _note_worker(
        self,
        task: _Task,
        hostname: str,
        fields: Mapping[str, Any],
        timestamp: float | None,
        local_received: float | None,
    ) -> None:
        worker = self.workers.get(hostname)
        if worker is None:
            _forget_empty(self.tasks_by_worker, self.max_workers_in_memory)
            worker = self.workers[hostname] = self.Worker(hostname)
        if task.worker is not worker and task.worker is not None:
            self.tasks_by_worker[task.worker.hostname].discard(task)
        task.worker = worker
        self.tasks_by_worker[hostname].add(task)
        # Whoever speaks is alive.
        worker.event(None, timestamp, local_received)
        worker.clock = max(worker.clock or 0, fields.get("clock") or 0)

    def _put_in_order(self, task: _Task, clock: int | None, timestamp: float | None) -> None:
        order = self._taskheap
        if len(order) >= self.max_tasks_in_memory * self.heap_multiplier:
            del order[: len(order) // 4]
        entry = timetuple(clock or 0, timestamp or 0.0, task.origin or "", ref(task))
        # Nearly all events come in order.
        if not order or entry > order[-1]:
            order.append(entry)
        else:
            bisect.insort(order, entry)

    def _tie_family(self, task: _Task, created: bool) -> None:
        if task.parent_id:
            parent = self.tasks.data.get(task.parent_id)
            if parent is None:
                if task.parent_id not in self._orphans:
                    self._orphans[task.parent_id] = _new_task_set()
                self._orphans[task.parent_id].add(task)
            elif parent is not task:
                parent.children.add(task)
        if created and task.uuid in self._orphans:
            task.children.update(self._orphans.pop(task.uuid))

    # -- views

    def rebuild_taskheap(self, timetuple: Callable[..., Any] = timetuple) -> None:
        """Sort the known tasks anew."""
        self._taskheap[:] = sorted(
            timetuple(task.clock, task.timestamp or 0.0, task.origin or "", ref(task))
            for task in self.tasks.data.values()
        )

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, _Task]]:
        """Iterate over ids and tasks, *limit* of them at most."""
        return islice(list(self.tasks.data.items()), limit)

    def tasks_by_time(
        self, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, _Task]]:
        """
        Iterate over ids and tasks, each once, by the clock of its events.

        Args:
            limit: Number of tasks at most.
            reverse: The latest first.
        """
        entries = list(self._taskheap)
        return islice(self._unique(reversed(entries) if reverse else entries), limit)

    tasks_by_timestamp = tasks_by_time

    def _unique(self, entries: Iterable[Any]) -> Iterator[tuple[str, _Task]]:
        seen: set[str] = set()
        for entry in entries:
            task = entry[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    def _tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, _Task]]:
        found = (pair for pair in self.tasks_by_time(reverse=reverse) if pair[1].name == name)
        return islice(found, limit)

    def _tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, _Task]]:
        found = (
            pair
            for pair in self.tasks_by_time(reverse=reverse)
            if pair[1].worker is not None and pair[1].worker.hostname == hostname
        )
        return islice(found, limit)

    def task_types(self) -> list[str]:
        """Return the names of all tasks heard of, sorted."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[_Worker]:
        """Iterate over the workers heard of lately."""
        return (worker for worker in list(self.workers.data.values()) if worker.alive)


def _forget_empty(index: CallableDefaultdict, limit: int) -> None:
    """Bound *index*: names whose tasks are all forgotten would stay in it for ever."""
    if len(index) >= limit:
        for key in [key for key, tasks in index.items() if not tasks]:
            del index[key]


def _as_ids(index: Mapping[str, Iterable[_Task]]) -> dict[str, list[Any]]:
    return {key: [task.id for task in tasks] for key, tasks in index.items()}
