"""What a worker counts for monitoring systems, and how it looks in Prometheus' text format.

Requests count themselves when they start and end, see `counted`; that is all that is done for
each task. Everything else is read from the registers of the worker when somebody asks.
`exposition` needs the package ``prometheus_client``, counting does not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from celery._protocol.events import STARTED, SUCCEEDED, Sketch
from celery.worker import state

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from celery.worker.request import Request

__all__ = (
    "Gauges",
    "Histogram",
    "Tally",
    "TaskTally",
    "counted",
    "exposition",
    "gauges_of",
    "waiting_since",
)

#: Upper bounds of the buckets of both histograms, in seconds.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

#: States by the event that tells of them, but for those that are counted by themselves.
_OTHER_STATES = {
    "task-failed": "failed",
    "task-retried": "retried",
    "task-revoked": "revoked",
    "task-rejected": "rejected",
    "task-cancelled": "cancelled",
}

INSTALL_HINT = (
    "Metrics need the package prometheus_client, which is not installed here.\n"
    'Install it with: pip install "celery[prometheus]"\n'
)


class Histogram:
    """Counts of values by the upper bounds `BUCKETS_S`; the last count is for those beyond."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        #: Sum of the values; a list, so that all who count see one object.
        self.total = [0.0]

    def cumulated(self) -> list[tuple[str, int]]:
        """Return the buckets as Prometheus wants them: each with all that is smaller."""
        bounds = [*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class TaskTally:
    """Counts of one task."""

    def __init__(self) -> None:
        #: Started tasks, and those that ended in other ways than well.
        self.others: Counter[str] = Counter()
        self.runtimes = Histogram()
        self.waits = Histogram()
        self.started = [0]

    @property
    def states(self) -> dict[str, int]:
        """Counts by state, without those that are zero."""
        counts = {
            "started": self.started[0],
            "succeeded": sum(self.runtimes.counts),
            **self.others,
        }
        return {word: count for word, count in counts.items() if count}


class Tally:
    """Counts by the name of the task."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskTally] = {}

    def of(self, name: str) -> TaskTally:
        """Return the counts of one task; the same object each time."""
        return self.tasks.setdefault(name, TaskTally())


def waiting_since(message: Any, now: float) -> float:
    """Return when *message* was published, if it says so, else *now*; both are POSIX times.

    It says so in the header ``timestamp_in_ms``, which RabbitMQ writes when told to and programs
    can, or in the AMQP property ``timestamp``, in seconds. Clocks that differ never make it later
    than *now*.
    """
    sent: Any = message.headers.get("timestamp_in_ms")
    if sent is not None:
        return min(sent / 1000, now) if isinstance(sent, int | float) else now
    sent = message.properties.get("timestamp")
    if isinstance(sent, datetime):
        # AMQP knows no zones; drivers give naive times.
        sent = (sent if sent.tzinfo else sent.replace(tzinfo=UTC)).timestamp()
    return min(sent, now) if isinstance(sent, int | float) else now


def counted(base: type[Request], tally: TaskTally) -> type[Request]:
    """Return *base* made to count, in *tally*, whatever its requests tell in events.

    Whoever finds a request ready to run sets its ``waits_since``, see `waiting_since`; the wait of
    one without it, which had to wait for its ETA or its rate limit, is not counted.
    """
    bounds, started, others = BUCKETS_S, tally.started, tally.others
    runtimes, runtime_sum = tally.runtimes.counts, tally.runtimes.total
    waits, wait_sum = tally.waits.counts, tally.waits.total

    class CountedRequest(base):  # type: ignore[valid-type,misc]  # the base is a parameter
        """A request that is counted."""

        __slots__ = ("waits_since",)

        def send_event(self, type: str, **fields: Any) -> None:
            if type in _OTHER_STATES:
                others[_OTHER_STATES[type]] += 1
            base.send_event(self, type, **fields)

        def _note_event(self, sketch: Sketch, *values: Any) -> None:
            # Written out, as it runs twice for each task. No lock: CPython does not change threads
            # within ``x[i] += 1``, and a count that were lost elsewhere would do no harm.
            if sketch is SUCCEEDED:
                runtime_s = values[-1]
                runtimes[bisect_left(bounds, runtime_s)] += 1
                runtime_sum[0] += runtime_s
            elif sketch is STARTED:
                started[0] += 1
                try:
                    wait_s = self.time_start - self.waits_since
                except AttributeError:
                    pass  # It had to wait for other reasons, see above.
                else:
                    waits[bisect_left(bounds, wait_s)] += 1
                    wait_sum[0] += wait_s
            eventer = self._eventer
            if eventer is not None and eventer.enabled:
                base._note_event(self, sketch, *values)

    CountedRequest.__name__ = base.__name__
    return CountedRequest


class Gauges(NamedTuple):
    """What a worker holds at a moment."""

    active: int
    reserved: int
    scheduled: int
    #: Tasks that wait for a slot of the pool.
    waiting: int
    pool_size: int
    #: Messages that the broker may send ahead; 0 for no limit.
    prefetch: int
    ready: bool
    restarts: int


def gauges_of(worker: Any, ready: bool) -> Gauges:
    """Read the registers of *worker*; from any thread."""
    consumer, slots = worker.consumer, worker.semaphore
    return Gauges(
        active=len(state.active_requests),
        reserved=len(state.reserved_requests),
        scheduled=len(state.scheduled_requests),
        waiting=len(slots) if slots is not None else 0,
        pool_size=worker.pool.num_processes,
        prefetch=consumer.qos.value if consumer.qos is not None else 0,
        ready=ready,
        restarts=max(consumer.restart_count, 0),
    )


def exposition(tally: Tally, gauges: Gauges, hostname: str) -> tuple[bytes, str]:
    """Return the metrics in Prometheus' text format, and its content type.

    Those of the process (memory, processor time, open files) come with them.

    Raises:
        ImportError: ``prometheus_client`` is not installed.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    registry = CollectorRegistry()
    registry.register(_Collected([*_of_tasks(tally), *_of_worker(gauges, hostname)]))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collected:
    """Metrics that were collected already, in the shape that a registry asks for."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of_tasks(tally: Tally) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    states = CounterMetricFamily(
        "celery_tasks", "Tasks by name and what became of them.", labels=["name", "state"]
    )
    runtimes = HistogramMetricFamily(
        "celery_task_runtime_seconds", "How long tasks ran that succeeded.", labels=["name"]
    )
    waits = HistogramMetricFamily(
        "celery_task_wait_seconds",
        "How long tasks waited to start, since they were published or received.",
        labels=["name"],
    )
    for name, task in sorted(tally.tasks.items()):
        for word, count in sorted(task.states.items()):
            states.add_metric([name, word], count)
        for family, histogram in ((runtimes, task.runtimes), (waits, task.waits)):
            if any(histogram.counts):
                family.add_metric([name], histogram.cumulated(), histogram.total[0])
    yield from (states, runtimes, waits)


_GAUGES = {
    "celery_worker_active_tasks": ("active", "Tasks that run."),
    "celery_worker_reserved_tasks": (
        "reserved",
        "Tasks received and not ended.",
    ),
    "celery_worker_scheduled_tasks": ("scheduled", "Tasks that wait for their ETA."),
    "celery_worker_waiting_tasks": ("waiting", "Tasks that wait for a slot of the pool."),
    "celery_worker_pool_size": ("pool_size", "Tasks that the pool can run at a time."),
    "celery_worker_prefetch_count": ("prefetch", "Messages the broker may send ahead; 0: all."),
    "celery_worker_ready": ("ready", "1 while the worker consumes."),
}


def _of_worker(gauges: Gauges, hostname: str) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    for name, (field, text) in _GAUGES.items():
        yield GaugeMetricFamily(name, text, value=float(getattr(gauges, field)))
    yield CounterMetricFamily(
        "celery_worker_reconnects", "Times the broker was lost.", value=gauges.restarts
    )
    yield InfoMetricFamily(
        "celery_worker",
        "Who this is.",
        value={"hostname": hostname, "version": state.SOFTWARE_INFO["sw_ver"]},
    )
