"""What is wrong with a set-up: the classic troubles, each with its remedy.

`celery.apps._examination` gathers `Facts` from the app, the broker and the workers; each check
here is a function from these to findings, and knows no app, no broker and no file. ``celery
doctor`` prints the findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

__all__ = (
    "CHECKS",
    "Facts",
    "Finding",
    "Level",
    "PathFacts",
    "ProbeFacts",
    "WorkerFacts",
    "diagnose",
)

#: Seconds that clocks may differ before it is told: more than an event takes on its way.
DRIFT_S = 5.0

_NAMES_SHOWN = 5


class Level(Enum):
    """How bad it is."""

    #: Something does not work.
    PROBLEM = "problem"
    #: It may be meant so, and surprises many.
    WARNING = "warning"


class Finding(NamedTuple):
    """One trouble."""

    check: str
    level: Level
    text: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What one worker tells of itself; None where it did not."""

    name: str
    #: Workers that answered under this name.
    answers: int = 1
    tasks: frozenset[str] | None = None
    queues: frozenset[str] | None = None
    #: URL of the result back-end, without password; "" when results are disabled.
    backend: str | None = None
    #: Content types and names of serializers.
    accepts: frozenset[str] | None = None
    result_serializer: str | None = None
    active: int | None = None
    pool_size: int | None = None
    #: Seconds from now to the latest ETA that it holds.
    longest_eta_s: float | None = None
    #: Seconds that its clock is ahead of ours.
    clock_offset_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """A file that a program is to write."""

    #: Setting or option that names it.
    origin: str
    path: str
    #: Why it can't be written, None if it can.
    trouble: str | None = None
    #: The process that a pid file names, if it lives.
    held_by: int | None = None
    #: A pid file of a process that is gone.
    is_stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFacts:
    """How a harmless task fared."""

    queue: str
    #: Seconds until its result came, None when it did not.
    seconds: float | None
    waited_s: float
    #: What came instead of a result.
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found out."""

    broker: str
    #: Why the broker can't be reached, None if it can.
    broker_error: str | None = None
    #: What it cannot carry, None if that is nothing.
    broker_limits: str | None = None
    backend: str = ""
    backend_error: str | None = None
    results_disabled: bool = False
    results_ignored: bool = False
    #: Tasks whose results are dropped because they say so themselves.
    tasks_ignoring: frozenset[str] = frozenset()
    #: Names of the app's tasks, and the queue that each goes to.
    queue_of: dict[str, str] = field(default_factory=dict)
    #: Serializers in use, and tasks that are sent with them.
    serializers: dict[str, frozenset[str]] = field(default_factory=dict)
    #: What we read in results.
    accepts: frozenset[str] = frozenset()
    #: Seconds after which the broker delivers again, None where it is no matter.
    visibility_timeout_s: float | None = None
    has_remote_control: bool = True
    #: Seconds for which replies were waited for.
    waited_s: float = 1.0
    workers: tuple[WorkerFacts, ...] = ()
    #: Messages that wait, by queue.
    waiting: dict[str, int] = field(default_factory=dict)
    probe: ProbeFacts | None = None
    paths: tuple[PathFacts, ...] = ()
    is_root: bool = False
    accepts_pickle: bool = False


Check = Callable[[Facts], Iterator[Finding]]


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings, problems first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.level is not Level.PROBLEM)


def broker_reachable(facts: Facts) -> Iterator[Finding]:
    """Without a broker nothing works."""
    if facts.broker_error is not None:
        yield Finding(
            "broker-unreachable",
            Level.PROBLEM,
            f"The broker {facts.broker} cannot be reached: {facts.broker_error}.",
            "Start it, or correct broker_url (also CELERY_BROKER_URL, or the option --broker). "
            "Without any of them the app looks for RabbitMQ on this machine.",
        )


def backend_reachable(facts: Facts) -> Iterator[Finding]:
    """Results must be readable here."""
    if facts.backend_error is not None:
        yield Finding(
            "backend-unreachable",
            Level.PROBLEM,
            f"The result back-end {facts.backend} cannot be read: {facts.backend_error}.",
            "Start it, or correct result_backend; its driver has to be installed as well.",
        )


def results_kept(facts: Facts) -> Iterator[Finding]:
    """Results that nobody stores can't be waited for."""
    if facts.results_disabled:
        yield Finding(
            "results-disabled",
            Level.WARNING,
            "The app has no result back-end: states and return values are not stored, and get() "
            "raises an error.",
            "Set result_backend if results are wanted; otherwise all is well.",
        )
    elif facts.results_ignored:
        yield Finding(
            "results-ignored",
            Level.WARNING,
            "task_ignore_result is set: results are dropped, and get() waits without end.",
            "Unset it, or give ignore_result=False to the tasks whose results are wanted.",
        )
    elif facts.tasks_ignoring:
        yield Finding(
            "results-ignored",
            Level.WARNING,
            f"These tasks drop their results (ignore_result), so get() waits without end: "
            f"{_names(facts.tasks_ignoring)}.",
            "Remove ignore_result from those whose results are wanted.",
        )


