"""
A worker in a thread of the test, on any broker.

``with start_worker(app) as worker`` returns once the worker consumes, and stops it at the end.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import _state, result
from celery.contrib.testing.app import UnitLogging
from celery.utils.dispatch import Signal
from celery.utils.nodenames import anon_nodename
from celery.worker import WorkController, state as worker_state

if TYPE_CHECKING:
    from celery.app.base import Celery

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

#: Seconds to wait for a worker to consume.
_START_TIMEOUT = 60.0

test_worker_starting = Signal(name="test_worker_starting", providing_args={})
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})


class TestWorkController(WorkController):
    """A worker that says when it consumes, and brings the log of its processes to the test."""

    #: Not a test case itself.
    __test__ = False

    logger_queue: Any = None

    class QueueHandler(logging.handlers.QueueHandler):
        """Sends the records of a pool process to the process of the test."""

        def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
            """Mark the record, so that it is not sent round in circles."""
            record = super().prepare(record)
            record.from_queue = True
            return record

        def handleError(self, record: logging.LogRecord) -> None:
            """Raise the error: a test has to see it."""
            raise  # noqa: PLE0704 - called while the error is handled

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._on_started = threading.Event()
        self._crash: BaseException | None = None
        self.pid = os.getpid()
        self.queue_listener: logging.handlers.QueueListener | None = None
        self._handler: logging.Handler | None = None
        super().__init__(*args, **kwargs)
        if self.pool_cls.__module__.rpartition(".")[2] == "prefork":
            self._listen_to_processes()

    def _listen_to_processes(self) -> None:
        from billiard import Queue

        self.logger_queue = Queue()
        self.queue_listener = logging.handlers.QueueListener(self.logger_queue, _RootHandler())

    def _comes_from_child(self, record: logging.LogRecord) -> bool:
        return record.process != self.pid and not getattr(record, "from_queue", False)

    def start(self) -> Any:
        """Run until stopped; an error is kept for :meth:`ensure_started`."""
        if self.queue_listener is not None:
            self._handler = self.QueueHandler(self.logger_queue)
            self._handler.addFilter(self._comes_from_child)
            logging.getLogger().addHandler(self._handler)
            self.queue_listener.start()
        try:
            return super().start()
        except BaseException as exc:
            self._crash = exc
            raise
        finally:
            self._on_started.set()
            if self.queue_listener is not None and self._handler is not None:
                logging.getLogger().removeHandler(self._handler)
                self.queue_listener.stop()

    def on_consumer_ready(self, consumer: Any) -> None:
        """Let the test go on."""
        self._on_started.set()
        test_worker_started.send(sender=self.app, worker=self, consumer=consumer)

    def ensure_started(self) -> None:
        """
        Wait until the worker consumes.

        Raises:
            RuntimeError: It ended before, or takes too long.
        """
        if not self._on_started.wait(_START_TIMEOUT):
            raise RuntimeError(f"The worker did not consume within {_START_TIMEOUT} seconds")
        if self._crash is not None:
            raise RuntimeError(f"The worker ended at its start: {self._crash!r}") from self._crash


class _RootHandler(logging.Handler):
    """Gives records of pool processes to the handlers of the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)


@contextmanager
def start_worker(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: int | str = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    """
    Run a worker in a thread.

    Args:
        perform_ping_check: Run the task ``celery.ping`` first, which
            :mod:`celery.contrib.testing.tasks` has to register.
        ping_task_timeout: Seconds to wait for it.
        shutdown_timeout: Seconds to wait for the end of the worker.
        kwargs: Further options of the worker.

    Raises:
        RuntimeError: The worker does not start or end in time.
    """
    test_worker_starting.send(sender=app)
    worker = None
    try:
        with _worker_thread(
            app,
            concurrency=concurrency,
            pool=pool,
            loglevel=loglevel,
            logfile=logfile,
            perform_ping_check=perform_ping_check,
            shutdown_timeout=shutdown_timeout,
            **kwargs,
        ) as worker:
            if perform_ping_check:
                with result.allow_join_result():
                    answer = app.tasks["celery.ping"].delay().get(timeout=ping_task_timeout)
                assert answer == "pong"
            yield worker
    finally:
        test_worker_stopped.send(sender=app, worker=worker)


@contextmanager
def _worker_thread(
    app: Celery,
    *,
    loglevel: int | str,
    logfile: str | None,
    perform_ping_check: bool,
    shutdown_timeout: float,
    **options: Any,
) -> Iterator[TestWorkController]:
    setup_app_for_worker(app, loglevel, logfile)
    if perform_ping_check and "celery.ping" not in app.tasks:
        raise RuntimeError(
            "The ping check needs the task celery.ping: import celery.contrib.testing.tasks, "
            "or pass perform_ping_check=False"
        )
    # A broker that cannot be reached shows here, not as a worker that never starts.
    with app.connection(hostname=os.environ.get("TEST_BROKER")) as connection:
        connection.default_channel  # noqa: B018 - connects
    options.setdefault("hostname", anon_nodename())
    options.setdefault("without_heartbeat", True)
    worker = TestWorkController(
        app=app,
        loglevel=loglevel,
        logfile=logfile,
        ready_callback=None,
        **{"without_mingle": True, "without_gossip": True, **options},
    )
    thread = threading.Thread(target=worker.start, daemon=True, name="test-worker")
    thread.start()
    try:
        worker.ensure_started()
        # The thread is none of the pool: tests may wait for results.
        _state._set_task_join_will_block(False)
        yield worker
    finally:
        worker_state.should_terminate = 0
        thread.join(shutdown_timeout)
        worker_state.should_terminate = None
        if thread.is_alive():
            raise RuntimeError(
                f"The worker did not end within {shutdown_timeout} seconds; raise "
                "shutdown_timeout if tasks take longer"
            )


def setup_app_for_worker(app: Celery, loglevel: int | str, logfile: str | None) -> None:
    """Make *app* ready to be run by a worker, and the current one."""
    app.finalize()
    app.set_current()
    app.set_default()
    if not isinstance(app.log, UnitLogging):
        app.log.already_setup = False
        app.log.setup(loglevel=loglevel, logfile=logfile)
