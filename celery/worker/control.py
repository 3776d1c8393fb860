"""
Remote commands: what a worker does, or tells, when asked over the broker.

A command is a function of the panel: its first argument is the *state* (attributes ``app``,
``hostname``, ``consumer``), the others are named by the caller, and what it returns is the reply.
An exception becomes an error reply. Commands run between messages in the consumer's thread, so
they have to be quick. Other packages add theirs with :func:`control_command` (changes something)
and :func:`inspect_command` (only tells).
"""

from __future__ import annotations

import io
import tempfile
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from kombu.utils.encoding import safe_repr

from celery import platforms, states
from celery.exceptions import WorkerShutdown
from celery.utils import debug, log
from celery.utils.functional import maybe_list
from celery.utils.serialization import jsonify, strtobool
from celery.utils.time import maybe_iso8601, maybe_make_aware, rate, to_utc
from celery.worker import state as worker_state

if TYPE_CHECKING:
    from celery.worker.request import Request

__all__ = ("Panel",)

logger = log.get_logger(__name__)

#: Attributes of tasks that ``registered`` shows when none are named.
DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")

#: Priority in the timer at which tasks with an ETA wait.
_ETA_PRIORITY = 6

#: Stored states of a task that nobody has begun; only these are overwritten by a revocation.
_NOT_BEGUN = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})

Reply = Any
Command = Callable[..., Reply]


class controller_info_t(NamedTuple):
    """How a command looks to callers."""

    alias: str | None
    #: ``control`` or ``inspect``.
    type: str
    #: Whether it is listed.
    visible: bool
    #: Seconds a caller should wait for replies.
    default_timeout: float
    help: str
    #: Usage of its arguments on the command line.
    signature: str | None
    #: Positional arguments on the command line: names and converters.
    args: Sequence[tuple[str, Callable[[str], Any]]]
    #: Name of the argument that takes the rest of the command line.
    variadic: str | None


class Panel(UserDict[str, Command]):
    """All commands by name; each panel is the same one."""

    data: ClassVar[dict[str, Command]] = {}  # type: ignore[misc]  # shared on purpose
    #: Facts about each command, by name.
    meta: ClassVar[dict[str, controller_info_t]] = {}

    def __init__(self) -> None:
        """Make another view of the shared table."""

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Add a command: a decorator, with or without arguments."""
        if args:
            return cls._register(**kwargs)(*args)
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: Sequence[tuple[str, Callable[[str], Any]]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[Command], Command]:
        def add(fun: Command) -> Command:
            key = name or fun.__name__
            text = (help or fun.__doc__ or "").strip().partition("\n")[0]
            cls.data[key] = fun
            cls.meta[key] = controller_info_t(
                alias, type, visible, default_timeout, text, signature, args or (), variadic
            )
            if alias:
                cls.data[alias] = fun
            return fun

        return add


def control_command(**kwargs: Any) -> Callable[[Command], Command]:
    """
    Return a decorator that registers a command which changes the worker.

    Args:
        name: Name of the command; that of the function by default.
        alias: Another name.
        args: Pairs of name and converter, for arguments given on the command line.
        variadic: Name of the argument that takes all further words of the command line.
        signature: Usage shown by the command line.
        default_timeout: Seconds a caller should wait for replies.
        visible: Whether the command line lists it.
    """
    return Panel._register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Callable[[Command], Command]:
    """Return a decorator like :func:`control_command`, for commands that only tell."""
    return Panel._register(type="inspect", **kwargs)


def ok(value: Any) -> dict[str, Any]:
    """Return a reply that says it worked."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """Return a reply that says it did not work."""
    return {"error": value}


# -- about the worker


@inspect_command()
def report(state: Any) -> Reply:
    """Information for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(
    alias="dump_conf",
    signature="[include_defaults=False]",
    args=[("with_defaults", strtobool)],
)
def conf(state: Any, with_defaults: bool = False, **kwargs: Any) -> Reply:
    """Settings that differ from the defaults, or all; secrets are masked."""
    return jsonify(
        state.app.conf.table(with_defaults=with_defaults),
        keyfilter=_is_setting,
        unknown_type_filter=safe_repr,
    )


