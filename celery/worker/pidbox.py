"""
The mailbox of a worker: takes remote commands from the broker and runs them.

``Pidbox`` runs commands in the consumer's own loop; ``gPidbox`` in a green thread with a
connection of its own, for pools whose loop is busy with tasks.
"""

from __future__ import annotations

import threading
from typing import Any

from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils import log
from celery.utils.collections import AttributeDict
from celery.utils.functional import pass1
from celery.worker import control, state as worker_state

__all__ = ("Pidbox", "gPidbox")

logger = log.get_logger(__name__)

#: What AMQP answers to those who want the exclusive queue of another connection.
RESOURCE_LOCKED = 405

#: Seconds between two attempts to get the mailbox from the connection that holds it.
RETRY_S = 2.0

#: Seconds for which the start of the worker waits for its mailbox in another thread.
LISTENING_WITHIN_S = 5.0


class Pidbox:
    """Commands for one consumer *c*; started and stopped with its connection."""

    consumer: Any = None
    _retry: Any = None

    def __init__(self, c: Any) -> None:
        self.c = c
        self.hostname = c.hostname
        self.node = c.app.control.mailbox.Node(
            self._safe_name(c.hostname),
            handlers=control.Panel.data,
            state=AttributeDict(
                app=c.app,
                hostname=c.hostname,
                consumer=c,
                tset=pass1 if c.controller.use_eventloop else set,
            ),
        )
        self._forward_clock = c.app.clock.forward

    @staticmethod
    def _safe_name(hostname: Any) -> str:
        return str(hostname)

    def on_message(self, body: Any, message: Any) -> None:
        """Run the command in *body*; nothing but a request to end leaves this function."""
        # A method that is not for us still moves the clock.
        self._forward_clock()
        try:
            self.node.handle_message(body, message)
        except (WorkerShutdown, WorkerTerminate):
            raise
        except Exception:
            logger.exception("Control command error; listening anew")
            self.reset()

    def start(self, c: Any) -> None:
        """Listen on a new channel of the consumer's connection, as soon as that is possible."""
        if self._listen(c.connection):
            self.consumer.on_decode_error = c.on_decode_error
        else:
            self._retry = c.timer.call_after(RETRY_S, c.call_soon, (self._start_again, c))

    def _listen(self, connection: Any) -> bool:
        # Says False while another connection holds the mailbox: that of a worker with the same
        # name, or the one that we have lost and that the broker believes in for a while.
        # Tasks need no mailbox, so this is no reason to stop.
        self._close_channel()
        self.node.channel = connection.channel()
        try:
            self.consumer = self.node.listen(callback=self.on_message)
        except connection.channel_errors as exc:
            if getattr(exc, "reply_code", None) != RESOURCE_LOCKED:
                raise
            logger.warning(
                "Another connection holds the mailbox of %s, so remote commands have to wait; "
                "trying again in %s seconds. Do two workers share the name?",
                self.hostname,
                RETRY_S,
            )
            self._close_channel()
            return False
        return True

    def _start_again(self, c: Any) -> None:
        # A stop may have come between the timer and this call.
        if self._retry is not None:
            self._retry = None
            self.start(c)

    def _retry_no_more(self) -> None:
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()

    def on_stop(self) -> None:
        """Run what has to be done before the mailbox closes. For subclasses."""

    def stop(self, c: Any) -> None:
        """Stop listening and close the channel; harmless twice."""
        self.on_stop()
        self._retry_no_more()
        self.consumer = None
        self._close_channel()

    def _close_channel(self) -> None:
        channel, self.node.channel = self.node.channel, None
        if channel is not None:
            try:
                channel.close()
            except Exception as exc:  # noqa: BLE001 - the connection may be gone already
                logger.debug("while closing the channel of the mailbox: %r", exc)

    def reset(self) -> None:
        """Listen anew, on another channel."""
        self.stop(self.c)
        self.start(self.c)

    def shutdown(self, c: Any) -> None:
        """Stop listening for good."""
        self.on_stop()
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            logger.debug("Canceling broadcast consumer...")
            try:
                consumer.cancel()
            except Exception as exc:  # noqa: BLE001 - the connection may be gone already
                logger.debug("while cancelling the mailbox: %r", exc)
        self.stop(c)


class gPidbox(Pidbox):
    """Listens in a green thread."""

    _node_shutdown: threading.Event | None = None
    _node_stopped: threading.Event | None = None

    def __init__(self, c: Any) -> None:
        self._resets = 0
        self._tried = threading.Event()
        super().__init__(c)

    def start(self, c: Any) -> None:
        """Start the green thread; returns when it listens, so that no command comes too early."""
        self._tried.clear()
        c.pool.spawn_n(self.loop, c)
        if not self._tried.wait(LISTENING_WITHIN_S):
            logger.warning("Not listening for remote commands yet; the broker takes its time.")

    def on_stop(self) -> None:
        """Tell the green thread to end and wait until it did."""
        if self._node_shutdown is not None and self._node_stopped is not None:
            self._node_shutdown.set()
            logger.debug("Waiting for broadcast thread to shutdown...")
            self._node_stopped.wait(10.0)
            self._node_shutdown = self._node_stopped = None

    def reset(self) -> None:
        """Have the green thread listen anew."""
        self._resets += 1

    def loop(self, c: Any) -> None:
        """Run commands until told to stop; on a lost connection the consumer restarts us."""
        shutdown = self._node_shutdown = threading.Event()
        stopped = self._node_stopped = threading.Event()
        seen = self._resets
        try:
            with c.connection_for_read() as connection:
                logger.info("pidbox: Connected to %s.", connection.as_uri())
                listens = self._listen(connection)
                self._tried.set()
                while not shutdown.is_set() and c.connection:
                    if self._resets > seen:
                        seen = self._resets
                        listens = False
                    if not listens:
                        listens = self._listen(connection)
                        if not listens:
                            shutdown.wait(RETRY_S)
                            continue
                    try:
                        connection.drain_events(timeout=1.0)
                    except TimeoutError:
                        continue
        except WorkerShutdown as exc:
            # In this thread it would end nothing; the main loop looks at the note.
            worker_state.should_stop = _exit_code(exc)
        except WorkerTerminate as exc:
            worker_state.should_terminate = _exit_code(exc)
        except Exception:
            logger.exception("The mailbox stopped; commands are not obeyed until a reconnect")
        finally:
            self._tried.set()
            stopped.set()


def _exit_code(exc: SystemExit) -> int | bool:
    return exc.code if isinstance(exc.code, int) and exc.code else True
