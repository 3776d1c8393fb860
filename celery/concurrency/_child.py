"""
What a child of the prefork pool does: take a job, say so, run it, report.

`Worker` is billiard's class so that tools which wrap ``Worker.workloop`` and ``Worker._do_exit``
see our children as well; only the inner loop is ours.  billiard's work loop asks for its first
job and never gets one: `Worker.serve` runs all of them and ends by raising SystemExit.

A child is in one of three phases, and what a signal does depends on it:

- IDLE, waiting for a job: a terminating signal ends the process at once;
- BODY, inside the target: a terminating signal raises SystemExit there, the signal of the soft
  time limit raises SoftTimeLimitExceeded;
- BUSY, between the two, and while a task stores how its body has ended: a terminating signal
  takes effect after the report is out, so a finished job is never called lost; the soft limit has
  come too late and is forgotten.

SIGHUP asks a child to leave as soon as it has no job.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import stat
import sys
import time
from io import FileIO
from typing import TYPE_CHECKING, Any, NoReturn

from billiard import pool as billiard_pool
from billiard.common import TERM_SIGNAL, TERM_SIGNAME
from billiard.context import get_spawning_popen
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from kombu.asynchronous import set_event_loop

from celery import platforms
from celery.app import _coroutines
from celery.app._handover import handover
from celery.app._sealing import Ended, noting, sealing
from celery.concurrency._packets import (
    DONT_WAIT,
    HANDS_OVER,
    JOB,
    LEAVE,
    NOTHING,
    PACKET_SIZE,
    SHELVED,
    SPILLED,
    Spill,
)
from celery.concurrency._reports import RETURNED, UP, Outbox, encode, fit
from celery.concurrency._seals import Seals
from celery.concurrency._shelf import Shelf
from celery.concurrency.base import describe, exit_status, judge
from celery.utils.log import flush_redirected, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = get_logger(__name__)

#: Exit status of a child that leaves because it has done its share.
EX_RECYCLE: int = billiard_pool.EX_RECYCLE

IDLE, BUSY, BODY = range(3)

#: Seconds after which a child without end-of-file on its inbox looks whether its parent lives.
_ORPHAN_CHECK = 5.0

_PROTOCOL = 5
_MISSING: Any = object()


class _Leave(SystemExit):
    """Raised to end the loop, never by task code."""


class _LastWords:
    """
    Stands where billiard's exit code expects the queue for its farewell message.

    The main process learns of the exit from the kernel, so nothing is sent, and the pause that
    billiard makes to have the message read is not needed: the process ends in `put`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def put(self, message: tuple[int, tuple[int, int]]) -> NoReturn:
        _kind, (_pid, status) = message
        flush_redirected()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue  # no stream, or its other end has gone; nobody is left to tell
        if self.signum is not None:
            # Die of the signal that asked for it, so that the parent sees the truth.
            signal.signal(self.signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.signum})
            os.kill(os.getpid(), self.signum)
        os._exit(status & 0xFF)


