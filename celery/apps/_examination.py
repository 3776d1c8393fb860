"""Gathers the facts that `celery.apps.doctor` judges: asks app, broker, back-end and workers.

Every question has an end: what does not answer is a fact as well. Nothing is changed, but for
one harmless task that is sent when a worker could run it, and expires by itself.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from kombu.serialization import registry

from celery import exceptions, platforms
from celery._transport.capabilities import carries_broadcasts, limits
from celery.apps.doctor import Facts, PathFacts, ProbeFacts, WorkerFacts
from celery.backends.base import DisabledBackend
from celery.events.receiver import EventReceiver
from celery.utils.log import get_logger
from celery.utils.nodenames import default_nodename, node_format
from celery.utils.time import maybe_iso8601, maybe_make_aware

if TYPE_CHECKING:
    from celery.app.base import Celery

__all__ = ("comparable_url", "examine", "path_facts")

logger = get_logger(__name__)

#: A built-in task that returns its arguments; every worker has it.
PROBE_TASK = "celery.accumulate"

#: Ports that a URL may leave out.
_DEFAULT_PORTS = {"redis": "6379", "rediss": "6379", "amqp": "5672", "amqps": "5671"}

_LOOPBACK = {"localhost", "::1", "[::1]", ""}


def examine(
    app: Celery,
    *,
    timeout_s: float = 1.0,
    probe_timeout_s: float = 5.0,
    logfile: str | None = None,
    pidfile: str | None = None,
) -> Facts:
    """Find out what there is to know about *app* and its workers.

    Args:
        timeout_s: How long to wait for replies of workers.
        probe_timeout_s: How long to wait for the result of the probe task.
        logfile, pidfile: Those of a worker; by default of its settings.
    """
    conf = app.conf
    known: dict[str, Any] = {
        **_about_app(app),
        **_about_backend(app),
        "waited_s": timeout_s,
        "paths": tuple(_paths(app, logfile, pidfile)),
    }
    connection = app.connection_for_read()
    known["broker"] = connection.as_uri()
    try:
        connection.connect()
    except Exception as exc:  # noqa: BLE001 - whatever a driver raises is the answer
        return Facts(**known, broker_error=_told(exc))
    with connection:
        known["broker_limits"] = limits(connection)
        known["visibility_timeout_s"] = _visibility_timeout(connection)
        known["has_remote_control"] = bool(
            conf.worker_enable_remote_control and carries_broadcasts(connection)
        )
        if known["has_remote_control"]:
            known["workers"] = tuple(_workers(app, connection, timeout_s))
        known["waiting"] = _waiting(connection, set(known["queue_of"].values()))
    facts = Facts(**known)
    queue = _probe_queue(facts, str(conf.task_default_queue))
    return facts if queue is None else replace(facts, probe=_probe(app, queue, probe_timeout_s))


def _told(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}".rstrip(": .")


# -- the app


def _about_app(app: Celery) -> dict[str, Any]:
    conf = app.conf
    mine = [task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")]
    serializers: dict[str, set[str]] = {}
    for task in mine:
        serializer = _serializer(task.serializer or conf.task_serializer)
        serializers.setdefault(serializer, set()).add(str(task.name))
    return {
        "results_ignored": bool(conf.task_ignore_result),
        "tasks_ignoring": frozenset(task.name for task in mine if task.ignore_result),
        "queue_of": dict(_queues(app, mine)),
        "serializers": {name: frozenset(tasks) for name, tasks in serializers.items()},
        "accepts": _accepted(conf.result_accept_content or conf.accept_content),
        "is_root": hasattr(os, "geteuid") and os.geteuid() == 0,
        "accepts_pickle": "pickle" in _accepted(conf.accept_content),
    }


def _queues(app: Celery, tasks: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Pair the names of tasks with those of the queues they go to, as far as that is fixed."""
    for task in tasks:
        try:
            stated = {"queue": task.queue} if getattr(task, "queue", None) else {}
            queue = app.amqp.router.route(stated, task.name, (), {}, task).get("queue")
        except Exception as exc:  # noqa: BLE001 - routers are users' code, and may want arguments
            logger.debug("cannot tell the queue of %s: %r", task.name, exc)
            continue
        if queue is not None:
            yield task.name, queue.name


def _serializer(name: str) -> str:
    """Return the name of a serializer, which may be given by its content type."""
    return str(registry.type_to_name.get(name, name))


