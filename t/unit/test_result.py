"""Results of tasks and groups, with a result store in memory."""

from __future__ import annotations

import copy
import gc
import pickle
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from celery import states
from celery.exceptions import (
    ImproperlyConfigured,
    IncompleteStream,
    TaskRevokedError,
    TimeoutError,
)
from celery.result import (
    AsyncResult,
    EagerResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    result_from_tuple,
)
from t.harness.inline import InlineWorker, memory_app


@pytest.fixture
def app():
    return memory_app()


class Store:
    """Puts states into the result store of an app."""

    def __init__(self, app):
        self.app = app

    def pending(self):
        # Stores in memory are one per process: ids must not repeat.
        return self.app.AsyncResult(uuid4().hex)

    def put(self, state, value=None, **fields):
        result = self.pending()
        self.app.backend.store_result(result.id, value, state, **fields)
        return result

    def ok(self, value):
        return self.put("SUCCESS", value)

    def bad(self, error=None):
        return self.put("FAILURE", error or ValueError("boom"), traceback="Traceback: …")


@pytest.fixture
def store(app):
    return Store(app)


class RecordingControl:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@pytest.fixture
def control(app, monkeypatch):
    control = RecordingControl()
    monkeypatch.setattr(type(app), "control", control)
    return control


# -- one result


def test_an_unknown_id_is_pending(store):
    """B-RES-017: with nothing to tell."""
    result = store.pending()
    assert result.state == result.status == "PENDING"
    for name in ("result", "info", "traceback", "children", "date_done"):
        assert getattr(result, name) is None
    assert [result.ready(), result.successful(), result.failed()] == [False, False, False]


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"])
def test_ready_successful_and_failed(store, state):
    """B-RES-018: ready is membership in READY_STATES."""
    error = ValueError() if state in states.EXCEPTION_STATES else None
    result = store.pending() if state == "PENDING" else store.put(state, error)
    assert result.ready() == (state in states.READY_STATES)
    assert result.successful() == (state == "SUCCESS")
    assert result.failed() == (state == "FAILURE")


def test_get_returns_the_value_or_raises_the_error(store):
    """B-RES-019: for PROPAGATE_STATES."""
    assert store.ok({"a": 1}).get(timeout=0) == {"a": 1}
    with pytest.raises(ValueError, match="boom"):
        store.bad().get(timeout=0)
    with pytest.raises(TaskRevokedError):
        store.put("REVOKED", TaskRevokedError("revoked")).get(timeout=0)


def test_a_timeout_is_our_own_error(store):
    """B-RES-020: with its text; 0 does not wait."""
    with pytest.raises(TimeoutError, match=r"The operation timed out\."):
        store.pending().get(timeout=0.01, interval=0.001)
    with pytest.raises(TimeoutError):
        store.pending().get(timeout=0)
    assert store.pending().TimeoutError is TimeoutError


def test_propagate_false_returns_the_error(store):
    """B-RES-021: as an object."""
    assert store.bad().get(propagate=False).args == ("boom",)


def test_failed_parents_are_raised_first(app, store):
    """B-RES-022: when propagating and following parents."""
    child = store.bad(KeyError("own"))
    child.parent = store.bad(ValueError("first"))
    with pytest.raises(ValueError, match="first"):
        child.get(timeout=0)
    with pytest.raises(KeyError, match="own"):
        child.get(timeout=0, follow_parents=False)
    assert isinstance(child.get(timeout=0, propagate=False), KeyError)


def test_a_failed_member_of_a_parent_group_is_raised(app, store):
    """B-RES-022: as for the header of a chord."""
    child = store.pending()
    child.parent = app.GroupResult("g", [store.ok(1), store.bad()])
    with pytest.raises(ValueError, match="boom"):
        child.get(timeout=5, interval=0.001)


def test_waiting_inside_a_task_is_refused(store):
    """B-RES-023: unless it is allowed by argument or context."""
    result = store.ok(1)
    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task!.*http"):
            result.get()
        with pytest.raises(RuntimeError):
            ResultSet([result]).get()
        assert result.get(disable_sync_subtasks=False) == 1
        with allow_join_result():
            assert result.get() == 1
        with pytest.raises(RuntimeError):
            assert_will_not_block()
    assert_will_not_block()


def test_get_calls_back_with_id_and_value(store):
    """B-RES-024: callback(task_id, value)."""
    got = []
    result = store.ok(3)
    result.get(callback=lambda *args: got.append(args))
    assert got == [(result.id, 3)]