def _is_setting(key: Any) -> bool:
    return not (isinstance(key, str) and key.startswith("__"))


@inspect_command()
def clock(state: Any, **kwargs: Any) -> Reply:
    """Value of the logical clock."""
    return {"clock": state.app.clock.value}


@inspect_command(default_timeout=0.2)
def ping(state: Any, **kwargs: Any) -> Reply:
    """Ask for a sign of life."""
    return ok("pong")


@inspect_command()
def stats(state: Any, **kwargs: Any) -> Reply:
    """Counts and facts about worker, pool and broker."""
    return state.consumer.controller.stats()


@inspect_command(visible=False)
def hello(state: Any, from_node: str, revoked: Any = None, **kwargs: Any) -> Reply:
    """Answer a node that starts: revoked tasks and logical clock."""
    if from_node == state.hostname:
        return None
    logger.info("sync with %s", from_node)
    if revoked:
        worker_state.merge_revoked(revoked)
    return {"revoked": list(worker_state.revoked), "clock": state.app.clock.forward()}


@inspect_command()
def memsample(state: Any, **kwargs: Any) -> Reply:
    """Resident memory now."""
    return debug.sample_mem()


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: Any, samples: int = 10, **kwargs: Any) -> Reply:
    """Samples of resident memory since the last call."""
    out = io.StringIO()
    debug.memdump(samples, file=out)
    return out.getvalue()


@inspect_command(
    default_timeout=60.0,
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
def objgraph(state: Any, num: int = 200, max_depth: int = 10, type: str = "Request") -> Reply:
    """Draw who refers to objects of a type; needs the package objgraph."""
    try:
        import objgraph as graphs  # type: ignore[import-untyped]  # optional
    except ImportError as exc:
        raise ImportError("Requires the objgraph library: pip install objgraph") from exc
    logger.info("Dumping graph for type %r", type)
    with tempfile.NamedTemporaryFile(prefix="cobjg", suffix=".png", delete=False) as target:
        objects = graphs.by_type(type)[:num]
        graphs.show_backrefs(
            objects,
            max_depth=max_depth,
            highlight=lambda value: value in objects,
            filename=target.name,
        )
        return {"filename": target.name}


@control_command()
def heartbeat(state: Any) -> Reply:
    """Send a heartbeat event now."""
    consumer = state.consumer
    logger.debug("Heartbeat requested by remote.")
    consumer.event_dispatcher.send(
        "worker-heartbeat",
        freq=getattr(getattr(consumer, "heart", None), "interval", None) or 2.0,
        active=len(worker_state.active_requests),
        processed=worker_state.all_total_count[0],
        loadavg=_load_average(),
        **worker_state.SOFTWARE_INFO,
    )


def _load_average() -> Sequence[float]:
    from celery.utils.sysinfo import load_average

    return list(load_average())


@control_command()
def shutdown(state: Any, msg: str = "Got shutdown from remote", **kwargs: Any) -> Reply:
    """Finish running tasks and end; there is no reply."""
    logger.warning(msg)
    raise WorkerShutdown(platforms.EX_OK)


# -- about tasks


def _held(task_ids: Iterable[str]) -> Iterator[Request]:
    """Find the requests this worker holds."""
    for task_id in task_ids:
        request = worker_state.requests.get(task_id)
        if request is not None:
            yield request


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: str | Sequence[str], **kwargs: Any) -> Reply:
    """Find tasks by id: state here and request of each one that is held."""
    wanted = list(maybe_list(ids) or ())
    waiting = state.consumer.waiting_messages(wanted)
    return {
        **{request.id: ("scheduled", request.info()) for request in waiting},
        **{request.id: (_phase(request), request.info()) for request in _held(wanted)},
    }


