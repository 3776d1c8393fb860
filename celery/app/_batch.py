"""Many task messages, sent with few round trips.

A `Batch` stands in for a producer: whoever is given one as ``producer=`` sends as always, and
`AMQP.publish_task` hands the finished messages to it. They wait here, a bounded number of them,
and go out together through kombu's batches. Because they wait here and not in kombu, they can be
sent again one by one, with the retry policy, when the connection breaks; and what could not be
sent can be named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.exceptions import BatchPublishError, OperationalError

from celery.app._express import Call, Express, Form
from celery.app._publishing import declared_by, give_up_on_silence, worth_a_retry
from celery.exceptions import TasksNotSent

if TYPE_CHECKING:
    from celery._transport.outlet import Outlet, Template

#: Messages that wait at most. A lost connection may mean that so many are sent twice.
BATCH_SIZE = 200
#: Bytes of bodies that wait at most.
BATCH_BYTES = 4 * 1024 * 1024

#: Commands that one message may need, one for each queue that it is routed to; beyond that,
#: kombu sends a batch in several pieces.
COMMANDS_PER_MESSAGE = 16


class Waiting(NamedTuple):
    """A message that is ready to go."""

    task_id: str
    body: Any
    options: dict[str, Any]
    declare: Sequence[Any]
    policy: Mapping[str, Any] | None
    #: Called when it was sent: signals and events. None when there is nothing to tell.
    announce: Callable[[], Any] | None


class Finished(NamedTuple):
    """A message as an outlet sends it."""

    call: Call
    data: Any

    @property
    def task_id(self) -> str:
        """Id of the task."""
        return self.call.task_id

    @property
    def policy(self) -> Mapping[str, Any] | None:
        """How a failed attempt is repeated; None for not at all."""
        return self.call.policy


class Batch:
    """Collects the task messages of one thread, and sends them a few hundred at a time.

    Messages of the two kinds don't wait together, so all are sent in the order of the calls.

    Args:
        producer: kombu producer to send with; all else that is asked of the batch, it answers.
        publish: Sends one message with this producer: ``(producer, body, options, declare,
            policy)``.
        send_generally: Sends a call with this producer: ``(producer, call)``.
    """

    def __init__(
        self, producer: Any, publish: Callable[..., Any], send_generally: Callable[..., Any]
    ) -> None:
        self.producer = producer
        self._publish = publish
        self._send_generally = send_generally
        self._outlet: Any = None
        #: What sends and writes calls of a form, for as long as nothing is sent.
        self._ways: dict[Form, tuple[Outlet, Template] | None] = {}
        self._waiting: list[Waiting] = []
        self._finished: list[Finished] = []
        self._bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.producer, name)

    def add(self, message: Waiting) -> None:
        """Take a message, and send all that wait when they are enough."""
        if self._finished:
            self.flush()
        self._waiting.append(message)
        self._bytes += len(message.body)
        if (
            len(self._waiting) >= BATCH_SIZE
            or self._bytes >= BATCH_BYTES
            or not self.producer.supports_batch_publish
        ):
            self.flush()

    def way(self, express: Express, form: Form) -> tuple[Outlet, Template] | None:
        """Return what `Express.way` says, which is asked again after each flush."""
        try:
            return self._ways[form]
        except KeyError:
            way = self._ways[form] = express.way(self.producer, form)
            return way

    def add_finished(self, message: Finished, outlet: Any) -> None:
        """Take a message that *outlet* is to send."""
        if self._waiting or outlet is not self._outlet:
            self.flush()
            self._outlet = outlet
        self._finished.append(message)
        self._bytes += len(message.data)
        if len(self._finished) >= BATCH_SIZE or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what waits.

        Raises:
            celery.exceptions.TasksNotSent: The broker can't be reached, and no retry helped.
        """
        self._bytes = 0
        self._ways = {}
        finished, self._finished = self._finished, []
        if finished:
            self._send_finished(finished)
        waiting, self._waiting = self._waiting, []
        if waiting and declared_by(self.producer) is None:
            # Whatever it takes to connect, the first message does.
            self._send_one_by_one(waiting, 1)
            del waiting[:1]
        if not waiting:
            return
        try:
            self._send_together(waiting)
        except self._worth_a_retry(waiting) as exc:
            if any(message.policy is None for message in waiting):
                raise _not_sent(waiting) from exc
            give_up_on_silence(self.producer, exc)
            # Some may have arrived: as after any lost connection, they are sent again.
            self._send_one_by_one(waiting, len(waiting))
        else:
            for message in waiting:
                if message.announce is not None:
                    message.announce()

    def _send_finished(self, finished: list[Finished]) -> None:
        patience = {form.ready.confirm_timeout for form in {each.call.form for each in finished}}
        try:
            self._outlet.send(
                [message.data for message in finished],
                max(filter(None, patience), default=None),
            )
        except self._worth_a_retry(finished) as exc:
            if any(message.policy is None for message in finished):
                raise _not_sent(finished) from exc
            give_up_on_silence(self.producer, exc)
            # Some may have arrived: as after any lost connection, they are sent again.
            for position, message in enumerate(finished):
                try:
                    self._send_generally(self.producer, message.call.as_unusual())
                except self._worth_a_retry(finished) as again:
                    raise _not_sent(finished[position:]) from again

    def _send_together(self, waiting: list[Waiting]) -> None:
        producer = self.producer
        declared = declared_by(producer) or set()
        publish = producer.publish
        with producer.batch(len(waiting) * COMMANDS_PER_MESSAGE):
            for message in waiting:
                options = message.options
                needed = message.declare
                if needed:
                    needed = [entity for entity in needed if entity.name not in declared]
                # kombu notes the compression in the headers, once for each attempt.
                publish(
                    message.body,
                    declare=needed,
                    retry=False,
                    **{**options, "headers": dict(options["headers"])},
                )
                declared.update(entity.name for entity in needed if entity.can_cache_declaration)

    def _send_one_by_one(self, waiting: list[Waiting], count: int) -> None:
        """Send the first *count*; when that fails, none of *waiting* that follows was sent."""
        for position, message in enumerate(waiting[:count]):
            try:
                self._publish(
                    self.producer, message.body, message.options, message.declare, message.policy
                )
            except self._worth_a_retry(waiting) as exc:
                raise _not_sent(waiting[position:]) from exc
            if message.announce is not None:
                message.announce()

    def _worth_a_retry(
        self, waiting: Sequence[Waiting | Finished]
    ) -> tuple[type[BaseException], ...]:
        policy = next((message.policy for message in waiting if message.policy), {})
        return (BatchPublishError, OperationalError, *worth_a_retry(self.producer, policy))


def _not_sent(waiting: Sequence[Waiting | Finished]) -> TasksNotSent:
    return TasksNotSent([message.task_id for message in waiting])
