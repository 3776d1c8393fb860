"""Workflows on stores that count chords in their own way, or not at all."""

from __future__ import annotations

import pytest

from celery.canvas import chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult
from t.harness.inline import InlineWorker, declare_tasks, memory_app


@pytest.fixture(params=["redis", "database", "filesystem", "memory", "embedded"])
def lab(request, tmp_path):
    """An app with tasks on one kind of store, and a worker."""
    url = {
        "redis": lambda: request.getfixturevalue("redis_url"),
        "database": lambda: f"db+sqlite:///{tmp_path}/results.db",
        "filesystem": lambda: f"file://{tmp_path}",
        "memory": lambda: "cache+memory://",
        "embedded": lambda: f"sqlite:///{tmp_path}/embedded.db",
    }[request.param]()
    app = memory_app(result_backend=url, result_chord_retry_interval=0.0)
    tasks = declare_tasks(app)
    tasks.app, tasks.worker, tasks.store = app, InlineWorker(app), request.param
    yield tasks
    tasks.worker.close()


WORKFLOWS = {
    "chain": (lambda t: chain(t.add.s(1, 2), t.add.s(3), t.add.s(4)), 10),
    "group": (lambda t: group(t.add.s(1, 1), group(t.add.s(2, 2), t.add.s(3, 3))), [2, 4, 6]),
    "chord": (lambda t: chord([t.add.s(i, i) for i in range(5)], t.ident.s()), [0, 2, 4, 6, 8]),
    "empty": (lambda t: chord([], t.ident.s()), []),
    "nested groups": (
        lambda t: chord(
            [group(t.ident.s(1), t.ident.s(2)), t.ident.s(3), group(t.ident.s(4), t.ident.s(5))],
            t.ident.s(),
        ),
        [1, 2, 3, 4, 5],
    ),
    "list element": (
        lambda t: chord(
            [t.add.s(1, 3), chain(t.add.s(4, 5), group(t.ident.s(), t.ident.s()))], t.ident.s()
        ),
        [4, [9, 9]],
    ),
    "inner chord": (
        lambda t: chord(
            [chord([t.ident.s(1), t.ident.s(2)], t.tsum.s()), t.ident.s(5)], t.ident.s()
        ),
        [3, 5],
    ),
    "chord of chords": (
        lambda t: chord([t.ident.s(1)], chord([t.tsum.s(), t.tsum.s()], t.ident.s())),
        [1, 1],
    ),
    "group body": (lambda t: chord([t.ident.s(1)], group(t.ident.s(), t.tsum.s())), [[1], 1]),
    "long": (
        lambda t: chain(
            t.ident.s(1),
            group(t.add.s(1), chain(t.add.s(2), t.add.s(3))),
            t.tsum.s(),
            group(t.add.s(0), t.add.s(1)),
            group(t.ident.s(), t.tsum.s()),
            t.ident.s(),
            t.ident.s(),
        ),
        [[8, 9], 17],
    ),
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_end_with_their_value(lab, name):
    """B-CANV-050, B-CANV-051, B-CANV-054, B-CANV-061: on stores with and without counters."""
    make, expected = WORKFLOWS[name]
    result = make(lab).apply_async()
    lab.worker.run()
    assert result.get(timeout=60) == expected


FAILURES = {
    "task": lambda t: chord([t.boom.s(), t.ident.s(1)], t.ident.s()),
    "all": lambda t: chord([t.boom.s(), t.boom.s()], t.ident.s()),
    "chain": lambda t: chord([chain(t.boom.s(), t.ident.s()), t.ident.s(1)], t.ident.s()),
    "inner chord": lambda t: chord([chord([t.boom.s()], t.ident.s()), t.ident.s(1)], t.ident.s()),
    "chain body": lambda t: chord([t.boom.s()], chain(t.ident.s(), t.ident.s())),
    "chord body": lambda t: chord([t.boom.s()], chord([t.ident.s()], t.ident.s())),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_header_fails_the_result(lab, name):
    """B-CANV-051: FAILURE with a ChordError, whatever failed; nobody waits for ever."""
    result = FAILURES[name](lab).apply_async()
    lab.worker.run()
    fresh = AsyncResult(result.id, app=lab.app)
    assert fresh.state == "FAILURE"
    assert isinstance(fresh.result, ChordError)


def test_a_header_task_that_ignores_its_result_counts(lab):
    """B-CANV-051: with ignore_result=True the chord completes, value included."""

    @lab.app.task(name="p.quiet", shared=False, ignore_result=True)
    def quiet():
        return 5

    result = chord([quiet.s(), lab.ident.s(1)], lab.ident.s()).apply_async()
    lab.worker.run()
    assert result.get(timeout=60) == [5, 1]


def test_a_header_can_grow_while_it_runs(lab):
    """B-TASK-073: add_to_chord; the value of the new task comes after the adder's."""

    @lab.app.task(name="p.growing", shared=False, bind=True)
    def growing(self, depth=0):
        if depth:
            self.add_to_chord(growing.s(depth - 1))
        return depth

    flow = chord([growing.s(1), lab.ident.s("x"), growing.s(2), growing.s(0)], lab.ident.s())
    result = flow.apply_async()
    lab.worker.run()
    values = result.get(timeout=60)
    if lab.store == "redis":
        # It keeps additions of additions in no order, but where they belong.
        assert (values[:3], sorted(values[3:6]), values[6:]) == ([1, 0, "x"], [0, 1, 2], [0])
    else:
        assert values == [1, 0, "x", 2, 1, 0, 0]


def test_an_added_task_that_fails_fails_the_chord(lab):
    """B-TASK-073, B-CANV-051: it is a part of the header like all others."""

    @lab.app.task(name="p.growing", shared=False, bind=True)
    def growing(self):
        self.add_to_chord(lab.boom.s())

    result = chord([growing.s(), lab.ident.s(2)], lab.ident.s()).apply_async()
    lab.worker.run()
    error = AsyncResult(result.id, app=lab.app).result
    assert isinstance(error, ChordError)
    assert "boom" in str(error)


BLAMED = {"boom": "ValueError('boom')", "ignoring": "Ignore('not now')"}


@pytest.mark.parametrize("name", BLAMED)
def test_the_error_of_the_body_names_the_header_task_once(lab, name):
    """B-CANV-051: who is to blame, and how that one ended; in the same words on all stores."""
    task = getattr(lab, name).s().set(task_id=f"{name}-{lab.store}")
    result = chord([task, lab.ident.s(2)], lab.ident.s()).apply_async()
    lab.worker.run()
    error = AsyncResult(result.id, app=lab.app).result
    assert str(error) == f"Dependency {name}-{lab.store} raised {BLAMED[name]}"