def _phase(request: Request) -> str:
    if request in worker_state.active_requests:
        return "active"
    if request in worker_state.scheduled_requests:
        return "scheduled"
    return "reserved"


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **kwargs: Any) -> Reply:
    """Tasks that run now."""
    return [request.info(safe=bool(safe)) for request in list(worker_state.active_requests)]


@inspect_command(alias="dump_reserved")
def reserved(state: Any, **kwargs: Any) -> Reply:
    """Tasks received that wait for a free process, not for their time."""
    waiting = set(worker_state.reserved_requests) - set(worker_state.active_requests)
    return [request.info() for request in waiting]


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **kwargs: Any) -> Reply:
    """Tasks that wait for their time (ETA or countdown), here or in the broker.

    Of those that the broker keeps, each worker of a queue lists up to 1000 that are due next.
    """
    return [
        {"eta": _utc_text(request.eta), "priority": _ETA_PRIORITY, "request": request.info()}
        for request in [*worker_state.scheduled_requests, *state.consumer.waiting_messages()]
    ]


def _utc_text(moment: Any) -> str | None:
    parsed = maybe_iso8601(moment)
    return None if parsed is None else to_utc(maybe_make_aware(parsed)).isoformat()


@inspect_command(
    alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]"
)
def registered(
    state: Any,
    taskinfoitems: Sequence[str] | None = None,
    builtins: bool = False,
    **kwargs: Any,
) -> Reply:
    """
    Names of the tasks that are known here, with some of their attributes.

    Args:
        taskinfoitems: Names of attributes to show.
        builtins: List the tasks of the library too.
    """
    wanted = tuple(taskinfoitems or DEFAULT_TASK_INFO_ITEMS)
    private = [name for name in wanted if name.startswith("_")]
    if private:
        # Such attributes may hold secrets of the app.
        return nok(f"private attributes are not shown: {', '.join(private)}")
    tasks = state.app.tasks
    names = tasks if builtins else (name for name in tasks if not name.startswith("celery."))
    return [_described(tasks[name], wanted) for name in sorted(names)]


def _described(task: Any, wanted: Iterable[str]) -> str:
    values = ((name, getattr(task, name, None)) for name in wanted)
    shown = " ".join(f"{name}={value}" for name, value in values if value is not None)
    return f"{task.name} [{shown}]" if shown else str(task.name)


@inspect_command(alias="dump_revoked")
def revoked(state: Any, **kwargs: Any) -> Reply:
    """Ids of revoked tasks."""
    return list(worker_state.revoked)


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(
    state: Any,
    task_id: str | Sequence[str],
    terminate: bool = False,
    signal: str | None = None,
    **kwargs: Any,
) -> Reply:
    """
    Skip tasks by id, when their turn comes.

    Args:
        task_id: One id or several.
        terminate: Kill the processes that run them, too.
        signal: Name of the signal to kill them with; TERM by default.
    """
    task_ids = set(maybe_list(task_id) or ())
    # An unknown signal has to fail before anything is changed.
    signum = _signum(signal) if terminate else None
    worker_state.revoked.update(task_ids)
    _mark_waiting(state.app, task_ids)
    state.consumer.recall(task_ids)
    if signum is None:
        logger.info("Tasks flagged as revoked: %s", ", ".join(sorted(task_ids)))
        return ok(f"tasks {task_ids} flagged as revoked")
    terminated, refused = _terminate(state, _held(task_ids), signum)
    if refused:
        return nok(f"flagged as revoked, but not terminated: {', '.join(refused)}")
    return ok(f"terminate: {', '.join(terminated) or 'tasks unknown'}")


def _signum(name: str | None) -> int:
    try:
        return platforms.signals.signum(name or "TERM")
    except AttributeError as exc:
        raise AttributeError(f"there is no signal {name!r}") from exc


