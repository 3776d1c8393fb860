"""
The processes of the prefork pool, seen from the main process.

`AsynPool` writes jobs to one inbox that all children read (`celery.concurrency._packets`), and
reads their reports from one outbox (`celery.concurrency._reports`).  It never waits: its
descriptors and its one timer live on the worker's event loop, or on a loop in a thread of its own.
`celery.concurrency._child` is the other side, `celery.concurrency._job` the life of one call.

What must hold:

- A job runs at most once, and has exactly one outcome unless it is withdrawn.  A child accepts a
  job before it looks inside; a job that was taken but not accepted has not begun, and is sent
  again if the taker died.
- Signals hit the job they are meant for.  Before a child is signalled because of a job it is
  stopped and its reports are read: if the job has ended meanwhile, the child just goes on.  So it
  does if the job has only to store how it ended, for `_SEALED_GRACE_S` seconds at most.
- A job whose child dies while it stores how it ended is reported as an `UnreportedEnd`, which
  says how; so who hears of it can do what the child was about to do.
- A dead child is noticed by the kernel's word (a process descriptor), not by looking around now
  and then, and replaced at once; only children that die while starting are replaced ever slower.
"""

from __future__ import annotations

import itertools
import os
import signal as _signal
import threading
import time
from typing import TYPE_CHECKING, Any

import billiard
from billiard import pool as billiard_pool
from billiard.common import TERM_SIGNAL, human_status
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError

from celery import signals
from celery.app._sealing import UnreportedEnd
from celery.concurrency import _child, _children, _reports
from celery.concurrency._books import Books
from celery.concurrency._child import EX_RECYCLE, Worker
from celery.concurrency._children import NEVER, Child, Starts
from celery.concurrency._driver import Driver
from celery.concurrency._grip import Grip
from celery.concurrency._inbox import Inbox
from celery.concurrency._inquest import Inquest
from celery.concurrency._job import RUNNING, WITHDRAWN, Job
from celery.concurrency._packets import Packer, Spill
from celery.concurrency._reports import RETURNED, SUCCEEDED, UP
from celery.concurrency._seals import Seals
from celery.concurrency._shelf import Shelf
from celery.concurrency.base import describe
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("AsynPool",)

logger = get_logger(__name__)

Worker.__module__ = __name__

#: Seconds that a child may take to report up.
PROC_ALIVE_TIMEOUT = 4.0

SCHED_STRATEGY_FCFS = 1
SCHED_STRATEGY_FAIR = 4

#: Accepted spellings; both mean the same here, as jobs never queue behind a busy child.
SCHED_STRATEGIES: dict[str | None, int] = {
    None: SCHED_STRATEGY_FAIR,
    "default": SCHED_STRATEGY_FAIR,
    "fast": SCHED_STRATEGY_FCFS,
    "fcfs": SCHED_STRATEGY_FCFS,
    "fair": SCHED_STRATEGY_FAIR,
}
SCHED_STRATEGY_TO_NAME = {SCHED_STRATEGY_FAIR: "fair", SCHED_STRATEGY_FCFS: "fcfs"}

RUN, CLOSE, TERMINATE = billiard_pool.RUN, billiard_pool.CLOSE, billiard_pool.TERMINATE

#: Seconds between the terminating signal and the killing one when the pool is torn down.
_TERMINATE_GRACE_S = 5.0

#: Exit statuses of children that leave between two jobs, with nothing in their hands.
_ORDERLY = (0, EX_RECYCLE)


class ResultHandler(billiard_pool.ResultHandler):  # type: ignore[misc]  # billiard has no types
    """
    Reads the reports of the children; no thread, in spite of its base class.

    It exists apart from the pool for code that looks the reader up by this name.
    """

    def __init__(self, pool: AsynPool) -> None:
        self.pool = pool
        self._was_started = False

    def register_with_event_loop(self, hub: Any) -> None:
        """Read reports whenever *hub* sees some."""
        hub.add_reader(self.pool._outbox_reader, self.handle_event)

    def handle_event(self, *args: Any) -> None:
        """Read what is there; more than one read holds waits for the next turn of the loop."""
        self.pool.read_reports(once=True)

    def on_stop_not_started(self) -> None:
        """Read what is left; for callers that stop a reader they never started."""
        self.pool.read_reports()


