"""Waiting for pushed results, on a consumer that a test feeds by hand."""

from __future__ import annotations

import builtins
import gc
import queue
import subprocess
import sys
import textwrap
import threading

import pytest

from celery.backends import asynchronous
from celery.backends.asynchronous import (
    AsyncBackendMixin,
    BaseResultConsumer,
    Drainer,
    drainers,
    register_drainer,
)
from celery.backends.base import BaseKeyValueStoreBackend
from celery.exceptions import TimeoutError


class Consumer(BaseResultConsumer):
    """Receives what a test puts into its queue."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.arriving = queue.Queue()
        self.watched = []
        self.cancelled = []

    def consume_from(self, task_id):
        self.watched.append(task_id)

    def cancel_for(self, task_id):
        self.cancelled.append(task_id)

    def drain_events(self, timeout=None):
        try:
            document = self.arriving.get(timeout=timeout)
        except queue.Empty:
            raise builtins.TimeoutError from None
        self.on_state_change(document, None)


class Pushing(BaseKeyValueStoreBackend, AsyncBackendMixin):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.result_consumer = Consumer(
            self, self.app, self.accept, self._pending_results, self._pending_messages
        )

    def arrive(self, task_id, status="SUCCESS", result=None):
        self.result_consumer.arriving.put(
            {"task_id": task_id, "status": status, "result": result, "children": []}
        )


@pytest.fixture
def pushing(app):
    return Pushing(app)


@pytest.fixture
def result(app, pushing):
    def make(task_id):
        return app.AsyncResult(task_id, backend=pushing)

    return make


def test_a_pushed_document_ends_the_wait(pushing, result):
    pushing.arrive("a", result=4)

    assert result("a").get(timeout=5) == 4
    assert pushing.result_consumer.watched == ["a"]
    assert pushing.result_consumer.cancelled == ["a"]


def test_documents_of_other_tasks_are_kept_for_later(pushing, result):
    pushing.arrive("b", result="early")
    pushing.arrive("a", result=4)

    assert result("a").get(timeout=5) == 4
    assert result("b").get(timeout=0) == "early"


def test_states_on_the_way_do_not_end_the_wait(pushing, result):
    """B-RES-024."""
    seen = []
    pushing.arrive("a", "PROGRESS", 1)
    pushing.arrive("a", "SUCCESS", 2)

    assert result("a").get(timeout=5, on_message=seen.append) == 2
    assert [document["status"] for document in seen] == ["PROGRESS", "SUCCESS"]
    assert pushing.result_consumer.on_message is None


def test_a_pushed_error_is_rebuilt_and_raised(pushing, result):
    pushing.arrive(
        "a", "FAILURE", {"exc_type": "KeyError", "exc_module": "builtins", "exc_message": ["k"]}
    )

    with pytest.raises(KeyError, match="k"):
        result("a").get(timeout=5)


def test_two_objects_for_one_task_are_both_told(pushing, result):
    first, second = result("a"), result("a")
    told = []
    first.then(told.append)
    second.then(told.append)
    pushing.arrive("a", result=4)

    assert result("a").get(timeout=5) == 4
    assert told == [first, second]


def test_a_callback_keeps_its_result_alive(pushing, result):
    told = []
    result("a").then(lambda r: told.append(r.id))
    gc.collect()
    pushing.arrive("a")
    pushing.arrive("b")
    result("b").get(timeout=5)

    assert told == ["a"]


def test_a_weak_callback_does_not(pushing, result):
    told = []
    result("a").then(lambda r: told.append(r.id), weak=True)
    gc.collect()
    pushing.arrive("a")
    pushing.arrive("b")
    result("b").get(timeout=5)

    assert told == []


def test_deleting_a_result_unsubscribes_it(pushing, result):
    """B-RES-034."""
    watched = result("a")
    watched.then(lambda r: None, weak=True)
    assert pushing.result_consumer.watched_ids() == ["a"]
    del watched
    gc.collect()

    assert pushing.result_consumer.watched_ids() == []
    assert pushing.result_consumer.cancelled == ["a"]


def test_a_wait_that_times_out_unsubscribes(pushing, result):
    waiting = result("a")
    with pytest.raises(TimeoutError):
        waiting.get(timeout=0)

    assert pushing.result_consumer.watched_ids() == []
    assert pushing.result_consumer.cancelled == ["a"]


def test_a_wait_that_times_out_leaves_callbacks_alone(pushing, result):
    waiting = result("a")
    waiting.then(lambda r: None)
    with pytest.raises(TimeoutError):
        waiting.get(timeout=0)

    assert pushing.result_consumer.watched_ids() == ["a"]


def test_members_are_yielded_as_they_end(pushing, result, app):
    """B-RES-038: (id, document) in the order of completion."""
    members = app.GroupResult("g", [result(name) for name in "abc"])
    for name in "cab":
        pushing.arrive(name, result=name.upper())

    assert [(task_id, document["result"]) for task_id, document in members.iter_native()] == [
        ("c", "C"),
        ("a", "A"),
        ("b", "B"),
    ]


def test_members_that_are_known_come_first(pushing, result, app):
    members = [result(name) for name in "ab"]
    pushing.arrive("b", result=2)
    members[1].get(timeout=5)
    pushing.arrive("a", result=1)

    ids = [task_id for task_id, _ in app.GroupResult("g", members).iter_native()]
    assert ids == ["b", "a"]


def test_a_member_that_is_listed_twice_is_waited_for_once(pushing, result, app):
    pushing.arrive("a", result=1)
    members = app.GroupResult("g", [result("a"), result("a")])

    assert [task_id for task_id, _ in members.iter_native(timeout=5)] == ["a"]


def test_an_abandoned_iteration_unsubscribes(pushing, result, app):
    pushing.arrive("a", result=1)
    members = app.GroupResult("g", [result("a"), result("b")])
    iterator = members.iter_native(timeout=5)
    next(iterator)
    iterator.close()

    assert pushing.result_consumer.watched_ids() == []
    assert sorted(pushing.result_consumer.cancelled) == ["a", "b"]


def test_an_empty_group_is_over_at_once(pushing, app):
    assert list(pushing.iter_native(app.GroupResult("g", []))) == []


def test_threads_share_one_reader(pushing, result):
    """One thread reads for all; each is woken when its own document comes."""
    got = {}

    def wait(name):
        got[name] = result(name).get(timeout=20)

    names = [f"t{number}" for number in range(6)]
    threads = [threading.Thread(target=wait, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for name in reversed(names):
        pushing.arrive(name, result=name)
    for thread in threads:
        thread.join(20)

    assert got == {name: name for name in names}


def test_on_interval_is_called_between_rounds(pushing, result):
    calls = []

    def arrive_then():
        calls.append(1)
        if len(calls) == 2:
            pushing.arrive("a", result=4)

    pushing.arrive("other")
    pushing.arrive("another")
    assert result("a").get(timeout=10, on_interval=arrive_then) == 4
    assert len(calls) >= 2


def test_environments_choose_their_drainer():
    assert drainers["default"] is Drainer
    assert drainers["gevent"] is asynchronous.geventDrainer
    assert drainers["eventlet"] is asynchronous.eventletDrainer

    @register_drainer("test environment")
    class Other(Drainer):
        pass

    assert drainers.pop("test environment") is Other


@pytest.mark.parametrize(
    "patch",
    [
        "from gevent import monkey; monkey.patch_all(); import gevent; spawn = gevent.spawn",
        "import eventlet; eventlet.monkey_patch(); spawn = eventlet.spawn",
    ],
    ids=["gevent", "eventlet"],
)
def test_a_background_greenlet_reads_for_all(patch):
    """In a process of its own, as patching can't be undone."""
    script = patch + textwrap.dedent(
        """
        import sys, warnings
        warnings.simplefilter("ignore")
        from t.unit.backends.test_asynchronous import Pushing
        from celery import Celery
        from celery.backends.asynchronous import greenletDrainer
        app = Celery("green", broker="memory://", backend="cache+memory://")
        pushing = Pushing(app)
        assert isinstance(pushing.result_consumer.drainer, greenletDrainer)
        got = {}
        def wait(name):
            got[name] = app.AsyncResult(name, backend=pushing).get(timeout=20)
        greens = [spawn(wait, name) for name in "abc"]
        for name in "cba":
            pushing.arrive(name, result=name)
        for green in greens:
            getattr(green, "join", None) and green.join(20) or getattr(green, "wait", int)()
        pushing.result_consumer.drainer.stop()
        assert got == {name: name for name in "abc"}, got
        print("ok")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout.strip().endswith("ok"), done.stderr