def test_a_polled_store_has_no_messages(store):
    """B-RES-024: on_message is refused."""
    with pytest.raises((NotImplementedError, ImproperlyConfigured)):
        store.pending().get(timeout=0, on_message=print)


def test_forget_deletes_what_is_stored(app, store):
    """B-RES-025: get() returns a cached value until then; afterwards all is unknown."""
    result = store.ok(3)
    assert result.get() == 3
    app.backend.forget(result.id)
    assert result.get(timeout=0) == 3
    result.forget()
    assert (result.state, result.result) == ("PENDING", None)


def test_forget_includes_the_parents(store):
    result, parent = store.ok(2), store.ok(1)
    result.parent = parent
    result.forget()
    assert parent.state == "PENDING"


def test_revoke_sends_the_command(app, store, control):
    """B-RES-026: with its options."""
    result = store.pending()
    result.revoke(terminate=True, signal="KILL", wait=True, timeout=2)
    result.revoke_by_stamped_headers({"a": [1]})
    (name, args, kwargs), (stamped, stamped_args, _) = control.calls
    assert (name, args) == ("revoke", (result.id,))
    assert kwargs == {
        "connection": None,
        "terminate": True,
        "signal": "KILL",
        "reply": True,
        "timeout": 2,
    }
    assert (stamped, stamped_args) == ("revoke_by_stamped_headers", ({"a": [1]},))


def spawn_tree(app):
    """Run a task that starts two others; return its result."""

    @app.task(name="p.leaf", shared=False)
    def leaf(x):
        return x

    @app.task(name="p.tree", shared=False)
    def tree():
        leaf.delay(1)
        leaf.delay(2)
        return 0

    worker = InlineWorker(app)
    result = tree.delay()
    worker.run()
    worker.close()
    return result


def test_children_are_known_once_the_task_has_ended(app, store):
    """B-RES-027: as results."""
    result = spawn_tree(app)
    assert [child.get(timeout=0) for child in result.children] == [1, 2]
    assert store.pending().children is None


def test_collect_goes_through_the_graph(app):
    """B-RES-028: parents before children."""
    result = spawn_tree(app)
    collected = list(result.collect())
    assert [value for _, value in collected] == [0, 1, 2]
    assert collected[0][0] is result
    assert result.get_leaf() == 2


def test_an_unfinished_node_stops_the_collection(store):
    """B-RES-028: unless intermediate=True."""
    result = store.pending()
    with pytest.raises(IncompleteStream):
        list(result.collect())
    assert list(result.iterdeps(intermediate=True)) == [(None, result)]


def test_iterdeps_yields_pairs(app):
    """B-RES-029: beginning with (None, self)."""
    result = spawn_tree(app)
    first, *others = result.iterdeps()
    assert first == (None, result)
    assert [parent for parent, _ in others] == [result, result]


def test_the_graph_shows_nodes_and_edges(app):
    """B-RES-030: each node with its number of edges."""
    result = spawn_tree(app)
    text = str(result.graph)
    assert f"{result.id}(2)" in text
    for child in result.children:
        assert f"{child.id}(0)" in text
    assert result.graph is result.graph


def test_results_have_a_plain_form(app):
    """B-RES-031: ((id, parent), children), and back."""
    parent = app.AsyncResult("p")
    result = app.AsyncResult("a", parent=parent)
    group = app.GroupResult("g", [app.AsyncResult("m")], parent=result)
    assert result.as_tuple() == (("a", (("p", None), None)), None)
    assert group.as_tuple() == (("g", result.as_tuple()), [(("m", None), None)])
    last = app.AsyncResult("z", parent=group)
    for one in (result, group, last):
        again = result_from_tuple(one.as_tuple(), app=app)
        assert again == one
        assert again.as_tuple() == one.as_tuple()
    assert result_from_tuple(result, app=app) is result
    assert result_from_tuple(["x", None], app=app) == "x"


def test_the_plain_form_of_a_long_chain_needs_no_deep_stack(app):
    node = None
    for i in range(5000):
        node = app.AsyncResult(str(i), parent=node)
    form = node.as_tuple()
    again = result_from_tuple(form, app=app)
    assert again.as_list() == [str(i) for i in range(4999, -1, -1)]