class Worker(billiard_pool.Worker):  # type: ignore[misc]  # billiard has no types
    """
    The program of one child.

    Args:
        number: Names the child in its reports; never used again in this pool.
        place: Names the child among those that live.
        inbox: Reading end for jobs, shared by all children.
        outbox: Writing end of the pipe for reports, shared by all children.
        spill: Where big payloads are kept that have no room on the shelf.
        shelf: Where big payloads of jobs are kept.
        seals: Where the main process sees that a job has all but ended.
        initializer: Called with *initargs* once, before the first job.
        on_exit: Called with process id and exit status when the child leaves.
        maxtasks: Leave after so many jobs.
        max_memory_per_child: Leave when more KiB are resident after a job.
        close_fds: What only the main process needs; closed in a forked child.
        detach_fds: Sockets of the main process that a forked child must not keep open.
        death_signal: End with the parent, where the system can do that.
    """

    def __init__(
        self,
        number: int,
        place: int,
        inbox: socket.socket,
        outbox: FileIO,
        spill: Spill,
        shelf: Shelf,
        seals: Seals,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        on_exit: Callable[[int, int], Any] | None = None,
        maxtasks: int | None = None,
        max_memory_per_child: int | None = None,
        close_fds: Iterable[int] = (),
        detach_fds: Iterable[int] = (),
        death_signal: bool = False,
    ) -> None:
        self.number = number
        self.place = place
        self.inbox = inbox
        self.outbox = outbox
        self.spill = spill
        self.shelf = shelf
        self.seals = seals
        self.initializer = initializer
        self.initargs = initargs
        self.on_exit = on_exit
        self.max_jobs = maxtasks
        self.max_memory_kib = max_memory_per_child
        self.close_fds = tuple(close_fds)
        self.detach_fds = tuple(detach_fds)
        self.death_signal = death_signal
        if death_signal and sys.platform == "linux":
            # Before the fork, for all children.
            platforms.c_library()
        self.forked = True
        self.parent_pid = os.getpid()
        self._prepare()

    def _prepare(self) -> None:
        """Set what never crosses to a spawned child, and what billiard's methods look at."""
        self._phase = BUSY
        self._job = 0
        self._report = _MISSING
        self._signum: int | None = None
        self._exit_status: int | None = None
        self.maxtasks = self.max_memory_per_child = self.on_ready_counter = None
        self.inqW_fd = self.synqW_fd = self.wait_for_syn = None
        self.outq = _LastWords()
        self.wait_for_job = self.serve

    def __reduce__(self) -> tuple[Any, ...]:
        popen = get_spawning_popen()
        fds = (self.inbox.fileno(), self.outbox.fileno(), self.seals.fd, self.shelf.fd)
        return _spawned, (
            self.number,
            self.place,
            tuple(popen.duplicate_for_child(fd) for fd in fds),
            int(self.inbox.type),
            self.spill.folder,
            self.initializer,
            self.initargs,
            self.on_exit,
            self.max_jobs,
            self.max_memory_kib,
            self.death_signal,
            self.parent_pid,
        )

    # -- Life

    def __call__(self) -> None:
        """Be a child, until there is reason to leave; does not return."""
        pid = os.getpid()
        status, error = billiard_pool.EX_FAILURE, None
        try:
            self.after_fork()
            self.on_loop_start(pid=pid)
            self.workloop(pid=pid)
        except SystemExit as exc:
            status = exit_status(exc)
        except BaseException as exc:
            error = exc
            logger.critical("Pool process %s failed: %r", pid, exc, exc_info=True)
        finally:
            self._phase = BUSY
            if self._signum is not None:
                status = -self._signum
                self.outq.signum = self._signum
            try:
                self._do_exit(pid, status, error)
            except BaseException:
                logger.critical("Pool process %s failed to leave", pid, exc_info=True)
            finally:
                os._exit(billiard_pool.EX_FAILURE)  # only reached if leaving failed

    def after_fork(self) -> None:
        """Cut the ties to the main process, then run the initializer."""
        if self.forked:
            self._let_go()
        self._handle_signals()
        if self.death_signal:
            self._die_with_parent()
        set_event_loop(None)
        if self.initializer is not None:
            self.initializer(*self.initargs)
        # The initializer belongs to the app, which may set handlers as it likes.
        self._handle_signals()

    def _let_go(self) -> None:
        # Garbage of the main process is its own to collect: the end of a driver's connection may
        # wait for threads that are not here.
        gc.freeze()
        for fd in self.close_fds:
            os.close(fd)
        # Python objects still own these numbers and would close them one day, whatever they
        # are by then; so the connection is dropped and the number kept.
        null = os.open(os.devnull, os.O_RDWR)
        for fd in self.detach_fds:
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.dup2(null, fd, inheritable=False)
            except OSError:
                continue  # closed already
        os.close(null)

    def _handle_signals(self) -> None:
        for name in {"SIGQUIT", TERM_SIGNAME}:
            signal.signal(getattr(signal, name), self._on_terminate)
        signal.signal(signal.SIGHUP, self._on_retire)
        if TERM_SIGNAL != signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, self._on_soft_time_limit)
        # Blocked across the fork, when the handlers were still those of the main process.
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def _die_with_parent(self) -> None:
        platforms.set_pdeathsig("SIGKILL")
        if os.getppid() != self.parent_pid:
            os._exit(billiard_pool.EX_FAILURE)  # it went before the kernel was told

    def on_loop_start(self, pid: int) -> None:
        """Tell the main process that this child takes jobs from now on."""
        self._report = Outbox(self.outbox, self.number).send
        self._report(UP, 0, 0, time.monotonic())

    # -- Signals

    def _on_terminate(self, signum: int, _frame: Any) -> None:
        if self._signum is not None:
            return
        self._signum = signum
        if self._phase != BUSY:
            in_body, self._phase = self._phase == BODY, BUSY
            if not (in_body and _coroutines.interrupt(_Leave(-signum))):
                raise _Leave(-signum)

    def _on_retire(self, signum: int, _frame: Any) -> None:
        if self._exit_status is None:
            self._exit_status = EX_RECYCLE
            if self._phase == IDLE:
                self._phase = BUSY
                raise _Leave(EX_RECYCLE)

    def _on_soft_time_limit(self, signum: int, _frame: Any) -> None:
        if self._phase == BODY and not _coroutines.interrupt(SoftTimeLimitExceeded()):
            raise SoftTimeLimitExceeded

    def _seal(self, how: Ended | None = None) -> None:
        """Let nobody else end the job any more; what follows its body belongs to it."""
        self._phase = BUSY
        self.seals.set(self.place, self._job)
        if how is not None:
            self.seals.put_end(self.place, self._job, how)

    def _note(self, how: Ended) -> None:
        """Keep how the job ends should this process vanish, while its body runs on."""
        # What interrupts a body would be taken for an error of the note.
        interrupts = {signal.SIGUSR1, signal.SIGQUIT, TERM_SIGNAL}
        held = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts)
        try:
            self.seals.put_end(self.place, self._job, how)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    # -- Work

    def serve(self) -> NoReturn:
        """Run jobs until told or obliged to leave."""
        receive, report = self.inbox.recv_into, self._report
        unpack, head_size = JOB.unpack_from, JOB.size
        monotonic, run, must_leave, wait = time.monotonic, self._run, self._must_leave, self._wait
        buffer = bytearray(PACKET_SIZE)
        view = memoryview(buffer)
        ended = flags = completed = 0
        outcome = b""
        begin, seals = handover.begin, self.seals
        sealing.set(self._seal)
        noting.set(self._note)
        while True:
            size = 0
            if ended:
                leaving = must_leave(completed)
                if not leaving:
                    try:
                        size = receive(buffer, 0, DONT_WAIT)
                    except BlockingIOError:
                        size = 0
                if not size:
                    # Nothing to accept in the same breath.
                    report(flags, ended, 0, monotonic(), outcome)
                    ended, outcome = 0, b""
                    if seals.in_file is not None:
                        seals.discard_files(seals.in_file)
                    if leaving:
                        raise _Leave(self._exit_status or 0)
            if not size:
                size = wait(buffer)
                if not size:
                    raise _Leave(0)  # the main process has gone
            kind, job, key_size = unpack(buffer)
            if kind == LEAVE:
                if ended:
                    report(flags, ended, 0, monotonic(), outcome)
                raise _Leave(0)
            report(flags, ended, job, monotonic(), outcome)
            if seals.in_file is not None:
                seals.discard_files(seals.in_file)
            begin(bool(kind & HANDS_OVER))
            start = head_size + key_size
            flags, outcome = run(job, kind, bytes(view[head_size:start]), view[start:size])
            ended = job
            completed += 1

    def _wait(self, buffer: bytearray) -> int:
        """Wait for a packet and return its size; 0 if none will come."""
        buffer[0] = NOTHING
        try:
            self._phase = IDLE
            if self._signum is not None or self._exit_status is not None:  # asked while BUSY
                raise _Leave(-self._signum if self._signum else self._exit_status)
            if self.inbox.type == socket.SOCK_DGRAM:
                size = self._wait_for_datagram(buffer)
            else:
                size = self.inbox.recv_into(buffer)
            self._phase = BUSY
        except _Leave:
            self._phase = BUSY
            kind, job, _ = JOB.unpack_from(buffer)
            if kind not in {NOTHING, LEAVE}:
                # It came together with the signal.
                self._report(RETURNED, 0, job, time.monotonic())
            raise
        return size

    def _wait_for_datagram(self, buffer: bytearray) -> int:
        """Do without the end-of-file that tells of a parent that has gone."""
        while os.getppid() == self.parent_pid:
            if not select.select([self.inbox], [], [], _ORPHAN_CHECK)[0]:
                continue
            try:
                return self.inbox.recv_into(buffer, 0, DONT_WAIT)
            except BlockingIOError:
                continue  # another child was faster
        return 0

    def _must_leave(self, completed: int) -> bool:
        if self._exit_status is not None:
            return True
        if self._signum is not None:
            self._exit_status = -self._signum
        elif self.max_jobs is not None and completed >= self.max_jobs:
            self._exit_status = EX_RECYCLE
        elif self.max_memory_kib:
            used = resident_kib()
            if used > self.max_memory_kib:
                logger.warning(
                    "Pool process leaves: %s KiB are resident, %s are allowed",
                    used,
                    self.max_memory_kib,
                )
                self._exit_status = EX_RECYCLE
        return self._exit_status is not None

    def _run(self, job: int, kind: int, key: bytes, payload: memoryview) -> tuple[int, bytes]:
        """Run one job; return the flags and the payload of its report."""
        value: Any = _MISSING
        failure: ExceptionInfo | None = None
        try:
            target = _target(key)
            args, kwargs = self._load(job, kind, payload)
            self._job = job
            self._phase = BODY
            value = target(*args, **kwargs)
            self._phase = BUSY
        except BaseException as exc:  # noqa: BLE001 - border to task code
            self._phase = BUSY
            # A signal may strike after the target has returned; then the job is done.
            if value is _MISSING:
                if self._signum is not None:
                    raise _Leave(-self._signum) from None  # unfinished, and so without report
                failure = self._judge(exc)
        if failure is None:
            try:
                return encode(value, self.spill, handover.take())
            except Exception as exc:  # noqa: BLE001 - whatever a result's __reduce__ raises
                failure = _unsendable(exc, value)
        return fit(0, _dump_failure(failure), self.spill)

    def _load(self, job: int, kind: int, payload: memoryview) -> Any:
        if kind & SHELVED:
            return self.shelf.load(job, payload)
        return pickle.loads(Spill.take(bytes(payload).decode()) if kind & SPILLED else payload)

    def _judge(self, exc: BaseException) -> ExceptionInfo:
        """Say how a job failed whose target raised *exc*."""
        if isinstance(exc, SystemExit):
            # sys.exit() in a body means this process, and the process obeys.
            self._exit_status = exit_status(exc)
        return judge(exc)


