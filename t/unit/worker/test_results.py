"""Results that pool processes leave to the main process."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from celery.worker import _results
from celery.worker._results import Results
from celery.worker._slots import Slots

PATIENCE_S = 60


class Loop:
    """Calls later, in the thread of the test."""

    def __init__(self) -> None:
        self.calls: deque[Any] = deque()
        self.has_come = threading.Semaphore(0)
        #: Calls that were to come later.
        self.delayed = 0

    def call_soon(self, call: Any) -> None:
        self.calls.append(call)
        self.has_come.release()

    def call_later(self, delay: float, call: Any) -> None:
        assert delay < 0.01
        self.delayed += 1
        self.call_soon(call)

    def turn(self) -> None:
        """Make the next call, waiting for it."""
        assert self.has_come.acquire(timeout=PATIENCE_S)
        self.calls.popleft()()


class Store:
    """Takes documents; waits where a test says so."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, bytes]]] = []
        self.may_store = threading.Event()
        self.may_store.set()
        self.errors: dict[str, Exception] = {}

    def store_documents(self, documents: Any) -> list[Exception | None]:
        self.batches.append(list(documents))
        assert self.may_store.wait(PATIENCE_S)
        if "all" in self.errors:
            raise self.errors["all"]
        return [self.errors.get(task_id) for task_id, _ in documents]


class Request:
    def __init__(self, acknowledged: bool = True) -> None:
        self.acknowledged = acknowledged
        self.told: list[Any] = []

    def on_stored(self, answer: Any) -> None:
        self.told.append(answer)

    def on_not_stored(self, error: Exception) -> None:
        self.told.append(error)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def results(store, loop):
    return Results(SimpleNamespace(backend=store), loop, Slots(2))  # type: ignore[arg-type]


def put(results: Results, *ids: str, acknowledged: bool = True) -> list[Request]:
    requests = [Request(acknowledged) for _ in ids]
    for request, task_id in zip(requests, ids, strict=True):
        results.put(request, (0, task_id, 0.5), (task_id, b"{}"))  # type: ignore[arg-type]
    return requests


def test_a_request_is_told_once_its_document_is_stored(results, store, loop):
    store.may_store.clear()
    (request,) = put(results, "a")
    loop.turn()
    assert request.told == []

    store.may_store.set()
    loop.turn()

    assert store.batches == [[("a", b"{}")]]
    assert request.told == [(0, "a", 0.5)]


def test_what_comes_in_one_turn_is_stored_with_one_call(results, store, loop):
    put(results, "a", "b", "c")
    loop.turn()
    loop.turn()

    assert [len(batch) for batch in store.batches] == [3]
    assert not loop.calls


def test_what_comes_while_a_batch_is_stored_gathers_in_order(results, store, loop):
    store.may_store.clear()
    put(results, "a")
    loop.turn()
    later = put(results, *map(str, range(_results.MOST_AT_ONCE + 1)))
    assert not loop.calls
    store.may_store.set()
    while not later[-1].told:
        loop.turn()

    assert [len(batch) for batch in store.batches] == [1, _results.MOST_AT_ONCE, 1]
    assert [request.told[0][1] for request in later] == [
        str(number) for number in range(_results.MOST_AT_ONCE + 1)
    ]


def test_a_few_wait_for_company_but_not_many(results, loop):
    put(results, "a", "b")
    assert loop.delayed == 1
    put(results, *map(str, range(_results.ENOUGH - 3)))
    assert len(loop.calls) == 1
    put(results, "c")
    assert len(loop.calls) == 2
    assert loop.delayed == 1


def test_one_whose_message_is_to_be_acknowledged_waits_for_nobody(results, store, loop):
    (late,) = put(results, "a", acknowledged=False)
    assert loop.delayed == 0
    loop.turn()
    put(results, "b", "c", acknowledged=False)
    while len(store.batches) < 2:
        loop.turn()

    assert late.told
    assert loop.delayed == 0


def test_one_that_cannot_be_stored_fails_alone(results, store, loop):
    store.errors["b"] = error = ValueError("too big")
    first, second, third = put(results, "a", "b", "c")
    loop.turn()
    loop.turn()

    assert [request.told for request in (first, second, third)] == [
        [(0, "a", 0.5)],
        [error],
        [(0, "c", 0.5)],
    ]


def test_a_store_that_is_lost_fails_all_of_a_batch_and_goes_on(results, store, loop, caplog):
    store.errors["all"] = error = ConnectionError("gone")
    lost = put(results, "a", "b")
    loop.turn()
    loop.turn()
    del store.errors["all"]
    (well,) = put(results, "c")
    loop.turn()
    loop.turn()

    assert [request.told for request in lost] == [[error], [error]]
    assert well.told == [(0, "c", 0.5)]
    assert "Cannot store the results of 2 tasks" in caplog.text


def test_a_request_that_raises_does_not_keep_the_news_from_others(results, loop, caplog):
    first, second = put(results, "a", "b")
    first.on_stored = None  # type: ignore[assignment]
    loop.turn()
    loop.turn()

    assert second.told
    assert "Callback of" in caplog.text


def test_without_a_loop_results_are_stored_at_once(results, store, loop):
    (before,) = put(results, "a")
    results.close()
    (after,) = put(results, "b")

    assert (before.told, after.told) == ([(0, "a", 0.5)], [(0, "b", 0.5)])
    # Calls that the loop never made do no harm when it does.
    while loop.calls:
        loop.turn()
    assert len(store.batches) == 2
    assert (len(before.told), len(after.told)) == (1, 1)


def test_the_end_does_not_wait_for_a_store_for_ever(results, store):
    store.may_store.clear()
    (request,) = put(results, "a")

    assert not results.finish(timeout=0.01)
    assert request.told == []
    store.may_store.set()
    assert results.finish()
    assert request.told


def test_slots_stay_taken_while_a_store_does_not_keep_up(results, store, monkeypatch):
    monkeypatch.setattr(_results, "MANY", 2)
    put(results, "a")
    assert results.has_room()
    put(results, "b")
    assert not results.has_room()


def test_results_are_wanted_when_tasks_wait_for_the_pool():
    slots = Slots(2)
    results = Results(SimpleNamespace(), Loop(), slots)  # type: ignore[arg-type]
    taken: list[int] = []
    for number in range(2):
        slots.acquire(taken.append, number)
    assert not results.are_wanted()

    slots.acquire(taken.append, 2)

    assert len(taken) == 2
    assert results.are_wanted()