def broker_carries_all(facts: Facts) -> Iterator[Finding]:
    """Some brokers do less than others, which shows late."""
    if facts.broker_limits is not None:
        yield Finding(
            "broker-limits",
            Level.WARNING,
            facts.broker_limits,
            "Use RabbitMQ, Redis or an embedded sqlite:// broker where you need that.",
        )


def workers_answer(facts: Facts) -> Iterator[Finding]:
    """Somebody has to run the tasks."""
    if facts.broker_error is None and facts.has_remote_control and not facts.workers:
        yield Finding(
            "no-worker",
            Level.PROBLEM,
            f"No worker has answered on {facts.broker} within {facts.waited_s:g} seconds.",
            "Start one with 'celery -A APP worker', with the same broker_url. One that runs may be "
            "busy with a task in the pool solo (wait longer, with --timeout), have "
            "worker_enable_remote_control off, or another control_exchange.",
        )


def names_unique(facts: Facts) -> Iterator[Finding]:
    """Two workers of one name can't be told from each other."""
    for worker in facts.workers:
        if worker.answers > 1:
            yield Finding(
                "same-name",
                Level.PROBLEM,
                f"{worker.answers} workers have the name {worker.name}: monitors and remote "
                "control take them for one.",
                "Start each with a name of its own, as in -n worker1@%h.",
            )


def backends_agree(facts: Facts) -> Iterator[Finding]:
    """Results have to be stored where we look for them."""
    for worker in facts.workers:
        if worker.backend is not None and worker.backend != facts.backend:
            yield Finding(
                "different-backends",
                Level.PROBLEM,
                f"{worker.name} {_keeps(worker.backend)}, but this app "
                f"{_keeps(facts.backend, 'looks for')}: tasks run, and their results never arrive.",
                "Give both the same result_backend; look for environment variables and for modules "
                "of settings that only one of them loads, then restart the worker.",
            )


def _keeps(backend: str, verb: str = "stores") -> str:
    return f"{verb} results at {backend}" if backend else f"{verb} no results"


def tasks_registered(facts: Facts) -> Iterator[Finding]:
    """A worker has to know what it is sent."""
    for queue, tasks in sorted(_by_queue(facts).items()):
        known = {
            worker.name: worker.tasks
            for worker in facts.workers
            if worker.tasks is not None and queue in (worker.queues or ())
        }
        if not known:
            continue
        anywhere = frozenset[str]().union(*known.values())
        if nowhere := tasks - anywhere:
            yield Finding(
                "task-not-registered",
                Level.PROBLEM,
                f"No worker of the queue {queue} knows {_names(nowhere)}: such messages are "
                "thrown away there, with an error in the log.",
                "Have the worker import their modules (imports, include, autodiscover_tasks or -I) "
                "and restart it. The names have to be equal, too: they come from how a module is "
                "imported.",
            )
        for name, has in known.items():
            if stale := (tasks & anywhere) - has:
                yield Finding(
                    "stale-worker",
                    Level.PROBLEM,
                    f"{name} consumes from {queue} without knowing {_names(stale)}, which others "
                    "there do know: what it gets of these is lost.",
                    "It runs older code, or another app: restart it, or give it other queues (-Q).",
                )


def queues_served(facts: Facts) -> Iterator[Finding]:
    """Each queue needs a worker."""
    told = [worker.queues for worker in facts.workers if worker.queues is not None]
    if not told:
        return
    served = frozenset[str]().union(*told)
    for queue, tasks in sorted(_by_queue(facts).items()):
        if queue not in served:
            count = facts.waiting.get(queue, 0)
            heap = f" {count} wait there now." if count else ""
            yield Finding(
                "queue-without-worker",
                Level.PROBLEM,
                f"No worker consumes from {queue}, where {_names(tasks)} go.{heap}",
                f"Start a worker with -Q {queue}, or correct task_routes and task_default_queue.",
            )


def _by_queue(facts: Facts) -> dict[str, frozenset[str]]:
    queues = set(facts.queue_of.values())
    return {
        queue: frozenset(name for name, goes in facts.queue_of.items() if goes == queue)
        for queue in queues
    }


def serializers_accepted(facts: Facts) -> Iterator[Finding]:
    """Both sides must be willing to read what the other writes."""
    for worker in facts.workers:
        for serializer, tasks in sorted(facts.serializers.items()):
            if worker.accepts is not None and serializer not in worker.accepts:
                yield Finding(
                    "serializer-refused",
                    Level.PROBLEM,
                    f"{worker.name} refuses {serializer}, with which {_names(tasks)} are sent.",
                    f"Add {serializer!r} to accept_content of the worker, or send with one of "
                    f"{_names(worker.accepts)} (task_serializer).",
                )
        written = worker.result_serializer
        if written is not None and facts.accepts and written not in facts.accepts:
            yield Finding(
                "serializer-refused",
                Level.PROBLEM,
                f"{worker.name} writes results as {written}, which this app refuses to read.",
                f"Add {written!r} to result_accept_content (or accept_content) here, or change "
                "result_serializer of the worker.",
            )