class AsynPool(billiard_pool.Pool):  # type: ignore[misc]  # billiard has no types
    """
    Child processes that run jobs.

    Args:
        processes: How many; None for the number of processors.
        synack: Accepted for compatibility; unaccepted jobs can always be withdrawn.
        sched_strategy: A key of `SCHED_STRATEGIES`.
        proc_alive_timeout: Seconds that a child may take to start.
        initializer: Called with *initargs* in each child before its first job.
        maxtasksperchild: Jobs after which a child is replaced.
        timeout: Hard time limit in seconds, for jobs that set none.
        soft_timeout: Soft time limit in seconds, for jobs that set none.
        lost_worker_timeout: Longest wait, in seconds, for word from other children about a
            job that vanished together with one.
        on_process_up: Called with each new process object.
        on_process_down: Called with the process object of each child that has gone.
        threads: Do I/O in a thread; otherwise `register_with_event_loop` must be called.
        semaphore: Has ``release()``; released once for every job that ends.
        putlocks: Acquire a slot in `apply_async`, waiting for a free child.
        on_process_exit: Called in the child with process id and exit status.
        context: A billiard context, which decides between fork and spawn.
        max_memory_per_child: KiB resident after a job with which a child is replaced.
    """

    ResultHandler = ResultHandler
    Worker = Worker

    def __init__(
        self,
        processes: int | None = None,
        synack: bool = False,
        sched_strategy: str | int | None = None,
        proc_alive_timeout: float | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.synack = synack
        self.sched_strategy = (
            sched_strategy if isinstance(sched_strategy, int) else SCHED_STRATEGIES[sched_strategy]
        )
        self._starts = Starts(proc_alive_timeout or PROC_ALIVE_TIMEOUT)
        self._processes: int = self.cpu_count() if processes is None else processes
        self._configure(*args, **kwargs)
        self._putlock: Any = self._semaphore
        self._state = RUN
        self._shelf = Shelf()
        self._books = Books(self._shelf, self._semaphore, self.on_job_ready)
        self._cache = self._books.jobs
        self._children: dict[int, Child] = {}
        self._numbers = itertools.count(1)
        self._child_numbers = itertools.count(1)
        self._spill = Spill()
        self._pack = Packer(self._shelf, self._spill, _child.invoke).pack
        self._seals = Seals(self._spill)
        self._grip = Grip(self._seals, self.read_reports)
        self._driver = Driver(self._on_attach, self._on_detach, self._on_timer)
        self._closed = False
        self.create_process_queues()
        self._inquest = Inquest(self._children, self._inbox.put_first, self.lost_worker_timeout)
        self._result_handler = self.create_result_handler()
        self._repopulate()
        if self.threads:
            self._driver.start_thread()

    def _configure(
        self,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        maxtasksperchild: int | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        lost_worker_timeout: float | None = None,
        on_process_up: Callable[[Any], Any] | None = None,
        on_process_down: Callable[[Any], Any] | None = None,
        on_timeout_set: Callable[..., Any] | None = None,
        on_timeout_cancel: Callable[..., Any] | None = None,
        threads: bool = True,
        semaphore: Any = None,
        putlocks: bool = False,
        on_process_exit: Callable[[int, int], Any] | None = None,
        context: Any = None,
        max_memory_per_child: int | None = None,
        **_unused: Any,
    ) -> None:
        if maxtasksperchild is not None and maxtasksperchild < 1:
            raise ValueError(f"maxtasksperchild must be positive or None, not {maxtasksperchild}")
        self._initializer, self._initargs = initializer, initargs
        self._maxtasksperchild = maxtasksperchild
        self._max_memory_per_child = max_memory_per_child
        self.timeout, self.soft_timeout = timeout, soft_timeout
        self.lost_worker_timeout = (
            billiard_pool.LOST_WORKER_TIMEOUT
            if lost_worker_timeout is None
            else lost_worker_timeout
        )
        self.on_process_up, self.on_process_down = on_process_up, on_process_down
        self.on_timeout_set, self.on_timeout_cancel = on_timeout_set, on_timeout_cancel
        self.threads = threads
        self.putlocks = putlocks
        if semaphore is None and putlocks:
            semaphore = billiard_pool.LaxBoundedSemaphore(self._processes)
        self._semaphore: Any = semaphore
        self._on_process_exit = on_process_exit
        self._ctx = context or billiard.get_context()

    # -- Channels

    def create_process_queues(self) -> None:
        """Open the two channels that all children share."""
        self._inbox = Inbox(self._cache)
        self._put = self._inbox.put
        self._outbox_reader, self._outbox_writer = _reports.pipe()
        self._reports = _reports.Reports(self._outbox_reader)

    def get_process_queues(self) -> tuple[Any, Any, None]:
        """Return the ends for children: inbox, outbox, and no third channel."""
        return self._inbox.reader, self._outbox_writer, None

    def create_result_handler(self) -> Any:
        """Make the reader of reports."""
        return self.ResultHandler(self)

    def process_flush_queues(self, proc: Any) -> None:
        """Read every report that has arrived, those of *proc* included."""
        self.read_reports()

    def destroy_queues(self, queues: Iterable[Any], proc: Any = None) -> None:
        """Close channel ends, if they are not closed yet."""
        for end in queues:
            if end is not None:
                end.close()

    # -- Event loops

    def register_with_event_loop(self, hub: Any) -> None:
        """Do I/O on *hub* from now on; again after the hub was reset."""
        self._driver.move_to(hub)

    def _on_attach(self, loop: Any) -> None:
        self._result_handler.register_with_event_loop(loop)
        self._inbox.attach(loop)

    def _on_detach(self, loop: Any) -> None:
        self._inbox.attach(None)
        loop.remove(self._outbox_reader)

    def wait_for(self, job: Job, event: threading.Event, timeout: float | None) -> None:
        """Wait until *job* is ready; for `Job.wait`."""
        if self._driver.is_running():
            event.wait(timeout)
        else:
            self._driver.run(job.ready, timeout)

    def _arm(self) -> None:
        """Have `_on_timer` called when the next thing is due."""
        due = min(self._starts.resume_at, self._inquest.due)
        for child in self._children.values():
            due = min(due, child.alive_by, child.soft_at, child.hard_at, child.wish_at)
        self._driver.wake_by(due)

    def _on_timer(self) -> None:
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.alive_by <= now:
                self._give_up_start(child)
            elif child.job is not None and child.hard_at <= now:
                self._on_hard_limit(child, child.job)
            elif child.job is not None and child.wish_at <= now:
                child.wish_at = NEVER
                self._signal_job(child, child.job, child.wish)
            elif child.job is not None and child.soft_at <= now:
                self._on_soft_limit(child, child.job)
        if self._starts.resume_at <= now:
            self._starts.resume_at = NEVER
            self._repopulate()
        if self._inquest.suspects:
            self._inquest.close()
        self._arm()

    @property
    def timers(self) -> dict[Callable[[], Any], float]:
        """Nothing: whatever the pool has to do later, it does on its own timer."""
        return {}

    # -- Jobs in

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        waitforslot: bool | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        lost_worker_timeout: float | None = None,
        callbacks_propagate: tuple[type[BaseException], ...] = (),
        correlation_id: str | None = None,
        hands_over: bool = False,
        **_: Any,
    ) -> Job:
        """
        Have a child run ``func(*args, **kwargs)``.

        A call that can't be pickled fails like one that raised.  A closed pool returns a job
        that is withdrawn already.

        Args:
            callback: Called with what *func* returned.
            error_callback: Called with an `ExceptionInfo` if it did not return.
            accept_callback: Called with process id and monotonic time before *func* runs.
            timeout_callback: Called as ``timeout_callback(soft=, timeout=)`` when a limit has
                passed; with ``soft=False`` it is the outcome of the job.
            waitforslot: Wait for a free child, if the pool was made with *putlocks*.
            hands_over: The result of a task may be left to *callback*, which then gets a
                document as fourth element, see `celery.app._handover`.
        """
        number = next(self._numbers)
        job = Job(
            self,
            number,
            callback,
            error_callback,
            accept_callback,
            timeout_callback,
            soft_timeout or self.soft_timeout,
            timeout or self.timeout,
            callbacks_propagate,
            correlation_id,
        )
        if self._state != RUN:
            job.settle(WITHDRAWN)
            return job
        if self.putlocks and waitforslot is not False:
            self._semaphore.acquire()
        self._cache[number] = job
        try:
            packet = job.packet = self._pack(job, func, args or (), kwargs or {}, hands_over)
        except Exception as exc:  # noqa: BLE001 - whatever arguments raise when pickled
            self._books.end(job, False, describe(exc))
            return job
        self._put(job, packet)
        return job

    # -- Reports out

    def read_reports(self, once: bool = False) -> None:
        """Handle the reports that have arrived, or *once* as many as one read brings."""
        reports, has_read = self._reports, False
        try:
            while True:
                # First what is left: a callback may have got us here while it is gone through.
                while (report := reports.next()) is not None:
                    self._handle(*report)
                if (once and has_read) or not reports.read():
                    return
                has_read = True
        except BaseException:
            # A callback that propagates; nothing else would tell of the reports behind it.
            self._driver.call_soon(self.read_reports)
            raise

    def _handle(
        self, number: int, flags: int, ended: int, accepted: int, when: float, payload: bytes
    ) -> None:
        child = self._children.get(number)
        if child is None:
            return
        job = child.free() if ended else None
        if job is not None:
            success, value = self._outcome(flags, payload)
        else:
            success, value = False, None
        # In the books before any callback runs: both were true when the report was sent.
        following = self._cache.get(accepted) if accepted else None
        if following is not None:
            if flags & RETURNED:
                self._inquest.acquit(following)
                self._inbox.put_first([following])
                return
            self._accept(child, following, when)
        if job is not None:
            self._books.end(job, success, value)
        if following is not None:
            if following.accept_callback is not None:
                self._books.call(following, following.accept_callback, child.pid, when)
            if following._terminated is not None:
                self._signal_job(child, following, following._terminated)
        if flags & UP:
            self._on_up(child)
        if self._inquest.suspects:
            self._inquest.hear(number)

    def _outcome(self, flags: int, payload: bytes) -> tuple[bool, Any]:
        try:
            return bool(flags & SUCCEEDED), _reports.decode(flags, payload)
        except Exception as exc:  # noqa: BLE001 - classes of users are built here
            return False, describe(
                billiard_pool.MaybeEncodingError(exc, "a result that can't be read back")
            )

    def _accept(self, child: Child, job: Job, when: float) -> None:
        job.state = RUNNING
        job.worker_pid = child.pid
        job.time_accepted = when
        job.packet = None
        child.job = job
        child.counted += 1
        if job.timeout or job.soft_timeout:
            if job.timeout:
                child.hard_at = when + job.timeout
            if job.soft_timeout:
                child.soft_at = when + job.soft_timeout
            if min(child.soft_at, child.hard_at) < self._driver.due:
                self._arm()

    # -- Taking back

    def withdraw(self, job: Job) -> bool:
        """Take *job* back if it has not begun; say whether that was so."""
        taken_back = self._inbox.take_back(job)
        if taken_back:
            self._books.withdraw(job)
        return taken_back

    def flush(self) -> None:
        """Withdraw every job that has not begun."""
        if not self._closed:
            for job in self._inbox.take_all():
                self._books.withdraw(job)

    # -- Children

    @property
    def _pool(self) -> list[Any]:
        return [child.process for child in list(self._children.values())]

    def WorkerProcess(self, worker: Any) -> Any:
        """Make the process object that will run *worker*."""
        return self._ctx.Process(target=worker)

    def _repopulate(self) -> None:
        """Start children until there are as many as wanted."""
        while self._state == RUN and len(self._children) < self._processes:
            self._create_worker_process(self._free_index())

    def _free_index(self) -> int:
        taken = {child.process.index for child in self._children.values()}
        return next(index for index in itertools.count() if index not in taken)

    def _create_worker_process(self, i: int) -> Any:
        number = next(self._child_numbers)
        inbox, outbox, _ = self.get_process_queues()
        own_fds = self._own_fds()
        worker = self.Worker(
            number,
            i,
            inbox,
            outbox,
            self._spill,
            self._shelf,
            self._seals,
            initializer=self._initializer,
            initargs=self._initargs,
            on_exit=self._on_process_exit,
            maxtasks=self._maxtasksperchild,
            max_memory_per_child=self._max_memory_per_child,
            close_fds=own_fds,
            # Connections to the broker.
            detach_fds=self._driver.foreign_fds().difference(own_fds),
            # The kernel means the thread that forked when it says parent.
            death_signal=self._driver.outlives_children(),
        )
        process = self.WorkerProcess(worker)
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = True
        process.index = i
        signals.worker_before_create_process.send(sender=process)
        _children.start(process)
        child = self._children[number] = Child(process, number, self._starts.patience)
        self._driver.watch(child.watched, self._on_exit, child)
        self._arm()
        if self.on_process_up is not None:
            self.on_process_up(process)
        return process

    def _own_fds(self) -> list[int]:
        """List the descriptors of the pool that a child must not hold."""
        fds = [self._inbox.writer.fileno(), self._outbox_reader.fileno()]
        fds += [child.watched for child in self._children.values()]
        return fds

    def _on_up(self, child: Child) -> None:
        child.is_up = True
        child.alive_by = NEVER
        self._starts.came_up(child)
        self.on_process_alive(child.pid)

    def _on_exit(self, child: Child) -> None:
        """Settle what a child that has gone leaves behind, and replace it."""
        if child.number not in self._children:
            return
        self.read_reports()
        exitcode = child.process.exitcode
        if exitcode is None and _children.is_alive(child.pid):
            return
        del self._children[child.number]
        self._reports.forget(child.number)
        self._driver.unwatch(child.watched)
        os.close(child.watched)
        if exitcode is not None:
            child.process.join()
        self._log_exit(child, exitcode)
        job = child.free()
        if job is not None:
            job._ended = self._seals.end_of(child.process.index, job._job)
        self._seals.discard_files(child.process.index)
        if job is not None:
            self.on_job_process_down(job, child.pid)
            is_known = job._ended is not None or job._terminated is not None
            if self._state != TERMINATE or is_known:
                self.on_job_process_lost(job, child.pid, exitcode)
            else:
                self._books.withdraw(job)
        if self._state == RUN:
            if exitcode not in _ORDERLY or child.is_retired:
                suspects = self._inbox.missing()
                self.read_reports()
                self._inquest.open(suspects)
                self._arm()
            if child.is_up:
                self._repopulate()
            else:
                self._starts.died()
                self._arm()
        if self.on_process_down is not None:
            self.on_process_down(child.process)
        self._driver.notify()

    def _log_exit(self, child: Child, exitcode: int | None) -> None:
        if exitcode in _ORDERLY or child.expendable or self._state != RUN:
            return
        logger.error(
            "Process %r pid:%r exited with %r",
            child.process.name,
            child.pid,
            human_status(exitcode),
        )

    # -- Signals to children

    def _signal_job(self, child: Child, job: Job, signum: int) -> None:
        self._grip.signal(child, job, signum)
        self._arm()

    def _on_soft_limit(self, child: Child, job: Job) -> None:
        if self._grip.interrupt(child, job) and job.timeout_callback is not None:
            self._books.call(job, job.timeout_callback, soft=True, timeout=job.soft_timeout)

    def _on_hard_limit(self, child: Child, job: Job) -> None:
        if not self._grip.kill(child, job):
            return
        ended = self._seals.end_of(child.process.index, job._job)
        if ended is None:
            self._books.end_by_limit(job, describe(TimeLimitExceeded(job.timeout)))
        else:
            error = UnreportedEnd("Its end took too long", ended)
            self._books.end(job, False, describe(error))

    def _give_up_start(self, child: Child) -> None:
        # That it came up may not have been read yet.
        self.read_reports()
        if child.is_up or child.number not in self._children:
            return
        had = child.alive_by - child.born_at
        child.alive_by = NEVER
        self._starts.gave_up(had)
        logger.error(
            "Process %r pid:%r did not start within %.3g seconds: killed",
            child.process.name,
            child.pid,
            had,
        )
        _children.kill(child.pid, _signal.SIGKILL)

    def terminate_job(self, pid: int, signal: int | str | None = None) -> None:
        """
        Send a signal to process *pid* if it runs a job.

        If the process dies of it, the job fails with `Terminated`.

        Args:
            signal: A number or name; the terminating signal if None.
        """
        self._driver.call(self._terminate_pid, pid, _children.signal_number(signal))

    def _terminate_pid(self, pid: int, signum: int) -> None:
        for child in list(self._children.values()):
            job = child.job
            if child.pid == pid and job is not None and job._terminated != signum:
                self._signal_job(child, job, signum)

    def terminate_call(self, job: Job, sig: int | str | None = None) -> None:
        """End *job*, whether it has begun or not; for `Job.terminate`."""
        self._driver.call(self._terminate_call, job, _children.signal_number(sig))

    def _terminate_call(self, job: Job, signum: int) -> None:
        if job.state == RUNNING and job.worker_pid is not None:
            self._terminate_pid(job.worker_pid, signum)
        elif job.state < RUNNING:
            if self._inbox.take_back(job):
                self._books.end(job, False, describe(Terminated(signum)))
            else:
                job._terminated = signum  # a child has it already; done when it says so

    # -- Hooks

    def on_process_alive(self, pid: int) -> None:
        """React to a child that takes jobs now."""

    def on_job_process_down(self, job: Job, pid_gone: int) -> None:
        """React to *job* having lost its process, before it gets an outcome."""

    def on_job_process_lost(self, job: Job, pid: int, exitcode: int | None) -> None:
        """Give a job whose process has gone its outcome."""
        error: Exception
        if job._terminated is not None:
            error = Terminated(job._terminated)
        else:
            error = WorkerLostError(
                f"Worker exited prematurely: {human_status(exitcode)} Job: {job._job}."
            )
        if job._ended is not None:
            error = UnreportedEnd(str(error), job._ended)
        self._books.end(job, False, describe(error))

    def on_job_ready(self, job: Job, i: Any, obj: tuple[bool, Any], inqW_fd: Any) -> None:
        """React to the outcome of *job*, after its callbacks."""

    def on_partial_read(self, job: Job, proc: Any) -> None:
        """Never called: packets come whole or not at all."""

    def on_grow(self, n: int) -> None:
        """React to the pool having been told to grow."""

    def on_shrink(self, n: int) -> None:
        """React to the pool having been told to shrink."""

    # -- Size

    def grow(self, n: int = 1) -> None:
        """Run *n* more children."""
        self._processes += n
        if self._semaphore is not None:
            for _ in range(n):
                self._semaphore.grow()
        self._driver.call(self._repopulate)
        self.on_grow(n)

    def shrink(self, n: int = 1) -> None:
        """
        Run up to *n* children less; only idle ones leave.

        Raises:
            ValueError: No child is idle.
        """
        idle = sum(child.is_up and child.job is None for child in list(self._children.values()))
        if not idle:
            raise ValueError("Can't shrink pool. All processes busy!")
        n = min(n, idle)
        self._processes -= n
        if self._semaphore is not None:
            for _ in range(n):
                self._semaphore.shrink()
        self._inbox.send_away(n)
        self.on_shrink(n)

    def restart(self) -> None:
        """Replace every child; those that run a job leave when it has ended."""
        self._driver.call(self._retire_all)

    def _retire_all(self) -> None:
        for child in self._children.values():
            child.is_retired = True
            _children.kill(child.pid, _signal.SIGHUP)

    def maintain_pool(self, *args: Any, **kwargs: Any) -> None:
        """Look after the children now; there is no need to call this regularly."""
        self._driver.call(self._look_after)

    _maintain_pool = maintain_pool

    def _look_after(self) -> None:
        for child in list(self._children.values()):
            if child.process.exitcode is not None:
                self._on_exit(child)
        if self._starts.resume_at == NEVER:
            self._repopulate()

    def did_start_ok(self) -> bool:
        """Say whether no child died while it started."""
        return not self._starts.early_deaths and not any(
            not child.is_up and child.process.exitcode is not None
            for child in list(self._children.values())
        )

    def human_write_stats(self) -> dict[str, Any]:
        """Say how the jobs were spread over the children, as the ``stats`` command shows it."""
        children = list(self._children.values())
        return _children.spread(children) | {
            "strategy": SCHED_STRATEGY_TO_NAME[self.sched_strategy],
            "inqueues": {
                "total": len(children),
                "active": sum(child.job is not None for child in children),
            },
        }

    # -- End

    def close(self) -> None:
        """Take no more jobs, withdraw those that have not begun, let the others end."""
        if self._state == RUN:
            self._state = CLOSE
            self.flush()
            self._inbox.send_away(len(self._children))

    def terminate(self) -> None:
        """Take no more jobs and end the running ones; returns when every child has gone."""
        if self._closed:
            return
        self._state = TERMINATE
        self.flush()
        for signum in (TERM_SIGNAL, _signal.SIGKILL):
            for child in list(self._children.values()):
                child.expendable = True
                _children.kill(child.pid, signum, _signal.SIGCONT)
            if self._driver.run(self._is_empty, _TERMINATE_GRACE_S):
                break
        self._release()

    _terminate = terminate

    def join(self) -> None:
        """
        Wait until every child has left, then release everything.

        Raises:
            ValueError: The pool was neither closed nor terminated.
        """
        if self._state == RUN:
            raise ValueError("a pool must be closed before it can be joined")
        if not self._closed:
            self._driver.run(self._is_empty)
            self._release()

    def _is_empty(self) -> bool:
        return not self._children

    def _release(self) -> None:
        self._closed = True
        self._driver.stop()
        self.destroy_queues(
            (self._inbox.reader, self._inbox.writer, self._outbox_reader, self._outbox_writer)
        )
        self._spill.remove()
        self._seals.close()
        self._shelf.close()
        for job in list(self._cache.values()):
            self._books.withdraw(job)

    def __reduce__(self) -> Any:
        raise TypeError("a pool of processes can't be pickled")

    def __del__(self) -> None:
        """Leave it to the kernel: sockets close, and children without a parent end."""

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Not offered: this pool takes single calls."""
        raise NotImplementedError("use apply_async(); this pool takes single calls only")

    starmap = map_async = starmap_async = imap = imap_unordered = map