def test_a_result_is_a_value(app):
    """B-RES-032: equal by id, also to the id; hashable; its text is the id."""
    a = app.AsyncResult("a")
    assert a == app.AsyncResult("a") == "a"
    assert a != app.AsyncResult("b")
    assert hash(a) == hash("a")
    assert str(a) == "a"
    assert repr(a) == "<AsyncResult: a>"
    assert a.task_id == "a"
    assert app.AsyncResult("b", parent=a).as_list() == ["b", "a"]


def test_a_result_pickles_and_copies(app):
    """B-RES-032: with its parent."""
    a = app.AsyncResult("a", parent=app.AsyncResult("p"))
    for other in (pickle.loads(pickle.dumps(a)), copy.copy(a)):
        assert isinstance(other, AsyncResult)
        assert other == a
        assert other.parent == "p"


def test_a_result_needs_an_id(app):
    """B-RES-032: ValueError for None."""
    with pytest.raises(ValueError, match="AsyncResult requires valid id, not"):
        app.AsyncResult(None)


def test_extended_fields_are_none_unless_stored(store):
    """B-RES-033: name, args, kwargs, worker, retries, queue."""
    result = store.ok(1)
    for name in ("name", "args", "kwargs", "worker", "retries", "queue"):
        assert getattr(result, name) is None


def test_extended_fields_are_read_when_stored():
    """B-RES-033: with result_extended."""
    app = memory_app(result_extended=True)

    @app.task(name="p.ident", shared=False)
    def ident(x):
        return x

    worker = InlineWorker(app)
    result = ident.delay(1)
    worker.run()
    worker.close()
    assert (result.name, result.args, result.retries) == ("p.ident", [1], 0)


def test_date_done_is_aware(store):
    """B-RES-003: a datetime near now."""
    done = store.ok(1).date_done
    assert abs(datetime.now(UTC) - done) < timedelta(minutes=1)


@pytest.mark.parametrize("state", ["STARTED", "PROGRESS", "RETRY"])
def test_what_states_before_the_end_carry(store, state):
    """B-RES-011, B-RES-010: the meta or exception; no date, not ready."""
    value = ValueError("again") if state == "RETRY" else {"pid": 1}
    result = store.put(state, value)
    assert not result.ready()
    assert result.date_done is None
    assert result.info == value or result.info.args == ("again",)


class PushingBackend:
    """Notes who waits for what."""

    supports_native_join = False

    def __init__(self):
        self.watched = []

    def add_pending_result(self, result, weak=False):
        self.watched.append((result.id, weak))

    def remove_pending_result(self, result):
        self.watched = [entry for entry in self.watched if entry[0] != result.id]


def test_a_deleted_result_unsubscribes(app):
    """B-RES-034: where it waited for news."""
    backend = PushingBackend()
    result = AsyncResult("a", backend=backend, app=app)
    result.then(print, weak=True)
    assert backend.watched == [("a", True)]
    del result
    gc.collect()
    assert backend.watched == []


def test_then_calls_back_when_the_state_comes_in(app):
    """B-RES-033: at once when it is there already."""
    backend, got = PushingBackend(), []
    result = AsyncResult("a", backend=backend, app=app)
    result.then(got.append)
    result._maybe_set_cache({"status": "STARTED", "result": None})
    assert got == []
    result._maybe_set_cache({"status": "SUCCESS", "result": 1})
    result.then(got.append)
    assert got == [result, result]
    assert result.get() == 1


def test_a_result_that_was_not_asked_for_has_no_value(app, store):
    """B-TASK-060: get() of a call with ignore_result returns None at once."""
    result = store.pending()
    result.ignored = True
    assert result.get() is None


def test_an_ignored_result_is_not_stored(app):
    """B-RES-047: the state stays PENDING, also for a failure."""

    @app.task(name="p.quiet", shared=False, ignore_result=True)
    def quiet(x):
        return 1 / x

    worker = InlineWorker(app)
    results = [quiet.delay(1), quiet.delay(0)]
    worker.run()
    worker.close()
    assert [app.AsyncResult(r.id).state for r in results] == ["PENDING", "PENDING"]
    assert quiet.apply((1,)).get() == 1


def test_a_caller_that_does_not_know_waits_for_an_ignored_result(app):
    """B-RES-048: until its timeout; send_task knows nothing of the task's own settings."""

    @app.task(name="p.quiet", shared=False, ignore_result=True)
    def quiet():
        return 1

    worker = InlineWorker(app)
    result = app.send_task("p.quiet")
    worker.run()
    worker.close()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01, interval=0.001)