def _accepted(names: Iterable[str] | None) -> frozenset[str]:
    return frozenset(_serializer(name) for name in names or ())


def comparable_url(url: Any) -> str:
    """Return *url* without credentials and options, in one of its many spellings."""
    scheme, separator, rest = str(url or "").partition("?")[0].partition("://")
    if not separator:
        return "" if scheme == "disabled" else scheme
    if scheme == "disabled":
        return ""
    location, _, path = rest.partition("/")
    host, colon, port = location.rpartition("@")[2].rpartition(":")
    if not colon or not port.isdigit():
        host, port = (host + colon + port), ""
    port = port or _DEFAULT_PORTS.get(scheme, "")
    if scheme in _DEFAULT_PORTS:
        host = "127.0.0.1" if host in _LOOPBACK else host
    if scheme in ("redis", "rediss"):
        path = path.strip("/") or "0"
    return f"{scheme}://{host}{':' if port else ''}{port}/{path}".rstrip("/") + (
        "//" if not (host or port or path) else ""
    )


def _about_backend(app: Celery) -> dict[str, Any]:
    """Read a result that does not exist; tells why that is impossible, if so."""
    conf = app.conf
    known: dict[str, Any] = {"backend": comparable_url(conf.result_backend)}
    options = conf.result_backend_transport_options
    # Once is enough to know; the usual retries take half a minute.
    conf.result_backend_transport_options = {**options, "retry_policy": {"max_retries": 0}}
    try:
        backend = app.backend
        if isinstance(backend, DisabledBackend):
            return {"backend": "", "results_disabled": True}
        backend.get_state("celery-doctor")
    except NotImplementedError:
        # Some can't be asked about results of others.
        return known
    except Exception as exc:  # noqa: BLE001 - whatever a driver raises is the answer
        return {**known, "backend_error": _told(exc)}
    finally:
        conf.result_backend_transport_options = options
    return known


# -- broker and workers


def _visibility_timeout(connection: Any) -> float | None:
    """Return the seconds after which the broker delivers again what a living worker holds."""
    if type(connection.transport).__module__.startswith("celery."):
        # Our own transports renew what they hold.
        return None
    timeout = getattr(connection.default_channel, "visibility_timeout", None)
    return None if timeout is None else float(timeout)


def _waiting(connection: Any, queues: Iterable[str]) -> dict[str, int]:
    waiting = {}
    for queue in queues:
        try:
            # A queue that is missing closes the channel.
            with connection.channel() as channel:
                waiting[queue] = int(channel.queue_declare(queue, passive=True).message_count)
        except (*connection.channel_errors, *connection.connection_errors) as exc:
            logger.debug("cannot tell the length of %s: %r", queue, exc)
    return waiting


def _workers(app: Celery, connection: Any, timeout_s: float) -> Iterator[WorkerFacts]:
    pongs = app.control.ping(timeout=timeout_s, connection=connection) or []
    answers = Counter(name for pong in pongs for name in pong)
    if not answers:
        return
    ask = app.control.inspect(
        timeout=timeout_s, limit=answers.total(), connection=connection
    )._request

    def replies(command: str, **arguments: Any) -> Mapping[str, Any]:
        return ask(command, **arguments) or {}

    conf = replies("conf", with_defaults=True)
    tasks, queues = replies("registered"), replies("active_queues")
    active, stats, scheduled = replies("active", safe=True), replies("stats"), replies("scheduled")
    offsets = _clock_offsets(app, connection, set(answers), timeout_s)
    for name, count in sorted(answers.items()):
        settings = conf.get(name) if isinstance(conf.get(name), Mapping) else None
        yield WorkerFacts(
            name=name,
            answers=count,
            tasks=_names_of(tasks.get(name)),
            queues=_listed(queue["name"] for queue in queues[name]) if name in queues else None,
            backend=comparable_url(settings.get("result_backend")) if settings else None,
            accepts=_accepted(settings.get("accept_content")) or None if settings else None,
            result_serializer=_serializer(settings.get("result_serializer") or "json")
            if settings
            else None,
            active=len(active[name]) if name in active else None,
            pool_size=(stats.get(name, {}).get("pool") or {}).get("max-concurrency"),
            longest_eta_s=_longest_eta(scheduled.get(name) or ()),
            clock_offset_s=offsets.get(name),
        )


