"""The app that the worker tests run; its settings come from the environment."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback

from kombu import Exchange, Queue

from celery import Celery, Task, bootsteps, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.worker.control import control_command
from t.harness.worker import CONF_VARIABLE
from t.integration.worker import gated_store

app = Celery("proj")
app.conf.update(
    broker_connection_retry_on_startup=True,
    result_expires=None,
    worker_hijack_root_logger=True,
)
app.conf.update(json.loads(os.environ.get(CONF_VARIABLE, "{}")))

if os.environ.get("T_WORKER_DLX"):
    app.conf.task_queues = [
        Queue(
            "celery",
            Exchange("celery"),
            routing_key="celery",
            queue_arguments={"x-dead-letter-exchange": "dead"},
        )
    ]


if path := os.environ.get("T_WORKER_HANG_ONCE"):

    @signals.worker_process_init.connect(weak=False)
    def hang_once(**kwargs: object) -> None:
        """Never come up, the first time."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        signal.pause()


def write(path: str, line: str) -> None:
    """Append one line to the journal at *path*."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="note")
def note(path: str, line: str) -> None:
    write(path, line)


@app.task(name="late_note", acks_late=True)
def late_note(path: str, line: str) -> None:
    write(path, line)


@app.task(name="timed")
def timed(path: str, line: str) -> None:
    write(path, f"{line} {time.time()}")


@app.task(name="limited", rate_limit="2/s")
def limited(path: str, line: str) -> None:
    write(path, f"{line} {time.time()}")


@app.task(name="work")
def work(path: str, label: str, seconds: float) -> str:
    """Say begin, take some time, say end."""
    write(path, f"begin {label}")
    time.sleep(seconds)
    write(path, f"end {label}")
    return label


@app.task(name="late_work", acks_late=True)
def late_work(path: str, label: str, seconds: float) -> str:
    return work.run(path, label, seconds)


@app.task(name="gated")
def gated(path: str, label: str, gate: str) -> str:
    """Say begin, and end once the file *gate* is there."""
    write(path, f"begin {label}")
    while not os.path.exists(gate):
        time.sleep(0.01)
    write(path, f"end {label}")
    return label


@app.task(name="late_gated", acks_late=True)
def late_gated(path: str, label: str, gate: str) -> str:
    return gated.run(path, label, gate)


@app.task(name="late_lost_gated", acks_late=True, reject_on_worker_lost=True)
def late_lost_gated(path: str, label: str, gate: str) -> str:
    return gated.run(path, label, gate)


@app.task(name="soft")
def soft(path: str) -> str:
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        write(path, "soft limit")
        return "cleaned up"
    return "slept"


@app.task(name="pid")
def pid() -> int:
    return os.getpid()


@app.task(name="who", bind=True)
def who(self) -> list[str]:
    """Tell which node runs this, and which process has sent it."""
    return [self.request.hostname, self.request.origin]


@app.task(name="relay")
def relay() -> list[object]:
    """Tell which process this is, and send a task from it."""
    return [os.getpid(), who.delay().id]


class Quiet(Task):
    """Has a handler of its own that leaves the one of the base out."""

    def after_return(self, *args: object) -> None:
        pass


@app.task(name="quiet", base=Quiet)
def quiet(x: int) -> int:
    return x


@app.task(name="boom")
def boom() -> None:
    raise KeyError("boom")


# -- the acknowledgement matrix: one task for each outcome and each column of options

COLUMNS = {
    "early": {},
    "late": {"acks_late": True},
    "late_lost": {"acks_late": True, "reject_on_worker_lost": True},
    "late_nofail": {"acks_late": True, "acks_on_failure": False},
    "late_notimeout": {"acks_late": True, "acks_on_timeout": False},
    "late_neither": {"acks_late": True, "acks_on_failure_or_timeout": False},
}


def _success(self, path):
    return "fine"


def _exception(self, path):
    raise ValueError("no")


def _retry(self, path):
    raise self.retry(countdown=0, exc=ValueError("again"))


def _ignore(self, path):
    raise Ignore


def _reject(self, path):
    raise Reject("no", requeue=False)


def _requeue(self, path):
    raise Reject("again", requeue=True)


def _soft_limit(self, path):
    time.sleep(60)


def _hard_limit(self, path):
    time.sleep(60)


def _killed(self, path):
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(self, path):
    sys.exit(3)


def _terminated(self, path):
    write(path, f"running {self.request.id}")
    time.sleep(60)


OUTCOMES = {
    "success": (_success, {}),
    "exception": (_exception, {}),
    "retry": (_retry, {"max_retries": 1}),
    "ignore": (_ignore, {}),
    "reject": (_reject, {}),
    "requeue": (_requeue, {}),
    "soft_limit": (_soft_limit, {"soft_time_limit": 0.3}),
    "hard_limit": (_hard_limit, {"time_limit": 0.3}),
    "killed": (_killed, {}),
    "exit": (_exit, {}),
    "terminated": (_terminated, {}),
}


def _make(outcome, column):
    body, options = OUTCOMES[outcome]

    def run(self, path, label):
        """Do what *outcome* says, the first time; end well if delivered once more."""
        write(path, f"run {label}")
        if self.request.delivery_info["redelivered"]:
            return "second delivery"
        return body(self, path)

    return app.task(
        run, name=f"ack.{column}.{outcome}", bind=True, **{**options, **COLUMNS[column]}
    )


for _column in COLUMNS:
    for _outcome in OUTCOMES:
        _make(_outcome, _column)


# -- custom steps

if os.environ.get("T_WORKER_STEPS"):

    class Noting(bootsteps.StartStopStep):
        """Writes down its life; in the consumer."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def __init__(self, parent, **options):
            write(os.environ["T_WORKER_STEPS"], "consumer step built")
            super().__init__(parent, **options)

        def start(self, parent):
            write(os.environ["T_WORKER_STEPS"], "consumer step started")

        def stop(self, parent):
            frames = {frame.name for frame in traceback.extract_stack()}
            where = " within a signal handler" if "on_signal" in frames else ""
            write(os.environ["T_WORKER_STEPS"], f"consumer step stopped{where}")

        def shutdown(self, parent):
            write(os.environ["T_WORKER_STEPS"], "consumer step shut down")

    app.steps["consumer"].add(Noting)


