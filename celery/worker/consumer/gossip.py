"""Step that listens to the other workers: who is there, who got lost, and elections.

Each worker hears the events of all. An election finds one worker to do something: whoever
starts it broadcasts ``worker-elect``; every worker answers all with ``worker-elect-ack``;
once a worker has an answer from each one alive it sorts the candidates by clock, and all
come to the same leader.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.messaging import Consumer

from celery import bootsteps
from celery._protocol.body import loads
from celery.utils.log import get_logger
from celery.utils.objects import Bunch
from celery.worker.consumer.mingle import Mingle

__all__ = ("Gossip",)

logger = get_logger(__name__)

#: Elections of which candidates are remembered; those of others end without a word to us.
ELECTIONS_LIMIT = 1000


class Gossip(bootsteps.ConsumerStep):
    """Keeps a view of the cluster.

    ``on.node_join``, ``on.node_leave`` and ``on.node_lost`` are sets of functions that are
    called with a worker; users may add theirs.

    Args:
        without_gossip: Don't.
        interval: Seconds between two looks for lost workers.
        heartbeat_interval: Seconds after which events of workers in our queue are stale.
    """

    name: str
    label = "Gossip"
    requires: Any = (Mingle,)
    compatible_transports: ClassVar[set[str]] = {"amqp", "redis"}

    def __init__(
        self,
        c: Any,
        without_gossip: bool = False,
        interval: float = 5.0,
        heartbeat_interval: float = 2.0,
        **kwargs: Any,
    ) -> None:
        self.enabled = not without_gossip and self.compatible_transport(c.app)
        self.app = c.app
        c.gossip = self
        self.Receiver = c.app.events.Receiver
        self.hostname = c.hostname
        self.full_hostname = f"{c.hostname}.{c.pid}"
        self.on = Bunch(
            node_join={self.on_node_join},
            node_leave={self.on_node_leave},
            node_lost={self.on_node_lost},
        )
        self.timer = c.timer
        self._tref: Any = None
        self.interval = interval
        self.heartbeat_interval = heartbeat_interval
        self.dispatcher: Any = None
        self.clock: Any = c.app.clock
        self.election_handlers: dict[str, Callable[[Any], Any]] = {"task": self.call_task}
        self.event_handlers: dict[str, Callable[[Any], Any]] = {
            "worker-elect": self.on_elect,
            "worker-elect-ack": self.on_elect_ack,
        }
        self.state: Any = None
        if self.enabled:
            self.state = c.app.events.State(
                on_node_join=partial(self._tell, "node_join"),
                on_node_leave=partial(self._tell, "node_leave"),
                max_tasks_in_memory=1,
            )
        #: Candidates of each election under way, and who has answered.
        self.consensus_requests: defaultdict[str, list[Any]] = defaultdict(list)
        self.consensus_replies: dict[str, list[str]] = {}
        super().__init__(c, **kwargs)

    def compatible_transport(self, app: Any) -> bool:
        """Say whether the broker can broadcast."""
        with app.connection_for_read() as connection:
            return connection.transport.driver_type in self.compatible_transports

    # -- elections

    def election(self, id: str, topic: str, action: Any = None) -> None:
        """Start the election *id*; the winner passes *action* to the handler of *topic*."""
        self.consensus_replies[id] = []
        self.dispatcher.send("worker-elect", id=id, topic=topic, action=action, cver=1)

    def call_task(self, task: Any) -> None:
        """Publish the winner's *task*, a signature."""
        try:
            self.app.signature(task).apply_async()
        except Exception:
            logger.exception("gossip: cannot call task %r", task)

    def on_elect(self, event: dict[str, Any]) -> None:
        """Note a candidate and answer."""
        try:
            election, topic, action = event["id"], event["topic"], event["action"]
            candidate = (event["clock"], f"{event['hostname']}.{event['pid']}", topic, action)
        except KeyError as exc:
            logger.warning("gossip: election event without the field %s", exc)
            return
        # If we stand too, from now on, then later than this one; see `on_elect_ack`.
        self.clock.adjust(event["clock"])
        elections = self.consensus_requests
        elections[election].append(candidate)
        if len(elections) > ELECTIONS_LIMIT:
            del elections[next(iter(elections))]
        self.dispatcher.send("worker-elect-ack", id=election)

    def on_elect_ack(self, event: dict[str, Any]) -> None:
        """Note an answer, and conclude the election when it is the last one.

        Whoever answered and stands only then has a later clock than the one answered to. So once
        all have answered, the first candidate is known, and it is the same one everywhere.
        """
        election = event["id"]
        answers = self.consensus_replies.get(election)
        if answers is None:
            # Somebody else's election.
            return
        answers.append(event["hostname"])
        self._conclude(election)

    def _conclude(self, election: str) -> None:
        alive = {worker.hostname for worker in self.state.alive_workers()} | {self.hostname}
        if not alive.issubset(self.consensus_replies[election]):
            return
        del self.consensus_replies[election]
        candidates = self.consensus_requests.pop(election, None)
        if not candidates:
            logger.warning("gossip: the election %r has answers, but no candidates", election)
            return
        _, leader, topic, action = min(candidates, key=lambda candidate: candidate[:2])
        if leader != self.full_hostname:
            logger.info("node %s elected for %r", leader, election)
            return
        logger.info("I won the election %r", election)
        handler = self.election_handlers.get(topic)
        if handler is None:
            logger.error("gossip: no handler for elections about %r", topic)
            return
        try:
            handler(action)
        except Exception:
            logger.exception("gossip: the handler for elections about %r failed", topic)

    # -- members

    def start(self, c: Any) -> None:
        """Listen to the others' events."""
        super().start(c)
        self.dispatcher = c.event_dispatcher

    def stop(self, c: Any) -> None:
        """Stop listening and looking for lost workers."""
        self._cancel_timer()
        super().stop(c)

    def shutdown(self, c: Any) -> None:
        """Stop listening for good."""
        self._cancel_timer()
        super().shutdown(c)

    def on_node_join(self, worker: Any) -> None:
        """Log a new worker."""
        logger.debug("%s joined the party", worker.hostname)

    def on_node_leave(self, worker: Any) -> None:
        """Log a worker that said good-bye."""
        logger.debug("%s left", worker.hostname)

    def on_node_lost(self, worker: Any) -> None:
        """Log a worker that fell silent."""
        logger.info("missed heartbeat from %s", worker.hostname)

    def _tell(self, what: str, worker: Any) -> None:
        for callback in tuple(getattr(self.on, what)):
            try:
                callback(worker)
            except Exception:
                logger.exception("Ignored error from handler %r", callback)

    def register_timer(self) -> None:
        """Look for lost workers every `interval` seconds."""
        self._cancel_timer()
        self._tref = self.timer.call_repeatedly(self.interval, self.periodic)

    def _cancel_timer(self) -> None:
        tref, self._tref = self._tref, None
        if tref is not None:
            tref.cancel()

    def periodic(self) -> None:
        """Forget workers whose heartbeats have stopped, and tell of each; elections go on."""
        workers = self.state.workers
        for worker in [worker for worker in workers.values() if not worker.alive]:
            workers.pop(worker.hostname, None)
            self._tell("node_lost", worker)
        # Their answers are not to come.
        for election in tuple(self.consensus_replies):
            self._conclude(election)

    # -- messages

    def get_consumers(self, channel: Any) -> list[Any]:
        """Return one consumer of all worker events."""
        self.register_timer()
        receiver = self.Receiver(channel, routing_key="worker.#", queue_ttl=self.heartbeat_interval)
        return [
            Consumer(
                channel,
                queues=[receiver.queue],
                on_message=partial(self.on_message, receiver.event_from_message),
                accept=receiver.accept,
                no_ack=True,
            )
        ]

    def on_message(self, prepare: Callable[..., Any], message: Any) -> None:
        """Take one event of any worker, ours included."""
        routing_key = message.delivery_info.get("routing_key") or ""
        handler = self.event_handlers.get(routing_key.replace(".", "-"))
        if handler is None and message.headers.get("hostname") == self.hostname:
            self.clock.forward()
            return
        try:
            body = loads(
                message.body, message.content_type, message.content_encoding, message.accept
            )
            if handler is not None:
                handler(body)
            else:
                _, event = prepare(body)
                self.state.event(event)
        except (DecodeError, ContentDisallowed, TypeError, KeyError) as exc:
            logger.warning("gossip: cannot read an event: %r", exc)