def test_exists_says_whether_anything_is_stored(store):
    assert store.ok(1).exists()
    assert not store.pending().exists()


# -- sets


def test_values_come_in_submission_order(app, store):
    """B-RES-036: for get, join and join_native."""
    group = app.GroupResult("g", [store.ok(2), store.ok(1), store.ok(3)])
    for way in (group.get, group.join, group.join_native):
        assert way(timeout=0) == [2, 1, 3]


def test_the_first_error_is_raised_or_stands_in_the_list(app, store):
    """B-RES-036: propagate=False puts exceptions in the list."""
    group = app.GroupResult("g", [store.ok(2), store.bad(), store.ok(4)])
    for way in (group.join, group.join_native):
        with pytest.raises(ValueError, match="boom"):
            way(timeout=0)
        one, error, other = way(timeout=0, propagate=False)
        assert (one, error.args, other) == (2, ("boom",), 4)


def test_states_of_a_set(app, store):
    """B-RES-037: all, any, and a count of the successful; there is no state."""
    good, bad, open_ = store.ok(1), store.bad(), store.pending()
    done = ResultSet([good, bad])
    assert (done.ready(), done.waiting(), done.successful(), done.failed()) == (
        True, False, False, True,
    )  # fmt: skip
    assert done.completed_count() == 1
    unfinished = ResultSet([good, open_])
    assert (unfinished.ready(), unfinished.waiting(), unfinished.failed()) == (False, True, False)
    with pytest.raises(ValueError, match="boom"):
        done.maybe_throw()
    assert not hasattr(done, "state")


def test_iter_native_yields_ids_and_documents(app, store):
    """B-RES-038: of every member."""
    group = app.GroupResult("g", [store.ok(1), store.ok(2)])
    found = {task_id: meta["result"] for task_id, meta in group.iter_native(timeout=0)}
    assert found == {group[0].id: 1, group[1].id: 2}


def test_nested_sets_keep_their_shape(app, store):
    inner = app.GroupResult("i", [store.ok(1), store.ok(2)])
    outer = app.GroupResult("o", [inner, store.ok(3)])
    assert outer.join_native(timeout=0) == outer.join(timeout=0) == [[1, 2], 3]


def test_a_timeout_is_for_the_whole_set(app, store):
    """B-RES-039: not for each member."""
    group = app.GroupResult("g", [store.ok(1), store.pending(), store.pending()])
    for way in (group.join, group.join_native):
        with pytest.raises(TimeoutError):
            way(timeout=0.01, interval=0.001)


def test_groups_are_saved_restored_and_deleted(app, store):
    """B-RES-040: under their id; B-RES-041: not by themselves."""
    group = app.GroupResult(uuid4().hex, [store.ok(1), store.ok(2)])
    assert app.GroupResult.restore(group.id) is None
    group.save()
    assert app.GroupResult.restore(group.id) == group
    assert GroupResult.restore(group.id, app=app).get(timeout=0) == [1, 2]
    group.delete()
    assert app.GroupResult.restore(group.id) is None


def test_a_set_is_revoked_with_one_command(app, control):
    """B-RES-042: nested members included; forget forgets each."""
    inner = app.GroupResult("i", [app.AsyncResult("a"), app.AsyncResult("b")])
    app.GroupResult("g", [inner, app.AsyncResult("c")]).revoke()
    ((name, args, _),) = control.calls
    assert (name, args) == ("revoke", (["a", "b", "c"],))


def test_a_set_is_forgotten_member_by_member(app, store):
    """B-RES-042: forget() forgets each."""
    group = app.GroupResult("g", [store.ok(1), store.ok(2)])
    group.forget()
    assert [r.state for r in group] == ["PENDING", "PENDING"]


def test_members_come_and_go(app, store):
    """B-RES-043: duplicates are ignored; remove raises KeyError, discard does not."""
    a, b = store.ok(1), store.ok(2)
    results = ResultSet([a], app=app)
    results.add(a)
    results.update([a, b])
    assert (len(results), list(results), results[1]) == (2, [a, b], b)
    results.remove(a.id)
    with pytest.raises(KeyError):
        results.remove(a)
    results.discard(a)
    assert results == ResultSet([b])
    results.clear()
    assert len(results) == 0


def test_members_may_be_added_when_the_set_is_ready(app, store):
    """B-RES-043: since 5.7."""
    got = []
    results = ResultSet([store.ok(1)], app=app)
    assert results.ready()
    for result in results:
        result.get()
    results.then(got.append)
    results.add(store.ok(2))
    assert got == [results]
    assert results.get(timeout=0) == [1, 2]