def _terminate(state: Any, requests: Iterable[Request], signum: int) -> tuple[list[str], list[str]]:
    """End what runs; returns the ids, and those with reasons that the pool cannot end."""
    ended, refused = [], []
    for request in list(requests):
        logger.info("Terminating %s (%s)", request.id, int(signum))
        try:
            request.terminate(state.consumer.pool, signal=signum)
        except NotImplementedError as exc:
            logger.warning("Cannot terminate %s: %s", request.id, exc)
            refused.append(f"{request.id} ({exc})")
        else:
            ended.append(str(request.id))
    return ended, refused


def _mark_waiting(app: Any, task_ids: Iterable[str]) -> None:
    """Store at once that tasks are revoked which nobody seems to have begun."""
    backend = app.backend
    for task_id in task_ids:
        request = worker_state.requests.get(task_id)
        try:
            if request is not None:
                if request in worker_state.active_requests or request.has_ended():
                    continue
                # What a process has may have begun, though it has not been heard of yet.
                if request.is_in_pool():
                    request.give_up_if_revoked()
                elif request.store_errors:
                    backend.mark_as_revoked(task_id, reason="revoked", store_result=True)
            elif backend.get_state(task_id) in _NOT_BEGUN:
                backend.mark_as_revoked(task_id, reason="revoked", store_result=True)
        except NotImplementedError:
            # Results are switched off or cannot be read here; discarding works all the same.
            return
        except Exception:
            logger.exception("Cannot store that task %s is revoked", task_id)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any,
    headers: Mapping[str, Any] | Sequence[str],
    terminate: bool = False,
    signal: str | None = None,
    **kwargs: Any,
) -> Reply:
    """
    Skip tasks that carry one of these stamps.

    Args:
        headers: Values of stamps by name, or texts like ``name=value``.
        terminate: Kill the processes that run such tasks, too.
        signal: Name of the signal to kill them with; TERM by default.
    """
    stamps = _stamps(headers)
    signum = _signum(signal) if terminate else None
    for name, values in stamps.items():
        known = worker_state.revoked_stamps.setdefault(name, [])
        known.extend(value for value in values if value not in known)
    logger.info("Tasks flagged as revoked by stamps: %s", stamps)
    if signum is None:
        return ok(f"headers {stamps} flagged as revoked, but not terminated")
    matching = (
        request
        for request in list(worker_state.active_requests)
        if any(set(request.stamps.get(name, ())) & set(values) for name, values in stamps.items())
    )
    _, refused = _terminate(state, matching, signum)
    if refused:
        return nok(f"flagged as revoked, but not terminated: {', '.join(refused)}")
    return ok(f"headers {stamps} revoked")


def _stamps(headers: Mapping[str, Any] | Sequence[str]) -> dict[str, list[Any]]:
    """Turn what callers may send into lists of values by name."""
    if isinstance(headers, Mapping):
        return {name: list(maybe_list(value) or ()) for name, value in headers.items()}
    stamps: dict[str, list[Any]] = {}
    for text in maybe_list(headers):
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"{text!r} must look like name=value")
        stamps.setdefault(name, []).append(value)
    return stamps


