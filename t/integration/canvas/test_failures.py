"""Whatever goes wrong in a chord, wherever, and on whatever store: its end is told, once.

All cells of the table run at the same time on one worker for each store. The tasks write to a
ledger what was called; it is read when the worker has ended and its queue is empty, so that
nothing can come later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery import Celery, chain, chord
from celery.result import AsyncResult
from t.harness.worker import Journal, WorkerProcess, eventually
from t.integration.canvas.proj import LEDGER_VARIABLE, make_app

#: How a task ends: the fault it is told to have, and how it is sent.
FAULTS = {
    "raise": "raise",
    "retry, then raise": "retry",
    "revoked": "revoke",
    "expired": "expire",
    "lost": "lost",
    "lost, acks late": "lost late",
    "hard limit": "limit",
    "ignored": "ignore",
    "rejected": "reject",
    "rejected, acks late": "reject late",
    "asks in vain to come again": "requeue",
}

#: Where in a chord that task is.
POSITIONS = {
    "header": lambda t: chord([t.ident.si(1), t.bad, t.ident.si(2)], t.end),
    "start of a chain in the header": lambda t: chord(
        [t.ident.si(1), chain(t.bad, t.ident.si(2), t.ident.si(3))], t.end
    ),
    "end of a chain in the header": lambda t: chord(
        [chain(t.ident.si(1), t.ident.si(2), t.bad), t.ident.si(3)], t.end
    ),
    "header in the header": lambda t: chord(
        [t.ident.si(1), chord([t.bad, t.ident.si(2)], t.ident.s())], t.end
    ),
    "body in the header": lambda t: chord(
        [t.ident.si(1), chord([t.ident.si(2), t.ident.si(3)], t.bad)], t.end
    ),
    "chord before the body's end": lambda t: chord(
        [t.ident.si(1)], chain(t.ident.s(), chord([t.bad, t.ident.si(2)], t.end))
    ),
    "body": lambda t: chord([t.ident.si(1), t.ident.si(2)], chain(t.bad, t.end)),
}

#: In the body as anywhere outside of headers, these ends are not failures: no errback is called.
#: Who ignores or refuses a task wants no state either.
QUIET_BODY = {
    "revoked": "REVOKED",
    "expired": "REVOKED",
    "ignored": "PENDING",
    "asks in vain to come again": "PENDING",
}

Cell = tuple[str, str]
CELLS: list[Cell] = [(fault, position) for position in POSITIONS for fault in FAULTS]
LIMIT_S = 1


class Parts:
    """The tasks of one cell."""

    def __init__(self, app: Celery, fault: str, cell: str, task_id: str) -> None:
        kind, _, late = FAULTS[fault].partition(" ")
        self.ident = app.tasks["flow.ident"]
        self.bad = app.tasks["flow.faulty_late" if late else "flow.faulty"].s(fault=kind)
        self.bad.set(task_id=task_id)
        if kind == "limit":
            self.bad.set(time_limit=LIMIT_S)
        if kind == "expire":
            self.bad.set(expires=datetime.now(UTC) - timedelta(seconds=1))
        self.end = app.tasks["flow.body"].s(cell)


class Run:
    """All cells on one store, run to their ends."""

    def __init__(self, app: Celery, journal: Journal) -> None:
        self.app = app
        self.journal = journal
        self.ids: dict[Cell, str] = {}
        self.results: dict[Cell, AsyncResult] = {}
        #: Messages that the worker left behind.
        self.left = 0

    def send(self, cell: Cell, task_id: str) -> None:
        """Send the chord of one cell; *task_id* is for the task that ends badly."""
        self.ids[cell] = task_id
        flow = POSITIONS[cell[1]](Parts(self.app, cell[0], name_of(cell), task_id))
        flow.link_error(self.app.tasks["flow.errback"].s(name_of(cell)))
        self.results[cell] = AsyncResult(flow.apply_async().id, app=self.app)

    def open_cells(self) -> list[Cell]:
        """Return those whose end is still to come."""
        lines = self.journal.lines
        return [
            cell
            for cell, result in self.results.items()
            if (
                f"ran {self.ids[cell]}" not in lines
                if expected(cell)[2] == "PENDING"
                else not result.ready()
            )
        ]


def name_of(cell: Cell) -> str:
    return f"{cell[0]} / {cell[1]}"


def expected(cell: Cell) -> tuple[int, int, str]:
    """Return how often body and errback are called, and the state of the chord's result."""
    fault, position = cell
    if position == "body" and fault in QUIET_BODY:
        return 0, 0, QUIET_BODY[fault]
    return 0, 1, "FAILURE"


@pytest.fixture(scope="module", params=["redis", "sqlite", "files", "memcached", "embedded"])
def run(request, redis_server, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("canvas")
    store = {
        "redis": lambda: f"redis://127.0.0.1:{redis_server.port}/9",
        "sqlite": lambda: f"db+sqlite:///{folder}/results.db",
        "files": lambda: f"file://{folder}",
        "embedded": lambda: f"sqlite:///{folder}/embedded.db",
        "memcached": lambda: request.getfixturevalue("memcached_server").url,
    }[request.param]()
    broker = f"redis://127.0.0.1:{redis_server.port}/8"
    conf = {
        "broker_url": store if request.param == "embedded" else broker,
        "result_backend": store,
        "result_chord_retry_interval": 0.2,
        "task_default_queue": f"canvas-{request.param}",
    }
    journal = Journal(folder / "ledger")
    run = Run(make_app(conf), journal)
    ids = {cell: f"bad-{request.param}-{number}" for number, cell in enumerate(CELLS)}
    options = {"app": "t.integration.canvas.proj", "env": {LEDGER_VARIABLE: str(journal)}}
    with WorkerProcess("-c", "3", conf=conf, **options) as worker:
        revoked = [ids[cell] for cell in CELLS if FAULTS[cell[0]] == "revoke"]
        assert run.app.control.revoke(revoked, reply=True, timeout=20, limit=1)
        for cell in CELLS:
            run.send(cell, ids[cell])
        deadline(lambda: not run.open_cells(), run.open_cells)
        assert worker.stop() == 0
    with run.app.connection_for_read() as connection:
        run.left = connection.default_channel._size(conf["task_default_queue"])
    run.app.close()
    return run


def deadline(condition: Any, shown: Any) -> None:
    """Wait until *condition* holds; when it does not, say what is *shown*."""
    try:
        eventually(condition, 90)
    except AssertionError:
        raise AssertionError(f"still open: {shown()}") from None


@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_body_or_errback_is_called_once(run, cell):
    """B-CANV-051, B-CANV-053, B-CANV-055, B-CANV-057: the errback once, the body never."""
    lines = run.journal.lines
    name = name_of(cell)
    called = (lines.count(f"body {name}"), lines.count(f"errback {name}"))
    assert (*called, run.results[cell].state) == expected(cell)
    # Whoever is to blame is named, and once.
    told = str(run.results[cell].result).count(f"Dependency {run.ids[cell]} ")
    assert told <= 1
    if cell[1] == "header":
        assert told == 1


def test_nothing_is_left_in_the_queue(run):
    """Nothing polls for the end of a chord that has none."""
    assert run.left == 0