if os.environ.get("T_WORKER_SIGNALS"):
    _path = os.environ["T_WORKER_SIGNALS"]

    def _noting(name, show):
        def receiver(sender=None, **fields):
            write(_path, " ".join([name, *show(sender, fields)]))

        getattr(signals, name).connect(receiver, weak=False)

    def _keys(sender, fields):
        return [sender, ",".join(sorted(set(fields) - {"signal"}))]

    for _name in ("celeryd_init", "celeryd_after_setup"):
        _noting(_name, _keys)
    for _name in (
        "worker_init", "after_setup_logger", "after_setup_task_logger",
        "worker_before_create_process", "worker_process_init", "worker_process_shutdown",
        "heartbeat_sent", "worker_ready", "worker_shutdown",
    ):  # fmt: skip
        _noting(_name, lambda sender, fields: [])
    _noting(
        "worker_shutting_down",
        lambda sender, fields: [fields["sig"], fields["how"], str(fields["exitcode"])],
    )


class Odd(BaseException):
    """Neither an `Exception` nor one that ends a process."""


@app.task(name="exits")
def exits() -> None:
    sys.exit(3)


@app.task(name="interrupts")
def interrupts() -> None:
    raise KeyboardInterrupt


@app.task(name="runs_out_of_memory")
def runs_out_of_memory() -> None:
    raise MemoryError


@app.task(name="recurses")
def recurses() -> None:
    recurses.run()


@app.task(name="returns_what_no_serializer_takes")
def returns_what_no_serializer_takes() -> object:
    return object()


@app.task(name="raises_a_local_class")
def raises_a_local_class() -> None:
    class Local(Exception):
        pass

    raise Local("x", {1, 2})


@app.task(name="raises_a_base_exception")
def raises_a_base_exception() -> None:
    raise Odd("odd")


@app.task(name="ends_its_process")
def ends_its_process() -> None:
    os._exit(7)


@control_command()
def wait_for_file(state: object, path: str) -> None:
    """Block the loop of the worker until the file *path* is there."""
    while not os.path.exists(path):
        time.sleep(0.01)


@control_command(name="garbage")
def garbage_of_main(state: object) -> tuple[int, int, int]:
    """Tell when the main process collects garbage."""
    return gc.get_threshold()


@app.task(name="garbage")
def garbage() -> tuple[int, int, int]:
    return gc.get_threshold()


@app.task(name="fails")
def fails() -> None:
    raise KeyError("in the body")


@app.task(name="retries_once", bind=True)
def retries_once(self) -> str:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return "second attempt"


@app.task(name="retries_and_cleans_up", bind=True)
def retries_and_cleans_up(self) -> str:
    if not self.request.retries:
        try:
            raise self.retry(countdown=0)
        finally:
            gated_store.stop_at(self.request.id)
    return "second attempt"


@app.task(name="repeats")
def repeats(text: str, times: int) -> str:
    return text * times


class GatedSending(Task):
    """Its messages are sent through a gate, which their id names: ``sending`` or ``sent``."""

    abstract = True

    def apply_async(self, *args, **kwargs):
        task_id = kwargs.get("task_id") or ""
        if task_id.startswith("sending-"):
            gated_store.stop_at(task_id)
        result = super().apply_async(*args, **kwargs)
        if task_id.startswith("sent-"):
            gated_store.stop_at(task_id)
        return result


@app.task(name="follows", base=GatedSending, bind=True)
def follows(self, value: int, path: str) -> int:
    write(path, self.request.id)
    return value + 1


def lead(self, path: str, value: int = 1) -> int:
    write(path, f"body of {self.request.id}")
    return value


app.task(lead, name="leads", bind=True)
app.task(lead, name="leads_late", bind=True, acks_late=True, reject_on_worker_lost=True)


class Mourned(Task):
    """Stops in the hook after a failure."""

    abstract = True

    def on_failure(self, exc, task_id, *args):
        gated_store.stop_at(task_id)


@app.task(name="fails_mourned", base=Mourned)
def fails_mourned() -> None:
    raise KeyError("nothing there")


@app.task(name="notes_failure", bind=True)
def notes_failure(self, failed_id: str, path: str) -> None:
    write(path, f"errback {self.request.id} of {failed_id}")


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)
