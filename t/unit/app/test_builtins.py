"""The tasks that every app has."""

from __future__ import annotations

import pytest

from celery.canvas import chord
from celery.exceptions import ChordError
from celery.result import AsyncResult
from t.harness.inline import InlineWorker, memory_app


@pytest.fixture
def app():
    return memory_app()


@pytest.fixture
def polling(tmp_path):
    """An app whose result store can't count the header of a chord."""
    return memory_app(result_backend=f"file://{tmp_path}", result_chord_retry_interval=0.0)


def test_every_app_has_the_nine(app):
    """B-APP-022: by name."""
    # Testing support, where it is imported, adds its own.
    assert {name for name in app.tasks if name.startswith("celery.")} - {"celery.ping"} == {
        "celery.accumulate",
        "celery.backend_cleanup",
        "celery.chain",
        "celery.chord",
        "celery.chord_unlock",
        "celery.chunks",
        "celery.group",
        "celery.map",
        "celery.starmap",
    }


def test_accumulate_returns_what_it_gets(app):
    accumulate = app.tasks["celery.accumulate"]
    assert accumulate(1, 2) == (1, 2)
    assert accumulate([1, 2], index=0) == [1, 2]


def test_map_keeps_stored_arguments(app):
    @app.task(name="p.add", shared=False)
    def add(x, y):
        return x + y

    assert app.tasks["celery.map"](dict(add.s(10)), [1, 2]) == [11, 12]
    assert app.tasks["celery.starmap"](dict(add.s()), [[1, 2]]) == [3]


def test_backend_cleanup_cleans_the_result_store(app, monkeypatch):
    cleaned = []
    monkeypatch.setattr(app.backend, "cleanup", lambda: cleaned.append(1))
    app.tasks["celery.backend_cleanup"]()
    assert cleaned == [1]


@pytest.mark.parametrize("name", ["celery.group", "celery.chain", "celery.chord", "celery.chunks"])
def test_composed_tasks_in_messages_are_sent_on(app, name):
    @app.task(name="p.add", shared=False)
    def add(x, y):
        return x + y

    @app.task(name="p.ident", shared=False)
    def ident(x):
        return x

    worker = InlineWorker(app)
    kwargs, expected = {
        "celery.group": ({"tasks": [dict(add.s(1, 1)), dict(add.s(2, 2))]}, {"p.add": 2}),
        "celery.chain": (
            {"tasks": [dict(add.s(1, 1)), dict(ident.s())]},
            {"p.add": 1, "p.ident": 1},
        ),
        "celery.chord": (
            {"header": [dict(add.s(1, 1)), dict(add.s(2, 2))], "body": dict(ident.s())},
            {"p.add": 2, "p.ident": 1},
        ),
        "celery.chunks": (
            {"task": dict(add.s()), "it": [[1, 2], [3, 4]], "n": 1},
            {"celery.starmap": 2},
        ),
    }[name]
    app.send_task(name, (), kwargs)
    seen = [m.task for m in worker.run() if m.task != name]
    assert {task: seen.count(task) for task in set(seen)} == expected
    worker.close()


def declare(app):
    @app.task(name="p.ident", shared=False)
    def ident(x):
        return x

    @app.task(name="p.boom", shared=False)
    def boom(*args):
        raise ValueError("boom")

    return ident, boom


def test_a_polled_chord_runs_its_body(polling):
    """B-CANV-061: celery.chord_unlock is published with the header and looks until it is ready."""
    ident, _ = declare(polling)
    worker = InlineWorker(polling)
    result = chord([ident.s(1), ident.s(2)], ident.s()).apply_async()
    seen = [m.task for m in worker.run()]
    assert seen.count("p.ident") == 3
    assert seen.count("celery.chord_unlock") >= 2
    assert result.get(timeout=0) == [1, 2]
    worker.close()


def test_the_task_that_polls_outlives_its_process(polling):
    """B-CANV-061: its message is all that is left of the chord."""
    unlock = polling.tasks["celery.chord_unlock"]
    assert (unlock.acks_late, unlock.reject_on_worker_lost) == (True, True)


def test_a_polled_chord_fails_with_its_header(polling, caplog):
    """B-CANV-056, B-CANV-051: the body's state is FAILURE, and the log says why."""
    ident, boom = declare(polling)
    worker = InlineWorker(polling)
    result = chord([boom.s(), ident.s(2)], ident.s()).apply_async()
    worker.run()
    error = AsyncResult(result.id, app=polling).result
    assert isinstance(error, ChordError)
    assert "ValueError('boom')" in str(error)
    assert any(
        record.levelname == "ERROR"
        and record.getMessage().startswith(f"Chord {result.parent.id!r}")
        for record in caplog.records
    )
    worker.close()


def test_a_body_that_cannot_be_sent_fails(polling):
    """The caller's result does not stay pending."""
    ident, _ = declare(polling)
    unlock = polling.tasks["celery.chord_unlock"]
    body = ident.s().set(serializer="no-such-serializer")
    body.freeze("body-id")
    unlock("header-id", body, result=[])
    assert AsyncResult("body-id", app=polling).state == "FAILURE"