def _listed(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


def _names_of(registered: Any) -> frozenset[str] | None:
    """Return the names in a reply of ``registered``, where attributes may follow in brackets."""
    if not isinstance(registered, list):
        return None
    return frozenset(str(text).partition(" [")[0] for text in registered)


def _longest_eta(scheduled: Iterable[Mapping[str, Any]]) -> float | None:
    now = datetime.now(UTC)
    etas = [maybe_iso8601(each.get("eta")) for each in scheduled]
    waits = [(maybe_make_aware(eta, UTC) - now).total_seconds() for eta in etas if eta is not None]
    return max(waits, default=None)


class _UnadjustedReceiver(EventReceiver):
    """Leaves the times in events as their senders wrote them, in POSIX seconds."""

    def event_from_message(self, body: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().event_from_message(body, localize=False)


def _clock_offsets(
    app: Celery, connection: Any, names: set[str], timeout_s: float
) -> dict[str, float]:
    """Return by how many seconds the clocks of workers are ahead of ours, from their heartbeats."""
    offsets: dict[str, float] = {}

    def on_event(event: dict[str, Any]) -> None:
        if "timestamp" in event:
            offsets[event["hostname"]] = event["timestamp"] - event["local_received"]

    receiver = _UnadjustedReceiver(
        connection, handlers={"worker-heartbeat": on_event}, routing_key="worker.#", app=app
    )
    end = monotonic() + timeout_s
    try:
        for _ in receiver.itercapture(limit=None, timeout=timeout_s, wakeup=True):
            if names <= offsets.keys() or monotonic() > end:
                break
    except TimeoutError:
        # Not all send heartbeats; then nothing is known of their clocks.
        logger.debug("no heartbeat from %s", names - offsets.keys())
    return offsets


# -- the probe


def _probe_queue(facts: Facts, default: str) -> str | None:
    """Return a queue of the app that a worker consumes from, if the result could be read."""
    if facts.results_disabled or facts.backend_error is not None:
        return None
    served = {queue for worker in facts.workers for queue in worker.queues or ()}
    candidates = (default, *sorted(facts.queue_of.values()))
    return next((queue for queue in candidates if queue in served), None)


def _probe(app: Celery, queue: str, timeout_s: float) -> ProbeFacts:
    begun = monotonic()
    result = app.tasks[PROBE_TASK].apply_async(
        ("celery doctor",), queue=queue, expires=timeout_s, ignore_result=False
    )
    try:
        result.get(timeout=timeout_s)
        return ProbeFacts(queue=queue, seconds=monotonic() - begun, waited_s=timeout_s)
    except (exceptions.TimeoutError, exceptions.TaskRevokedError):
        # Expired in the queue; a worker that comes to it too late stores it as revoked.
        return ProbeFacts(queue=queue, seconds=None, waited_s=timeout_s)
    except Exception as exc:  # noqa: BLE001 - the error of the task is the answer
        return ProbeFacts(queue=queue, seconds=None, waited_s=timeout_s, error=_told(exc))
    finally:
        result.forget()


# -- files


def _paths(app: Celery, logfile: str | None, pidfile: str | None) -> Iterator[PathFacts]:
    conf = app.conf
    node = default_nodename(None)
    for origin, path in (
        ("the log file", logfile or conf.get("worker_logfile")),
        ("worker_state_db", conf.worker_state_db),
        ("beat_schedule_filename", conf.beat_schedule and conf.beat_schedule_filename),
    ):
        if path:
            yield path_facts(origin, node_format(str(path), node))
    if path := pidfile or conf.get("worker_pidfile"):
        yield path_facts("the pid file", node_format(str(path), node), is_pidfile=True)


def path_facts(origin: str, path: str, *, is_pidfile: bool = False) -> PathFacts:
    """Look whether *path* can be written, and for a pid file, who has it."""
    trouble = platforms.why_not_writable(path)
    pid = _pid_in(path) if is_pidfile and trouble is None else None
    lives = pid is not None and _lives(pid)
    return PathFacts(
        origin=origin,
        path=path,
        trouble=trouble,
        held_by=pid if lives else None,
        is_stale=pid is not None and not lives,
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        # It is somebody else's.
        return True
    return True


def _pid_in(path: str) -> int | None:
    try:
        return platforms.Pidfile(path).read_pid()
    except (OSError, ValueError):
        # Unreadable or half written: nobody holds it for sure.
        return None
