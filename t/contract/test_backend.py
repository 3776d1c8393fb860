"""What every result back-end promises, proved on real stores."""

from __future__ import annotations

import os
import pickle
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError

from celery import states
from celery.backends._versioned import VersionedBackend
from celery.backends.cache import CacheBackend
from celery.exceptions import (
    ChordError,
    ImproperlyConfigured,
    SecurityError,
    TaskRevokedError,
    TimeoutError,
)
from t.contract.backends import new_id
from t.harness.forks import forked
from t.harness.servers import wait_until


class Picky(Exception):
    """Takes exactly two arguments."""

    def __init__(self, first, second):
        super().__init__(first)


class Nested:
    """Holds an exception class that has to be found through its owner."""

    class Error(Exception):
        """Defined inside a class."""


@pytest.fixture
def task_id(case):
    """An id whose result the client is ready for."""
    name = new_id()
    case.expect(name)
    return name


def succeed(case, task_id, value, **fields):
    case.backend.mark_as_done(task_id, value, request=case.request(task_id, **fields))


def fail(case, task_id, error, traceback=None, **fields):
    request = case.request(task_id, **fields)
    case.backend.mark_as_failure(task_id, error, traceback, request=request)


def read(case, task_id):
    """Read the document of a task that has one; messages take a moment."""
    found = {}

    def there():
        found.update(case.backend.get_task_meta(task_id))
        return found["status"] != states.PENDING

    wait_until(there, "the result", timeout_s=10)
    return found


# -- States and values


def test_an_unknown_task_is_pending(case, task_id):
    """B-RES-017: state PENDING, everything else None."""
    result = case.app.AsyncResult(task_id)

    assert (result.state, result.result, result.traceback, result.children, result.date_done) == (
        "PENDING",
        None,
        None,
        None,
        None,
    )
    assert not any((result.ready(), result.successful(), result.failed()))


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        -1.5,
        True,
        "",
        "grüße, 世界 \N{PILE OF POO}\x00\n",
        [],
        {},
        [1, ["a", None, {"b": [2.5, False]}]],
        {"status": "SUCCESS", "result": "not a document"},
    ],
)
def test_a_value_comes_back_as_it_was(case, task_id, value):
    succeed(case, task_id, value)

    result = case.app.AsyncResult(task_id)
    assert result.get(timeout=10) == value
    assert result.state == states.SUCCESS


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\xff\xfe binary",
        datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC),
        Decimal("1.10"),
        UUID(int=7),
        {"when": [datetime(2026, 3, 1)]},
    ],
)
def test_typed_values_survive_json(case, task_id, value):
    succeed(case, task_id, value)

    assert case.app.AsyncResult(task_id).get(timeout=10) == value