def _spawned(
    number: int,
    place: int,
    ends: tuple[int, int, int, int],
    kind: int,
    folder: str,
    initializer: Any,
    initargs: tuple[Any, ...],
    on_exit: Any,
    maxtasks: int | None,
    max_memory_per_child: int | None,
    death_signal: bool,
    parent_pid: int,
) -> Worker:
    """Build the worker again in a fresh interpreter that inherited the *ends*."""
    inbox = socket.socket(socket.AF_UNIX, kind, fileno=ends[0])
    outbox = FileIO(ends[1], "wb")
    spill = Spill(folder)
    worker = Worker(
        number,
        place,
        inbox,
        outbox,
        spill,
        Shelf(ends[3]),
        Seals(spill, ends[2]),
        initializer=initializer,
        initargs=initargs,
        on_exit=on_exit,
        maxtasks=maxtasks,
        max_memory_per_child=max_memory_per_child,
        death_signal=death_signal,
    )
    worker.forked = False
    worker.parent_pid = parent_pid
    return worker


_targets: dict[bytes, Callable[..., Any]] = {}


def _target(key: bytes) -> Callable[..., Any]:
    """Return the function whose pickle is *key*; the same few come again and again."""
    target = _targets.get(key)
    if target is None:
        target = _targets[key] = pickle.loads(key)
    return target


