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
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias
from weakref import WeakSet, ref

from kombu.clocks import timetuple
from kombu.utils.functional import LRUCache

from celery import states
from celery._protocol import events as wire
from celery.events._entities import (
    DRIFT_WARNING as DRIFT_WARNING,
    HEARTBEAT_DRIFT_MAX as HEARTBEAT_DRIFT_MAX,
    HEARTBEAT_EXPIRE_WINDOW as HEARTBEAT_EXPIRE_WINDOW,
    R_TASK as R_TASK,
    R_WORKER as R_WORKER,
    TASK_EVENT_TO_STATE as TASK_EVENT_TO_STATE,
    Task,
    Worker,
    _restore_task as _restore_task,
    heartbeat_expires,
    with_unique_field as with_unique_field,
)
from celery.utils import log

__all__ = ("State", "Task", "Worker", "heartbeat_expires")

logger = log.get_logger(__name__)

PYPY = hasattr(sys, "pypy_version_info")

R_STATE = "<State: events={0.event_count} tasks={0.task_count}>"


class CallableDefaultdict(defaultdict[Any, Any]):
    """A defaultdict that may be called as well; keeps old method calls working."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fun = fun
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)


def _new_task_set(tasks: Iterable[Any] = ()) -> WeakSet[Any]:
    return WeakSet(tasks)


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