@control_command(
    variadic="task_id",
    args=[("signal", str)],
    signature="<signal> [id1 [id2 [... [idN]]]]",
)
def terminate(state: Any, signal: str, task_id: str | Sequence[str], **kwargs: Any) -> Reply:
    """Skip tasks by id, and kill the processes that run them."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit>"
)
def rate_limit(state: Any, task_name: str, rate_limit: str | float, **kwargs: Any) -> Reply:
    """Set how often tasks of a type may start here, as in 10/m; 0 for no limit."""
    try:
        rate(rate_limit)
    except (ValueError, KeyError) as exc:
        return nok(f"Invalid rate limit {rate_limit!r}: {exc!r}; write it like 5, 10/m or 100/h")
    task = state.app.tasks.get(task_name)
    if task is None:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.rate_limit = rate_limit
    state.consumer.reset_rate_limits()
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(
    state: Any,
    task_name: str | None = None,
    hard: float | None = None,
    soft: float | None = None,
    **kwargs: Any,
) -> Reply:
    """Set the time limits of a type of task, in seconds."""
    task = state.app.tasks.get(task_name)
    if task is None:
        logger.error("Change time limit attempt for unknown task %s", task_name)
        return nok("unknown task")
    task.time_limit = hard
    task.soft_time_limit = soft
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


# -- about events


@control_command()
def election(state: Any, id: str, topic: str, action: Any = None, **kwargs: Any) -> Reply:
    """Take part in choosing one worker for a purpose."""
    gossip = state.consumer.gossip
    if gossip is not None:
        gossip.election(id, topic, action)


@control_command()
def enable_events(state: Any) -> Reply:
    """Send events about tasks."""
    dispatcher = state.consumer.event_dispatcher
    # No groups at all means every group.
    if dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups):
        return ok("task events already enabled")
    if dispatcher.groups:
        dispatcher.groups.add("task")
    if not dispatcher.enabled:
        dispatcher.enable()
    logger.info("Events of group {task} enabled by remote.")
    return ok("task events enabled")


@control_command()
def disable_events(state: Any) -> Reply:
    """Send no events about tasks."""
    dispatcher = state.consumer.event_dispatcher
    if not dispatcher.enabled or (dispatcher.groups and "task" not in dispatcher.groups):
        return ok("task events already disabled")
    dispatcher.groups.discard("task")
    dispatcher.groups.add("worker")
    logger.info("Events of group {task} disabled by remote.")
    return ok("task events disabled")


# -- about the pool


def _needs_fixed_pool(state: Any, command: str) -> Reply:
    if getattr(state.consumer.controller, "autoscaler", None):
        return nok(f"{command} is not supported with autoscale. Adjust autoscale range instead.")
    pool = state.consumer.pool
    if not hasattr(pool, "grow"):
        kind = type(pool).__module__.rpartition(".")[2]
        return nok(f"{command} is not supported: the pool {kind!r} cannot change its size.")
    return None


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **kwargs: Any) -> Reply:
    """Add processes or threads to the pool."""
    refusal = _needs_fixed_pool(state, "pool_grow")
    if refusal:
        return refusal
    state.consumer.pool.grow(n)
    state.consumer._update_prefetch_count(n)
    return ok("pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> Reply:
    """Remove processes or threads from the pool."""
    refusal = _needs_fixed_pool(state, "pool_shrink")
    if refusal:
        return refusal
    pool = state.consumer.pool
    before = pool.num_processes
    pool.shrink(n)
    # Only idle processes leave, so these may be fewer.
    left = before - pool.num_processes or n
    state.consumer._update_prefetch_count(-left)
    return ok("pool will shrink")


@control_command()
def pool_restart(
    state: Any,
    modules: Sequence[str] | None = None,
    reload: bool = False,
    reloader: Any = None,
    **kwargs: Any,
) -> Reply:
    """Replace the processes of the pool; needs the setting worker_pool_restarts."""
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled: set worker_pool_restarts")
    state.consumer.controller.reload(modules, reload, reloader=reloader)
    return ok("reload started")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: Any, max: int | None = None, min: int | None = None) -> Reply:
    """Set the bounds between which the pool grows and shrinks."""
    autoscaler = getattr(state.consumer.controller, "autoscaler", None)
    if not autoscaler:
        raise ValueError("Autoscale not enabled")
    most, least = autoscaler.update(max, min)
    return ok(f"autoscale now max={most} min={least}")


# -- about queues


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: Any,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> Reply:
    """Consume from one more queue."""
    state.consumer.call_soon(
        state.consumer.add_task_queue,
        queue,
        exchange,
        exchange_type or "direct",
        routing_key,
        **options,
    )
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **_: Any) -> Reply:
    """Stop consuming from a queue."""
    state.consumer.call_soon(state.consumer.cancel_task_queue, queue)
    return ok(f"no longer consuming from {queue}")


@inspect_command()
def active_queues(state: Any) -> Reply:
    """Queues that this worker consumes from."""
    consumer = state.consumer.task_consumer
    return [queue.as_dict(recurse=True) for queue in consumer.queues] if consumer else []