def visibility_long_enough(facts: Facts) -> Iterator[Finding]:
    """What waits for its ETA must not be delivered again meanwhile."""
    if facts.visibility_timeout_s is None:
        return
    for worker in facts.workers:
        eta_s = worker.longest_eta_s
        if eta_s is not None and eta_s > facts.visibility_timeout_s:
            yield Finding(
                "visibility-timeout",
                Level.PROBLEM,
                f"{worker.name} holds a task that is due in {eta_s:.0f} seconds, but the broker "
                f"delivers it again after {facts.visibility_timeout_s:.0f} (visibility_timeout): "
                "it will run more than once.",
                "Set visibility_timeout in broker_transport_options above the longest ETA, for "
                "all workers and clients.",
            )


def clocks_agree(facts: Facts) -> Iterator[Finding]:
    """ETAs and expiry compare the clocks of two machines."""
    for worker in facts.workers:
        offset = worker.clock_offset_s
        if offset is not None and abs(offset) > DRIFT_S:
            way = "ahead of" if offset > 0 else "behind"
            yield Finding(
                "clock-drift",
                Level.PROBLEM,
                f"The clock of {worker.name} is {abs(offset):.0f} seconds {way} ours: tasks with "
                "eta, countdown or expires run at the wrong time, or not at all.",
                "Have both machines follow a time server.",
            )


def probe_returns(facts: Facts) -> Iterator[Finding]:
    """A task that does nothing has to come back."""
    probe = facts.probe
    if probe is None or probe.seconds is not None:
        return
    if probe.error is not None:
        yield Finding(
            "probe-failed",
            Level.PROBLEM,
            f"A task that only returns its arguments failed in the queue {probe.queue}: "
            f"{probe.error}.",
            "The log of the worker tells more.",
        )
        return
    there = [worker for worker in facts.workers if probe.queue in (worker.queues or ())]
    busy = [
        worker.name
        for worker in there
        if worker.active is not None and worker.pool_size and worker.active >= worker.pool_size
    ]
    if busy:
        text = f" Busy with other tasks: {_names(frozenset(busy))}."
        remedy = "Wait for them, or start more workers; 'celery inspect active' shows what runs."
    elif facts.backend_error is None and any(
        worker.backend not in (None, facts.backend) for worker in there
    ):
        text = " Its result went to another back-end, see above."
        remedy = "See there."
    else:
        text = ""
        remedy = "Look into the log of the worker: it may refuse messages, or wait for its broker."
    yield Finding(
        "probe-lost",
        Level.PROBLEM,
        f"A task that does nothing, sent to the queue {probe.queue}, brought no result within "
        f"{probe.waited_s:g} seconds.{text}",
        remedy,
    )


def files_writable(facts: Facts) -> Iterator[Finding]:
    """A daemon has no terminal to complain at."""
    for file in facts.paths:
        if file.trouble is not None:
            yield Finding(
                "file-not-writable",
                Level.PROBLEM,
                f"{file.path} ({file.origin}) cannot be written: {file.trouble}.",
                "Make its folder, and let the user that runs the program write there; or choose "
                "another path.",
            )
        elif file.held_by is not None:
            yield Finding(
                "pidfile-held",
                Level.WARNING,
                f"The pid file {file.path} ({file.origin}) names process {file.held_by}, which "
                "lives: a second program with this file refuses to start.",
                "Nothing needs to be done while that is the worker; otherwise remove the file.",
            )
        elif file.is_stale:
            yield Finding(
                "pidfile-stale",
                Level.WARNING,
                f"The pid file {file.path} ({file.origin}) is of a process that is gone.",
                "The next start removes it; if the worker should be running, look into its log.",
            )


def not_root(facts: Facts) -> Iterator[Finding]:
    """Whoever can send a message must not become root."""
    if facts.is_root and facts.accepts_pickle:
        yield Finding(
            "root-with-pickle",
            Level.PROBLEM,
            "This runs as root, and accept_content has pickle: whoever can reach the broker can "
            "run any code as root. Workers refuse to start so.",
            "Run as another user (--uid), or leave pickle out of accept_content.",
        )
    elif facts.is_root:
        yield Finding(
            "root",
            Level.WARNING,
            "This runs as root; a worker started like this would, too.",
            "Run workers as a user of their own (--uid, --gid, or those of the service).",
        )


def _names(names: frozenset[str]) -> str:
    listed = sorted(names)
    more = len(listed) - _NAMES_SHOWN
    return ", ".join(listed[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


#: In the order in which one would look.
CHECKS: tuple[Check, ...] = (
    broker_reachable,
    broker_carries_all,
    workers_answer,
    names_unique,
    queues_served,
    tasks_registered,
    backend_reachable,
    backends_agree,
    results_kept,
    serializers_accepted,
    probe_returns,
    clocks_agree,
    visibility_long_enough,
    files_writable,
    not_root,
)