def test_then_on_a_set_waits_for_all_members(app):
    backend, got = PushingBackend(), []
    members = [AsyncResult(i, backend=backend, app=app) for i in "ab"]
    ResultSet(members, app=app).then(got.append)
    members[0]._maybe_set_cache({"status": "SUCCESS", "result": 1})
    assert got == []
    members[1]._maybe_set_cache({"status": "SUCCESS", "result": 2})
    assert len(got) == 1


def test_an_empty_set_is_done(app):
    """B-RES-043, B-RES-045: ready, successful, []."""
    got = []
    for empty in (ResultSet([], app=app), app.GroupResult("g", [])):
        assert empty.ready()
        assert empty.successful()
        assert empty.get() == []
        empty.then(got.append)
    assert len(got) == 2


def test_a_group_result_is_a_value(app):
    """B-RES-044: truthy when empty, equal by id and members, iterable, indexable."""
    members = [app.AsyncResult("a"), app.AsyncResult("b")]
    group = app.GroupResult("g", members)
    assert bool(app.GroupResult("g", []))
    assert group == app.GroupResult("g", list(members)) == "g"
    assert group != app.GroupResult("g", members[:1])
    assert group != app.GroupResult("h", members)
    assert (list(group), group[0], group.children) == (members, members[0], members)
    assert repr(group) == "<GroupResult: g [a, b]>"
    assert hash(group) == hash("g")
    again = pickle.loads(pickle.dumps(group))
    assert again == group


def test_join_has_no_messages_to_tell_of(app, store):
    with pytest.raises(ImproperlyConfigured):
        ResultSet([store.ok(1)]).join(on_message=print)


def test_callbacks_of_a_join(app, store):
    got = []
    results = ResultSet([store.ok(1), store.ok(2)])
    results.join(callback=lambda *a: got.append(a))
    assert got == [(results[0].id, 1), (results[1].id, 2)]


# -- results of tasks that ran here


def test_an_eager_result_has_its_value_at_once():
    """B-RES-046: the same interface, ready, and nothing to forget."""
    result = EagerResult("e", 3, "SUCCESS", name="p.add")
    assert result.ready()
    assert result.get() == result.result == 3
    assert (result.state, result.status, result.traceback, result.name) == (
        "SUCCESS", "SUCCESS", None, "p.add",
    )  # fmt: skip
    result.forget()
    assert result.get() == 3
    assert result.children is None
    assert not result.supports_native_join
    got = []
    result.then(got.append)
    assert got == [result]


def test_an_eager_failure_raises_or_returns():
    """B-CALL-041: get() raises, get(propagate=False) returns the exception."""
    result = EagerResult("e", ValueError("boom"), "FAILURE", "Traceback")
    with pytest.raises(ValueError, match="boom"):
        result.get()
    assert result.get(propagate=False).args == ("boom",)


def test_an_eager_failure_throws_on_demand():
    failed = EagerResult("t", KeyError("k"), states.FAILURE, "the traceback")

    assert repr(failed.maybe_throw(propagate=False)) == "KeyError('k')"
    with pytest.raises(KeyError):
        failed.maybe_throw()


def test_an_ignored_eager_task_has_no_value():
    """B-CALL-050: states IGNORED and REJECTED."""
    assert EagerResult("e", Exception("x"), "IGNORED").get() is None


def test_revoking_an_eager_result_makes_get_raise():
    """B-CALL-045: the state is REVOKED, get() raises TaskRevokedError."""
    result = EagerResult("e", 3, "SUCCESS")
    result.revoke()
    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError):
        result.get()


def test_waiting_for_an_eager_result_inside_a_task_is_refused():
    """B-CALL-051, B-RES-046: the same RuntimeError; disable_sync_subtasks=False is honoured."""
    result = EagerResult("e", 3, "SUCCESS")
    with denied_join_result():
        with pytest.raises(RuntimeError):
            result.get()
        assert result.get(disable_sync_subtasks=False) == 3


def test_an_eager_result_copies_and_pickles():
    result = EagerResult("e", 3, "SUCCESS", "tb", "p.add")
    for other in (copy.copy(result), pickle.loads(pickle.dumps(result))):
        assert (other, other.result, other.traceback, other.name) == ("e", 3, "tb", "p.add")
