"""Tasks that retry, are replaced, or keep no result: in every place of a workflow, on any store.

Each task gives one more than it was given, however it comes to that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery import Celery, chain, chord, group
from celery.result import AsyncResult
from t.harness.worker import Journal, WorkerProcess, eventually
from t.integration.canvas.proj import LEDGER_VARIABLE, make_app

WAIT_S = 60

#: By name, the place of *one* (a task that adds 1) in a workflow, and the value of the whole.
PLACES: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "alone": (lambda t, one: one.clone((0,)), 1),
    "start of a chain": (lambda t, one: chain(one.clone((0,)), t.inc.s()), 2),
    "middle of a chain": (lambda t, one: chain(t.inc.s(0), one, t.inc.s(), t.inc.s()), 4),
    "end of a chain": (lambda t, one: chain(t.inc.s(0), t.inc.s(), one), 3),
    "group": (lambda t, one: group(one.clone((0,)), t.inc.s(5), one.clone((2,))), [1, 6, 3]),
    "header": (lambda t, one: chord([one.clone((0,)), t.inc.s(5)], t.ident.s()), [1, 6]),
    "chain in a header": (
        lambda t, one: chord([t.inc.s(5), chain(t.inc.s(0), one, t.inc.s())], t.ident.s()),
        [6, 3],
    ),
    "end of a chain in a header": (
        lambda t, one: chord([chain(t.inc.s(0), one), t.inc.s(5)], t.ident.s()),
        [2, 6],
    ),
    "body": (lambda t, one: chord([t.ident.s(3), t.ident.s(4)], t.total.s() | one), 8),
    "body in a header": (
        lambda t, one: chord([chord([t.ident.s(3)], t.total.s() | one), t.ident.s(9)], t.ident.s()),
        [4, 9],
    ),
    "group in a chain": (
        lambda t, one: chain(t.inc.s(0), group(one, t.inc.s()), t.total.s()),
        4,
    ),
}
CHORD_PLACES = {name for name in PLACES if "header" in name or "body" in name} | {
    "group in a chain"
}
#: Where the value of the task itself is what the client waits for.
ENDS = {"alone", "end of a chain", "group", "body"}

MEMBERS = {
    "retried": "flow.retried",
    "retried, acks late": "flow.retried_late",
    "replaced by a task": "task",
    "replaced by a chain": "chain",
    "replaced by a chord": "chord",
    "replaced by a group and a task": "group",
    "replaced twice": "twice",
    "without a result": "flow.quiet",
}

#: Files are polled as databases are: in the long form only.
STORES = ["redis", "rpc", "sqlite", "memcached", *(["files"] if os.environ.get("T_LONG") else [])]


def is_possible(store: str, member: str, place: str) -> bool:
    if member == "without a result" and place in ENDS:
        # Nobody can wait for a value that is not kept.
        return False
    if store == "rpc":
        # There are no chords where nobody but the client gets results.
        return place not in CHORD_PLACES and member not in (
            "replaced by a chord",
            "replaced by a group and a task",
        )
    return True


CELLS = [
    (store, member, place)
    for store in STORES
    for member in MEMBERS
    for place in PLACES
    if is_possible(store, member, place)
]


@pytest.fixture(scope="module", params=STORES)
def site(request, redis_server, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A worker, and results of all cells of one store."""
    folder = tmp_path_factory.mktemp("members")
    broker = f"redis://127.0.0.1:{redis_server.port}/6"
    if request.param == "rpc":
        broker = request.getfixturevalue("rabbitmq_server").new_url()
    store = {
        "redis": lambda: f"redis://127.0.0.1:{redis_server.port}/7",
        "rpc": lambda: "rpc://",
        "sqlite": lambda: f"db+sqlite:///{folder}/results.db",
        "files": lambda: f"file://{folder}",
        "memcached": lambda: request.getfixturevalue("memcached_server").url,
    }[request.param]()
    conf = {
        "broker_url": broker,
        "result_backend": store,
        "result_chord_retry_interval": 0.2,
        "task_default_queue": f"members-{request.param}",
    }
    journal = Journal(folder / "ledger")
    app = make_app(conf)
    env = {LEDGER_VARIABLE: str(journal)}
    with WorkerProcess("-c", "2", conf=conf, app="t.integration.canvas.proj", env=env) as worker:
        cells = [cell for cell in CELLS if cell[0] == request.param]
        results = {cell: flow_of(app, cell).apply_async() for cell in cells}
        yield SimpleNamespace(
            app=app, store=request.param, results=results, journal=journal, worker=worker
        )
    app.close()


def tasks_of(app: Celery) -> SimpleNamespace:
    names = ("ident", "inc", "total", "body", "errback")
    return SimpleNamespace(**{name: app.tasks[f"flow.{name}"] for name in names})


def flow_of(app: Celery, cell: tuple[str, str, str]) -> Any:
    how = MEMBERS[cell[1]]
    one = app.tasks[how].s() if how in app.tasks else app.tasks["flow.replaced"].s(how=how)
    return PLACES[cell[2]][0](tasks_of(app), one)


@pytest.mark.parametrize(
    ("site", "cell"),
    [(cell[0], cell) for cell in CELLS],
    ids=[" / ".join(cell) for cell in CELLS],
    indirect=["site"],
    scope="module",
)
def test_a_task_gives_its_value_wherever_it_stands(site, cell):
    """B-CANV-068, B-CANV-069, B-CANV-070, B-CANV-051, B-TASK-072: replace, retry, no result."""
    assert site.results[cell].get(timeout=WAIT_S) == PLACES[cell[2]][1]


@pytest.mark.parametrize("site", ["rpc"], indirect=True, scope="module")
def test_a_group_cannot_replace_a_task_where_there_are_no_chords(site):
    """B-CANV-066: the task fails and says why; it does not hang."""
    result = site.app.tasks["flow.replaced"].s(0, how="group").apply_async()
    with pytest.raises(NotImplementedError, match="chords"):
        result.get(timeout=WAIT_S)


@pytest.mark.parametrize("site", ["redis", "sqlite"], indirect=True, scope="module")
@pytest.mark.parametrize("place", ["header", "chain in a header", "body"])
def test_revoking_by_a_stamp_ends_a_workflow(site, place):
    """B-CANV-079: only what bears the stamp is revoked; the errback hears of it, once."""
    t = tasks_of(site.app)
    cell = f"stamped {site.store} {place}"
    assert site.app.control.revoke_by_stamped_headers(
        {"wave": [cell]}, reply=True, timeout=20, limit=1
    )
    marked = t.inc.s()
    marked.stamp(wave=cell)
    flow = {
        "header": lambda: chord([t.inc.s(1), marked.clone((1,))], t.body.s(cell)),
        "chain in a header": lambda: chord(
            [t.inc.s(1), chain(t.inc.s(1), marked, t.inc.s())], t.body.s(cell)
        ),
        "body": lambda: chord([t.ident.s(1)], chain(t.total.s(), marked, t.body.s(cell))),
    }[place]()
    flow.link_error(t.errback.s(cell))
    result = AsyncResult(flow.apply_async().id, app=site.app)
    eventually(result.ready, WAIT_S)
    assert result.state in ("FAILURE", "REVOKED")
    if place != "body":
        # It is called once the state is stored.
        eventually(lambda: f"errback {cell}" in site.journal.lines, WAIT_S)
    again = chain(t.inc.s(1), t.inc.s()).apply_async()
    assert again.get(timeout=WAIT_S) == 3
    lines = site.journal.lines
    assert lines.count(f"body {cell}") == 0
    assert lines.count(f"errback {cell}") == (0 if place == "body" else 1)
