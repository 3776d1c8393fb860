"""Answers for orchestrators and monitoring systems, over HTTP (``--health``).

============  ============================================================================
``/live``     the loop of the worker turns; if not, the process should be replaced
``/ready``    it is connected and consumes, and its pool takes tasks
``/metrics``  counts and times for Prometheus
============  ============================================================================

A worker without its broker is alive, as it connects again by itself, but it is not ready. The
thread that answers only reads, see `Facts`; what these mean is said by `why_not_live` and
`why_not_ready`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import get_logger
from celery.worker import health_metrics, state
from celery.worker.components import Pool

if TYPE_CHECKING:
    from celery.worker._health_server import Answer

__all__ = ("Facts", "Health", "parse_address", "why_not_live", "why_not_ready")

logger = get_logger(__name__)

#: Seconds between two signs of life that the loop gives.
BEAT_S = 1.0

#: Seconds without one after which the worker counts as dead. An AMQP broker that fell silent may
#: block the loop for half of that, and is no reason to replace the worker.
STALLED_AFTER_S = 60.0

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What can be seen of a worker from outside of its loop."""

    #: Seconds since the loop gave a sign of life.
    silence_s: float
    #: The loop itself runs a task now, as with the pool solo.
    loop_runs_task: bool
    stopping: bool
    connected: bool
    consuming: bool
    pool_takes_tasks: bool


def why_not_live(facts: Facts, stalled_after_s: float = STALLED_AFTER_S) -> list[str]:
    """Return the reasons to replace the worker; none when it is alive."""
    if facts.silence_s <= stalled_after_s or facts.loop_runs_task:
        return []
    return [f"the loop has not turned for {facts.silence_s:.0f} seconds"]


def why_not_ready(facts: Facts, stalled_after_s: float = STALLED_AFTER_S) -> list[str]:
    """Return the reasons for which tasks are not taken; none when they are."""
    reasons = why_not_live(facts, stalled_after_s)
    if facts.stopping:
        reasons.append("the worker is stopping")
    if not facts.connected:
        reasons.append("there is no connection to the broker")
    elif not facts.consuming:
        reasons.append("no queue is consumed from")
    if not facts.pool_takes_tasks:
        reasons.append("the pool takes no tasks")
    return reasons


def parse_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (``[HOST]:PORT`` for IPv6); without a host it is loopback.

    Raises:
        ImproperlyConfigured: There is no port, or it is no number.
    """
    host, _, port = str(text).rpartition(":")
    try:
        number = int(port)
        if not 0 <= number <= 65535:
            raise ValueError(port)
    except ValueError as exc:
        raise ImproperlyConfigured(
            f"{text!r} is no address for health checks: it has to be HOST:PORT, "
            f"like {LOOPBACK}:8083 or 0.0.0.0:8083"
        ) from exc
    return host.strip("[]") or LOOPBACK, number


class Health(bootsteps.StartStopStep):
    """Answers over HTTP while the worker runs.

    Args:
        health: Address; by default that of the setting ``worker_health_address``.
    """

    name: str
    label = "Health"
    conditional = True
    requires = (Pool,)

    def __init__(self, w: Any, health: str | None = None, **kwargs: Any) -> None:
        self.address = health or w.app.conf.worker_health_address
        self.enabled = bool(self.address)
        #: Read by the consumer when it builds its strategies; None to count nothing.
        w.tally = health_metrics.Tally() if self.enabled else None
        self._beat = _Beat()
        self._tref: Any = None
        self._thread: threading.Thread | None = None
        super().__init__(w, **kwargs)

    def create(self, w: Any) -> Any:
        """Take the address, so that a worker which can't have it does not start.

        Raises:
            ImproperlyConfigured: It is taken, or is no address.
        """
        # Most workers answer nobody, and need no HTTP server.
        from celery.worker._health_server import new_server

        host, port = parse_address(self.address)
        try:
            return new_server((host, port), _answers(w, self._beat), STALLED_AFTER_S)
        except OSError as exc:
            raise ImproperlyConfigured(
                f"Cannot answer health checks at {self.address}: {exc}. "
                "Each worker of a host needs a port of its own."
            ) from exc

    def start(self, w: Any) -> None:
        """Answer, in a thread."""
        touch = w.consumer.on_connecting = self._beat.touch
        touch()
        # The timer may be a thread of its own, so the sign of life has to come through the loop.
        self._tref = w.timer.call_repeatedly(BEAT_S, w.consumer.call_soon, (touch,))
        self._thread = threading.Thread(target=self.obj.serve_forever, name="health", daemon=True)
        self._thread.start()
        logger.info("Health checks at http://%s:%s", *self.obj.server_address[:2])

    def stop(self, w: Any) -> None:
        """Answer no more; harmless twice."""
        tref, self._tref = self._tref, None
        if tref is not None:
            tref.cancel()
        thread, self._thread = self._thread, None
        if thread is not None:
            self.obj.shutdown()
            thread.join(self.obj.client_timeout_s)
        self.obj.server_close()

    def terminate(self, w: Any) -> None:
        """Answer no more."""
        self.stop(w)

    def info(self, w: Any) -> dict[str, Any]:
        """Return where to ask."""
        host, port = self.obj.server_address[:2]
        return {"health": f"http://{host}:{port}"}


class _Beat:
    """When something last gave a sign of life."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self.touch()

    def touch(self) -> None:
        self._at = monotonic()

    @property
    def age_s(self) -> float:
        return monotonic() - self._at


def facts_of(worker: Any, silence_s: float) -> Facts:
    """Look at *worker*; from any thread."""
    consumer, pool = worker.consumer, worker.pool
    tasks = consumer.task_consumer
    processes = pool.info.get("processes") if pool.active else []
    return Facts(
        silence_s=silence_s,
        loop_runs_task=worker.semaphore is None and bool(state.active_requests),
        stopping=worker.blueprint.state != bootsteps.RUN
        or state.should_stop is not None
        or state.should_terminate is not None,
        # The loop sets `turn` while it runs; a step may still be connecting before that.
        connected=consumer.connection is not None and consumer.turn is not None,
        consuming=tasks is not None
        and any(tasks.consuming_from(queue) for queue in list(tasks.queues)),
        pool_takes_tasks=bool(
            pool.active and (processes is None or processes or not pool.num_processes)
        ),
    )


# -- HTTP

_INDEX = b"/live\n/ready\n/metrics\n"


def _answers(worker: Any, beat: _Beat) -> dict[str, Callable[[float], Answer]]:
    """Return the function that answers for each path; its argument is the patience in seconds."""

    def verdict(word: str, judge: Callable[[Facts, float], list[str]], patience_s: float) -> Answer:
        facts = facts_of(worker, beat.age_s)
        reasons = judge(facts, patience_s)
        body = {word: not reasons, "reasons": reasons, "hostname": worker.hostname}
        return 503 if reasons else 200, "application/json", json.dumps(body).encode() + b"\n"

    def metrics(patience_s: float) -> Answer:
        ready = not why_not_ready(facts_of(worker, beat.age_s), patience_s)
        try:
            body, content_type = health_metrics.exposition(
                worker.tally, health_metrics.gauges_of(worker, ready), worker.hostname
            )
        except ImportError:
            return 501, "text/plain", health_metrics.INSTALL_HINT.encode()
        return 200, content_type, body

    return {
        "/": lambda _: (200, "text/plain", _INDEX),
        "/live": lambda patience_s: verdict("live", why_not_live, patience_s),
        "/ready": lambda patience_s: verdict("ready", why_not_ready, patience_s),
        "/metrics": metrics,
    }