def test_a_big_value_comes_back(case, task_id):
    value = "ö" * (case.features.large // 6)
    succeed(case, task_id, value)

    assert case.app.AsyncResult(task_id).get(timeout=20) == value


def test_an_error_comes_back_with_its_type_and_arguments(case, task_id):
    """B-RES-006: class by module and name, arguments as they were, traceback as text."""
    fail(case, task_id, KeyError("lost", 3), "Traceback: here")

    document = read(case, task_id)
    assert document["status"] == states.FAILURE
    assert type(document["result"]) is KeyError
    assert document["result"].args == ("lost", 3)
    assert document["traceback"] == "Traceback: here"


def test_an_error_class_inside_a_class_is_found(case, task_id):
    fail(case, task_id, Nested.Error("inner"))

    error = read(case, task_id)["result"]
    assert type(error) is Nested.Error
    assert error.args == ("inner",)


def test_an_error_that_cannot_be_rebuilt_becomes_a_plain_one(case, task_id):
    """B-RES-006: a constructor that refuses the arguments gives Exception("<class …>(args)")."""
    fail(case, task_id, Picky("one", "two"))

    error = read(case, task_id)["result"]
    assert type(error) is Exception
    assert str(error) == f"{Picky}(['one'])"


def test_arguments_of_an_error_that_json_refuses_become_text(case, task_id):
    fail(case, task_id, ValueError("bad", object))

    error = read(case, task_id)["result"]
    assert error.args == ("bad", "<class 'object'>")


def test_waiting_raises_the_stored_error(case, task_id):
    fail(case, task_id, ZeroDivisionError("by zero"))

    with pytest.raises(ZeroDivisionError, match="by zero"):
        case.app.AsyncResult(task_id).get(timeout=10)


def test_a_value_without_a_stored_form_is_an_encode_error(case, task_id):
    with pytest.raises(EncodeError):
        succeed(case, task_id, object())


def test_started_carries_who_runs_it_and_no_date(case, task_id):
    """B-RES-004, B-RES-010, B-RES-011: pid and hostname are the info; date_done is null."""
    meta = {"pid": 7, "hostname": "w@h"}
    request = case.request(task_id)
    case.backend.store_result(task_id, meta, states.STARTED, request=request)

    document = read(case, task_id)
    assert (document["status"], document["result"]) == (states.STARTED, meta)
    assert document["date_done"] is None
    result = case.app.AsyncResult(task_id)
    assert result.info == meta
    assert not result.ready()


def test_a_custom_state_carries_its_meta_until_the_next_one(case, task_id):
    """B-RES-009, B-RES-010, B-RES-011: a later state overwrites the former."""
    request = case.request(task_id)
    case.backend.store_result(task_id, {"done": 1}, "PROGRESS", request=request)
    assert read(case, task_id)["result"] == {"done": 1}
    case.backend.store_result(task_id, {"done": 2}, "PROGRESS", request=request)
    wait_until(
        lambda: case.backend.get_task_meta(task_id)["result"] == {"done": 2}, "the second state"
    )
    assert case.backend.get_task_meta(task_id)["date_done"] is None

    succeed(case, task_id, "end")

    assert case.app.AsyncResult(task_id).get(timeout=10) == "end"


def test_retry_stores_its_reason_and_traceback(case, task_id):
    """B-RES-008, B-RES-010: RETRY has the error of the retry, and no date."""
    case.backend.mark_as_retry(task_id, KeyError("again"), "tb", request=case.request(task_id))

    document = read(case, task_id)
    assert document["status"] == states.RETRY
    assert repr(document["result"]) == "KeyError('again')"
    assert document["traceback"] == "tb"
    assert document["date_done"] is None


@pytest.mark.parametrize("reason", ["revoked", "terminated", "expired"])
def test_revoked_stores_its_reason(case, task_id, reason):
    """B-RES-008: TaskRevokedError with the reason; B-RES-010: with a date."""
    case.backend.mark_as_revoked(task_id, reason, request=case.request(task_id))

    document = read(case, task_id)
    assert document["status"] == states.REVOKED
    assert type(document["result"]) is TaskRevokedError
    assert str(document["result"]) == reason
    assert document["date_done"] is not None


def test_the_end_is_dated_in_utc_whatever_the_zone_of_the_app(case):
    """B-RES-003, B-RES-010: date_done is aware, in UTC, with microseconds."""
    elsewhere = case.remake(timezone="Asia/Tokyo", enable_utc=False)
    name = new_id()
    elsewhere.expect(name)
    before = datetime.now(UTC)
    succeed(elsewhere, name, 1)

    result = elsewhere.app.AsyncResult(name)
    result.get(timeout=10)
    assert result.date_done.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= result.date_done <= datetime.now(UTC)


def test_a_stored_success_is_final(case, task_id):
    """B-RES-009: neither a failure nor a second success replaces it."""
    case.needs("stores")
    succeed(case, task_id, "first")
    fail(case, task_id, ValueError("late"))
    succeed(case, task_id, "second")

    assert case.backend.get_result(task_id) == "first"
    assert case.backend.get_state(task_id) == states.SUCCESS


def test_a_stored_failure_is_replaced_by_a_success(case, task_id):
    """B-RES-009: only SUCCESS is final."""
    case.needs("stores")
    fail(case, task_id, ValueError("first try"))
    succeed(case, task_id, "second try")

    assert case.backend.get_result(task_id) == "second try"


@pytest.mark.parametrize("end", ["FAILURE", "REVOKED"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_retry_that_is_stored_late_does_not_hide_the_end(case, end, compression):
    """The message of a retry is sent before RETRY is stored, so the end can come first."""
    case.needs("stores")
    if compression:
        case.needs("compresses")
    made = case.remake(result_compression=compression)
    name = new_id()
    error = ValueError("the end")
    made.backend.mark_as_failure(name, error, request=made.request(name), state=end)
    made.backend.mark_as_retry(name, KeyError("first try"), request=made.request(name))

    assert made.backend.get_state(name) == end
    succeed(made, name, "a later run")
    assert made.backend.get_result(name) == "a later run"


def test_a_new_run_of_a_failed_task_shows_that_it_runs(case, task_id):
    """B-RES-009: a later state overwrites the former."""
    case.needs("stores")
    fail(case, task_id, ValueError("first run"))
    case.backend.store_result(task_id, None, states.STARTED, request=case.request(task_id))

    assert case.backend.get_state(task_id) == states.STARTED


def test_a_success_whose_value_looks_like_a_document_is_final(case, task_id):
    case.needs("stores")
    succeed(case, task_id, {"status": "FAILURE"})
    fail(case, task_id, ValueError("late"))

    assert case.backend.get_result(task_id) == {"status": "FAILURE"}


def test_a_failure_whose_arguments_look_like_success_is_not_final(case, task_id):
    fail(case, task_id, ValueError('{"status": "SUCCESS"', {"status": "SUCCESS"}))
    succeed(case, task_id, "fine")

    case.needs("stores")
    assert case.backend.get_result(task_id) == "fine"


def test_concurrent_writers_cannot_take_a_success_back(case, task_id):
    """B-RES-009, with eight threads that store at once."""
    case.needs("stores")
    succeed(case, task_id, "first")
    together = threading.Barrier(8)
    errors = []

    def write(number):
        try:
            together.wait(10)
            for _ in range(5):
                fail(case, task_id, ValueError(number))
                succeed(case, task_id, number)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert errors == []
    assert case.backend.get_result(task_id) == "first"


def test_a_write_on_condition_is_refused_when_its_version_is_gone(case):
    backend = case.backend
    if not isinstance(backend, VersionedBackend):
        pytest.skip(f"{case.name} has other means against writers that undo each other")
    key = backend.get_key_for_task(new_id())
    one, two, three = (backend.encode({"status": "SUCCESS", "result": n}) for n in range(3))
    assert backend.load(key) is None
    assert backend.replace(key, one, None)
    assert not backend.replace(key, two, None)
    first = backend.load(key)
    assert backend.replace(key, two, first.version)
    assert not backend.replace(key, three, first.version)
    second = backend.load(key)
    assert backend.decode(second.value)["result"] == 1
    backend.delete(key)
    assert not backend.replace(key, three, second.version)
    assert backend.load(key) is None


def test_a_state_that_was_read_before_the_end_does_not_hide_it(case, task_id):
    """B-RES-009: as between two attempts of a task, the second being the quicker."""
    backend = case.backend
    if not isinstance(backend, CacheBackend):
        pytest.skip(f"{case.name} has other means against writers that undo each other")
    backend.store_result(task_id, None, "STARTED")
    client, read = backend.client, backend.client.gets

    def read_and_be_overtaken(key):
        found = read(key)
        client.gets = read
        backend.mark_as_failure(task_id, ValueError("the end"))
        return found

    client.gets = read_and_be_overtaken
    backend.store_result(task_id, ValueError("again"), "RETRY")

    assert backend.get_state(task_id) == "FAILURE"


# -- What else is in a document


def test_a_document_names_task_group_parent_and_children(case, task_id):
    """B-RES-001: the fields of a plain document."""
    group_id, parent_id, child = new_id(), new_id(), new_id()
    request = case.request(task_id, group=group_id, parent_id=parent_id)
    request.children.append(case.app.AsyncResult(child))
    case.backend.mark_as_done(task_id, 4, request=request)

    document = read(case, task_id)
    assert document["task_id"] == task_id
    assert document["children"] == [[[child, None], None]]
    if case.features.is_key_value or not case.features.stores:
        assert (document["group_id"], document["parent_id"]) == (group_id, parent_id)


def test_the_fields_come_in_their_order(case, task_id):
    """B-RES-002: status, result, traceback, children, date_done, …, task_id; no children is []."""
    case.needs("is_key_value")
    succeed(case, task_id, 4, group="g", parent_id="p")

    stored = case.backend.decode(case.backend.get(case.backend.get_key_for_task(task_id)))
    assert list(stored) == [
        "status",
        "result",
        "traceback",
        "children",
        "date_done",
        "group_id",
        "parent_id",
        "task_id",
    ]
    assert stored["children"] == []
    assert stored["date_done"].endswith("+00:00")


def test_extended_results_tell_how_the_task_was_called(case):
    """B-RES-001: name, args, kwargs, worker, retries, queue, and each stamp by its name."""
    case.needs("keeps_the_call")
    extended = case.remake(result_extended=True)
    name = new_id()
    extended.expect(name)
    succeed(
        extended,
        name,
        4,
        task="proj.add",
        args=[2, 2],
        kwargs={"k": "ü"},
        hostname="w1@lab",
        retries=3,
        delivery_info={"routing_key": "q"},
        stamped_headers=["visit"],
        stamps={"visit": ["v1"]},
    )

    document = read(extended, name)
    assert document["name"] == "proj.add"
    assert document["args"] == [2, 2]
    assert document["kwargs"] == {"k": "ü"}
    assert document["worker"] == "w1@lab"
    assert document["retries"] == 3
    assert document["queue"] == "q"
    assert document["stamped_headers"] == ["visit"]
    assert document["visit"] == ["v1"]


def test_extended_results_of_a_call_that_json_refuses_have_it_as_text(case):
    case.needs("keeps_the_call")
    extended = case.remake(result_extended=True)
    name = new_id()
    extended.expect(name)
    succeed(extended, name, 4, task="proj.add", args=[object], kwargs={})

    document = read(extended, name)
    assert document["result"] == 4
    assert document["args"] == "[<class 'object'>]"


def test_without_result_extended_the_call_is_not_stored(case, task_id):
    """B-RES-033: name, args and the like are None."""
    succeed(case, task_id, 4, task="proj.add", args=[2, 2], kwargs={})

    result = case.app.AsyncResult(task_id)
    result.get(timeout=10)
    assert (result.name, result.args, result.worker) == (None, None, None)


# -- Waiting


def test_waiting_ends_when_the_result_is_stored(case, task_id):
    waiting = threading.Event()
    got = []

    def wait():
        got.append(case.app.AsyncResult(task_id).get(timeout=20, on_interval=waiting.set))

    if case.features.stores:
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(10)
        succeed(case, task_id, "now")
        thread.join(20)
    else:
        # The reply queue belongs to this thread.
        request = case.request(task_id)
        thread = threading.Thread(
            target=lambda: case.backend.mark_as_done(task_id, "now", request=request)
        )
        thread.start()
        wait()
        thread.join(20)

    assert got == ["now"]


def test_waiting_that_takes_too_long_is_a_timeout(case, task_id):
    """B-RES-020: TimeoutError with its text."""
    with pytest.raises(TimeoutError, match=r"The operation timed out\."):
        case.app.AsyncResult(task_id).get(timeout=0.1)


def test_a_timeout_of_zero_looks_once(case, task_id):
    """B-RES-020: 0 does not wait."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        case.app.AsyncResult(task_id).get(timeout=0)
    assert time.monotonic() - began < 60

    case.needs("stores")
    succeed(case, task_id, 4)
    assert case.app.AsyncResult(task_id).get(timeout=0) == 4


def test_a_wait_that_timed_out_holds_nothing(case, task_id):
    """B-RES-034: the back-end does not keep a result that nobody waits for any more."""
    result = case.app.AsyncResult(task_id)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)

    assert not case.backend._pending_results.concrete
    assert not case.backend._pending_results.weak


def test_states_on_the_way_are_shown_to_on_message(case, task_id):
    """B-RES-024: each document, the final one included, where results are pushed."""
    if not case.features.pushes_results:
        with pytest.raises(NotImplementedError):
            case.app.AsyncResult(task_id).get(timeout=1, on_message=print)
        return
    request = case.request(task_id)
    result = case.app.AsyncResult(task_id)
    seen = []

    def run():
        case.backend.store_result(task_id, 1, "PROGRESS", request=request)
        case.backend.mark_as_done(task_id, "end", request=request)

    thread = threading.Thread(target=run)
    began = threading.Event()

    def on_interval():
        if not began.is_set():
            began.set()
            thread.start()

    assert result.get(timeout=20, on_message=seen.append, on_interval=on_interval) == "end"
    thread.join(20)
    assert [document["status"] for document in seen] == ["PROGRESS", "SUCCESS"]


def test_a_group_is_joined_in_the_order_of_its_members(case):
    """B-RES-036, B-RES-038: values in submission order, however they came."""
    ids = [new_id() for _ in range(30)]
    case.expect(*ids)
    for number, name in reversed(list(enumerate(ids))):
        succeed(case, name, number)

    members = case.app.GroupResult(new_id(), [case.app.AsyncResult(name) for name in ids])
    assert members.get(timeout=20) == list(range(30))


def test_a_group_is_joined_while_its_members_are_stored(case):
    """B-RES-038: members that end during the join."""
    ids = [new_id() for _ in range(10)]
    case.expect(*ids)
    requests = [case.request(name) for name in ids]

    def run():
        for number, request in enumerate(requests):
            case.backend.mark_as_done(request.id, number, request=request)

    thread = threading.Thread(target=run)
    thread.start()
    members = case.app.GroupResult(new_id(), [case.app.AsyncResult(name) for name in ids])

    assert members.get(timeout=20) == list(range(10))
    thread.join(20)


def test_a_join_has_one_timeout_for_all(case):
    """B-RES-039."""
    ids = [new_id() for _ in range(3)]
    case.expect(*ids)
    succeed(case, ids[0], 0)
    members = case.app.GroupResult(new_id(), [case.app.AsyncResult(name) for name in ids])

    with pytest.raises(TimeoutError):
        members.get(timeout=0.2)


def test_a_failed_member_raises_or_is_listed(case):
    """B-RES-036: the first failed one raises; propagate=False lists it."""
    ids = [new_id() for _ in range(3)]
    case.expect(*ids)
    succeed(case, ids[0], 2)
    fail(case, ids[1], ValueError("boom"))
    succeed(case, ids[2], 4)
    members = case.app.GroupResult(new_id(), [case.app.AsyncResult(name) for name in ids])

    listed = members.get(timeout=10, propagate=False)
    assert repr(listed) == "[2, ValueError('boom'), 4]"
    with pytest.raises(ValueError, match="boom"):
        members.get(timeout=10)


def test_a_result_is_fetched_once_where_it_is_a_message(case, task_id):
    """B-BACK-007, B-BACK-008: a second object reads PENDING, the first keeps its value."""
    if case.features.stores:
        pytest.skip(f"{case.name} stores results")
    succeed(case, task_id, 4)
    result = case.app.AsyncResult(task_id)

    assert result.get(timeout=10) == 4
    assert case.app.AsyncResult(task_id).state == "PENDING"
    assert result.get(timeout=10) == 4


@pytest.mark.parametrize("release", ["get", "forget"])
def test_what_is_held_for_a_result_is_released(case, task_id, release):
    """B-RES-035: from the moment that it is waited for, until `get` or `forget`."""
    result = case.app.AsyncResult(task_id)
    result.then(lambda _: None)
    held = case.backend._pending_results.concrete
    assert list(held) == ([task_id] if case.features.pushes_results else [])
    succeed(case, task_id, 4)
    if release == "get":
        assert result.get(timeout=10) == 4
    else:
        result.forget()
    assert not case.backend._pending_results.concrete


# -- Forgetting and expiring


def test_a_forgotten_result_is_pending(case, task_id):
    """B-RES-025: also when it was read before."""
    succeed(case, task_id, 4)
    result = case.app.AsyncResult(task_id)
    assert result.get(timeout=10) == 4
    result.forget()

    assert case.app.AsyncResult(task_id).state == "PENDING"
    assert case.app.AsyncResult(task_id).result is None


def test_forgetting_what_is_unknown_is_harmless(case):
    case.backend.forget(new_id())


def test_existence_is_told_without_reading(case, task_id):
    case.needs("stores")
    assert not case.backend.task_result_exists(task_id)
    succeed(case, task_id, None)

    assert case.backend.task_result_exists(task_id)


def test_results_expire(case):
    """B-RES-015, B-RES-005, B-BACK-018, B-BACK-022: by themselves, or by the clean-up task."""
    if case.features.expiry == "client":
        pytest.skip("messages go with the client")
    if case.features.expiry == "service":
        pytest.skip("objects live as the service is told")
    short = case.remake(result_expires=1)
    name = new_id()
    succeed(short, name, 4)
    assert short.backend.get_result(name) == 4
    if case.features.expiry == "cleanup":
        # Half a day is far from both: some stores count whole seconds, and tests may be slow.
        case.remake(result_expires=43_200).backend.cleanup()
        assert short.backend.get_result(name) == 4
        end = time.time() + 1.1
        wait_until(lambda: time.time() > end, "the expiry", timeout_s=5)
        short.backend.cleanup()
        assert short.backend.get_state(name) == "PENDING"
    else:
        # The shortest life that some stores know is longer than a test may wait.
        case.pass_time(60)
        wait_until(lambda: short.backend.get_state(name) == "PENDING", "the expiry", timeout_s=10)


@pytest.mark.parametrize("never", [None, 0])
def test_results_without_expiry_stay(case, never):
    """B-RES-015: None and 0 are for ever."""
    if case.features.expiry == "client":
        pytest.skip("messages go with the client")
    forever = case.remake(result_expires=never)
    name = new_id()
    succeed(forever, name, 4)
    forever.backend.cleanup()

    assert forever.backend.get_result(name) == 4


def test_a_life_of_its_own_for_failures_needs_support(case):
    """B-RES-015: result_failure_expires, with a warning where it has no effect."""
    if not case.features.failure_expires:
        odd = case.remake(result_failure_expires=7)
        with pytest.warns(UserWarning, match="result_failure_expires has no effect"):
            odd.backend
        return
    short = case.remake(result_failure_expires=7)
    good, bad = new_id(), new_id()
    succeed(short, good, 4)
    fail(short, bad, ValueError("x"))

    ttl = short.backend.client.ttl
    assert 0 < ttl(short.backend.get_key_for_task(bad)) <= 7
    assert ttl(short.backend.get_key_for_task(good)) > 80_000


# -- Formats


def test_compression_is_recorded_with_each_result_or_refused(case):
    """B-RES-013: the method stands in front; others warn and store plain."""
    if not case.features.compresses:
        plain = case.remake(result_compression="gzip")
        with pytest.warns(UserWarning, match="result_compression has no effect"):
            plain.backend
        name = new_id()
        plain.expect(name)
        succeed(plain, name, "plain")
        assert plain.app.AsyncResult(name).get(timeout=10) == "plain"
        return
    packed = case.remake(result_compression="zlib")
    name = new_id()
    succeed(packed, name, "a" * 5000)

    if case.features.is_key_value:
        raw = packed.backend.get(packed.backend.get_key_for_task(name))
        assert raw.startswith(b"\x00celery-compressed\x00application/x-gzip\x00")
        assert len(raw) < 1000
    # Whoever has compression off can read it all the same.
    assert case.app.AsyncResult(name).get(timeout=10) == "a" * 5000


def test_a_compressed_success_is_final_too(case):
    """B-RES-009 with B-RES-013."""
    case.needs("compresses")
    packed = case.remake(result_compression="bzip2")
    name = new_id()
    succeed(packed, name, "first")
    fail(packed, name, ValueError("late"))
    fail(case, name, ValueError("late, not compressed"))

    assert packed.backend.get_result(name) == "first"


def test_a_compressed_failure_is_replaced(case):
    case.needs("compresses")
    packed = case.remake(result_compression="gzip")
    name = new_id()
    fail(packed, name, ValueError("first"))
    succeed(packed, name, "second")

    assert packed.backend.get_result(name) == "second"


def test_an_unknown_compression_is_a_configuration_error(case):
    """B-RES-013."""
    case.needs("compresses")
    with pytest.raises(ImproperlyConfigured, match="nosuchzip"):
        case.remake(result_compression="nosuchzip").backend


def test_pickled_results_come_back_with_their_objects(case):
    """B-RES-014: the document is pickled as a whole; errors keep what JSON would lose."""
    pickled = case.remake(result_serializer="pickle", result_accept_content=["pickle"])
    good, bad = new_id(), new_id()
    pickled.expect(good, bad)
    succeed(pickled, good, {1: (2, {3})})
    fail(pickled, bad, KeyError((1, 2)))

    assert pickled.app.AsyncResult(good).get(timeout=10) == {1: (2, {3})}
    error = read(pickled, bad)["result"]
    assert (type(error), error.args) == (KeyError, ((1, 2),))


def test_a_pickled_success_is_final_too(case):
    """B-RES-009 with B-RES-014."""
    case.needs("stores")
    pickled = case.remake(result_serializer="pickle", result_accept_content=["pickle"])
    name = new_id()
    succeed(pickled, name, "first")
    fail(pickled, name, ValueError("late"))

    assert pickled.backend.get_result(name) == "first"


def test_a_client_that_does_not_accept_pickle_refuses_it(case):
    """B-RES-014: the client must accept it."""
    case.needs("is_key_value")
    pickled = case.remake(result_serializer="pickle", result_accept_content=["pickle"])
    name = new_id()
    succeed(pickled, name, 4)

    refusing = case.remake(result_serializer="pickle", result_accept_content=["json"])
    with pytest.raises((ContentDisallowed, DecodeError)):
        refusing.backend.get_task_meta(name)


# -- Hostile documents


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"), ("os", "environ")],
)
def test_a_document_cannot_make_us_call_anything(case, tmp_path, module, name):
    """B-RES-007: what is not an exception class is a SecurityError, and was not called."""
    case.needs("is_key_value")
    proof = tmp_path / "called"
    document = {
        "status": "FAILURE",
        "result": {"exc_type": name, "exc_module": module, "exc_message": [f"touch {proof}"]},
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": "evil",
    }
    key = case.backend.get_key_for_task("evil")
    case.backend.set(key, case.backend.encode(document))

    with pytest.raises(SecurityError, match=f"Expected an exception class, got {module}.{name}"):
        case.backend.get_task_meta("evil")
    assert not os.path.exists(proof)


# -- Groups


def test_a_saved_group_is_restored(case):
    """B-RES-040: by id, with its members; None when unknown; gone after delete."""
    group_id = new_id()
    members = [case.app.AsyncResult(new_id()) for _ in range(3)]
    group = case.app.GroupResult(group_id, members)
    if not case.features.stores:
        with pytest.raises(NotImplementedError):
            group.save()
        return
    assert case.app.GroupResult.restore(group_id) is None
    group.save()

    restored = case.app.GroupResult.restore(group_id)
    assert restored == group
    assert [member.id for member in restored] == [member.id for member in members]

    group.delete()
    assert case.app.GroupResult.restore(group_id) is None


def test_a_group_may_be_saved_twice(case):
    case.needs("stores")
    group_id = new_id()
    for size in (1, 2):
        members = [case.app.AsyncResult(new_id()) for _ in range(size)]
        case.app.GroupResult(group_id, members).save()

    assert len(case.app.GroupResult.restore(group_id)) == 2


# -- Chords


@pytest.fixture
def chord(case, request, monkeypatch):
    """A chord whose body runs in this process; see `Chord`."""
    if not case.features.counts_chords:
        pytest.skip(f"{case.name} does not count chords")
    if case.features.counter:
        address = request.getfixturevalue(case.features.counter).address
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
    return Chord(case.remake(task_always_eager=True, result_chord_join_timeout=5))


class Chord:
    """A header of tasks that end one by one, and a body that notes what it was called with."""

    def __init__(self, case):
        self.case = case
        self.group_id = new_id()
        self.calls = calls = []
        self.errors = errors = []

        @case.app.task(name="chord.body", shared=False)
        def body(values):
            calls.append(values)

        @case.app.task(name="chord.failed", shared=False)
        def failed(request, exc, traceback):
            errors.append((request.id, exc, traceback))

        self.body = body.s().on_error(failed.s())
        self.body.freeze(new_id())

    def begin(self, size):
        self.ids = [new_id() for _ in range(size)]
        results = [self.case.app.AsyncResult(name) for name in self.ids]
        self.case.backend.apply_chord((self.group_id, results), self.body)

    def request(self, index):
        return self.case.request(
            self.ids[index],
            group=self.group_id,
            group_index=index,
            chord=dict(self.body),
            root_id=self.ids[index],
        )

    def succeed(self, index, value):
        backend = self.case.backend
        backend.mark_as_done(self.ids[index], value, request=self.request(index))

    def fail(self, index, error):
        backend = self.case.backend
        backend.mark_as_failure(self.ids[index], error, request=self.request(index))


def test_the_body_gets_the_values_in_the_order_of_the_header(chord):
    """B-CANV-050, B-BACK-024: when the last part has come, in whatever order."""
    chord.begin(3)
    for index in (2, 0):
        chord.succeed(index, index * 10)
        assert chord.calls == []
    chord.succeed(1, 10)

    assert chord.calls == [[0, 10, 20]]


def test_a_header_of_one_is_a_chord(chord):
    chord.begin(1)
    chord.succeed(0, "only")

    assert chord.calls == [["only"]]


def test_a_header_task_that_is_delivered_twice_counts_once(chord):
    """B-CANV-062: the body starts with the last part, once."""
    chord.begin(3)
    chord.succeed(0, "a")
    chord.succeed(0, "a")
    chord.succeed(1, "b")
    assert chord.calls == []
    chord.succeed(2, "c")
    chord.succeed(2, "c")

    assert chord.calls == [["a", "b", "c"]]


def test_a_part_that_comes_when_the_chord_has_ended_changes_nothing(chord):
    """B-CANV-062: also in a process that has not seen the chord before."""
    chord.begin(2)
    chord.fail(1, ValueError("boom"))
    chord.succeed(0, 1)
    assert len(chord.errors) == 1

    getattr(chord.case.backend, "_chord_sizes", {}).clear()
    chord.succeed(0, 1)

    assert chord.calls == []
    assert len(chord.errors) == 1


def test_a_chord_that_ends_while_a_part_is_counted_ends_once(chord, monkeypatch):
    """Another process, whose part is the last, may forget the group in between."""
    backend = chord.case.backend
    if not getattr(backend, "implements_incr", False):
        pytest.skip(f"{chord.case.name} counts in one step, or polls")
    count = backend.incr

    def count_and_be_overtaken(key):
        counted = count(key)
        monkeypatch.setattr(backend, "incr", count)
        chord.succeed(0, 1)
        backend._chord_sizes.clear()
        return counted

    monkeypatch.setattr(backend, "incr", count_and_be_overtaken)
    chord.begin(2)
    chord.fail(1, ValueError("boom"))

    assert len(chord.errors) == 1


def test_a_failed_header_task_fails_the_body_once(chord):
    """B-CANV-051, B-CANV-055, B-CANV-057: ChordError, the body never runs, one errback."""
    chord.begin(3)
    chord.fail(1, ValueError("boom"))
    chord.succeed(0, 1)
    chord.fail(2, KeyError("later"))

    assert chord.calls == []
    state = chord.case.backend.get_task_meta(chord.body.id)
    assert state["status"] == states.FAILURE
    assert type(state["result"]) is ChordError
    assert "ValueError('boom')" in str(state["result"])
    [(body_id, error, traceback)] = chord.errors
    assert body_id == chord.body.id
    assert type(error) is ChordError
    assert traceback is None


def test_header_tasks_that_end_at_once_start_the_body_once(chord):
    chord.begin(8)
    together = threading.Barrier(8)

    def end(index):
        together.wait(10)
        chord.succeed(index, index)

    threads = [threading.Thread(target=end, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert chord.calls == [list(range(8))]


def test_a_header_task_that_ignores_its_result_still_counts(chord):
    """B-CANV-051: the value is in the list of the body."""
    chord.begin(2)
    chord.succeed(0, "kept")
    chord.case.backend.mark_as_done(
        chord.ids[1], "ignored", request=chord.request(1), store_result=False
    )

    assert chord.calls == [["kept", "ignored"]]


def test_chords_are_polled_where_the_store_cannot_count(case):
    """B-CANV-061, B-BACK-020, B-BACK-021: a task is published that looks for the end."""
    if case.features.counts_chords or not case.features.chords:
        pytest.skip(f"{case.name} counts chords, or has none")
    body = case.app.signature("proj.body", queue="bodies")
    group_id, ids = new_id(), [new_id(), new_id()]
    members = [case.app.AsyncResult(name) for name in ids]
    case.backend.apply_chord((group_id, members), body, interval=3)

    with case.app.connection_for_write() as connection:
        queue = connection.SimpleQueue("bodies")
        message = queue.get(timeout=5)
        args, kwargs, _ = message.payload
        queue.close()
    assert message.headers["task"] == "celery.chord_unlock"
    assert args[0] == group_id
    assert args[1]["task"] == "proj.body"
    assert kwargs["interval"] == 3
    assert kwargs["result"] == [[[name, None], None] for name in ids]


def test_chords_are_refused_where_nobody_could_read_the_parts(case):
    """B-BACK-009, B-CANV-066: the text names other back-ends."""
    if case.features.chords:
        case.backend.ensure_chords_allowed()
        return
    with pytest.raises(NotImplementedError, match=r"does not support chords.*redis"):
        case.backend.ensure_chords_allowed()


# -- As an object


def test_a_backend_is_pickled_with_where_its_store_is(case, task_id):
    if case.features.in_settings:
        pytest.skip("that is in the settings of the app")
    copy = pickle.loads(pickle.dumps(case.backend))

    assert type(copy) is type(case.backend)
    assert copy.as_uri() == case.backend.as_uri()


def test_nothing_warns_in_an_ordinary_configuration(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert case.remake().backend.get_state(new_id()) == "PENDING"


def test_each_thread_has_a_back_end_of_its_own_unless_it_may_be_shared(case):
    """B-BACK-005: result_backend_thread_safe shares one; a reply queue is never shared."""

    def seen_by_two_threads(app):
        found = [app.backend]
        thread = threading.Thread(target=lambda: found.append(app.backend))
        thread.start()
        thread.join(10)
        return found

    first, second = seen_by_two_threads(case.app)
    assert first is not second

    shared = case.remake(result_backend_thread_safe=True)
    first, second = seen_by_two_threads(shared.app)
    assert (first is second) is case.features.stores


def test_a_shared_back_end_serves_many_threads(case):
    """B-BACK-005."""
    case.needs("stores")
    shared = case.remake(result_backend_thread_safe=True)
    got = {}

    def work(number):
        name = new_id()
        waiting = threading.Thread(
            target=lambda: got.update({number: shared.app.AsyncResult(name).get(timeout=30)})
        )
        waiting.start()
        succeed(shared, name, number)
        waiting.join(30)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)

    assert got == {number: number for number in range(8)}


def test_connections_are_not_shared_with_a_forked_child(case, task_id):
    """A pool forks children while its own process has connections."""
    case.needs("stores")
    if case.name == "memory":
        pytest.skip("memory is not shared between processes")
    succeed(case, task_id, "parent")
    assert case.app.AsyncResult(task_id).get(timeout=10) == "parent"
    theirs = [new_id() for _ in range(20)]

    def live() -> None:
        for name in theirs:
            succeed(case, name, name)
            assert case.app.AsyncResult(name).get(timeout=30) == name

    with forked(live):
        for _ in range(20):
            assert case.backend.get_result(task_id) == "parent"

    for name in theirs:
        assert case.app.AsyncResult(name).get(timeout=5) == name


def test_only_stores_that_do_not_expire_by_themselves_need_the_clean_up(case):
    if case.features.expiry != "service":
        assert case.backend.supports_autoexpire is (case.features.expiry != "cleanup")


# -- Broken connections


def test_results_are_stored_and_read_after_the_server_was_restarted(case, task_id):
    """B-BACK-006: lost connections are made anew."""
    if case.server is None:
        pytest.skip(f"{case.name} has no server")
    succeed(case, task_id, "before")
    assert case.app.AsyncResult(task_id).get(timeout=10) == "before"

    case.server.restart()

    after = new_id()
    case.expect(after)
    succeed(case, after, "after")
    assert case.app.AsyncResult(after).get(timeout=30) == "after"


def test_waiting_survives_a_lost_connection(case, task_id):
    if case.server is None or not case.features.stores or not case.features.pushes_results:
        pytest.skip(f"{case.name} does not push from a server")
    waiting = threading.Event()
    got = []

    def wait():
        got.append(case.app.AsyncResult(task_id).get(timeout=30, on_interval=waiting.set))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(10)
    case.server.disconnect_clients()
    succeed(case, task_id, "through")
    thread.join(30)

    assert got == ["through"]


def test_documents_that_were_prepared_are_stored_together(case):
    backend = case.backend
    if not backend.takes_documents:
        pytest.skip(f"{case.name} stores one result at a time")
    ids = [new_id() for _ in range(3)]
    backend.mark_as_done(ids[1], "first", request=case.request(ids[1]))
    prepared = [
        (task_id, backend.mark_as_done_later(task_id, number, case.request(task_id)))
        for number, task_id in enumerate(ids)
    ]

    assert backend.store_documents(prepared) == [None] * 3

    found = [backend.get_task_meta(task_id, cache=False)["result"] for task_id in ids]
    assert found == [0, "first", 2]