def invoke(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a target that must be pickled anew for each call, such as a bound method."""
    return target(*args, **kwargs)


def _unsendable(exc: BaseException, value: Any) -> ExceptionInfo:
    try:
        wrapped = billiard_pool.MaybeEncodingError(exc, value)
    except Exception:  # noqa: BLE001 - a value whose repr fails too
        wrapped = billiard_pool.MaybeEncodingError(exc, f"<{type(value).__name__}>")
    return describe(wrapped)


def _dump_failure(failure: ExceptionInfo) -> bytes:
    """
    Pickle a failure, or a description of it if it can't make the journey.

    Reading it back here costs little, as failures are few, and finds exceptions that pickle but
    can't be built again.
    """
    try:
        outcome = pickle.dumps(failure, _PROTOCOL)
        pickle.loads(outcome)
    except Exception as exc:  # noqa: BLE001 - exceptions of users may do anything here
        original = getattr(failure.exception, "exc", failure.exception)
        outcome = pickle.dumps(_unsendable(exc, original), _PROTOCOL)
    return outcome


def resident_kib() -> int:
    """Return the resident memory of this process in KiB; 0 if the system doesn't say."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE_KIB
    except OSError:
        return int(billiard_pool.mem_rss())


_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024 if hasattr(os, "sysconf") else 4
